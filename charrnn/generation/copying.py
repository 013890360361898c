"""Runs of characters that a sample must not write: those of the training text, and those of its own.
Both answer one question: after these last characters, which would complete a run? Knows code points, not tokens.
Shapes: N characters of the text, B contexts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from charrnn.errors import MisuseError

Codes = npt.NDArray[np.unsignedinteger]
Hashes = npt.NDArray[np.uint64]
_FACTOR = 0x9E3779B97F4A7C15  # odd, so that no bit is lost: 2^64 divided by the golden ratio
_APART = 16  # characters between the pieces that are listed, at most
_BLOCK = 1 << 16  # places compared at a time
_MANY = 1 << 12  # places: beyond that an answer is kept
_KEPT = 1 << 14  # answers, at most


def check_size(size: int) -> None:
    """Raise MisuseError for a length of runs that would forbid every character."""
    if size < 2:
        raise MisuseError(f"no-copy is {size}; it must be at least 2, since every character is one of the text's.")


class Copies:
    """Know every run of `size` characters of a text (N code points), and so what would complete one.

    Whoever has read `size` - 1 characters of a run has read each of its pieces of `length` that begin at a multiple of
    `apart` in the text, and there is at least one: so only those are listed, by their hash, which takes
    12 N / `apart` bytes (Karp and Rabin 1987; rsync, Tridgell 1999, finds copies like this). What is found is compared
    with the text itself: a hash forbids nothing. Raises MisuseError for a size below 2.
    """

    def __init__(self, codes: Codes, size: int) -> None:
        check_size(size)
        self.codes, self.size = codes, size
        self._apart = min(size // 2, _APART)
        self._length = size - self._apart  # (size - 1) - (apart - 1): a piece fits in wherever the run begins
        pieces = max(0, (len(codes) - 1 - self._length) // self._apart + 1)  # none that nothing follows
        hashes = np.zeros(pieces, dtype=np.uint64)
        for offset in range(self._length):
            hashes *= np.uint64(_FACTOR)
            hashes += codes[offset :: self._apart][:pieces]
        order = hashes.argsort()
        self._hashes, self._places = hashes[order], order.astype(np.uint32 if pieces < 1 << 32 else np.int64)
        self._counts = np.bincount(codes[:: max(1, len(codes) >> 20)])  # of a sample of the text, by code point
        self._following: OrderedDict[bytes, Codes] = OrderedDict()

    def following(self, contexts: Sequence[str]) -> list[Codes]:
        """Give for each context (B), of which the last `size` - 1 characters count, the code points that would complete
        a run; none for a shorter context."""
        width = self.size - 1
        found = [self.codes[:0]] * len(contexts)
        rows = [row for row, context in enumerate(contexts) if len(context) >= width]
        if not rows or not len(self._hashes):
            return found
        asked = np.stack([np.frombuffer(contexts[row][-width:].encode("utf-32-le"), "<u4") for row in rows])
        hashes = np.zeros((len(rows), self._apart), dtype=np.uint64)  # of the pieces at each offset
        for offset in range(self._length):
            hashes *= np.uint64(_FACTOR)
            hashes += asked[:, offset : offset + self._apart]
        first, last = (self._hashes.searchsorted(hashes, side) for side in ("left", "right"))
        for index in np.flatnonzero((first < last).any(1)):
            found[rows[index]] = self._complete(asked[index], first[index], last[index])
        return found

    def _complete(self, context: Codes, first: npt.NDArray[np.intp], last: npt.NDArray[np.intp]) -> Codes:
        """Compare the places where one context may stand in the text; gives the code points that follow it there."""
        many = int((last - first).sum()) > _MANY
        key = context.tobytes() if many else b""
        if many and key in self._following:
            self._following.move_to_end(key)
            return self._following[key]
        follow = []
        rarest_first = np.argsort(self._counts[np.minimum(context, len(self._counts) - 1)])
        for offset in np.flatnonzero(first < last):
            for block in range(first[offset], last[offset], _BLOCK):
                listed = self._places[block : min(block + _BLOCK, last[offset])]
                starts = listed.astype(np.int64) * self._apart - offset
                starts = starts[(starts >= 0) & (starts + len(context) < len(self.codes))]
                for place in rarest_first:
                    if not len(starts):
                        break
                    starts = starts[self.codes[starts + place] == context[place]]
                follow.append(np.unique(self.codes[starts + len(context)]))
        complete = np.unique(np.concatenate(follow))
        if many:
            self._following[key] = complete
            if len(self._following) > _KEPT:
                self._following.popitem(last=False)
        return complete


class Repeats:
    """Know every run of `size` characters of one sample as it grows. Raises MisuseError for a size below 2."""

    def __init__(self, size: int) -> None:
        if size < 2:
            raise MisuseError(f"no-repeat is {size}; it must be at least 2, or no character could come twice.")
        self.size = size
        self._text: list[str] = []
        self._after: dict[str, str] = {}  # what followed each context, in order

    def add(self, text: str) -> None:
        """Add to the end."""
        for character in text:
            context = self._context()
            if len(context) == self.size - 1:
                self._after[context] = self._after.get(context, "") + character
            self._text.append(character)

    def remove(self, count: int) -> None:
        """Take characters off the end."""
        for _ in range(count):
            self._text.pop()
            context = self._context()
            if len(context) == self.size - 1:
                self._after[context] = self._after[context][:-1]

    def following(self) -> str:
        """Give the characters that would complete a run for the second time."""
        return self._after.get(self._context(), "")

    def _context(self) -> str:
        return "".join(self._text[max(0, len(self._text) - self.size + 1) :])
