"""The n-gram model of another vocabulary, which has all characters of its own and more.
Shapes: V vocabulary, C contexts, G grams of one order."""

from __future__ import annotations

import numpy as np

from charrnn.models.interface import Tokens
from charrnn.models.ngram import Ngram
from charrnn.models.ngram_counts import Grams, Level
from charrnn.models.ngram_tables import narrow


def translated(model: Ngram, tokens: Tokens, size: int) -> Ngram:
    """Return a model over `size` characters, given what its own tokens, 0 to V, are there (V+1), all different. Grams
    are sorted anew; a character that it does not know has the share that all have of the lowest discount."""
    levels = list[Level]()
    moved = np.zeros(1, dtype=np.int64)  # the new number of each context (C)
    for level in model.levels:
        grams, below = level.grams, levels[-1] if levels else None
        if below is None:
            counts = np.zeros(size + 1, dtype=np.int64)
            counts[tokens] = level.counts
            kept, places = Grams(np.array([0, size + 1]), np.arange(size + 1), size, None), tokens
        else:
            contexts, following = moved[grams.contexts], tokens[grams.tokens]
            order = np.lexsort((following, contexts))
            places = np.empty(len(order), dtype=np.int64)
            places[order] = np.arange(len(order))
            counts = level.counts[order].astype(np.int64)
            starts = contexts[order].searchsorted(np.arange(len(below.counts) + 1))
            kept = Grams(narrow(starts), narrow(following[order]), size, below.grams)
        dropped = None
        if level.dropped is not None:
            dropped = np.zeros(1 if below is None else len(below.counts), dtype=np.int64)
            dropped[moved] = level.dropped
        levels.append(Level(kept, narrow(counts), below, dropped, level.rare))
        moved = places
    return Ngram(levels, compact=model.compact)
