"""Filling gaps: the characters that make a text with holes most probable. Knows readers and characters, not files.
Shapes: R hypotheses, C candidates, W characters of a gap, S of the known text after it, V vocabulary, F features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from charrnn.data.decoding import check_characters
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError, MisuseError
from charrnn.generation import beam_search
from charrnn.generation.beam_search import Prices
from charrnn.models import likelihood
from charrnn.models.interface import BidirectionalHeads, Floats, LanguageModel, ModelState, Tokens
from charrnn.scores import NATS_PER_BIT

BLANKS = "＿_"
WIDTH = 32  # hypotheses kept by default
_SUFFIX = 128  # characters after a gap that decide between fillings; what comes later tells them apart no more
_STAGES = (8, 32, _SUFFIX)  # after so many of them
_HOPELESS = 12.0  # nats behind the best: such a candidate is not read on
_LAST = 4  # times as many are kept at a gap's last character: to tell them apart costs little from there
_CONTEXT = 256  # characters after a gap that the backward stack reads
_PREFIX = 48  # characters before a gap by which it tells candidates apart
IMPLAUSIBLE = 1.0  # nats behind the best for both halves together: such a candidate comes after all others
_LOGITS = 1 << 24  # numbers at a time, at most
_WINDOW = 1024


@dataclass(frozen=True)
class Gapped:
    """Hold a text with gaps: `text` with any character in their places, where they are, as (start, end), and the
    characters that none of them may hold."""

    text: str
    gaps: tuple[tuple[int, int], ...]
    without: str = ""

    @classmethod
    def parse(cls, text: str, blanks: str = BLANKS, *, required: bool = True) -> Gapped:
        """Find the gaps of a text: runs of blank characters. Raises MisuseError where there are none and one is
        required, CharRNNError for a lone surrogate.

        Gaps of a text that is one line hold no newline either.
        """
        check_characters(text, "text")
        blank = [False, *(character in blanks for character in text), False]
        edges = [place for place in range(len(text) + 1) if blank[place] != blank[place + 1]]
        if required and not edges:
            shown = " or ".join(dict.fromkeys(blanks)).replace("\n", "\\n")
            raise MisuseError(f"The text has no gap. Write {shown} once for every missing character.")
        return cls(text, tuple(zip(edges[::2], edges[1::2], strict=True)), _excluded(text))

    @classmethod
    def between(cls, prefix: str, suffix: str, length: int) -> Gapped:
        """Leave one gap of `length` characters between two texts."""
        if length < 1:
            raise MisuseError(f"length is {length}; it must be at least 1.")
        check_characters(prefix + suffix, "text")
        gap = (len(prefix), len(prefix) + length)
        return cls(prefix + " " * length + suffix, (gap,), _excluded(prefix + suffix))


def _excluded(text: str) -> str:
    """Give what no gap of a text may hold: a newline, where the text is one line."""
    return "" if "\n" in text.removesuffix("\n") else "\n"


@dataclass(frozen=True)
class Filling:
    """Hold a text without gaps any more: what came into them, and the price in nats of `characters` characters, those
    of the gaps and of the known text behind them, under the forward model."""

    text: str
    gaps: tuple[str, ...]
    nats: float
    characters: int
    index: int = 0

    @property
    def bits_per_character(self) -> float:
        """Give the mean price of what the filling is judged by."""
        return self.nats / NATS_PER_BIT / self.characters


@dataclass(frozen=True)
class _Hypotheses:
    """Stand before a gap, R ways to have come there: the tokens of all gaps before (R, ...), what they and the known
    text between them cost (R), in how many gaps they are doubted (R), what the stack knows (R, F), and the state."""

    tokens: Tokens
    totals: Prices
    doubts: Tokens
    features: Floats
    state: ModelState

    @classmethod
    def at(cls, features: Floats, state: ModelState) -> _Hypotheses:
        """Stand at one place from which nothing was chosen yet, in as many lanes as there are features (R, F)."""
        lanes = len(features)
        return cls(np.zeros((lanes, 0), dtype=np.int64), np.zeros(lanes), np.zeros(lanes, np.int64), features, state)

    def chosen(self, rows: Tokens) -> _Hypotheses:
        """Choose, reorder or repeat hypotheses."""
        arrays = self.tokens[rows], self.totals[rows], self.doubts[rows]
        return _Hypotheses(*arrays, self.features[rows], self.state.select(rows))

    def order(self) -> Tokens:
        """Give the rows from the best to the worst."""
        return np.lexsort((self.totals, self.doubts))


def fill(
    model: LanguageModel,
    vocabulary: Vocabulary,
    gapped: Gapped,
    count: int = 1,
    width: int = WIDTH,
) -> list[Filling]:
    """Find the `count` best fillings, best first.

    What is compared is one probability, that of all gaps and of the known text behind them under the model read
    forwards, log P(gaps, suffix | prefix). A newline stands before the text; after it nothing is assumed.

    Candidates for a gap come from a beam search forwards that keeps `width` hypotheses, and four times as many at the
    gap's last character; a bidirectional model adds those of its joint head, which knows what comes after the gap and
    how much of it remains, and of its backward half. Candidates that both halves together price more than DOUBT nats
    above another one come after all that they do not doubt. At the text's very end, where nothing comes after, a
    bidirectional model has no more to say than a causal one.

    Raises MisuseError for a count or width below 1.
    """
    if count < 1:
        raise MisuseError(f"num is {count}; it must be at least 1.")
    if width < 1:
        raise MisuseError(f"beam is {width}; it must be at least 1.")
    search = _Search(model, vocabulary, gapped, count, max(count, width))
    found = search.run()
    if model.sides is not None and len(gapped.gaps) > 1:
        # a first answer tells what stands to the right of each gap but the last
        found = {**found, **search.run(found)}
    best = sorted(found.items(), key=lambda item: (item[1], item[0]))[:count]
    return [search.filling(tokens, cost, index) for index, (tokens, (_, cost)) in enumerate(best)]


# fillings as the tokens of all gaps: in how many of them they are doubted, and their price
_Found = dict[tuple[int, ...], tuple[int, float]]


class _Search:
    """Fills one text."""

    def __init__(self, model: LanguageModel, vocabulary: Vocabulary, gapped: Gapped, count: int, width: int) -> None:
        self.model, self.vocabulary, self.gapped = model, vocabulary, gapped
        self.count, self.width = count, width
        self.framed = np.concatenate(([vocabulary.newline], vocabulary.encode(gapped.text).astype(np.int64)))
        self.gaps = [(start + 1, end + 1) for start, end in gapped.gaps]  # places in the framed text
        for start, end in self.gaps:
            self.framed[start:end] = vocabulary.escape
        self.end = min(len(self.framed), self.gaps[-1][1] + _SUFFIX)
        self.banned = [token for token in vocabulary.encode(gapped.without).tolist() if token != vocabulary.escape]

    def run(self, known: _Found | None = None) -> _Found:
        """Go through all gaps; gives fillings. `known` are those found before."""
        framed = self.framed.copy()
        if known:
            guess = min(known, key=lambda tokens: (known[tokens], tokens))
            for start, end in self.gaps:
                framed[start:end], guess = guess[: end - start], guess[end - start :]
        first = self.gaps[0][0]
        features, state = beam_search.read(self.model, self.framed[:first], self.model.initial_state(1))
        front = _Hypotheses.at(features, state)
        borders = [*(start for start, _ in self.gaps[1:]), self.end]
        for (start, end), border in zip(self.gaps, borders, strict=True):
            behind = self._behind(framed[end : end + _CONTEXT])
            parents, strings = self._candidates(front, end - start, behind)
            if len(strings) == 0:
                raise CharRNNError("The model knows no character that could fill the gap.")
            judged, rows = self._judged(front, parents, strings, self.framed[end:border])
            if self.model.sides is not None and behind is not None:
                before, totals = front.chosen(parents[rows]), judged.totals
                doubted = self._doubted(self.model.sides, before, strings[rows], totals, start, behind)
                judged = replace(judged, doubts=judged.doubts + doubted)
            front = judged.chosen(judged.order())
        columns = zip(front.tokens.tolist(), front.doubts.tolist(), front.totals.tolist(), strict=True)
        return {tuple(tokens): (doubts, total) for tokens, doubts, total in columns}

    def filling(self, tokens: tuple[int, ...], cost: float, index: int) -> Filling:
        """Write tokens of all gaps into the text."""
        text, parts, rest = self.gapped.text, [], self.vocabulary.decode(tokens)
        for start, end in self.gapped.gaps:
            parts.append(rest[: end - start])
            text, rest = text[:start] + parts[-1] + text[end:], rest[end - start :]
        return Filling(text, tuple(parts), cost, self.end - self.gaps[0][0], index)

    def _behind(self, suffix: Tokens) -> _Hypotheses | None:
        """Give where the backward half stands that has read what comes after a gap; None without either."""
        if self.model.sides is None or len(suffix) == 0:
            return None
        half = self.model.sides.backward
        return _Hypotheses.at(*beam_search.read(half, suffix[::-1].copy(), half.initial_state(1)))

    def _candidates(self, front: _Hypotheses, size: int, behind: _Hypotheses | None) -> tuple[Tokens, Tokens]:
        """Propose what may stand in a gap; gives the hypotheses that each goes on from (C), and the tokens (C, W)."""
        model, sides = self.model, self.model.sides
        found = [self._beam(model, front, size, lambda features, _: model.logits(features))]
        if sides is not None and behind is not None:
            half, after, join = sides.backward, behind.features, sides.joint_logits

            def joined(features: Floats, left: int) -> Floats:
                return join(features, np.broadcast_to(after, features.shape), left)

            found.append(self._beam(model, front, size, joined))
            best, strings = self._beam(half, behind, size, lambda features, _: half.logits(features))
            found.append((best, strings[:, ::-1]))  # they go on from the first hypothesis, which is the best
        pairs = np.unique(np.concatenate([np.column_stack(pair) for pair in found]), axis=0)
        return pairs[:, 0], pairs[:, 1:]

    def _beam(
        self, reader: LanguageModel, front: _Hypotheses, size: int, logits: Callable[[Floats, int], Floats]
    ) -> tuple[Tokens, Tokens]:
        """Search for W cheap characters; `logits` foretells one from features (R, F) and how many are to come."""
        parents, strings = np.arange(len(front.totals)), np.zeros((len(front.totals), 0), dtype=np.int64)
        totals, features, state = front.totals, front.features, front.state
        for left in range(size, 0, -1):
            costs = likelihood.all_nats(self.vocabulary, logits(features, left))
            costs[:, self.banned] = np.inf
            rows, tokens, totals = beam_search.best_continuations(
                totals, costs, self.width * (_LAST if left == 1 else 1)
            )
            parents, strings = parents[rows], np.column_stack((strings[rows], tokens))
            if left > 1:
                read, state = reader.read(tokens[:, None], state.select(rows))
                features = read[:, -1]
        return parents, strings

    def _judged(
        self, front: _Hypotheses, parents: Tokens, strings: Tokens, suffix: Tokens
    ) -> tuple[_Hypotheses, Tokens]:
        """Read candidates and the known text behind them forwards; gives the best hypotheses, and whose they are."""
        here = front.chosen(parents)
        here = self._read(self.model, replace(here, tokens=np.column_stack((here.tokens, strings))), strings)
        alive = np.arange(len(strings))
        for first, last in pairwise((0, *_STAGES, max(len(suffix), _SUFFIX))):
            coming = suffix[first:last]
            here = self._read(self.model, here, np.tile(coming, (len(here.totals), 1)))
            order = here.order()[: self.width]
            hopeless = here.totals[order] > here.totals[order].min() + _HOPELESS
            hopeless[: self.count] = False
            here, alive = here.chosen(order[~hopeless]), alive[order[~hopeless]]
        return here, alive

    def _doubted(
        self,
        sides: BidirectionalHeads,
        front: _Hypotheses,
        strings: Tokens,
        totals: Prices,
        start: int,
        behind: _Hypotheses,
    ) -> Tokens:
        """Ask the backward half about candidates (C, W) for the gap that begins at `start`, `totals` (C) read forwards.

        The forward half gives P(gap, suffix | prefix), the backward half P(prefix, gap | suffix). Gives 1 for each
        candidate that their product prices more than DOUBT above the best one, 0 for the others (C).
        """
        count = len(strings)
        begin, filled = max(0, start - _PREFIX), front.tokens.shape[1]
        known = np.tile(self.framed[begin:start], (count, 1))
        for first, last in reversed([gap for gap in self.gaps if begin < gap[1] <= start]):
            cut = max(first, begin)  # a gap may reach out of what is read
            known[:, cut - begin : last - begin] = front.tokens[:, filled - (last - cut) : filled]
            filled -= last - first
        backwards = np.column_stack((known, strings))[:, ::-1].copy()
        prices = totals + self._read(sides.backward, behind.chosen(np.zeros(count, np.int64)), backwards).totals
        return np.asarray(prices > prices.min() + IMPLAUSIBLE, dtype=np.int64)

    def _read(self, reader: LanguageModel, here: _Hypotheses, tokens: Tokens) -> _Hypotheses:
        """Read tokens (C, T) on from hypotheses, at their price."""
        totals, features, state = here.totals, here.features, here.state
        window = self._steps(len(tokens))
        for first in range(0, tokens.shape[1], window):
            targets = tokens[:, first : first + window]
            read, state = reader.read(targets, state)  # (C, T, F)
            logits = reader.logits(np.concatenate((features[:, None], read[:, :-1]), 1))
            totals, features = totals + likelihood.target_nats(self.vocabulary, logits, targets).sum(1), read[:, -1]
        return replace(here, totals=totals, features=features, state=state)

    def _steps(self, lanes: int) -> int:
        """Choose how many steps to read at once, so that memory is bounded."""
        largest = max(len(self.vocabulary), self.model.gates)
        return max(1, min(_WINDOW, _LOGITS // (lanes * largest)))
