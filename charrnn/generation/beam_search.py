"""Beam search: the likeliest continuations, deterministically, of a given length or ended by a given text.
Knows models and characters, not files. Shapes: R hypotheses, T tokens, V vocabulary, F features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import MisuseError
from charrnn.generation.sampling import Ending, Sample, check_request
from charrnn.generation.stop_texts import StopTexts, Until
from charrnn.models import likelihood
from charrnn.models.interface import Floats, LanguageModel, ModelState, Tokens

Nats = npt.NDArray[np.float64]  # negative log-likelihoods
_WINDOW = 1024
_PATIENCE = 500  # steps
_Path = tuple["_Path", str] | None  # the hypothesis that another extends, and its last character: no text is copied
_Finished = tuple[float, _Path, float, Ending]  # what it is ranked by, text, its nats


def best_continuations(totals: Nats, nats: Nats, width: int) -> tuple[Tokens, Tokens, Nats]:
    """Extend hypotheses with totals (R) by one character each, whose nats are (R, V).

    Return the hypotheses, tokens and totals of the `width` best extensions, or of all if there are fewer, best first;
    ties go to the earlier hypothesis and the lower token.
    """
    sums = (totals[:, None] + nats).ravel()
    if width < len(sums):
        threshold = np.partition(sums, width - 1)[width - 1]
        found = np.flatnonzero(sums <= threshold)
    else:
        found = np.arange(len(sums))
    found = found[np.isfinite(sums[found])]
    found = found[np.argsort(sums[found], kind="stable")][:width]
    return found // nats.shape[1], found % nats.shape[1], sums[found]


def read(model: LanguageModel, tokens: Tokens, state: ModelState) -> tuple[Floats, ModelState]:
    """Read one sequence of tokens (T) in windows; return the features (1, F) after the last one, and the state."""
    for first in range(0, len(tokens), _WINDOW):
        features, state = model.read(tokens[None, first : first + _WINDOW], state)
    return features[:, -1], state


def search(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prime: str,
    length: int,
    width: int,
    until: Until = None,
    *,
    keep_until: bool = False,
    document: bool = False,
) -> list[Sample]:
    """Return likely continuations of a prime, `length` characters long or ended by a text of `until`, best first; or of
    a `document` up to the boundary that ends it.

    Each step keeps the `width` likeliest hypotheses. Hypotheses of one length are ranked by their probability, and so
    are whole documents, their boundary included; those that `until` ends at different lengths by their mean nats a
    character, the stop text included. Of those that several stop texts cut to the same text, only the best counts.
    The search stops when no open hypothesis is better than the worst of `width` finished ones; of documents also
    _PATIENCE steps after the first has ended, and those that do not end come last. Raises MisuseError for a width
    below 1, and what `check_request` and StopTexts raise.
    """
    check_request([prime], length)
    if width < 1:
        raise MisuseError(f"beam is {width}; it must be at least 1.")
    stops = StopTexts(until, vocabulary.boundary if document else "")
    start = vocabulary.encode(vocabulary.boundary + prime).astype(np.int64)
    features, state = read(model, start, model.initial_state(1))
    nats = likelihood.all_nats(vocabulary, model.logits(features))
    if stops.boundary == "\n\n" and ("\n\n" + prime).endswith("\n\n"):
        nats, state = _after_newlines(model, vocabulary, nats, state, length)
    totals, paths, matched = np.zeros(1), list[_Path]([None]), [stops.after(prime)]
    recent = [(0.0,)]  # totals of each hypothesis after its last steps
    finished, first = list[_Finished](), 0  # the step at which the first of them was found
    for step in range(1, length + 1):
        rows, tokens, totals = best_continuations(totals, nats, width)
        added = [stops.shown(vocabulary.characters[token]) for token in tokens]
        paths = [(paths[row], character) for row, character in zip(rows, added, strict=True)]
        matched = [stops.step(matched[row], character) for row, character in zip(rows, added, strict=True)]
        recent = [(*recent[row], float(total))[-stops.longest - 1 :] for row, total in zip(rows, totals, strict=True)]
        unfinished, ended, compared = [], list[_Finished](), 1 if document else step
        for index, path in enumerate(paths):
            if found := stops.found[matched[index]]:
                ends_document = stops.ends_document(matched[index])
                cut = 0 if keep_until and not ends_document else min(found, step)  # it may begin in the prime
                for _ in range(cut):
                    path = path[0] if path else None
                ended_by: Ending = "document" if ends_document else "until"
                ended.append((float(totals[index]) / compared, path, recent[index][-1 - cut], ended_by))
            else:
                unfinished.append(index)
        finished = _each_text_once(sorted(finished + ended, key=lambda found: found[0]))[:width]
        first = first or (step if finished else 0)
        if not unfinished or step == length:
            break
        stuck = document and bool(finished) and step - first >= _PATIENCE
        if stuck or (len(finished) == width and totals[unfinished[0]] / compared >= finished[-1][0]):
            unfinished = []
            break
        rows, tokens, totals = rows[unfinished], tokens[unfinished], totals[unfinished]
        paths, matched = [paths[index] for index in unfinished], [matched[index] for index in unfinished]
        recent = [recent[index] for index in unfinished]
        logits, state = model.step(tokens[:, None], state.select(rows))
        nats = likelihood.all_nats(vocabulary, logits)
    finished += [(float(totals[index]) / step, paths[index], float(totals[index]), "length") for index in unfinished]
    # a loop that never ends may be likely: it is no document where there are others
    ranked = sorted(finished, key=lambda found: (document and found[3] == "length", found[0]))
    return _samples(prime, ranked[:width])


def _after_newlines(
    model: LanguageModel, vocabulary: Vocabulary, nats: Nats, state: ModelState, most: int
) -> tuple[Nats, ModelState]:
    """Read newlines before a document while they are the likeliest, and exclude a further one; return the nats (1, V)
    of its first character, and the state before it."""
    newline = vocabulary.encode("\n").astype(np.int64)
    while most and nats.argmin() == newline[0]:
        logits, state = model.step(newline[:, None], state)
        nats, most = likelihood.all_nats(vocabulary, logits), most - 1
    nats[:, newline] = np.inf
    return nats, state


def _samples(prime: str, best: list[_Finished]) -> list[Sample]:
    samples = []
    for index, (_, path, total, ended_by) in enumerate(best):
        text = _text(path)
        samples.append(Sample(prime, text, total, None, index, len(text), ended_by))
    return samples


def _each_text_once(finished: list[_Finished]) -> list[_Finished]:
    """Keep the first hypothesis of each text. No two open ones share a text, so equal texts are the same object."""
    first: dict[int, _Finished] = {}
    for found in finished:
        first.setdefault(id(found[1]), found)
    return list(first.values())


def _text(path: _Path) -> str:
    characters = []
    while path is not None:
        path, character = path
        characters.append(character)
    return "".join(reversed(characters))
