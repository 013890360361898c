"""The n-gram model: it reads characters, looks up what followed the longest sequences that it counted, and predicts by
interpolated modified Kneser-Ney smoothing (see `ngram_counts`). Counts and reads in NumPy alone. Knows tokens, not
files. A k-gram is k consecutive characters; its context is the first k-1 of them.
Shapes: N characters, B batch rows, T steps, V vocabulary, n the order, M queries."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.messages import Progress, no_progress
from charrnn.models import ngram_pruning, ngram_tables
from charrnn.models.interface import BidirectionalHeads, Floats, Tokens
from charrnn.models.ngram_counts import FEW, Doubles, Grams, Integers, Level
from charrnn.models.ngram_tables import MAX_ORDER, fits, narrow
from charrnn.scores import Score

__all__ = [
    "MAX_CHARACTERS",
    "MAX_GRAMS",
    "MAX_ORDER",
    "PRUNED",
    "Contexts",
    "Integers",
    "Ngram",
    "fits",
    "from_tables",
    "grow",
    "prune",
    "up_to",
]
MAX_CHARACTERS = 1 << 25  # counted at most: some 50 bytes of memory each
MAX_GRAMS = 1 << 26  # of all orders together; an order that might exceed it is not counted
PRUNED = 0.02  # nats a character that dropped grams are worth at most (docs/results.md, pruning counts)
_BLOCK = 1 << 16  # characters scored at a time
_PROBABILITIES = 1 << 22  # computed at a time
_KEPT = 1 << 25  # bytes of distributions kept for single texts
_KNOWN = 1 << 16  # contexts of single texts whose counts are kept
_ROWS = 24  # of a batch that are read one by one at most


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


class _Lookup(NamedTuple):
    """The arrays of a level, as memory of which Python reads single numbers faster than from arrays."""

    starts: memoryview
    tokens: memoryview
    counts: memoryview
    discounts: list[float]


class Ngram:
    """A model of order n, whose tables are `compact` or not; see `interface.LanguageModel`. Its features (..., n) are
    the numbers of the last grams, as floats, which is exact."""

    bidirectional_heads: BidirectionalHeads | None = None

    def __init__(self, levels: Sequence[Level], *, compact: bool = False) -> None:
        self.levels, self.compact = tuple(levels), compact
        self.order, self.size = len(levels), levels[0].grams.size
        self.gates = self.order

    def initial_state(self, batch_size: int) -> Contexts:
        """Return the state before any text: only the empty gram has been read."""
        numbers = np.full((batch_size, self.order), -1)
        numbers[:, 0] = 0
        return Contexts(numbers)

    def step(self, tokens: Tokens, state: Contexts) -> tuple[Floats, Contexts]:
        """Read tokens (B, T), 0 to V; return the logits (B, V) of the next token, and the state after the last."""
        if self.takes_one_by_one(tokens):
            each = self.next_grams(tokens, state)
            return np.log(self.after(each)), self.contexts(each)
        contexts = self.contexts_after(tokens, state)
        return np.log(self.distribution(contexts.numbers)), contexts

    def takes_one_by_one(self, tokens: Tokens) -> bool:
        """Say whether tokens (B, T) are so few that each text by itself takes less time than NumPy's calls for all."""
        return tokens.shape[1] == 1 and 0 < len(tokens) <= _ROWS

    def contexts_after(self, tokens: Tokens, state: Contexts) -> Contexts:
        """Return the state after the last of tokens (B, T)."""
        return Contexts(self.last_grams(tokens[:, -self.order :], state)[:, -1])  # no gram is longer

    def contexts(self, each: Sequence[list[int]]) -> Contexts:
        """Return the state of texts (B) from the numbers of the last grams of each, up to the longest known."""
        return Contexts(np.array([numbers + [-1] * (self.order - len(numbers)) for numbers in each]))

    def next_grams(self, tokens: Tokens, state: Contexts) -> list[list[int]]:
        """Return the numbers of the grams that end at tokens (B, 1), up to the longest known of each: in a tenth of the
        time for one token that NumPy's calls would take."""
        return [
            self._next_grams(token, before)
            for token, before in zip(tokens[:, 0].tolist(), state.numbers.tolist(), strict=True)
        ]

    def _next_grams(self, token: int, before: list[int]) -> list[int]:
        numbers = [0, token][: self.order]  # every character is a gram of order 1, with its own number
        for context, (starts, tokens, *_) in zip(before[1:-1], self._lookups, strict=False):
            if context < 0:
                break
            end = starts[context + 1]
            found = bisect_left(tokens, token, starts[context], end)
            if found == end or tokens[found] != token:
                break
            numbers.append(found)
        return numbers

    def after(self, each: Sequence[list[int]]) -> Doubles:
        """Return p (B, V) after the contexts of texts (B), each by itself."""
        rows = [self._after(numbers) for numbers in each]
        return np.concatenate(rows).reshape(len(rows), -1)[:, : self.size]  # far faster than np.stack

    def _after(self, numbers: list[int]) -> Doubles:
        """Return p (V+1) after the contexts of a single text, which must not be changed: the sum that `distribution`
        computes, from the longest context on that came before and is still kept."""
        kept, length = self._kept, len(numbers) - 1
        while (p := kept.get((length, numbers[length]))) is None:
            length -= 1
        for k in range(length + 1, len(numbers)):
            _, tokens, counts, discounts = self._lookups[k - 1]
            context = numbers[k]
            first, end, total, backoff = self._known(k, context)
            p = p * backoff
            if end - first <= FEW:
                for gram in range(first, end):
                    count = counts[gram]
                    p[tokens[gram]] += (count - discounts[min(count, 3)]) / total
            else:
                level = self.levels[k]
                of_each = level.counts[first:end]
                p[level.grams.tokens[first:end]] += (of_each - level.discounts[np.minimum(of_each, 3)]) / total
            if len(kept) * p.nbytes > _KEPT:
                kept = self._kept = self._order_1()  # not cleared: another thread may be reading it
            kept[k, context] = p
        return p

    @cached_property
    def _lookups(self) -> list[_Lookup]:
        """Return what is looked up one number at a time, of each order from 2."""
        return [
            _Lookup(
                level.grams.starts.data,
                level.grams.tokens.data,
                level.counts.data,
                level.discounts.tolist(),
            )
            for level in self.levels[1:]
        ]

    def _known(self, k: int, context: int) -> tuple[int, int, int, float]:
        """Return the first gram of a context of k characters and the one after its last, c(h) and g(h)."""
        known = self._contexts
        if (found := known.get((k, context))) is None:
            if len(known) >= _KNOWN:
                known = self._contexts = {}
            starts = self._lookups[k - 1].starts
            first, end = starts[context], starts[context + 1]
            found = known[k, context] = (first, end, *self.levels[k].of_context(context, first, end))
        return found

    @cached_property
    def _contexts(self) -> dict[tuple[int, int], tuple[int, int, int, float]]:
        return {}

    @cached_property
    def _kept(self) -> dict[tuple[int, int], Doubles]:
        """Return distributions (V+1) by the length and number of their contexts: none, and the latest."""
        return self._order_1()

    def _order_1(self) -> dict[tuple[int, int], Doubles]:
        return {(0, 0): self.levels[0].probabilities}

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
        if self.takes_one_by_one(tokens):
            return self.contexts(self.next_grams(tokens, state)).numbers[:, None]
        numbers = np.zeros((*tokens.shape, self.order), dtype=np.int64)
        for k in range(1, self.order):
            before = np.column_stack((state.numbers[:, k - 1], numbers[:, :-1, k - 1]))
            numbers[:, :, k] = self.levels[k - 1].grams.find(before, tokens)
        return numbers

    def distribution(self, numbers: Tokens) -> Doubles:
        """Compute p (M, V) of every character after contexts of all lengths (M, n)."""
        scale, width = np.ones(len(numbers)), self.size + 1  # one column is the escape's, which stays unused
        places, terms = list[Tokens](), list[Doubles]()
        for level, column in zip(self.levels[:0:-1], numbers.T[:0:-1], strict=True):
            seen = np.flatnonzero(column >= 0)
            contexts = column[seen]
            rows, grams = level.grams.following(contexts)
            rows, contexts = seen[rows], contexts[rows]
            places.append(rows * width + level.grams.tokens[grams])
            terms.append(level.first_terms(grams, contexts) * scale[rows])
            scale[seen] *= level.backoffs[column[seen]]
        p = scale[:, None] * self.levels[0].probabilities
        flat = p.reshape(-1)
        for place, term in zip(places, terms, strict=True):
            flat[place] += term  # each place once in an order
        return p[:, : self.size]

    def evidence(self, numbers: Tokens) -> tuple[Tokens, Tokens]:
        """Return what is known of contexts of all lengths (M, n): the order (M), 1 to n, of the longest one after which
        characters were counted, and how many were (M)."""
        orders, counts = np.ones(len(numbers), dtype=np.int64), np.empty(len(numbers), dtype=np.int64)
        counts[:] = self.levels[0].totals[0]
        for k, (level, column) in enumerate(zip(self.levels[1:], numbers.T[1:], strict=True), 2):
            these = np.flatnonzero((column >= 0) & (level.backoffs[column] < 1.0))
            orders[these], counts[these] = k, level.totals[column[these]]
        return orders, counts

    def evidence_of_one(self, numbers: list[int]) -> tuple[int, int]:
        """Return the same for a single text of those that `next_grams` reads."""
        for k in range(len(numbers) - 1, 0, -1):
            _, _, total, backoff = self._known(k, numbers[k])
            if backoff < 1.0:
                return k + 1, total
        return 1, int(self.levels[0].totals[0])

    def predicted(
        self, vocabulary: Vocabulary, tokens: npt.NDArray[np.unsignedinteger]
    ) -> Iterator[tuple[Doubles, Tokens]]:
        """Predict each of N tokens of a text that follows the boundary; yield the logits (T, V) and the tokens (T) of a
        block at a time."""
        for numbers, targets in self.read_blocks(vocabulary, tokens, max(1, _PROBABILITIES // self.size)):
            yield np.log(self.distribution(numbers)), targets

    def read_blocks(
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
        for numbers, targets in self.read_blocks(vocabulary, tokens, _BLOCK):
            likeliest = np.zeros(len(targets), dtype=np.int64)
            for level, contexts in zip(self.levels, numbers.T, strict=True):
                likeliest = np.where(contexts >= 0, level.likeliest[0][contexts], likeliest)
            nats = self.nats_after(vocabulary, numbers, targets)
            total += Score(float(nats.sum()), len(targets), int((likeliest == targets).sum()))
            progress(len(targets))
        return total

    def nats(self, vocabulary: Vocabulary, tokens: npt.NDArray[np.unsignedinteger]) -> float:
        """Return the nats of `score`, without the likeliest characters: to find these takes longer than all else."""
        blocks = self.read_blocks(vocabulary, tokens, _BLOCK)
        return sum(float(self.nats_after(vocabulary, *block).sum()) for block in blocks)

    def nats_of_each(self, vocabulary: Vocabulary, tokens: npt.NDArray[np.unsignedinteger]) -> Doubles:
        """Return the nats of each of N tokens (N)."""
        blocks = self.read_blocks(vocabulary, tokens, _BLOCK)
        return np.concatenate([np.empty(0), *(self.nats_after(vocabulary, *block) for block in blocks)])

    def nats_after(self, vocabulary: Vocabulary, numbers: Tokens, targets: Tokens) -> Doubles:
        """Return the nats (T) of tokens (T) after contexts (T, n)."""
        p = np.full(len(targets), 1 / self.size)
        for level, contexts in zip(self.levels, numbers.T, strict=True):
            grams = level.grams.find(contexts, targets)
            p *= np.where(contexts >= 0, level.backoffs[contexts], 1.0)
            p += np.where(grams >= 0, level.first_terms(grams, contexts), 0.0)
        return np.where(targets == vocabulary.escape, vocabulary.escape_nats, vocabulary.known_nats - np.log(p))

    def tables(self) -> dict[str, Integers]:
        """Return the tables that the model consists of, by name; see `ngram_tables`."""
        return ngram_tables.tables_of(self.levels, compact=self.compact)

    @property
    def nbytes(self) -> int:
        """Return the bytes of its tables."""
        return sum(table.nbytes for table in self.tables().values())


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
        levels.append(Level(grams, narrow(preceded), levels[-1] if levels else None))
        counts = np.diff(first, append=len(keys))
        ends = np.empty(len(keys), dtype=np.int64)
        ends[order] = np.repeat(np.arange(len(first)), counts)
        starts = unique.searchsorted(np.arange(len(grams.tokens) + 1) * (size + 1))
        grams = Grams(starts, narrow(unique % (size + 1)), size, grams)
        grams.__dict__.update(keys=unique, suffixes=suffixes)  # cached properties, computed already
        counts[grams.tokens == size] = 0
        total += len(unique)
        yield Ngram([*levels, Level(grams, narrow(counts), levels[-1])])


def _occurrences(stream: Tokens, boundary: Tokens) -> Tokens:
    """Return where a boundary (K) begins in a stream of tokens (N)."""
    found = np.ones(max(0, len(stream) - len(boundary) + 1), dtype=bool)
    for offset, token in enumerate(boundary.tolist()):
        found &= stream[offset : offset + len(found)] == token
    return np.flatnonzero(found)


def from_tables(tables: Mapping[str, npt.NDArray[Any]], order: int, size: int) -> Ngram:
    """Build a model from its tables. Raises ValueError naming an invalid one."""
    return Ngram(ngram_tables.levels_of(tables, order, size), compact="grams/1/lengths" in tables)


def up_to(model: Ngram, order: int) -> Ngram:
    """Return the model of a lower order, as `grow` makes it: its highest order counts occurrences, which the grams of
    higher orders that begin so add up to, but for the last ones of the text and those before an escape."""
    if order >= model.order:
        return model
    top, lower = model.levels[order - 1], model.levels[: order - 1]
    often = ngram_pruning.occurrences_of(model.levels[order:])[0]
    counts = np.where(top.grams.tokens == model.size, 0, np.maximum(often, top.counts))
    return Ngram([*lower, Level(top.grams, narrow(counts), lower[-1] if lower else None, top.dropped)], compact=True)


def prune(model: Ngram, nats: float = PRUNED) -> Ngram:
    """Drop the grams that are worth less than their equal share of so many nats a character; 0 drops none. Orders of
    which nothing is left are gone. Its tables are compact. See `ngram_pruning`."""
    return Ngram(ngram_pruning.prune(model.levels, nats), compact=True)
