"""The tables that an n-gram model consists of, as files hold them: arrays of the narrowest unsigned type, by name.
Of each order, whole: `starts` (C+1), `tokens` and `counts` (G). Compact, in half the bytes: the number of followers of
each context, `lengths` (C), instead of starts; and of an array of which most numbers are less than 255 those in one
byte each, the others as 255, and these in order in a table of its own, `/large`. Where grams were dropped, also how
much they counted after those contexts that have others left, `dropped`; which contexts these are, `thinned`, a bit for
each (C / 8 bytes); and how many grams were `rare` (4) before: see `ngram_counts.Level`. Earlier versions read
whole tables only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from charrnn.models.ngram_counts import Grams, Integers, Level, rare_of

MAX_ORDER = 10
_WHOLE = ("starts", "tokens", "counts")
_LARGE = "/large"
_MOST = 0xFF  # in one byte; larger numbers stand in a table of their own
Tables = Mapping[str, npt.NDArray[Any]]


def fits(order: object, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Say whether tensors of these shapes can be the tables of a model of this order."""
    if type(order) is not int or not 1 <= order <= MAX_ORDER:
        return False
    names = set[str]()
    for k in range(1, order + 1):
        of_order = {name for name in shapes if name.startswith(f"grams/{k}/")}
        if of_order != {_name(k, name) for name in _WHOLE}:
            needed = {_name(k, name) for name in ("lengths", "tokens", "counts")}
            pruned = {_name(k, name) for name in ("dropped", "thinned", "rare")}
            found = {name for name in of_order if not name.endswith(_LARGE)}
            if found not in (needed, needed | pruned) or not of_order <= found | {name + _LARGE for name in found}:
                return False
        names |= of_order
    return shapes.keys() == names and all(len(shape) == 1 for shape in shapes.values())


def tables_of(levels: Sequence[Level], *, compact: bool) -> dict[str, Integers]:
    """Return the tables of levels, by name, whole or compact."""
    tables = dict[str, Integers]()
    for k, level in enumerate(levels, 1):
        grams = level.grams
        if not compact:
            arrays = (grams.starts, grams.tokens, level.counts)
            tables |= {_name(k, name): narrow(array) for name, array in zip(_WHOLE, arrays, strict=True)}
            continue
        lengths = grams.starts[1:] - grams.starts[:-1]
        tables |= _packed(_name(k, "lengths"), lengths)
        tables |= _packed(_name(k, "tokens"), grams.tokens) | _packed(_name(k, "counts"), level.counts)
        if level.dropped is not None:
            thinned = (lengths > 0) & (level.dropped > 0)
            tables |= _packed(_name(k, "dropped"), level.dropped[thinned])
            tables |= {_name(k, "thinned"): np.packbits(thinned), _name(k, "rare"): narrow(level.rare)}
    return tables


def levels_of(tables: Tables, order: int, size: int) -> list[Level]:
    """Build the levels of a model from its tables, which `fits` accepts. Raises ValueError naming an invalid one."""
    levels: list[Level] = []
    contexts = 1
    for k in range(1, order + 1):
        tokens, counts = _unpacked(tables, _name(k, "tokens")), _unpacked(tables, _name(k, "counts"))
        starts, grams = _starts(tables, k, contexts, len(tokens)), len(tokens)
        falls = np.append(tokens[1:] <= tokens[:-1], True)
        # tokens stop ascending only where another context begins
        begins = np.zeros(grams + 1, dtype=bool)
        begins[starts] = True
        if not grams or tokens.max() > size or (falls & ~begins[1:]).any() or (k == 1 and grams != size + 1):
            raise ValueError(_name(k, "tokens"))
        if len(counts) != grams or counts[tokens == size].any() or int(counts.max()) > 2**62 // grams:
            raise ValueError(_name(k, "counts"))
        dropped, rare = None, None
        if _name(k, "dropped") in tables:
            dropped, rare = _dropped(tables, k, contexts), tables[_name(k, "rare")].astype(np.int64)
            if len(rare) != 4 or (rare < rare_of(counts)).any() or rare.max() > 2**32:
                raise ValueError(_name(k, "rare"))
        below = levels[-1] if levels else None
        levels.append(Level(Grams(starts, tokens, size, below.grams if below else None), counts, below, dropped, rare))
        contexts = grams
    return levels


def _starts(tables: Tables, k: int, contexts: int, grams: int) -> Integers:
    """Return where the grams of each context start (C+1). Raises ValueError naming an invalid table."""
    if (name := _name(k, "lengths")) in tables:
        starts = np.concatenate(([0], np.cumsum(_unpacked(tables, name), dtype=np.int64)))
    else:
        starts = tables[name := _name(k, "starts")]
    if len(starts) != contexts + 1 or starts[0] != 0 or starts[-1] != grams or (starts[1:] < starts[:-1]).any():
        raise ValueError(name)
    return narrow(starts)


def _dropped(tables: Tables, k: int, contexts: int) -> Integers:
    """Return how much dropped grams counted after each context (C). Raises ValueError naming an invalid table."""
    bits, stored = tables[_name(k, "thinned")], _unpacked(tables, _name(k, "dropped"))
    if bits.dtype != np.uint8 or len(bits) != -(-contexts // 8):
        raise ValueError(_name(k, "thinned"))
    thinned = np.unpackbits(bits, count=contexts).astype(bool)
    if len(stored) != thinned.sum() or not 0 <= stored.min(initial=0) <= stored.max(initial=0) <= 2**32:
        raise ValueError(_name(k, "dropped"))
    dropped = np.zeros(contexts, dtype=stored.dtype)
    dropped[thinned] = stored
    return dropped


def _packed(name: str, values: Integers) -> dict[str, Integers]:
    """Return the table or the two tables of numbers from 0, whichever are smaller."""
    plain = narrow(values)
    large = plain[plain >= _MOST]
    if len(plain) + large.nbytes >= plain.nbytes:
        return {name: plain}
    return {name: np.minimum(plain, _MOST).astype(np.uint8), name + _LARGE: large}


def _unpacked(tables: Tables, name: str) -> Integers:
    """Return what `_packed` packed. Raises ValueError naming an invalid table."""
    values: Integers = tables[name]
    if (large := tables.get(name + _LARGE)) is not None:
        where = np.flatnonzero(values == _MOST)
        if len(where) != len(large):
            raise ValueError(name + _LARGE)
        values = values.astype(large.dtype)
        values[where] = large
    return values


def _name(k: int, name: str) -> str:
    """Return the name of one of an order's tables."""
    return f"grams/{k}/{name}"


def narrow(values: Integers) -> Integers:
    """Return values from 0 in the narrowest unsigned type that holds them all."""
    highest = int(values.max(initial=0))
    return values.astype(np.uint8 if highest <= 0xFF else np.uint16 if highest <= 0xFFFF else np.uint32)
