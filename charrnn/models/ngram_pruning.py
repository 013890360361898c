"""Dropping the n-grams that a model misses least: entropy pruning (Stolcke 1998), for interpolated Kneser-Ney
smoothing, whose probabilities are scaled by the shorter context's wherever a gram is missing.
Shapes: C contexts, G grams of one order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from charrnn.models.interface import Tokens
from charrnn.models.ngram_counts import Doubles, Grams, Level

Mask = npt.NDArray[np.bool_]


def prune(levels: Sequence[Level], nats: float) -> list[Level]:
    """Drop grams that are worth less than their equal share of `nats` a character: that is at most what all are worth,
    one by one, in the training text as the model expects it. Return the levels that have any left.

    Orders are pruned from the highest down. Kept with a gram are its context and the gram without its first character,
    so that what is left of a gram is looked up as before. Order 1 stays whole.
    """
    occurrences = occurrences_of(levels)
    least = nats * occurrences[0].item() / sum(len(level.counts) for level in levels)
    needed = np.zeros(len(levels[-1].counts), dtype=bool)
    kept = list[Mask]()
    for level, often in zip(levels[:0:-1], occurrences[:0:-1], strict=True):
        assert level.lower is not None
        keep = needed | (_losses(level, often) >= least)
        needed = np.zeros(len(level.lower.counts), dtype=bool)
        needed[level.grams.contexts[keep]] = True
        needed[level.grams.suffixes[keep]] = True
        kept.append(keep)
    pruned, contexts = [levels[0]], np.ones(len(levels[0].counts), dtype=bool)
    for level, keep in zip(levels[1:], reversed(kept), strict=True):
        if not keep.any():
            break
        pruned.append(_restricted(level, keep, contexts, pruned[-1]))
        contexts = keep
    return pruned


def _restricted(level: Level, keep: Mask, contexts: Mask, lower: Level) -> Level:
    """Return a level with some of its grams (G) and contexts (C), given as masks, above a lower one."""
    grams = level.grams
    starts = np.concatenate(([0], np.cumsum(grams.summed(keep)[contexts])))
    dropped = None if level.dropped is None else level.dropped[contexts]
    if not keep.all():
        more = grams.summed(np.where(keep, 0, level.counts))[contexts]
        dropped = more if dropped is None else dropped + more
    kept = Grams(starts, grams.tokens[keep], grams.size, lower.grams)
    return Level(kept, level.counts[keep], lower, dropped, level.rare)


def occurrences_of(levels: Sequence[Level]) -> list[Tokens]:
    """Return how often each context of each of the highest levels (C) stands in the training text.

    The counts of the highest order say it, and below it the sums over all grams that begin so; the counts of lower
    orders are of what came before, fewer.
    """
    found = [levels[-1].totals]
    for level in levels[-2::-1]:
        found.append(np.maximum(level.totals, level.grams.summed(found[-1])))
    return found[::-1]


def _losses(level: Level, occurrences: Tokens) -> Doubles:
    """Return how many nats a text as long as the training text is expected to lose with each gram (G) alone, in the
    order's own probabilities p, given how often each context occurs (C).

    Without the gram h w its first term t joins g(h), so that with b for the probabilities of the order below

        p'(w | h) = (g + t) b(w)        p'(v | h) = p(v | h) + t b(v) for every other character v
        loss = c(h) sum over v of p(v | h) log(p(v | h) / p'(v | h))

    of which the sum over all v that did not follow h is exact, as for w, and that over those that did is of first
    order.
    """
    grams, lower = level.grams, level.lower
    assert lower is not None
    contexts = grams.contexts
    first = level.first_terms(np.arange(len(contexts)), contexts)
    below = lower.probabilities[grams.suffixes]
    seen = np.bincount(contexts, below, len(level.totals))[contexts]
    below[grams.tokens == grams.size] = 1.0  # the escape's, which is never predicted: any number loses nothing
    backoffs = level.backoffs[contexts]
    p = first + backoffs * below
    loss = p * np.log(p / ((backoffs + first) * below))
    loss -= first * np.maximum(seen - below, 0.0)
    loss -= backoffs * np.maximum(1.0 - seen, 0.0) * np.log1p(first / backoffs)
    loss[grams.tokens == grams.size] = 0.0
    return np.asarray(np.maximum(loss * occurrences[contexts], 0.0))
