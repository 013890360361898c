"""The n-gram model: how often which character came after which others, and interpolated modified Kneser-Ney smoothing
(Kneser and Ney 1995; Chen and Goodman 1999, section 3). Counted and read in NumPy alone. Knows tokens, not files.
A k-gram is k characters that follow one another; its context is the first k-1 of them. All k-grams lie in order of
context and character; a gram's place among its like is its number, and its number as a context of the next order.
Shapes: N characters, B lanes, T steps, V vocabulary, n the order, C contexts, G grams of one order, M places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from charrnn.callbacks import Progress, no_progress
from charrnn.data.vocabulary import Vocabulary
from charrnn.models.interface import BidirectionalHeads, Floats, Tokens
from charrnn.scores import Score

HIGHEST = 10  # order
MOST = 1 << 25  # characters counted at most: some 50 bytes of memory each
MOST_GRAMS = 1 << 26  # of all orders together; an order that would have more is not begun
_BLOCK = 1 << 16  # characters scored at a time
_NUMBERS = 1 << 22  # probabilities at a time
_FALLBACK = (0.5, 1.0, 1.5)  # discounts where too few grams are rare to estimate any
Integers = npt.NDArray[np.integer[Any]]
Prices = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grams:
    """Hold the k-grams of a text: those of context c are `starts[c]` to before `starts[c+1]` (C+1) of `tokens` (G),
    ascending. `suffixes` (G) are the (k-1)-grams without the first character; `size` is V."""

    starts: Integers
    tokens: Integers
    size: int
    lower: Grams | None

    @cached_property
    def contexts(self) -> Tokens:
        """Give the context of each gram (G)."""
        starts = self.starts.astype(np.int64)
        return np.repeat(np.arange(len(starts) - 1), starts[1:] - starts[:-1])

    @cached_property
    def keys(self) -> Tokens:
        """Give for each gram (G) one number to look it up by; they ascend."""
        keys = self.contexts * (self.size + 1)
        keys += self.tokens
        return keys

    @cached_property
    def suffixes(self) -> Tokens:
        """Give for each gram (G) the gram of the order below without its first character, -1 where there is none."""
        if self.lower is None:
            return np.zeros(len(self.tokens), dtype=np.int64)  # the empty one
        return self.lower.find(self.lower.suffixes[self.contexts], self.tokens)

    def find(self, contexts: Tokens, tokens: Integers) -> Tokens:
        """Look up the grams of contexts (...), -1 for one unknown, and tokens (...), 0 to V; gives -1 for those that
        never came."""
        wanted = contexts * (self.size + 1) + tokens
        places = np.minimum(self.keys.searchsorted(wanted), len(self.keys) - 1)
        return np.where(self.keys[places] == wanted, places, -1)

    def following(self, contexts: Tokens) -> tuple[Tokens, Tokens]:
        """Give all grams of contexts (M), none of which is -1: the place of each one's context in M, and itself."""
        begin = self.starts[contexts].astype(np.int64)
        lengths = self.starts[contexts + 1].astype(np.int64) - begin
        rows = np.repeat(np.arange(len(contexts)), lengths)
        return rows, np.arange(len(rows)) + np.repeat(begin - (np.cumsum(lengths) - lengths), lengths)


