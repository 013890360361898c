"""The n-gram model: counts of character sequences, with interpolated modified Kneser-Ney smoothing (Kneser and Ney
1995; Chen and Goodman 1999, section 3). Counts and reads in NumPy alone. Knows tokens, not files.
A k-gram is k consecutive characters; its context is the first k-1 of them. The k-grams of a text are sorted by context
and character; a gram's index is its number, also as a context of the next order.
Shapes: N characters, B batch rows, T steps, V vocabulary, n the order, C contexts, G grams of one order, M queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.messages import Progress, no_progress
from charrnn.models.interface import BidirectionalHeads, Floats, Tokens
from charrnn.scores import Score

MAX_ORDER = 10
MAX_CHARACTERS = 1 << 25  # counted at most: some 50 bytes of memory each
MAX_GRAMS = 1 << 26  # of all orders together; an order that might exceed it is not counted
_BLOCK = 1 << 16  # characters scored at a time
_PROBABILITIES = 1 << 22  # computed at a time
_FALLBACK = (0.5, 1.0, 1.5)  # discounts where too few grams are rare to estimate them
Integers = npt.NDArray[np.integer[Any]]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grams:
    """The k-grams of a text: `tokens[starts[c]:starts[c + 1]]` are the characters after context c, ascending (starts
    C+1, tokens G). `size` is V, `lower` the (k-1)-grams."""

    starts: Integers
    tokens: Integers
    size: int
    lower: Grams | None

    @cached_property
    def contexts(self) -> Tokens:
        """Return the context of each gram (G)."""
        starts = self.starts.astype(np.int64)
        return np.repeat(np.arange(len(starts) - 1), starts[1:] - starts[:-1])

    @cached_property
    def keys(self) -> Tokens:
        """Return a number to look up each gram by (G); they ascend."""
        keys = self.contexts * (self.size + 1)
        keys += self.tokens
        return keys

    @cached_property
    def suffixes(self) -> Tokens:
        """Return each gram without its first character (G), a gram of the order below, or -1 where there is none."""
        if self.lower is None:
            return np.zeros(len(self.tokens), dtype=np.int64)  # the empty one
        return self.lower.find(self.lower.suffixes[self.contexts], self.tokens)

    def find(self, contexts: Tokens, tokens: Integers) -> Tokens:
        """Look up the grams of contexts (...), -1 for an unseen one, and tokens (...), 0 to V; return -1 for unseen
        grams."""
        keys = contexts * (self.size + 1) + tokens
        found = np.minimum(self.keys.searchsorted(keys), len(self.keys) - 1)
        return np.where(self.keys[found] == keys, found, -1)

    def following(self, contexts: Tokens) -> tuple[Tokens, Tokens]:
        """Return all grams of contexts (M), none of which is -1: the index of each one's context in M, and the gram."""
        first = self.starts[contexts].astype(np.int64)
        lengths = self.starts[contexts + 1].astype(np.int64) - first
        rows = np.repeat(np.arange(len(contexts)), lengths)
        return rows, np.arange(len(rows)) + np.repeat(first - (np.cumsum(lengths) - lengths), lengths)


