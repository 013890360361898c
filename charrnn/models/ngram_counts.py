"""The counts of an n-gram model, order by order, and the probabilities that they give: interpolated modified Kneser-Ney
smoothing (Kneser and Ney 1995; Chen and Goodman 1999, section 3). In NumPy alone. Knows tokens, not texts or states.
A k-gram is k consecutive characters; its context is the first k-1 of them. The k-grams of a text are sorted by context
and character; a gram's index is its number, also as a context of the next order.
Shapes: V vocabulary, C contexts, G grams of one order, M queries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from charrnn.models.interface import Tokens

_BITS = 21  # more than a character has
_ONES = (1 << _BITS) - 1
_EACH = np.array([0, 1, 1 << _BITS, 1 << 2 * _BITS])  # numbers of 21 bits, which add up side by side
FEW = 8  # followers that are added one by one in less time than by NumPy's calls
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

    def summed(self, values: npt.NDArray[Any]) -> Tokens:
        """Add up values of grams (G), integers or booleans, for each context (C)."""
        starts, ends = self.starts.astype(np.int64), np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
        return np.asarray(ends[starts[1:]] - ends[starts[:-1]])


class Level:
    """One order k of the model, from the count c(h w) of each k-gram of a context h and a character w:

        p(w | h) = (c(h w) - D(c(h w))) / c(h) + g(h) p(w | h without its first character)
        c(h) = d(h) + sum of c(h w) over w
        g(h) = (D1 N1(h) + D2 N2(h) + D3 N3(h) + d(h)) / c(h)

    N1, N2 and N3 are how many different characters came once, twice, and more often after h: what is discounted from
    them goes to the order below, and below order 1 to all V characters equally. So does d(h), the sum of the counts of
    grams that were dropped (see `ngram_pruning`). After an unseen h, p is that of the order below. The escape is never
    predicted, so its count is 0; in a context it is a character like any other.

    `dropped` is d (C), None where nothing was dropped. `rare` (4) is how many grams came once, twice, three and four
    times, the dropped ones included.
    """

    def __init__(
        self,
        grams: Grams,
        counts: Integers,
        lower: Level | None,
        dropped: Integers | None = None,
        rare: Integers | None = None,
    ) -> None:
        self.grams, self.counts, self.lower, self.dropped = grams, counts, lower, dropped
        self._rare = rare
        # all else is computed when it is first needed: to sample, few contexts of a large model are

    @cached_property
    def rare(self) -> Integers:
        """Return how many grams came once, twice, three and four times (4)."""
        return rare_of(self.counts) if self._rare is None else self._rare

    @cached_property
    def discounts(self) -> Doubles:
        """Return D (4), of counts of 0, 1, 2 and more."""
        return discounts(self.rare)

    @cached_property
    def _sums(self) -> Tokens:
        """Return c(h), at least 0 (C)."""
        totals = self.grams.summed(self.counts)
        if self.dropped is not None:
            totals += self.dropped
        return totals

    @cached_property
    def totals(self) -> Tokens:
        """Return c(h), at least 1 (C)."""
        return np.maximum(self._sums, 1)

    @cached_property
    def backoffs(self) -> Doubles:
        """Return g(h) (C)."""
        numbers = self.grams.summed(_EACH[np.minimum(self.counts, 3)])  # N1, N2 and N3 side by side
        discounted: Doubles = sum((numbers >> _BITS * (c - 1) & _ONES) * self.discounts[c] for c in (1, 2, 3))
        if self.dropped is not None:
            discounted = discounted + self.dropped
        return np.where(self._sums > 0, discounted / self.totals, 1.0)

    def of_context(self, context: int, first: int, end: int) -> tuple[int, float]:
        """Return c(h), at least 1, and g(h) of one context, whose grams are known, without those of all others."""
        counts, (_, *each) = self.counts[first:end], self.discounts.tolist()
        if end - first <= FEW:
            numbers = counts.tolist()
            total, discounted = sum(numbers), sum([each[min(number, 3) - 1] for number in numbers if number])
        else:
            _, *numbers = np.bincount(np.minimum(counts, 3), minlength=4).tolist()
            total = int(counts.sum(dtype=np.int64))
            discounted = sum(number * discount for number, discount in zip(numbers, each, strict=True))
        if self.dropped is not None:
            total, discounted = total + int(self.dropped[context]), discounted + int(self.dropped[context])
        return max(total, 1), discounted / total if total else 1.0

    def first_terms(self, grams: Tokens | slice, contexts: Tokens | int) -> Doubles:
        """Compute the first term of p for grams (...) and their contexts (...) or context, without the order below."""
        counts = self.counts[grams]
        return np.asarray((counts - self.discounts[np.minimum(counts, 3)]) / self.totals[contexts])

    @cached_property
    def probabilities(self) -> Doubles:
        """Return p of every gram (G), 0 for those that end in the escape."""
        grams, lower = self.grams, self.lower
        below = 1 / grams.size if lower is None else lower.probabilities[grams.suffixes]
        contexts = grams.contexts
        p = self.first_terms(np.arange(len(contexts)), contexts) + self.backoffs[contexts] * below
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


def rare_of(counts: Integers) -> Tokens:
    """Return how many grams came once, twice, three and four times (4)."""
    return np.bincount(np.minimum(counts, 5), minlength=6)[1:5]


def discounts(rare: Integers) -> Doubles:
    """Estimate D (4), the discounts of counts of 0, 1, 2 and more (Chen and Goodman 1999, equation 26).

    With n_c grams of count c, `rare` (4), and Y = n1 / (n1 + 2 n2), D_c = c - (c+1) Y n_(c+1) / n_c. Where that is not
    between 0 and c, as in texts with few rare grams, it is c / 2.
    """
    n1, n2, n3, n4 = rare.tolist()
    y = n1 / (n1 + 2 * n2) if n1 else 0.0
    estimates = [0.0]
    for c, (n, n_next) in enumerate(((n1, n2), (n2, n3), (n3, n4)), 1):
        estimate = c - (c + 1) * y * n_next / n if n else 0.0
        estimates.append(estimate if 0.0 < estimate < c else _FALLBACK[c - 1])
    return np.array(estimates)
