"""Held-out documents that also stand in the training split, word for word: they flatter a model's scores.
Knows documents as hashes of 8 bytes each. Shapes: N characters, D documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from charrnn.config.limits import FILE_BOUNDARY
from charrnn.data.splits import BLOCK, SPLITS, SplitPlan
from charrnn.data.spool import Codes, TextSpool

NOUNS = {
    "none": "text",
    "line": "line",
    "blank-line": "piece",
    "file": "file",
    "separator": "document",
}  # of a document, by data.documents
TOLD = 0.01  # share from which on training tells it
_Hashes = npt.NDArray[np.uint64]
_BLOCK = 1 << 15  # characters hashed at a time, to stay in a CPU's cache


@dataclass(frozen=True)
class Repeated:
    """How many documents a held-out split has, and how many of them also stand in the training split."""

    documents: int
    repeated: int

    @property
    def share(self) -> float:
        """The share of the documents that are repeated."""
        return self.repeated / max(self.documents, 1)

    def counted(self, split: str, kind: str) -> str:
        """Say the numbers; `kind` is the setting data.documents."""
        return f"{self.repeated:,} of {self.documents:,} {split} {NOUNS[kind]}s ({self.share:.1%})"


def advice(repeated: Mapping[str, Repeated], kind: str) -> str | None:
    """Say how many are repeated, and what follows, or return None if they are few."""
    told = [each.counted(split, kind) for split, each in repeated.items() if each.share >= TOLD]
    if not told:
        return None
    remedy = "sort -u removes repeated lines." if kind == "line" else f"Remove repeated {NOUNS[kind]}s."
    return f"{' and '.join(told)} also stand in the training split, word for word, so scores flatter. {remedy}"


def count(source: TextSpool, plan: SplitPlan) -> dict[str, Repeated]:
    """Count the documents of each held-out split that has any; those of nothing but newlines do not count."""
    hashes = hash_documents(source, plan.bounds)
    found: dict[str, Repeated] = {}
    for index, split in enumerate(SPLITS[1:], 1):
        held_out = np.sort(hashes[(plan.splits == index) & (hashes != 0)])
        if len(held_out):
            found[split] = Repeated(len(held_out), _count_among(held_out, hashes, plan.splits == 0))
    return found


def _count_among(held_out: _Hashes, hashes: _Hashes, chosen: npt.NDArray[np.bool_]) -> int:
    """Count the sorted hashes that are among the chosen ones of others (D)."""
    firsts = np.flatnonzero(np.append(True, held_out[1:] != held_out[:-1]))  # of equal ones
    distinct, among = held_out[firsts], np.zeros(len(firsts), dtype=np.bool_)
    for first in range(0, len(hashes), BLOCK):
        others = hashes[first : first + BLOCK][chosen[first : first + BLOCK]]
        places = np.minimum(np.searchsorted(distinct, others), len(distinct) - 1)
        among[places[distinct[places] == others]] = True
    return int(np.diff(np.append(firsts, len(held_out)))[among].sum())


def hash_documents(source: TextSpool, bounds: npt.NDArray[np.int64]) -> _Hashes:
    """Hash documents that start and end at bounds (D+1); 0 if all is newlines. They do not count, nor does the NUL
    that ends a file.

    A hash is the sum over a document's characters, but those, of a mixed (position, character), so that a document
    may come in pieces.
    """
    hashes = np.zeros(len(bounds) - 1, dtype=np.uint64)
    first = 0
    for codes in source.chunks():
        for start in range(0, len(codes), _BLOCK):
            _add(codes[start : start + _BLOCK], first, bounds, hashes)
            first += len(codes[start : start + _BLOCK])
    return hashes


def _add(codes: Codes, first: int, bounds: npt.NDArray[np.int64], hashes: _Hashes) -> None:
    """Add characters to the hashes of their documents, of which the first starts at or before position `first`."""
    last = first + len(codes)
    begin = int(np.searchsorted(bounds, first, "right")) - 1
    end = int(np.searchsorted(bounds, last, "left"))
    starts = np.maximum(bounds[begin:end], first) - first
    lengths = np.diff(np.append(starts, len(codes)))
    positions = np.arange(first, last) - np.repeat(bounds[begin:end], lengths)
    mixed = _mixed((positions.astype(np.uint64) << np.uint64(21)) | codes)
    mixed[(codes == ord("\n")) | (codes == ord(FILE_BOUNDARY))] = 0
    hashes[begin:end] += np.add.reduceat(mixed, starts)


def _mixed(values: _Hashes) -> _Hashes:
    """Mix the bits of 64-bit numbers, in place (SplitMix64: Steele, Lea & Flood 2014)."""
    values += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values ^= values >> np.uint64(shift)
        values *= np.uint64(factor)
    values ^= values >> np.uint64(31)
    return values
