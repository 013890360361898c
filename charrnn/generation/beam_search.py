"""Beam search: the likeliest continuations, deterministically, of a given length or ended by a given text.
Knows models and characters, not files. Shapes: R hypotheses, T tokens, V vocabulary, F features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import MisuseError
from charrnn.generation.patterns import Pattern, PatternProgress
from charrnn.generation.sampling import Ending, Sample, check_request
from charrnn.generation.stop_texts import StopTexts, Until
from charrnn.models import likelihood
from charrnn.models.interface import Floats, LanguageModel, ModelState, Tokens

Nats = npt.NDArray[np.float64]  # negative log-likelihoods
_WINDOW = 1024
_Path = tuple["_Path", str] | None  # the hypothesis that another extends, and its last character: no text is copied
_Finished = tuple[float, _Path, float, Ending]  # mean nats, text, its nats


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
    pattern: Pattern | None = None,
) -> list[Sample]:
    """Return likely continuations of a prime, `length` characters long or ended by a text of `until`, best first.

    Each step keeps the `width` likeliest hypotheses. Hypotheses of one length are ranked by their probability; finished
    ones, which `until` ends at different lengths, by their mean nats a character, the stop text included; of those that
    several stop texts cut to the same text, only the best counts. With a `pattern`, the whole of each continuation
    matches it, and ends where nothing can follow. The search stops when no open hypothesis is better
    than the worst of `width` finished ones. Raises MisuseError for a width below 1, and what `check_request` and
    StopTexts raise.
    """
    check_request([prime], length)
    if width < 1:
        raise MisuseError(f"beam is {width}; it must be at least 1.")
    stops = StopTexts(until)
    automaton = None if pattern is None else pattern.automaton(vocabulary, stops, keep_until=keep_until)
    forms = [] if automaton is None else [PatternProgress(automaton, prime, length)]  # of each hypothesis
    if forms and forms[0].ends:
        return _samples(prime, [(0.0, None, 0.0, "pattern")])
    start = np.concatenate(([vocabulary.newline], vocabulary.encode(prime).astype(np.int64)))
    features, state = read(model, start, model.initial_state(1))
    nats = likelihood.all_nats(vocabulary, model.logits(features))
    totals, paths, matched = np.zeros(1), list[_Path]([None]), [stops.after(prime)]
    recent = [(0.0,)]  # totals of each hypothesis after its last steps
    finished: list[_Finished] = []
    for step in range(1, length + 1):
        masked = nats - np.concatenate([form.mask() for form in forms]).reshape(nats.shape) if forms else nats
        rows, tokens, totals = best_continuations(totals, masked, width)
        forms = [forms[row].extended(int(token)) for row, token in zip(rows, tokens, strict=True)] if forms else []
        added = [vocabulary.characters[token] for token in tokens]
        paths = [(paths[row], character) for row, character in zip(rows, added, strict=True)]
        matched = [stops.step(matched[row], character) for row, character in zip(rows, added, strict=True)]
        recent = [(*recent[row], float(total))[-stops.longest - 1 :] for row, total in zip(rows, totals, strict=True)]
        unfinished = []
        for index, path in enumerate(paths):
            if found := stops.found[matched[index]]:
                found = forms[index].cut(found) if forms else found
                cut = 0 if keep_until else min(found, step)  # a stop text may begin in the prime
                for _ in range(cut):
                    path = path[0] if path else None
                finished.append((float(totals[index]) / step, path, recent[index][-1 - cut], "until"))
            elif forms and forms[index].ends and step < length:
                finished.append((float(totals[index]) / step, path, float(totals[index]), "pattern"))
            else:
                unfinished.append(index)
        finished = _each_text_once(sorted(finished, key=lambda found: found[0]))[:width]
        if not unfinished or step == length:
            break
        if len(finished) == width and totals[unfinished[0]] / step >= finished[-1][0]:
            unfinished = []
            break
        rows, tokens, totals = rows[unfinished], tokens[unfinished], totals[unfinished]
        paths, matched = [paths[index] for index in unfinished], [matched[index] for index in unfinished]
        recent = [recent[index] for index in unfinished]
        forms = [forms[index] for index in unfinished] if forms else []
        logits, state = model.step(tokens[:, None], state.select(rows))
        nats = likelihood.all_nats(vocabulary, logits)
    finished += [(float(totals[index]) / step, paths[index], float(totals[index]), "length") for index in unfinished]
    return _samples(prime, sorted(finished, key=lambda found: found[0])[:width])


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
