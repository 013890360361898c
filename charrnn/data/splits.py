"""Cutting a text into training, validation and test part, in order or by documents at random.
Shapes: N characters, D documents."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from charrnn.config.schema import DataConfig
from charrnn.data.spool import Codes, TextSpool

SplitName = Literal["training", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
# independent random streams of one seed
_DEALING = 1
_BLOCK = 1 << 20  # documents, or characters, at a time


@dataclass(frozen=True)
class SplitPlan:
    """Say which part each document belongs to: `owners` (D), 0 to 2, and `bounds` (D+1), where each begins and ends.

    A text that is cut in order is three documents.
    """

    owners: npt.NDArray[np.uint8]
    bounds: npt.NDArray[np.int64]

    def split_text(self, source: TextSpool) -> Iterator[tuple[int, Codes]]:
        """Walk through a text, a chunk at a time; gives whose code points these are."""
        first = 0
        for codes in source.chunks():
            last = first + len(codes)
            begin = int(np.searchsorted(self.bounds, first, "right")) - 1
            end = int(np.searchsorted(self.bounds, last, "left"))
            owners = self.owners[begin:end]
            if (owners == owners[0]).all():
                yield int(owners[0]), codes
            else:
                bounds = np.clip(self.bounds[begin : end + 1], first, last)
                owned = np.repeat(owners, bounds[1:] - bounds[:-1])
                for part in range(len(SPLITS)):
                    yield part, codes[owned == part]
            first = last

    def starts(self, part: int) -> Iterator[npt.NDArray[np.int64]]:
        """Give where documents begin in a part, block by block."""
        end = 0
        for first in range(0, len(self.owners), _BLOCK):
            lengths = np.diff(self.bounds[first : first + _BLOCK + 1])[self.owners[first : first + _BLOCK] == part]
            ends = end + np.cumsum(lengths)
            yield ends - lengths
            end = int(ends[-1]) if len(ends) else end


def split(source: TextSpool, data: DataConfig, seed: int) -> SplitPlan:
    """Deal a text to its three parts: cut in order, or by documents at random, as `data` says."""
    train, validation, test = data.split
    if data.documents == "none":
        first = int(source.length * train + 1e-6)
        second = source.length if test == 0.0 else int(source.length * (train + validation) + 1e-6)
        return SplitPlan(np.arange(3, dtype=np.uint8), np.array([0, first, second, source.length], dtype=np.int64))

    bounds = documents(source, data.documents)
    order = np.random.default_rng([seed, _DEALING]).permutation(len(bounds) - 1)
    # dealt by number of characters: long documents must not starve a part
    split_text = _ends(bounds[:-1], source.length, order)

    def count_to(share: float) -> int:
        # 1e-9: a document that ends exactly at a border lies before it, whatever a share's last bit says
        return bisect.bisect_right(split_text, share + 1e-9, key=lambda end: float(end) / source.length)

    first, second = count_to(train), count_to(train + validation)
    # few and long documents: each part that has a share gets one, where there are enough
    tested = 0 if test == 0.0 else 1 if len(order) > 2 else 0
    first = min(max(first, 1), max(len(order) - 1 - tested, 1))
    second = len(order) if test == 0.0 else min(max(second, first + 1), len(order) - tested)
    owners = np.full(len(order), 2, dtype=np.uint8)
    owners[order[:first]] = 0
    owners[order[first:second]] = 1
    return SplitPlan(owners, bounds)


def documents(source: TextSpool, kind: str) -> npt.NDArray[np.int64]:
    """Find where documents begin, and where the last one ends (D+1); each keeps the newlines that end it.

    The last one may lack them in the file; it gets them, so that shuffling never joins two documents.
    """
    if kind == "file":
        source.append("\n")
        return np.array([*source.starts, source.length], dtype=np.int64)
    wanted = 1 if kind == "line" else 2
    source.append("\n" * (wanted - (len(source.tail) - len(source.tail.rstrip("\n")))))
    newlines = sum(int(np.count_nonzero(codes == ord("\n"))) for codes in source.chunks())
    bounds, found, first = np.zeros(newlines + 1, dtype=np.int64), 1, 0  # there are no more documents than newlines
    before = np.zeros(2, dtype=bool)  # whether the last two characters were newlines
    for codes in source.chunks():
        newline = np.concatenate((before, codes == ord("\n")))
        begins = newline[1:-1] if kind == "line" else newline[1:-1] & newline[:-2] & ~newline[2:]
        starts = np.flatnonzero(begins)
        bounds[found : found + len(starts)] = starts + first
        found, first, before = found + len(starts), first + len(codes), newline[-2:]
    bounds[found] = source.length
    return bounds[: found + 1]


def _ends(starts: npt.NDArray[np.int64], size: int, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Give where documents end (D) when they are put one after another in another order."""
    ends, end = np.empty(len(order), dtype=np.int64), 0
    for first in range(0, len(order), _BLOCK):
        chosen = order[first : first + _BLOCK]
        block = end + np.cumsum(_end(starts, size, chosen) - starts[chosen])
        ends[first : first + _BLOCK], end = block, int(block[-1])
    return ends


def _end(starts: npt.NDArray[np.int64], size: int, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Give where the chosen documents end in the text: where the next one begins."""
    last = len(starts) - 1
    return np.where(chosen < last, starts[np.minimum(chosen + 1, last)], size)
