"""Beam search: the likeliest continuations, deterministically, of a given length or ended by a given text.
Knows models and characters, not files. Shapes: R hypotheses, T tokens, V vocabulary, F features."""

from __future__ import annotations

from dataclasses import dataclass

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
_PATIENCE, _MOST_STEPS = 500, 2_000  # after the first document has ended, and without one
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
    pattern: Pattern | None = None,
) -> list[Sample]:
    """Return likely continuations of a prime, `length` characters long or ended by a text of `until`, best first; or of
    a `document` up to the boundary that ends it.

    Each step keeps the `width` likeliest hypotheses. Hypotheses of one length are ranked by their probability, and so
    are whole documents, their boundary included; those that end at different lengths otherwise by their mean nats a
    character, the stop text included. Of those that several stop texts cut to the same text, only the best counts. With
    a `pattern`, the whole of each continuation matches it, and ends where nothing can follow. The search stops when no
    open hypothesis is better than the worst of `width` finished ones; of documents also _PATIENCE steps after the first
    has ended, or after _MOST_STEPS. Then come those that ended among the less likely ones, and those that do not end
    last. Raises MisuseError for a width below 1, and what `check_request`, StopTexts and `Pattern.automaton` raise.
    """
    check_request([prime], length)
    if width < 1:
        raise MisuseError(f"beam is {width}; it must be at least 1.")
    stops = StopTexts(until, vocabulary.boundary if document else "")
    automaton = None if pattern is None else pattern.automaton(vocabulary, stops, keep_until=keep_until)
    forms = [] if automaton is None else [PatternProgress(automaton, prime, length)]
    if forms and forms[0].ends:
        return _samples(prime, [(0.0, None, 0.0, "pattern")])
    most_newlines = length if stops.boundary == "\n\n" and not forms else 0
    nats, state = _start(model, vocabulary, prime, most_newlines=most_newlines)
    beam = _Hypotheses(stops, np.zeros(1), [None], [stops.after(prime)], [(0.0,)], forms)
    finished, first = list[_Finished](), 0  # the step at which the first of them was found
    spare = list[_Finished]()  # documents that ended among the less likely hypotheses
    for step in range(1, length + 1):
        masked, compared = beam.masked(nats), 1 if document else step
        spare += beam.documents(masked, vocabulary).split(step, compared, length, keep_until=keep_until)[0]
        spare = sorted(spare, key=lambda found: found[0])[:width]
        rows, tokens, totals = best_continuations(beam.totals, masked, width)
        beam = beam.extended(rows, tokens, totals, vocabulary)
        others, unfinished = beam.split(step, compared, length, keep_until=keep_until)
        finished = _each_text_once(sorted(finished + others, key=lambda found: found[0]))[:width]
        first = first or (step if finished else 0)
        if not unfinished or step == length:
            break
        stuck = document and step - first >= (_PATIENCE if finished else _MOST_STEPS)
        if stuck or (len(finished) == width and totals[unfinished[0]] / compared >= finished[-1][0]):
            unfinished = []
            break
        beam = beam.select(unfinished)
        logits, state = model.step(tokens[unfinished, None], state.select(rows[unfinished]))
        nats = likelihood.all_nats(vocabulary, logits)
    left = [(float(totals[index]), beam.paths[index]) for index in unfinished]
    opened: list[_Finished] = [(total / compared, path, total, "length") for total, path in left]
    if document:  # a loop that never ends may be likely: it is no document where there are others
        return _samples(prime, _each_text_once([*finished, *spare, *opened])[:width])
    return _samples(prime, sorted([*finished, *opened], key=lambda found: found[0])[:width])