class Level:
    """One order k of the model, from the count c(h w) of each k-gram of a context h and a character w:

        p(w | h) = (c(h w) - D(c(h w))) / c(h) + g(h) p(w | h without its first character)
        c(h) = sum of c(h w) over w
        g(h) = (D1 N1(h) + D2 N2(h) + D3 N3(h)) / c(h)

    N1, N2 and N3 are how many different characters came once, twice, and more often after h: what is discounted from
    them goes to the order below, and below order 1 to all V characters equally. After an unseen h, p is that of the
    order below. The escape is never predicted, so its count is 0; in a context it is a character like any other.
    """

    def __init__(self, grams: Grams, counts: Integers, lower: Level | None) -> None:
        self.grams, self.counts, self.lower = grams, counts, lower
        self.discounts = discounts(counts)
        starts = grams.starts.astype(np.int64)

        def summed(values: npt.NDArray[Any]) -> Tokens:
            ends = np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
            return np.asarray(ends[starts[1:]] - ends[starts[:-1]])

        discounted = sum(self.discounts[c] * summed(counts == c if c < 3 else counts >= c) for c in (1, 2, 3))
        totals = summed(counts)
        self.totals = np.maximum(totals, 1)  # (C)
        self.backoffs = np.where(totals > 0, discounted / self.totals, 1.0)  # g (C)

    def first_terms(self, grams: Tokens) -> Doubles:
        """Compute the first term of p for grams (...), without the order below."""
        counts = self.counts[grams]
        contexts = self.grams.keys[grams] // (self.grams.size + 1)
        return np.asarray((counts - self.discounts[np.minimum(counts, 3)]) / self.totals[contexts])

    @cached_property
    def probabilities(self) -> Doubles:
        """Return p of every gram (G), 0 for those that end in the escape."""
        grams, lower = self.grams, self.lower
        below = 1 / grams.size if lower is None else lower.probabilities[grams.suffixes]
        p = self.first_terms(np.arange(len(self.counts))) + self.backoffs[grams.contexts] * below
        return np.where(grams.tokens == grams.size, 0.0, p)

    @cached_property
    def likeliest(self) -> tuple[Tokens, Doubles]:
        """Return the likeliest character after each context (C), the lowest of equals, and its probability (C).

        It was seen after this context, or is the likeliest of the order below, whose p are all scaled by the same g.
        """
        grams, p = self.grams, self.probabilities
        tokens, best = np.full(len(self.totals), grams.size), np.zeros(len(self.totals))
        if self.lower is not None:
            assert grams.lower is not None
            below, probability = self.lower.likeliest
            tokens = below[grams.lower.suffixes]
            best = self.backoffs * probability[grams.lower.suffixes]
        some = np.flatnonzero(np.diff(grams.starts.astype(np.int64)))
        seen_best = np.zeros(len(best))
        seen_best[some] = np.maximum.reduceat(p, grams.starts[some].astype(np.int64))
        where = np.flatnonzero(p == seen_best[grams.contexts])[::-1]  # of equals in a context the lowest is set last
        seen = np.full(len(best), grams.size)
        seen[grams.contexts[where]] = grams.tokens[where]
        better = (seen_best > best) | ((seen_best == best) & (seen < tokens))
        return np.where(better, seen, tokens), np.where(better, seen_best, best)


def discounts(counts: Integers) -> Doubles:
    """Estimate D (4), the discounts of counts of 0, 1, 2 and more (Chen and Goodman 1999, equation 26).

    With n_c grams of count c and Y = n1 / (n1 + 2 n2), D_c = c - (c+1) Y n_(c+1) / n_c. Where that is not between 0 and
    c, as in texts with few rare grams, it is c / 2.
    """
    n1, n2, n3, n4 = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].tolist()
    y = n1 / (n1 + 2 * n2) if n1 else 0.0
    estimates = [0.0]
    for c, (n, n_next) in enumerate(((n1, n2), (n2, n3), (n3, n4)), 1):
        estimate = c - (c + 1) * y * n_next / n if n else 0.0
        estimates.append(estimate if 0.0 < estimate < c else _FALLBACK[c - 1])
    return np.array(estimates)


class Contexts(NamedTuple):
    """The state of B batch rows: the number of the last k-gram, for k from 0 to n-1 (B, n); -1 for one that is not in
    the training text."""

    numbers: Tokens

    def select(self, index: Tokens) -> Contexts:
        """Return the batch rows that `index` names, in its order; a row may come several times."""
        return Contexts(self.numbers[index])

    def joined(self, others: Sequence[Contexts]) -> Contexts:
        """Return these batch rows, followed by those of other states of the same model."""
        return Contexts(np.concatenate([self.numbers, *(other.numbers for other in others)]))