class Level:
    """One order of the model, k, from how often each k-gram counts, c(h w) of a context h and a character w:

        p(w | h) = (c(h w) - D(c(h w))) / c(h) + g(h) p(w | h without its first character)
        c(h) = sum of c(h w) over w
        g(h) = (D1 N1(h) + D2 N2(h) + D3 N3(h)) / c(h)

    N1, N2 and N3 are how many different characters came once, twice, and more often after h: what is taken from them
    is given to the order below, and below order 1 to all V characters alike. Where h never came, p is that of the
    order below. The escape is not foretold, and so never counts; in a context it is a character like any other.
    """

    def __init__(self, grams: Grams, counts: Integers, lower: Level | None) -> None:
        self.grams, self.counts, self.lower = grams, counts, lower
        self.discounts = discounts(counts)
        starts = grams.starts.astype(np.int64)

        def summed(values: npt.NDArray[Any]) -> Tokens:
            ends = np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
            return np.asarray(ends[starts[1:]] - ends[starts[:-1]])

        taken = sum(self.discounts[c] * summed(counts == c if c < 3 else counts >= c) for c in (1, 2, 3))
        totals = summed(counts)
        self.totals = np.maximum(totals, 1)  # (C)
        self.backoffs = np.where(totals > 0, taken / self.totals, 1.0)  # g (C)

    def shares(self, grams: Tokens) -> Prices:
        """Give what of p grams (...) have for themselves: the first term."""
        counts = self.counts[grams]
        contexts = self.grams.keys[grams] // (self.grams.size + 1)
        return np.asarray((counts - self.discounts[np.minimum(counts, 3)]) / self.totals[contexts])

    @cached_property
    def probabilities(self) -> Prices:
        """Give p of every gram (G), 0 of those that end in the escape."""
        grams, lower = self.grams, self.lower
        below = 1 / grams.size if lower is None else lower.probabilities[grams.suffixes]
        p = self.shares(np.arange(len(self.counts))) + self.backoffs[grams.contexts] * below
        return np.where(grams.tokens == grams.size, 0.0, p)

    @cached_property
    def likeliest(self) -> tuple[Tokens, Prices]:
        """Give the likeliest character after each context (C), the lowest of equals, and its probability (C).

        It has come after this context, or is the likeliest of the order below, where all p are as much smaller.
        """
        grams, p = self.grams, self.probabilities
        tokens, best = np.full(len(self.totals), grams.size), np.zeros(len(self.totals))
        if self.lower is not None:
            assert grams.lower is not None
            below, probability = self.lower.likeliest
            tokens = below[grams.lower.suffixes]
            best = self.backoffs * probability[grams.lower.suffixes]
        some = np.flatnonzero(np.diff(grams.starts.astype(np.int64)))
        own = np.zeros(len(best))
        own[some] = np.maximum.reduceat(p, grams.starts[some].astype(np.int64))
        where = np.flatnonzero(p == own[grams.contexts])[::-1]  # of equals in one row the first is set last
        chosen = np.full(len(best), grams.size)
        chosen[grams.contexts[where]] = grams.tokens[where]
        better = (own > best) | ((own == best) & (chosen < tokens))
        return np.where(better, chosen, tokens), np.where(better, own, best)


def discounts(counts: Integers) -> Prices:
    """Estimate D (4), what counts of 0, 1, 2 and more are lowered by (Chen and Goodman 1999, equation 26).

    With n_c grams that count c and Y = n1 / (n1 + 2 n2), D_c = c - (c+1) Y n_(c+1) / n_c. Where that is not between 0
    and c, as in texts with few rare grams, it is half of c.
    """
    n1, n2, n3, n4 = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].tolist()
    y = n1 / (n1 + 2 * n2) if n1 else 0.0
    found = [0.0]
    for c, (own, more) in enumerate(((n1, n2), (n2, n3), (n3, n4)), 1):
        estimate = c - (c + 1) * y * more / own if own else 0.0
        found.append(estimate if 0.0 < estimate < c else _FALLBACK[c - 1])
    return np.array(found)


class Contexts(NamedTuple):
    """Carry B lanes: the number of the k-gram that was read last, for k from 0 to n-1 (B, n); -1 for one that never
    came in training."""

    numbers: Tokens

    def select(self, index: Tokens) -> Contexts:
        """Choose, reorder or repeat lanes by index."""
        return Contexts(self.numbers[index])

    def joined(self, others: Sequence[Contexts]) -> Contexts:
        """Put the lanes of other states of the same model after these."""
        return Contexts(np.concatenate([self.numbers, *(other.numbers for other in others)]))


