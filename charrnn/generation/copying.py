"""Runs of characters that a sample must not write: those of the training text, and those that it has already.
Both indexes answer one question: which characters would complete a run after this context?
Knows code points, not tokens. Shapes: N characters of the text, B contexts."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from charrnn.errors import MisuseError

Codes = npt.NDArray[np.unsignedinteger]
_FACTOR = 0x9E3779B97F4A7C15  # odd, so that no bit is lost: 2^64 divided by the golden ratio
_MAX_STRIDE = 16
_BLOCK = 1 << 16  # positions compared at a time
_CACHED_ABOVE = 1 << 12  # positions to compare
_CACHE_SIZE = 1 << 14
_MASK = (1 << 64) - 1  # hashes are modulo 2^64
_NONE, _KNOWN = -1, -2  # in the place of a position


def check_size(size: int) -> None:
    """Raise MisuseError for a run length that would forbid every character."""
    if size < 2:
        raise MisuseError(f"no-copy is {size}; it must be at least 2, since every character is one of the text's.")


class CopyIndex:
    """Index of the runs of `size` characters of a text (N code points), to find what would complete one.

    Only pieces of `size` - `stride` characters that start at a multiple of `stride` are indexed, by their hash, in
    12 N / `stride` bytes: any `size` - 1 characters of the text contain one (Karp and Rabin 1987; rsync, Tridgell
    1999, finds copies in the same way). Matches are compared with the text itself, so a hash collision forbids nothing.
    Raises MisuseError for a size below 2.
    """

    def __init__(self, codes: Codes, size: int) -> None:
        check_size(size)
        self.codes, self.size = codes, size
        self._stride = min(size // 2, _MAX_STRIDE)
        self._length = size - self._stride  # (size - 1) - (stride - 1): a piece fits in wherever the run begins
        pieces = max(0, (len(codes) - 1 - self._length) // self._stride + 1)  # none at the end, which nothing follows
        hashes = np.zeros(pieces, dtype=np.uint64)
        for offset in range(self._length if pieces else 0):  # a size above that of the text may be any number
            hashes *= np.uint64(_FACTOR)
            hashes += codes[offset :: self._stride][:pieces]
        order = hashes.argsort()
        self._hashes, self._pieces = hashes[order], order.astype(np.uint32 if pieces < 1 << 32 else np.int64)
        self._counts = np.bincount(codes[:: max(1, len(codes) >> 20)])  # by code point, of a sample of the text
        self._cache: OrderedDict[bytes, Codes] = OrderedDict()

    def completions(self, contexts: Sequence[str]) -> list[Codes]:
        """Return for each context (B) the code points that would complete a run after its last `size` - 1 characters;
        none for a shorter context."""
        width = self.size - 1
        found = [self.codes[:0]] * len(contexts)
        rows = [row for row, context in enumerate(contexts) if len(context) >= width]
        if not rows or not len(self._hashes):
            return found
        queries = np.stack([np.frombuffer(contexts[row][-width:].encode("utf-32-le"), "<u4") for row in rows])
        hashes = np.zeros((len(rows), self._stride), dtype=np.uint64)  # of the piece at each offset
        for offset in range(self._length):
            hashes *= np.uint64(_FACTOR)
            hashes += queries[:, offset : offset + self._stride]
        first, last = (self._hashes.searchsorted(hashes, side) for side in ("left", "right"))
        for index in np.flatnonzero((first < last).any(1)):
            found[rows[index]] = self._compare(queries[index], first[index], last[index])
        return found

    def _compare(self, context: Codes, first: npt.NDArray[np.intp], last: npt.NDArray[np.intp]) -> Codes:
        """Compare one context with the text wherever a piece has the same hash; return the code points after it.

        `first` and `last` (stride) delimit the matching pieces for each offset of the context from a piece.
        """
        cached = int((last - first).sum()) > _CACHED_ABOVE
        key = context.tobytes() if cached else b""
        if cached and key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        follow = []
        rarest_first = np.argsort(self._counts[np.minimum(context, len(self._counts) - 1)])
        for offset in np.flatnonzero(first < last):
            for block in range(first[offset], last[offset], _BLOCK):
                pieces = self._pieces[block : min(block + _BLOCK, last[offset])]
                starts = pieces.astype(np.int64) * self._stride - offset
                starts = starts[(starts >= 0) & (starts + len(context) < len(self.codes))]
                for index in rarest_first:
                    if not len(starts):
                        break
                    starts = starts[self.codes[starts + index] == context[index]]
                follow.append(np.unique(self.codes[starts + len(context)]))
        found = np.unique(np.concatenate(follow))
        if cached:
            self._cache[key] = found
            if len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
        return found


class RepeatTracker:
    """Runs of `size` characters of one sample as it grows, `text` at first.

    Kept are the positions where a run ends for the first time, in buckets by the hash of its other characters: some 40
    bytes a character, whatever the size. Matches are compared with the text itself, so a collision forbids nothing.
    Raises MisuseError for a size below 2.
    """

    def __init__(self, size: int, text: str = "") -> None:
        if size < 2:
            raise MisuseError(f"no-repeat is {size}; it must be at least 2, or no character could come twice.")
        self.size = size
        self._power = pow(_FACTOR, size - 1, 1 << 64)
        self._codes = array("I")
        self._hashes = array("Q", [0])  # of the context of each position, the next one's included
        self._earlier = array("q")  # position before each one in its bucket, or _NONE; _KNOWN where the run came before
        self._buckets = array("q", [_NONE] * 16)  # last position in each
        self._before: RepeatTracker | None = None  # of the text that it branched from
        self.add(text)

    def branch(self) -> RepeatTracker:
        """Return a tracker of another sample with the same beginning, which must not change any more."""
        other = RepeatTracker(self.size)
        other.add("".join(map(chr, self._codes[-(self.size - 1) :])))
        other._before = self
        return other

    def add(self, text: str) -> None:
        """Append characters."""
        for code in map(ord, text):
            position, digest, oldest = len(self._codes), self._hashes[-1], len(self._codes) - (self.size - 1)
            if oldest < 0 or code in self._after(self):
                self._earlier.append(_KNOWN)
            else:
                if position >= len(self._buckets):
                    self._double_buckets()
                bucket = digest & (len(self._buckets) - 1)
                self._earlier.append(self._buckets[bucket])
                self._buckets[bucket] = position
            dropped = 0 if oldest < 0 else self._codes[oldest] * self._power
            self._codes.append(code)
            self._hashes.append((digest * _FACTOR + code - dropped) & _MASK)

    def remove(self, count: int) -> None:
        """Remove the last characters."""
        for _ in range(count):
            self._codes.pop()
            self._hashes.pop()
            earlier = self._earlier.pop()
            if earlier != _KNOWN:  # then it was the last in its bucket
                self._buckets[self._hashes[-1] & (len(self._buckets) - 1)] = earlier

    def completions(self) -> str:
        """Return the characters that would complete a run for the second time."""
        codes = self._after(self) + ([] if self._before is None else self._before._after(self))
        return "".join(map(chr, codes))

    def _after(self, other: RepeatTracker) -> list[int]:
        """Return the code points that follow here the last `size` - 1 characters of another text, or of this one."""
        width, digest, found = self.size - 1, other._hashes[-1], list[int]()
        if len(other._codes) < width:
            return found
        position = self._buckets[digest & (len(self._buckets) - 1)]
        while position != _NONE:
            if self._hashes[position] == digest:
                context = other._codes[len(other._codes) - width :]
                found += [self._codes[position]] if self._codes[position - width : position] == context else []
            position = self._earlier[position]
        return found

    def _double_buckets(self) -> None:
        """Distribute the positions over twice as many buckets, in their order."""
        buckets = np.full(2 * len(self._buckets), _NONE, dtype=np.int64)
        earlier, hashes = np.frombuffer(self._earlier, np.int64), np.frombuffer(self._hashes, np.uint64)
        positions = np.flatnonzero(earlier != _KNOWN)
        homes = (hashes[positions] & np.uint64(len(buckets) - 1)).astype(np.int64)
        order = homes.argsort(kind="stable")
        positions, homes = positions[order], homes[order]
        earlier[positions[1:]] = np.where(homes[1:] == homes[:-1], positions[:-1], _NONE)
        earlier[positions[:1]] = _NONE
        buckets[homes] = positions  # the last of each
        self._buckets = array("q", buckets.tobytes())