@dataclass(frozen=True)
class _Hypotheses:
    """R open hypotheses: their nats, their texts, the states of `stops`, the nats after each of their last steps, and
    their progress in a pattern, if there is one."""

    stops: StopTexts
    totals: Nats
    paths: list[_Path]
    matched: list[int]
    recent: list[tuple[float, ...]]
    forms: list[PatternProgress]

    def masked(self, nats: Nats) -> Nats:
        """Return the nats (R, V) of the next characters, infinite for those that no pattern allows."""
        if not self.forms:
            return nats
        return np.asarray(nats - np.concatenate([form.mask() for form in self.forms]).reshape(nats.shape))

    def extended(self, rows: Tokens, tokens: Tokens, totals: Nats, vocabulary: Vocabulary) -> _Hypotheses:
        """Extend hypotheses `rows` (C) by a token each (C); `totals` (C) are the nats that this makes."""
        pairs = list(zip(rows.tolist(), tokens.tolist(), strict=True))
        added = [(row, self.stops.shown(vocabulary.characters[token])) for row, token in pairs]
        recent = [(*self.recent[row], total) for (row, _), total in zip(pairs, totals.tolist(), strict=True)]
        return _Hypotheses(
            self.stops,
            totals,
            [(self.paths[row], character) for row, character in added],
            [self.stops.step(self.matched[row], character) for row, character in added],
            [each[-self.stops.longest - 1 :] for each in recent],
            [self.forms[row].extended(token) for row, token in pairs] if self.forms else [],
        )

    def documents(self, masked: Nats, vocabulary: Vocabulary) -> _Hypotheses:
        """Return the hypotheses that the next character, of nats `masked` (R, V), can end as documents, so ended."""
        boundary, states = self.stops.boundary, self.matched
        last = vocabulary.encode(boundary[-1:]).astype(np.int64)
        found = [row for row, state in enumerate(states) if boundary and self.stops.completes_document(state)]
        rows = np.array([row for row in found if np.isfinite(masked[row, last[0]])], dtype=np.int64)
        tokens = np.resize(last, len(rows))
        return self.extended(rows, tokens, self.totals[rows] + masked[rows, tokens], vocabulary)

    def split(self, step: int, compared: int, length: int, *, keep_until: bool) -> tuple[list[_Finished], list[int]]:
        """Return the hypotheses of `step` characters that something ends before their length does, ranked by their nats
        over `compared` characters, and the indices of the others."""
        found = [self._finished(index, step, compared, length, keep_until) for index in range(len(self.paths))]
        return [one for one in found if one], [index for index, one in enumerate(found) if one is None]

    def _finished(self, index: int, step: int, compared: int, length: int, keep_until: bool) -> _Finished | None:
        form, path, nats = self.forms[index] if self.forms else None, self.paths[index], self.recent[index]
        if found := self.stops.found[self.matched[index]]:
            document = self.stops.ends_document(self.matched[index])
            found = found if form is None else form.cut(found)
            cut = 0 if keep_until and not document else min(found, step)  # it may begin in the prime
            for _ in range(cut):
                path = path[0] if path else None
            return nats[-1] / compared, path, nats[-1 - cut], "document" if document else "until"
        if form is not None and form.ends and step < length:
            return nats[-1] / compared, path, nats[-1], "pattern"
        return None

    def select(self, index: list[int]) -> _Hypotheses:
        """Select hypotheses."""
        return _Hypotheses(
            self.stops,
            self.totals[index],
            [self.paths[row] for row in index],
            [self.matched[row] for row in index],
            [self.recent[row] for row in index],
            [self.forms[row] for row in index] if self.forms else [],
        )


def _start(model: LanguageModel, vocabulary: Vocabulary, prime: str, *, most_newlines: int) -> tuple[Nats, ModelState]:
    """Read the boundary and a prime; return the nats (1, V) of the next character, and the state before it.

    Before a document, newlines are read while they are the likeliest, and a further one is excluded.
    """
    start = vocabulary.encode(vocabulary.boundary + prime).astype(np.int64)
    state = model.initial_state(1)
    if len(start) > 1:
        _, state = read(model, start[:-1], state)
    logits, state = model.step(start[None, -1:], state)
    nats = likelihood.all_nats(vocabulary, logits)
    if not most_newlines or not (vocabulary.boundary + prime).endswith(vocabulary.boundary):
        return nats, state
    newline = vocabulary.encode("\n").astype(np.int64)
    while most_newlines and nats.argmin() == newline[0]:
        logits, state = model.step(newline[:, None], state)
        nats, most_newlines = likelihood.all_nats(vocabulary, logits), most_newlines - 1
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