class Ngram:
    """A model of order n; see `reader.Reader`. Its features (..., n) are the numbers of the last grams, exact as
    floats."""

    sides: BidirectionalHeads | None = None

    def __init__(self, levels: Sequence[Level]) -> None:
        self.levels = tuple(levels)
        self.order, self.size = len(levels), levels[0].grams.size
        self.gates = self.order

    def initial_state(self, lanes: int) -> Contexts:
        """Give the state before any text: nothing but the empty gram was read."""
        numbers = np.full((lanes, self.order), -1)
        numbers[:, 0] = 0
        return Contexts(numbers)

    def step(self, tokens: Tokens, state: Contexts) -> tuple[Floats, Contexts]:
        """Read tokens (B, T), 0 to V; gives the logits (B, V) of what follows the last, and the state after it."""
        numbers = self.walk(tokens, state)[:, -1]
        return np.log(self.distribution(numbers)), Contexts(numbers)

    def read(self, tokens: Tokens, state: Contexts) -> tuple[Floats, Contexts]:
        """Read tokens (B, T), 0 to V; gives the features (B, T, n) after each, and the state after the last."""
        numbers = self.walk(tokens, state)
        return numbers.astype(np.float64), Contexts(numbers[:, -1])

    def logits(self, features: Floats) -> Floats:
        """Turn features (..., n) into the logits (..., V) of what follows: the logarithms of the probabilities."""
        numbers = features.reshape(-1, self.order).astype(np.int64)
        return np.log(self.distribution(numbers)).reshape(*features.shape[:-1], self.size)

    def walk(self, tokens: Tokens, state: Contexts) -> Tokens:
        """Give the numbers (B, T, n) of the grams that end at each of tokens (B, T)."""
        numbers = np.zeros((*tokens.shape, self.order), dtype=np.int64)
        for k in range(1, self.order):
            before = np.column_stack((state.numbers[:, k - 1], numbers[:, :-1, k - 1]))
            numbers[:, :, k] = self.levels[k - 1].grams.find(before, tokens)
        return numbers

    def distribution(self, numbers: Tokens) -> Prices:
        """Give p (M, V) of every character after contexts of all lengths (M, n)."""
        p = np.full((len(numbers), self.size + 1), 1 / self.size)  # a column for the escape, which gets nothing
        for level, contexts in zip(self.levels, numbers.T, strict=True):
            known = np.flatnonzero(contexts >= 0)
            p *= np.where(contexts >= 0, level.backoffs[contexts], 1.0)[:, None]
            rows, grams = level.grams.following(contexts[known])
            p[known[rows], level.grams.tokens[grams]] += level.shares(grams)
        return p[:, : self.size]

    def predicted(
        self, vocabulary: Vocabulary, tokens: npt.NDArray[np.unsignedinteger]
    ) -> Iterator[tuple[Prices, Tokens]]:
        """Foretell each of N tokens of a text that follows a newline; gives the logits (T, V) and the tokens (T), a
        block at a time."""
        for numbers, targets in self._gone_through(vocabulary, tokens, max(1, _NUMBERS // self.size)):
            yield np.log(self.distribution(numbers)), targets

    def _gone_through(
        self, vocabulary: Vocabulary, tokens: npt.NDArray[np.unsignedinteger], block: int
    ) -> Iterator[tuple[Tokens, Tokens]]:
        """Read N tokens that follow a newline; gives the contexts (T, n) and the tokens (T), a block at a time."""
        state, before = self.initial_state(1), np.array([vocabulary.newline])
        for first in range(0, len(tokens), block):
            targets = tokens[first : first + block].astype(np.int64)
            numbers = self.walk(np.concatenate((before, targets[:-1]))[None], state)[0]
            before, state = targets[-1:], Contexts(numbers[-1:])
            yield numbers, targets

    def score(
        self, vocabulary: Vocabulary, tokens: npt.NDArray[np.unsignedinteger], progress: Progress = no_progress
    ) -> Score:
        """Score N tokens as one text that follows a newline, exactly."""
        total = Score()
        for numbers, targets in self._gone_through(vocabulary, tokens, _BLOCK):
            p, guesses = np.full(len(targets), 1 / self.size), np.zeros(len(targets), dtype=np.int64)
            for level, contexts in zip(self.levels, numbers.T, strict=True):
                grams = level.grams.find(contexts, targets)
                p *= np.where(contexts >= 0, level.backoffs[contexts], 1.0)
                p += np.where(grams >= 0, level.shares(grams), 0.0)
                guesses = np.where(contexts >= 0, level.likeliest[0][contexts], guesses)
            known = targets != vocabulary.escape
            nats = float(-np.log(p[known]).sum()) + int(known.sum()) * vocabulary.known_nats
            nats += int((~known).sum()) * vocabulary.escape_nats
            total += Score(nats, len(targets), int((guesses == targets).sum()))
            progress(len(targets))
        return total

    def tables(self) -> dict[str, Integers]:
        """Give all that the model is made of, by name."""
        return {
            f"grams/{k}/{name}": _small(array)
            for k, level in enumerate(self.levels, 1)
            for name, array in (
                ("starts", level.grams.starts),
                ("tokens", level.grams.tokens),
                ("counts", level.counts),
            )
        }


def grow(tokens: npt.NDArray[np.unsignedinteger], newline: int, size: int) -> Iterator[Ngram]:
    """Count N tokens, 0 to V, a newline before them, once for each order; yields the models of order 1, 2, 3 ...

    The highest order counts how often each gram came; those below how many different characters stood before it, the
    text's beginning for one of them. Ends where the text has no longer gram, or before there would be too many of them.
    """
    stream = np.concatenate(([newline], tokens)).astype(np.int64)
    grams = Grams(np.array([0, size + 1]), np.arange(size + 1), size, None)
    counts = np.bincount(stream[1:], minlength=size + 1)  # the newline before the text is given, not foretold
    counts[size] = 0
    yield Ngram([Level(grams, counts, None)])
    levels: list[Level] = []
    ends, held = stream, size + 1  # ends: the (k-1)-gram that ends at each place
    for k in range(2, HIGHEST + 1):
        if len(ends) < 2 or held + len(ends) > MOST_GRAMS:
            return
        keys = ends[:-1] * (size + 1) + stream[k - 1 :]
        order = keys.argsort()
        keys = keys[order]
        first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        unique, suffixes = keys[first], ends[1:][order[first]]
        preceded = np.bincount(suffixes, minlength=len(grams.tokens))
        if k > 2:
            preceded[ends[0]] += 1
        preceded[grams.tokens == size] = 0
        levels.append(Level(grams, _small(preceded), levels[-1] if levels else None))
        counts = np.diff(first, append=len(keys))
        ends = np.empty(len(keys), dtype=np.int64)
        ends[order] = np.repeat(np.arange(len(first)), counts)
        starts = unique.searchsorted(np.arange(len(grams.tokens) + 1) * (size + 1))
        grams = Grams(starts, _small(unique % (size + 1)), size, grams)
        grams.__dict__.update(keys=unique, suffixes=suffixes)  # known already
        counts[grams.tokens == size] = 0
        held += len(unique)
        yield Ngram([*levels, Level(grams, _small(counts), levels[-1])])


def made(tables: Mapping[str, npt.NDArray[Any]], order: int, size: int) -> Ngram:
    """Make a model of its tables. Raises ValueError naming one that cannot be."""
    levels: list[Level] = []
    contexts = 1
    for k in range(1, order + 1):
        starts, tokens, counts = (tables[name] for name in names(k))
        last, grams = np.append(tokens[1:] <= tokens[:-1], True), len(tokens)
        if len(starts) != contexts + 1 or starts[0] != 0 or starts[-1] != grams or (starts[1:] < starts[:-1]).any():
            raise ValueError(names(k)[0])
        # tokens fall, or stay, only where another context begins
        begins = np.zeros(grams + 1, dtype=bool)
        begins[starts] = True
        if not grams or tokens.max() > size or (last & ~begins[1:]).any() or (k == 1 and grams != size + 1):
            raise ValueError(names(k)[1])
        if len(counts) != grams or counts[tokens == size].any() or int(counts.max()) > 2**62 // grams:
            raise ValueError(names(k)[2])
        below = levels[-1] if levels else None
        tree = Grams(starts, tokens, size, below.grams if below else None)
        levels.append(Level(tree, counts, below))
        contexts = grams
    return Ngram(levels)


def fits(order: object, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Say whether tensors of such shapes can be the tables of a model of an order."""
    if type(order) is not int or not 1 <= order <= HIGHEST:
        return False
    return shapes.keys() == {name for k in range(1, order + 1) for name in names(k)} and all(
        len(shape) == 1 for shape in shapes.values()
    )


def names(k: int) -> tuple[str, str, str]:
    """Name the tables of an order."""
    return f"grams/{k}/starts", f"grams/{k}/tokens", f"grams/{k}/counts"


def _small(values: Integers) -> Integers:
    """Store numbers from 0 in the smallest type that holds them all."""
    highest = int(values.max(initial=0))
    return values.astype(np.uint8 if highest <= 0xFF else np.uint16 if highest <= 0xFFFF else np.uint32)
