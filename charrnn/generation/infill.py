"""Infilling: the characters for the gaps of a text that make it most probable.
Knows models and characters, not files. Shapes: R hypotheses, C candidates, W characters of a gap, T tokens,
V vocabulary, F features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from charrnn.config.limits import FILE_BOUNDARY
from charrnn.data.decoding import check_characters
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError, MisuseError
from charrnn.generation import beam_search
from charrnn.generation.beam_search import Nats
from charrnn.models import likelihood
from charrnn.models.interface import Floats, LanguageModel, ModelState, Tokens
from charrnn.scores import NATS_PER_BIT

BLANKS = "＿_"
WIDTH = 32  # default number of hypotheses
_SUFFIX = 128  # characters after a gap that rank its fillings; later ones hardly tell them apart
_STAGES = (8, 32, _SUFFIX)  # of them, after each of which candidates are dropped
_HOPELESS = 12.0  # nats behind the best; a candidate further behind is dropped
_LAST_FACTOR = 4  # times as many candidates at a gap's last character: they only have to be rescored
_BACKWARD_SUFFIX = 256  # characters after a gap that the backward half reads
_BACKWARD_PREFIX = 48  # characters before a gap that the backward half scores
IMPLAUSIBLE = 1.0  # nats behind the best under both halves; a candidate further behind comes after all others
_MAX_LOGITS = 1 << 24  # at a time
_WINDOW = 1024


@dataclass(frozen=True)
class Gapped:
    """A text with gaps: `text` with any characters in them, the gaps as (start, end), and the characters that none of
    them may contain."""

    text: str
    gaps: tuple[tuple[int, int], ...]
    without: str = ""

    @classmethod
    def parse(cls, text: str, blanks: str = BLANKS, *, required: bool = True) -> Gapped:
        """Find the gaps of a text, its runs of blank characters.

        Gaps of a single line contain no newline. Raises MisuseError where a gap is required and there is none,
        CharRNNError for a lone surrogate.
        """
        check_characters(text, "text")
        blank = [False, *(character in blanks for character in text), False]
        edges = [index for index in range(len(text) + 1) if blank[index] != blank[index + 1]]
        if required and not edges:
            names = " or ".join(dict.fromkeys(blanks)).replace("\n", "\\n")
            raise MisuseError(f"The text has no gap. Write {names} once for every missing character.")
        return cls(text, tuple(zip(edges[::2], edges[1::2], strict=True)), _excluded(text))

    @classmethod
    def between(cls, prefix: str, suffix: str, length: int) -> Gapped:
        """Return one gap of `length` characters between two texts."""
        if length < 1:
            raise MisuseError(f"length is {length}; it must be at least 1.")
        check_characters(prefix + suffix, "text")
        gap = (len(prefix), len(prefix) + length)
        return cls(prefix + " " * length + suffix, (gap,), _excluded(prefix + suffix))


def _excluded(text: str) -> str:
    """Return the characters that gaps of a text may not contain: a newline, where it is a single line."""
    return "" if "\n" in text.removesuffix("\n") else "\n"


@dataclass(frozen=True)
class Filling:
    """A text with its gaps filled, and the negative log-likelihood under the forward model that ranks it: in nats, of
    `characters` characters, those of the gaps and of the known text after the first."""

    text: str
    gaps: tuple[str, ...]
    nats: float
    characters: int
    index: int = 0

    @property
    def bits_per_character(self) -> float:
        """Return the mean over the characters that the filling is ranked by."""
        return self.nats / NATS_PER_BIT / self.characters


@dataclass(frozen=True)
class _Hypotheses:
    """R ways to have read up to a gap: the tokens of all gaps before it (R, ...), the nats of these and of the known
    text between them (R), in how many gaps they are implausible (R), the features (R, F) and the state after them."""

    tokens: Tokens
    totals: Nats
    implausible: Tokens
    features: Floats
    state: ModelState

    @classmethod
    def start(cls, features: Floats, state: ModelState) -> _Hypotheses:
        """Start from features (R, F) and a state, with no gap filled."""
        rows = len(features)
        return cls(np.zeros((rows, 0), dtype=np.int64), np.zeros(rows), np.zeros(rows, np.int64), features, state)

    def select(self, rows: Tokens) -> _Hypotheses:
        """Select, reorder or repeat hypotheses."""
        arrays = self.tokens[rows], self.totals[rows], self.implausible[rows]
        return _Hypotheses(*arrays, self.features[rows], self.state.select(rows))

    def order(self) -> Tokens:
        """Return the rows, best first."""
        return np.lexsort((self.totals, self.implausible))


def fill(
    model: LanguageModel, vocabulary: Vocabulary, gapped: Gapped, count: int = 1, width: int = WIDTH
) -> list[Filling]:
    """Return the `count` best fillings, best first.

    They are ranked by the probability of all gaps and of the known text after them under the forward model,
    log P(gaps, suffix | prefix). The boundary precedes the text; nothing is assumed to follow it.

    Candidates for a gap come from a forward beam search that keeps `width` hypotheses, and four times as many at the
    gap's last character. A bidirectional model adds those of its joint head, which sees what follows the gap and how
    much of it remains, and those of its backward half. Candidates that both halves together score more than IMPLAUSIBLE
    nats worse than the best are ranked after all others. At the very end of a text, where nothing follows, a
    bidirectional model is no better than a causal one.

    Raises MisuseError for a count or width below 1.
    """
    if count < 1:
        raise MisuseError(f"num is {count}; it must be at least 1.")
    if width < 1:
        raise MisuseError(f"beam is {width}; it must be at least 1.")
    search = _Search(model, vocabulary, gapped, count, max(count, width))
    found = search.run()
    if model.bidirectional_heads is not None and len(gapped.gaps) > 1:
        # the best filling so far is what the backward half reads to the right of each gap but the last
        found = {**found, **search.run(found)}
    best = sorted(found.items(), key=lambda item: (item[1], item[0]))[:count]
    return [search.filling(tokens, nats, index) for index, (tokens, (_, nats)) in enumerate(best)]


# the tokens of all gaps: in how many gaps they are implausible, and their nats
_Found = dict[tuple[int, ...], tuple[int, float]]


class _Search:
    """The search for the fillings of one text."""

    def __init__(self, model: LanguageModel, vocabulary: Vocabulary, gapped: Gapped, count: int, width: int) -> None:
        self.model, self.vocabulary, self.gapped = model, vocabulary, gapped
        self.count, self.width = count, width
        self.tokens = vocabulary.encode(vocabulary.boundary + gapped.text).astype(np.int64)
        before = len(vocabulary.boundary)
        self.gaps = [(start + before, end + before) for start, end in gapped.gaps]  # in `tokens`
        for start, end in self.gaps:
            self.tokens[start:end] = vocabulary.escape
        self.end = min(len(self.tokens), self.gaps[-1][1] + _SUFFIX)
        without = vocabulary.encode(gapped.without + FILE_BOUNDARY).tolist()  # no file ends within a text
        self.forbidden = [token for token in without if token != vocabulary.escape]

    def run(self, earlier: _Found | None = None) -> _Found:
        """Fill the gaps from left to right; the backward half reads the best `earlier` filling in later gaps."""
        filled = self.tokens.copy()
        if earlier:
            best = min(earlier, key=lambda tokens: (earlier[tokens], tokens))
            for start, end in self.gaps:
                filled[start:end], best = best[: end - start], best[end - start :]
        first = self.gaps[0][0]
        features, state = beam_search.read(self.model, self.tokens[:first], self.model.initial_state(1))
        before = _Hypotheses.start(features, state)
        borders = [*(start for start, _ in self.gaps[1:]), self.end]
        for (start, end), border in zip(self.gaps, borders, strict=True):
            after = self._read_suffix(filled[end : end + _BACKWARD_SUFFIX])
            parents, strings = self._candidates(before, end - start, after)
            if len(strings) == 0:
                raise CharRNNError("The model knows no character that could fill the gap.")
            scored, rows = self._score(before, parents, strings, self.tokens[end:border])
            if after is not None:
                parent = before.select(parents[rows])
                implausible = self._implausible(parent, strings[rows], scored.totals, start, after)
                scored = replace(scored, implausible=scored.implausible + implausible)
            before = scored.select(scored.order())
        columns = zip(before.tokens.tolist(), before.implausible.tolist(), before.totals.tolist(), strict=True)
        return {tuple(tokens): (implausible, total) for tokens, implausible, total in columns}

    def filling(self, tokens: tuple[int, ...], nats: float, index: int) -> Filling:
        """Return the text with the tokens of all gaps in place."""
        text, gaps, rest = self.gapped.text, [], self.vocabulary.decode(tokens)
        for start, end in self.gapped.gaps:
            gaps.append(rest[: end - start])
            text, rest = text[:start] + gaps[-1] + text[end:], rest[end - start :]
        return Filling(text, tuple(gaps), nats, self.end - self.gaps[0][0], index)

    def _read_suffix(self, suffix: Tokens) -> _Hypotheses | None:
        """Read what follows a gap with the backward half; None if there is no such half or nothing follows."""
        if self.model.bidirectional_heads is None or len(suffix) == 0:
            return None
        half = self.model.bidirectional_heads.backward
        return _Hypotheses.start(*beam_search.read(half, suffix[::-1].copy(), half.initial_state(1)))

    def _candidates(self, before: _Hypotheses, size: int, after: _Hypotheses | None) -> tuple[Tokens, Tokens]:
        """Propose fillings of one gap; return the hypothesis that each continues (C), and its tokens (C, W)."""
        model, heads = self.model, self.model.bidirectional_heads
        found = [self._beam(model, before, size, lambda features, _: model.logits(features))]
        if heads is not None and after is not None:
            half, right, joint_logits = heads.backward, after.features, heads.joint_logits

            def joint(left: Floats, remaining: int) -> Floats:
                return joint_logits(left, np.broadcast_to(right, (*left.shape[:-1], right.shape[-1])), remaining)

            found.append(self._beam(model, before, size, joint))
            first, strings = self._beam(half, after, size, lambda features, _: half.logits(features))
            found.append((first, strings[:, ::-1]))  # all of them continue the first hypothesis, which is the best
        pairs = np.unique(np.concatenate([np.column_stack(pair) for pair in found]), axis=0)
        return pairs[:, 0], pairs[:, 1:]

    def _beam(
        self, model: LanguageModel, before: _Hypotheses, size: int, logits: Callable[[Floats, int], Floats]
    ) -> tuple[Tokens, Tokens]:
        """Search for W characters; `logits` predicts the next one, given features (R, F) and how many remain."""
        parents, strings = np.arange(len(before.totals)), np.zeros((len(before.totals), 0), dtype=np.int64)
        totals, features, state = before.totals, before.features, before.state
        for remaining in range(size, 0, -1):
            nats = likelihood.all_nats(self.vocabulary, logits(features, remaining))
            nats[:, self.forbidden] = np.inf
            width = self.width * (_LAST_FACTOR if remaining == 1 else 1)
            rows, tokens, totals = beam_search.best_continuations(totals, nats, width)
            parents, strings = parents[rows], np.column_stack((strings[rows], tokens))
            if remaining > 1:
                read, state = model.read(tokens[:, None], state.select(rows))
                features = read[:, -1]
        return parents, strings

    def _score(
        self, before: _Hypotheses, parents: Tokens, strings: Tokens, suffix: Tokens
    ) -> tuple[_Hypotheses, Tokens]:
        """Read candidates and the known text after them forwards; return the best as hypotheses, and their indices."""
        found = before.select(parents)
        found = self._read(self.model, replace(found, tokens=np.column_stack((found.tokens, strings))), strings)
        rows = np.arange(len(strings))
        for first, last in pairwise((0, *_STAGES, max(len(suffix), _SUFFIX))):
            found = self._read(self.model, found, np.tile(suffix[first:last], (len(found.totals), 1)))
            order = found.order()[: self.width]
            hopeless = found.totals[order] > found.totals[order].min() + _HOPELESS
            hopeless[: self.count] = False
            found, rows = found.select(order[~hopeless]), rows[order[~hopeless]]
        return found, rows

    def _implausible(
        self, before: _Hypotheses, strings: Tokens, totals: Nats, start: int, after: _Hypotheses
    ) -> Tokens:
        """Score candidates (C, W) for the gap at `start` with the backward half, given their forward nats `totals` (C).

        The forward half gives P(gap, suffix | prefix), the backward half P(prefix, gap | suffix). Return 1 for each
        candidate whose product of both is more than IMPLAUSIBLE nats worse than the best, 0 for the others (C).
        """
        assert self.model.bidirectional_heads is not None
        half, count = self.model.bidirectional_heads.backward, len(strings)
        begin, filled = max(0, start - _BACKWARD_PREFIX), before.tokens.shape[1]
        prefix = np.tile(self.tokens[begin:start], (count, 1))
        for first, last in reversed([gap for gap in self.gaps if begin < gap[1] <= start]):
            cut = max(first, begin)  # a gap may extend beyond the prefix
            prefix[:, cut - begin : last - begin] = before.tokens[:, filled - (last - cut) : filled]
            filled -= last - first
        backwards = np.column_stack((prefix, strings))[:, ::-1].copy()
        nats = totals + self._read(half, after.select(np.zeros(count, np.int64)), backwards).totals
        return np.asarray(nats > nats.min() + IMPLAUSIBLE, dtype=np.int64)

    def _read(self, model: LanguageModel, hypotheses: _Hypotheses, tokens: Tokens) -> _Hypotheses:
        """Read tokens (R, T) after hypotheses, and add their nats."""
        totals, features, state = hypotheses.totals, hypotheses.features, hypotheses.state
        window = self._window(len(tokens))
        for first in range(0, tokens.shape[1], window):
            targets = tokens[:, first : first + window]
            read, state = model.read(targets, state)  # (R, T, F)
            logits = model.logits(np.concatenate((features[:, None], read[:, :-1]), 1))
            totals, features = totals + likelihood.target_nats(self.vocabulary, logits, targets).sum(1), read[:, -1]
        return replace(hypotheses, totals=totals, features=features, state=state)

    def _window(self, rows: int) -> int:
        """Return how many steps to read at once, so that memory is bounded."""
        largest = max(len(self.vocabulary), self.model.gates)
        return max(1, min(_WINDOW, _MAX_LOGITS // (rows * largest)))
