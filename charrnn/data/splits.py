"""Splitting a text into training, validation and test data, in order or by documents at random.
Shapes: N characters, D documents."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from charrnn.config.schema import DataConfig
from charrnn.data.spool import Codes, TextSpool
from charrnn.data.text_files import missing_end

SplitName = Literal["training", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
_ASSIGNMENT = 1  # a random stream of the seed; those of batches are independent of it
BLOCK = 1 << 20  # documents or characters processed at a time, to bound memory


@dataclass(frozen=True)
class SplitPlan:
    """The split of each document: `splits` (D), indices into SPLITS, and `bounds` (D+1), where each starts and ends.

    A text that is cut in order counts as three documents.
    """

    splits: npt.NDArray[np.uint8]
    bounds: npt.NDArray[np.int64]

    def split_text(self, source: TextSpool) -> Iterator[tuple[int, Codes]]:
        """Yield a text in order, as pairs of a split's index and code points of it."""
        first = 0
        for codes in source.chunks():
            last = first + len(codes)
            begin = int(np.searchsorted(self.bounds, first, "right")) - 1
            end = int(np.searchsorted(self.bounds, last, "left"))
            splits = self.splits[begin:end]
            if (splits == splits[0]).all():
                yield int(splits[0]), codes
            else:
                bounds = np.clip(self.bounds[begin : end + 1], first, last)
                split_of = np.repeat(splits, np.diff(bounds))
                for split in range(len(SPLITS)):
                    yield split, codes[split_of == split]
            first = last

    def starts(self, split: int) -> Iterator[npt.NDArray[np.int64]]:
        """Yield where documents start in a split, block by block."""
        end = 0
        for first in range(0, len(self.splits), BLOCK):
            lengths = np.diff(self.bounds[first : first + BLOCK + 1])[self.splits[first : first + BLOCK] == split]
            ends = end + np.cumsum(lengths)
            yield ends - lengths
            end = int(ends[-1]) if len(ends) else end


def plan_split(source: TextSpool, data: DataConfig, boundary: str, seed: int) -> SplitPlan:
    """Assign a text to its three splits, in order or by documents at random, as `data` says; see `find_documents`."""
    train, validation, test = data.split
    if data.documents == "none":
        first = int(source.length * train + 1e-6)
        second = source.length if test == 0.0 else int(source.length * (train + validation) + 1e-6)
        return SplitPlan(np.arange(3, dtype=np.uint8), np.array([0, first, second, source.length], dtype=np.int64))

    bounds = find_documents(source, data.documents, boundary)
    order = np.random.default_rng([seed, _ASSIGNMENT]).permutation(len(bounds) - 1)
    # shares are of characters: a few long documents must not make up for many short ones
    ends = ends_in_order(bounds[:-1], source.length, order)

    def count_to(share: float) -> int:
        # 1e-9: a document that ends exactly at the share is within it, whatever the share's rounding
        return bisect.bisect_right(ends, share + 1e-9, key=lambda end: float(end) / source.length)

    first, second = count_to(train), count_to(train + validation)
    # few and long documents: each split with a share gets one, if there are enough
    tested = 0 if test == 0.0 else 1 if len(order) > 2 else 0
    first = min(max(first, 1), max(len(order) - 1 - tested, 1))
    second = len(order) if test == 0.0 else min(max(second, first + 1), len(order) - tested)
    splits = np.full(len(order), 2, dtype=np.uint8)
    splits[order[:first]] = 0
    splits[order[first:second]] = 1
    return SplitPlan(splits, bounds)


def find_documents(source: TextSpool, kind: str, boundary: str) -> npt.NDArray[np.int64]:
    """Return where documents start, and where the last one ends (D+1); each includes the boundary that ends it, and all
    newlines that end it.

    What the last document lacks of its end is appended to the text, so that shuffling never joins two documents.
    """
    if kind == "file":
        source.append(boundary)
        return np.array([*source.starts, source.length], dtype=np.int64)
    if kind == "separator":
        return _after_each(source, boundary)
    end = "\n" if kind == "line" else "\n\n"
    source.append(missing_end(_tail(source, len(end)), end))
    newlines = sum(int(np.count_nonzero(codes == ord("\n"))) for codes in source.chunks())
    bounds, found, first = np.zeros(newlines + 1, dtype=np.int64), 1, 0  # at most one document per newline
    before = np.zeros(2, dtype=bool)  # whether the last two characters were newlines
    for codes in source.chunks():
        newline = np.concatenate((before, codes == ord("\n")))
        begins = newline[1:-1] if kind == "line" else newline[1:-1] & newline[:-2] & ~newline[2:]
        starts = np.flatnonzero(begins)
        bounds[found : found + len(starts)] = starts + first
        found, first, before = found + len(starts), first + len(codes), newline[-2:]
    bounds[found] = source.length
    return bounds[: found + 1]


def _after_each(source: TextSpool, separator: str) -> npt.NDArray[np.int64]:
    """Return 0, and where each occurrence of a separator ends (D+1): at the end of the text, too, where what is lacking
    is appended."""
    bounds, first, rest = [np.zeros(1, dtype=np.int64)], 0, ""
    for codes in source.chunks():
        text = rest + codes.astype("<u4").tobytes().decode("utf-32-le")
        ends = [match.end() for match in re.finditer(re.escape(separator), text)]
        bounds.append(np.array(ends, dtype=np.int64) + first)
        begin = max(ends[-1] if ends else 0, len(text) - len(separator) + 1)  # where the next one may begin
        first, rest = first + begin, text[begin:]
    found = np.concatenate(bounds)
    if left := source.length - int(found[-1]):
        source.append(missing_end(_tail(source, min(left, len(separator))), separator))
        found = np.append(found, source.length)
    return found


def _tail(source: TextSpool, length: int) -> str:
    """Return the last characters of a text, as far as it has so many."""
    return "".join(source.pieces(max(0, source.length - length), source.length))


def ends_in_order(starts: npt.NDArray[np.int64], size: int, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where documents end (D) if they are joined in the given order."""
    ends, end = np.empty(len(order), dtype=np.int64), 0
    for first in range(0, len(order), BLOCK):
        documents = order[first : first + BLOCK]
        block = end + np.cumsum(ends_in_text(starts, size, documents) - starts[documents])
        ends[first : first + BLOCK], end = block, int(block[-1])
    return ends


def ends_in_text(starts: npt.NDArray[np.int64], size: int, documents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where the given documents end in the text: where the next one starts."""
    last = len(starts) - 1
    return np.where(documents < last, starts[np.minimum(documents + 1, last)], size)
