"""What a model writes after an evaluation, for samples.txt and the table: a text, or whole documents."""

from __future__ import annotations

from charrnn.config.limits import FILE_BOUNDARY
from charrnn.data.documents import Documents
from charrnn.data.vocabulary import Vocabulary
from charrnn.generation.filters import Filters
from charrnn.generation.sampling import MIN_P, TEMPERATURE, Sample, Sampler
from charrnn.models.interface import LanguageModel

SAMPLE_LENGTH = 120


def write_sample(model: LanguageModel, vocabulary: Vocabulary, seed: int, index: int, documents: str) -> str:
    """Return a text of SAMPLE_LENGTH characters; of a model that knows its `documents`, the setting, as many whole ones
    as fit, or the beginning of one."""
    boundary = vocabulary.boundary
    if not Documents(documents, boundary).known:
        return _write(model, vocabulary, SAMPLE_LENGTH, seed, index).text
    texts, left = list[str](), SAMPLE_LENGTH
    while left > 0:
        made = _write(model, vocabulary, left, seed, index, number=len(texts))
        if made.ended_by == "length" and texts:
            break
        texts.append(made.text)
        left -= made.characters + len(boundary)
    return ("\n\n" if boundary == FILE_BOUNDARY else boundary).join(texts)


def _write(
    model: LanguageModel, vocabulary: Vocabulary, length: int, seed: int, index: int, number: int | None = None
) -> Sample:
    """Draw a text, or the document of a number."""
    sampler = Sampler(
        model,
        vocabulary,
        [""],
        length,
        Filters(temperature=TEMPERATURE, min_p=MIN_P),
        seed=seed,
        indices=[index],
        lines=None if number is None else [number],
        document=number is not None,
    )
    for _ in sampler:
        pass
    return sampler.samples[0]
