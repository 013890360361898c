"""The tables that an n-gram model consists of, as files hold them: arrays of the narrowest unsigned type, by name.
Of each order: `starts` (C+1) or, where grams were dropped, the number of followers of each context, `lengths` (C), a
quarter as large; `tokens` and `counts` (G). Where grams were dropped, also what they counted after each context,
`dropped` (C), and how many grams were `rare` (4) before: see `ngram_counts.Level`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from charrnn.models.ngram_counts import Grams, Integers, Level, rare_of

MAX_ORDER = 10
_WHOLE = ("starts", "tokens", "counts")
_PRUNED = ("lengths", "tokens", "counts", "dropped", "rare")
Tables = Mapping[str, npt.NDArray[Any]]


def fits(order: object, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Say whether tensors of these shapes can be the tables of a model of this order."""
    if type(order) is not int or not 1 <= order <= MAX_ORDER:
        return False
    names = {name for k in range(1, order + 1) for name in table_names(k, k > 1 and table_name(k, "dropped") in shapes)}
    return shapes.keys() == names and all(len(shape) == 1 for shape in shapes.values())


def table_names(k: int, pruned: bool = False) -> list[str]:
    """Return the names of an order's tables."""
    return [table_name(k, name) for name in (_PRUNED if pruned else _WHOLE)]


def table_name(k: int, name: str) -> str:
    """Return the full name of one of an order's tables."""
    return f"grams/{k}/{name}"


def tables_of(levels: Sequence[Level]) -> dict[str, Integers]:
    """Return the tables of levels, by name."""
    tables = dict[str, Integers]()
    for k, level in enumerate(levels, 1):
        grams, pruned = level.grams, level.dropped is not None
        lengths = grams.starts[1:] - grams.starts[:-1]
        arrays = [lengths if pruned else grams.starts, grams.tokens, level.counts]
        if level.dropped is not None:
            arrays += [level.dropped, level.rare]
        tables |= {name: narrow(array) for name, array in zip(table_names(k, pruned), arrays, strict=True)}
    return tables


def levels_of(tables: Tables, order: int, size: int) -> list[Level]:
    """Build the levels of a model from its tables, which `fits` accepts. Raises ValueError naming an invalid one."""
    levels: list[Level] = []
    contexts = 1
    for k in range(1, order + 1):
        tokens, counts = tables[table_name(k, "tokens")], tables[table_name(k, "counts")]
        dropped, rare = tables.get(table_name(k, "dropped")), tables.get(table_name(k, "rare"))
        starts, grams = _starts(tables, k, contexts, len(tokens)), len(tokens)
        falls = np.append(tokens[1:] <= tokens[:-1], True)
        # tokens stop ascending only where another context begins
        begins = np.zeros(grams + 1, dtype=bool)
        begins[starts] = True
        if not grams or tokens.max() > size or (falls & ~begins[1:]).any() or (k == 1 and grams != size + 1):
            raise ValueError(table_name(k, "tokens"))
        if len(counts) != grams or counts[tokens == size].any() or int(counts.max()) > 2**62 // grams:
            raise ValueError(table_name(k, "counts"))
        if dropped is not None and (len(dropped) != contexts or not 0 <= dropped.min() <= dropped.max() <= 2**61):
            raise ValueError(table_name(k, "dropped"))
        if rare is not None and (len(rare) != 4 or (rare < rare_of(counts)).any() or rare.max() > 2**32):
            raise ValueError(table_name(k, "rare"))
        below = levels[-1] if levels else None
        kept = Grams(starts, tokens, size, below.grams if below else None)
        levels.append(Level(kept, counts, below, dropped, rare))
        contexts = grams
    return levels


def _starts(tables: Tables, k: int, contexts: int, grams: int) -> Integers:
    """Return where the grams of each context start (C+1). Raises ValueError naming an invalid table."""
    if (lengths := tables.get(name := table_name(k, "lengths"))) is not None:
        starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    else:
        starts = tables[name := table_name(k, "starts")]
    if len(starts) != contexts + 1 or starts[0] != 0 or starts[-1] != grams or (starts[1:] < starts[:-1]).any():
        raise ValueError(name)
    return narrow(starts)


def narrow(values: Integers) -> Integers:
    """Return values from 0 in the narrowest unsigned type that holds them all."""
    highest = int(values.max(initial=0))
    return values.astype(np.uint8 if highest <= 0xFF else np.uint16 if highest <= 0xFFFF else np.uint32)
