"""The Python interface: load a model, sample from it, score with it.
Everything else in the package is private and may move."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

from charrnn.checkpoints import inference
from charrnn.data import decoding
from charrnn.evaluation import short_texts
from charrnn.generation import beam_search, copying, infill
from charrnn.generation.copying import CopyIndex
from charrnn.generation.filters import Filters
from charrnn.generation.infill import Filling, Gapped
from charrnn.generation.sampling import MIN_P, TEMPERATURE, Sample, Sampler
from charrnn.generation.stop_texts import Until
from charrnn.scores import Score


class TextModel:
    """A trained model that generates and scores text on the CPU. Created by `charrnn.load`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._model, self._vocabulary = inference.load(path)
        self._copies: CopyIndex | None = None

    @property
    def characters(self) -> str:
        """The characters of the vocabulary: those of the training split, most frequent first, then any others."""
        return self._vocabulary.characters

    def sample(
        self,
        prime: str = "",
        length: int = 500,
        *,
        temperature: float = TEMPERATURE,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = MIN_P,
        greedy: bool = False,
        until: Until = None,
        keep_until: bool = False,
        no_copy: int | None = None,
        no_repeat: int | None = None,
        seed: int | None = None,
    ) -> str:
        """Return a continuation of `prime` of at most `length` characters.

        It stops before the first of the texts `until`, or after it with `keep_until`. It contains no
        `no_copy`-character substring of the training text, and no `no_repeat`-character substring twice; it ends early
        where no other character is possible. The seed is that of `charrnn sample --seed`.
        Raises MisuseError for a value out of range, CharRNNError for `no_copy` if the training text is gone.
        """
        filters = Filters(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, greedy=greedy)
        pieces = self.stream(
            prime,
            length,
            until=until,
            keep_until=keep_until,
            no_copy=no_copy,
            no_repeat=no_repeat,
            seed=seed,
            filters=filters,
        )
        return "".join(pieces)

    def stream(
        self,
        prime: str = "",
        length: int = 500,
        *,
        until: Until = None,
        keep_until: bool = False,
        no_copy: int | None = None,
        no_repeat: int | None = None,
        seed: int | None = None,
        filters: Filters | None = None,
    ) -> Iterator[str]:
        """Yield the text of `sample` as it is generated: each character as soon as it cannot be rolled back."""
        sampler = Sampler(
            self._model,
            self._vocabulary,
            [prime],
            length,
            filters or Filters(temperature=TEMPERATURE, min_p=MIN_P),
            seed=secrets.randbelow(2**31) if seed is None else seed,
            indices=[0],
            until=until,
            keep_until=keep_until,
            no_copy=None if no_copy is None else self._training_copies(no_copy),
            no_repeat=no_repeat,
            keep_text=False,
        )
        return (text for (text,) in sampler if text)

    def search(
        self,
        prime: str = "",
        length: int = 500,
        *,
        width: int = 20,
        until: Until = None,
        keep_until: bool = False,
    ) -> list[Sample]:
        """Return the `width` likeliest continuations of `prime`, best first, by beam search."""
        return beam_search.search(self._model, self._vocabulary, prime, length, width, until, keep_until=keep_until)

    def infill(
        self, content: str, num: int = 1, *, blanks: str = infill.BLANKS, width: int = infill.WIDTH
    ) -> list[Filling]:
        """Return the `num` best ways to fill the gaps of a text, its runs of `blanks`; see `infill.fill`.

        Raises MisuseError for a text without a gap.
        """
        return infill.fill(self._model, self._vocabulary, Gapped.parse(content, blanks), num, width)

    def score(self, content: str) -> Score:
        """Score a text exactly, in a single pass that starts after a newline."""
        decoding.check_characters(content, "text")
        return short_texts.score_batch(self._model, self._vocabulary, [self._vocabulary.encode(content)])[0]

    def _training_copies(self, size: int) -> CopyIndex:
        """Index the training text's substrings of `size` characters; the index of the last size is cached."""
        if self._copies is None or self._copies.size != size:
            from charrnn.checkpoints import model_file, training_corpus

            copying.check_size(size)  # before the training text is read
            advice = "Put it back, or leave out no_copy."
            header = model_file.read_header(self.path)
            self._copies = CopyIndex(training_corpus.find(header, self.path, advice).training.codes, size)
        return self._copies