class Ngram:
    """A model of order n; see `interface.LanguageModel`. Its features (..., n) are the numbers of the last grams, as
    floats, which is exact."""

    bidirectional_heads: BidirectionalHeads | None = None

    def __init__(self, levels: Sequence[Level]) -> None:
        self.levels = tuple(levels)
        self.order, self.size = len(levels), levels[0].grams.size
        self.gates = self.order

    def initial_state(self, batch_size: int) -> Contexts:
        """Return the state before any text: only the empty gram has been read."""
        numbers = np.full((batch_size, self.order), -1)
        numbers[:, 0] = 0
        return Contexts(numbers)

    def step(self, tokens: Tokens, state: Contexts) -> tuple[Floats, Contexts]:
        """Read tokens (B, T), 0 to V; return the logits (B, V) of the next token, and the state after the last."""
        if tokens.shape == (1, 1):
            return self._step_one(tokens[0, 0], state)
        numbers = self.last_grams(tokens[:, -self.order :], state)[:, -1]  # no gram is longer
        return np.log(self.distribution(numbers)), Contexts(numbers)

    @cached_property
    def _unigram(self) -> Doubles:
        """Return p after no context (V+1), the escape's column included."""
        return np.append(self.distribution(self.initial_state(1).numbers)[0], 0.0)

    def _step_one(self, token: np.int64, state: Contexts) -> tuple[Floats, Contexts]:
        """Take a step of a single text with the same numbers, in a quarter of the time: most of it is NumPy's calls."""
        numbers = np.full((1, self.order), -1)
        numbers[0, :2] = (0, token)[: self.order]  # every character is a gram of order 1, with its own number
        p = self._unigram.copy()
        before = state.numbers[0].tolist()
        context = int(token)
        for k, level in enumerate(self.levels[1:], 1):
            grams = level.grams
            after = slice(grams.starts.item(context), grams.starts.item(context + 1))
            counts = level.counts[after]
            p *= level.backoffs[context]
            p[grams.tokens[after]] += (counts - level.discounts[np.minimum(counts, 3)]) / level.totals[context]
            if before[k] < 0 or k == self.order - 1:
                break
            start, end = grams.starts.item(before[k]), grams.starts.item(before[k] + 1)
            context = start + int(grams.tokens[start:end].searchsorted(token))
            if context == end or grams.tokens[context] != token:
                break
            numbers[0, k + 1] = context
        return np.log(p[None, : self.size]), Contexts(numbers)

    def read(self, tokens: Tokens, state: Contexts) -> tuple[Floats, Contexts]:
        """Read tokens (B, T), 0 to V; return the features (B, T, n) after each, and the state after the last."""
        numbers = self.last_grams(tokens, state)
        return numbers.astype(np.float64), Contexts(numbers[:, -1])

    def logits(self, features: Floats) -> Floats:
        """Return the logits (..., V) of the next token from features (..., n): the logarithms of its probabilities."""
        numbers = features.reshape(-1, self.order).astype(np.int64)
        return np.log(self.distribution(numbers)).reshape(*features.shape[:-1], self.size)

    def last_grams(self, tokens: Tokens, state: Contexts) -> Tokens:
        """Look up the numbers (B, T, n) of the grams that end at each of tokens (B, T)."""
        numbers = np.zeros((*tokens.shape, self.order), dtype=np.int64)
        for k in range(1, self.order):
            before = np.column_stack((state.numbers[:, k - 1], numbers[:, :-1, k - 1]))
            numbers[:, :, k] = self.levels[k - 1].grams.find(before, tokens)
        return numbers

    def distribution(self, numbers: Tokens) -> Doubles:
        """Compute p (M, V) of every character after contexts of all lengths (M, n)."""
        p = np.full((len(numbers), self.size + 1), 1 / self.size)  # one column is the escape's, which stays unused
        for level, contexts in zip(self.levels, numbers.T, strict=True):
            seen = np.flatnonzero(contexts >= 0)
            p *= np.where(contexts >= 0, level.backoffs[contexts], 1.0)[:, None]
            rows, grams = level.grams.following(contexts[seen])
            p[seen[rows], level.grams.tokens[grams]] += level.first_terms(grams)
        return p[:, : self.size]

    def evidence(self, numbers: Tokens) -> tuple[Tokens, Tokens]:
        """Return what is known of contexts of all lengths (M, n): the order (M), 1 to n, of the longest one that was
        counted, and how often it was (M)."""
        orders = (numbers >= 0).sum(-1)
        counts = np.zeros(len(numbers), dtype=np.int64)
        for k, level in enumerate(self.levels, 1):
            these = np.flatnonzero(orders == k)
            counts[these] = level.totals[numbers[these, k - 1]]
        return orders, counts

    def predicted(
        self, vocabulary: Vocabulary, tokens: npt.NDArray[np.unsignedinteger]
    ) -> Iterator[tuple[Doubles, Tokens]]:
        """Predict each of N tokens of a text that follows the boundary; yield the logits (T, V) and the tokens (T) of a
        block at a time."""
        for numbers, targets in self._read_blocks(vocabulary, tokens, max(1, _PROBABILITIES // self.size)):
            yield np.log(self.distribution(numbers)), targets

    def _read_blocks(
        self, vocabulary: Vocabulary, tokens: npt.NDArray[np.unsignedinteger], block: int
    ) -> Iterator[tuple[Tokens, Tokens]]:
        """Read N tokens that follow the boundary; yield the contexts (T, n) and the tokens (T) of a block at a time."""
        state, before = self.initial_state(1), vocabulary.boundary_tokens
        state = Contexts(self.last_grams(before[None, :-1], state)[0, -1:]) if len(before) > 1 else state
        before = before[-1:]
        for first in range(0, len(tokens), block):
            targets = tokens[first : first + block].astype(np.int64)
            numbers = self.last_grams(np.concatenate((before, targets[:-1]))[None], state)[0]
            before, state = targets[-1:], Contexts(numbers[-1:])
            yield numbers, targets

    def score(
        self, vocabulary: Vocabulary, tokens: npt.NDArray[np.unsignedinteger], progress: Progress = no_progress
    ) -> Score:
        """Score N tokens as one text that follows the boundary, in a single pass."""
        total = Score()
        for numbers, targets in self._read_blocks(vocabulary, tokens, _BLOCK):
            likeliest = np.zeros(len(targets), dtype=np.int64)
            for level, contexts in zip(self.levels, numbers.T, strict=True):
                likeliest = np.where(contexts >= 0, level.likeliest[0][contexts], likeliest)
            nats = self.nats_after(vocabulary, numbers, targets)
            total += Score(float(nats.sum()), len(targets), int((likeliest == targets).sum()))
            progress(len(targets))
        return total

    def nats(self, vocabulary: Vocabulary, tokens: npt.NDArray[np.unsignedinteger]) -> float:
        """Return the nats of `score`, without the likeliest characters: to find these takes longer than all else."""
        blocks = self._read_blocks(vocabulary, tokens, _BLOCK)
        return sum(float(self.nats_after(vocabulary, *block).sum()) for block in blocks)

    def nats_of_each(self, vocabulary: Vocabulary, tokens: npt.NDArray[np.unsignedinteger]) -> Doubles:
        """Return the nats of each of N tokens (N)."""
        blocks = self._read_blocks(vocabulary, tokens, _BLOCK)
        return np.concatenate([np.empty(0), *(self.nats_after(vocabulary, *block) for block in blocks)])

    def nats_after(self, vocabulary: Vocabulary, numbers: Tokens, targets: Tokens) -> Doubles:
        """Return the nats (T) of tokens (T) after contexts (T, n)."""
        p = np.full(len(targets), 1 / self.size)
        for level, contexts in zip(self.levels, numbers.T, strict=True):
            grams = level.grams.find(contexts, targets)
            p *= np.where(contexts >= 0, level.backoffs[contexts], 1.0)
            p += np.where(grams >= 0, level.first_terms(grams), 0.0)
        return np.where(targets == vocabulary.escape, vocabulary.escape_nats, vocabulary.known_nats - np.log(p))

    def tables(self) -> dict[str, Integers]:
        """Return the tables that the model consists of, by name."""
        return {
            name: _narrow(array)
            for k, level in enumerate(self.levels, 1)
            for name, array in zip(table_names(k), (level.grams.starts, level.grams.tokens, level.counts), strict=True)
        }


def grow(
    tokens: npt.NDArray[np.unsignedinteger], newline: int, size: int, boundary: Tokens | None = None
) -> Iterator[Ngram]:
    """Count N tokens, 0 to V, that follow a newline, once for each order; yield the models of order 1, 2, 3 ...

    The highest order counts the occurrences of each gram, those below the different characters before it, the start of
    the text being one of them. Of grams that begin with the `boundary` of documents (K), if there is one, all orders
    count the occurrences: nothing that matters comes before. Ends where the text has no longer gram, or there might be
    more than MAX_GRAMS.
    """
    stream = np.concatenate(([newline], tokens)).astype(np.int64)
    grams = Grams(np.array([0, size + 1]), np.arange(size + 1), size, None)
    counts = np.bincount(stream[1:], minlength=size + 1)  # the newline before the text is given, not predicted
    counts[size] = 0
    yield Ngram([Level(grams, counts, None)])
    levels: list[Level] = []
    begins = None if boundary is None else _occurrences(stream, boundary)
    ends, total = stream, size + 1  # ends: the (k-1)-gram that ends at each position; total: grams of all orders
    for k in range(2, MAX_ORDER + 1):
        if len(ends) < 2 or total + len(ends) > MAX_GRAMS:
            return
        keys = ends[:-1] * (size + 1) + stream[k - 1 :]
        order = keys.argsort()
        keys = keys[order]
        first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        unique, suffixes = keys[first], ends[1:][order[first]]
        preceded = np.bincount(suffixes, minlength=len(grams.tokens))
        if k > 2:
            preceded[ends[0]] += 1
        if begins is not None and boundary is not None and k - 1 > len(boundary):
            begun = np.bincount(ends[begins[begins < len(ends)]], minlength=len(preceded))
            preceded = np.where(begun > 0, begun, preceded)
        preceded[grams.tokens == size] = 0
        levels.append(Level(grams, _narrow(preceded), levels[-1] if levels else None))
        counts = np.diff(first, append=len(keys))
        ends = np.empty(len(keys), dtype=np.int64)
        ends[order] = np.repeat(np.arange(len(first)), counts)
        starts = unique.searchsorted(np.arange(len(grams.tokens) + 1) * (size + 1))
        grams = Grams(starts, _narrow(unique % (size + 1)), size, grams)
        grams.__dict__.update(keys=unique, suffixes=suffixes)  # cached properties, computed already
        counts[grams.tokens == size] = 0
        total += len(unique)
        yield Ngram([*levels, Level(grams, _narrow(counts), levels[-1])])


def _occurrences(stream: Tokens, boundary: Tokens) -> Tokens:
    """Return where a boundary (K) begins in a stream of tokens (N)."""
    found = np.ones(max(0, len(stream) - len(boundary) + 1), dtype=bool)
    for offset, token in enumerate(boundary.tolist()):
        found &= stream[offset : offset + len(found)] == token
    return np.flatnonzero(found)


def from_tables(tables: Mapping[str, npt.NDArray[Any]], order: int, size: int) -> Ngram:
    """Build a model from its tables. Raises ValueError naming an invalid one."""
    levels: list[Level] = []
    contexts = 1
    for k in range(1, order + 1):
        starts, tokens, counts = (tables[name] for name in table_names(k))
        falls, grams = np.append(tokens[1:] <= tokens[:-1], True), len(tokens)
        if len(starts) != contexts + 1 or starts[0] != 0 or starts[-1] != grams or (starts[1:] < starts[:-1]).any():
            raise ValueError(table_names(k)[0])
        # tokens stop ascending only where another context begins
        begins = np.zeros(grams + 1, dtype=bool)
        begins[starts] = True
        if not grams or tokens.max() > size or (falls & ~begins[1:]).any() or (k == 1 and grams != size + 1):
            raise ValueError(table_names(k)[1])
        if len(counts) != grams or counts[tokens == size].any() or int(counts.max()) > 2**62 // grams:
            raise ValueError(table_names(k)[2])
        below = levels[-1] if levels else None
        levels.append(Level(Grams(starts, tokens, size, below.grams if below else None), counts, below))
        contexts = grams
    return Ngram(levels)


def fits(order: object, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Say whether tensors of these shapes can be the tables of a model of this order."""
    if type(order) is not int or not 1 <= order <= MAX_ORDER:
        return False
    return shapes.keys() == {name for k in range(1, order + 1) for name in table_names(k)} and all(
        len(shape) == 1 for shape in shapes.values()
    )


def table_names(k: int) -> tuple[str, str, str]:
    """Return the names of an order's tables: starts, tokens, counts."""
    return f"grams/{k}/starts", f"grams/{k}/tokens", f"grams/{k}/counts"


def _narrow(values: Integers) -> Integers:
    """Return values from 0 in the narrowest unsigned type that holds them all."""
    highest = int(values.max(initial=0))
    return values.astype(np.uint8 if highest <= 0xFF else np.uint16 if highest <= 0xFFFF else np.uint32)
