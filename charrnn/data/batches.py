"""A training part read as a batch of contiguous rows, a window at a time.
Shapes: N characters, D documents, B rows, T steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charrnn.data.corpus import Tokens
from charrnn.data.splits import _end, _ends

_SHUFFLING, _OFFSET, _LOOKAHEAD = 2, 3, 4


class Window(NamedTuple):
    """Hold one window of every lane, as tokens: each target's own place, the one before (`inputs`), and the one after
    (`following`), which goes on beyond the window; None where no lookahead was asked for."""

    inputs: npt.NDArray[np.int64]  # (B, T)
    targets: npt.NDArray[np.int64]  # (B, T)
    following: npt.NDArray[np.int64] | None = None  # (B, T + 0 to lookahead)


class Span(NamedTuple):
    """Say which characters of each lane a window has, from `first` to before `last`, and where its lookahead ends."""

    first: int
    last: int
    end: int | None = None  # None where no lookahead was asked for


@dataclass
class ContiguousBatches:
    """Read a training part as B contiguous lanes, about T characters a window, in another way each epoch.

    The part is a ring: an epoch begins at an offset of its own, so that lanes and windows are cut elsewhere
    each time, and covers every character once but for fewer than B. Windows share the lane evenly (none is a stub).
    """

    tokens: Tokens
    starts: npt.NDArray[np.int64]
    newline: int
    batch_size: int
    sequence_length: int
    seed: int
    shuffled: bool = False
    lookahead: int = 0  # characters after a window that are shown as well, at most
    _epoch: int = -1

    def __post_init__(self) -> None:
        assert self.batch_size <= len(self.tokens)
        self.lane_length = len(self.tokens) // self.batch_size
        self.windows = -(-self.lane_length // self.sequence_length)

    def window(self, epoch: int, index: int) -> Window:
        """Give one window; a newline stands before the part's first character and after its last.

        How much lookahead it has is drawn for each window, from none to all, so that whoever reads backwards learns
        to begin anywhere, and to speak after few characters as after many.
        """
        first, last, end = self.span(epoch, index)
        lanes, size = self.offset + self.lane_length * np.arange(self.batch_size), len(self.tokens)
        places = (lanes[:, None] + np.arange(first - 1, last)[None, :]) % size  # (B, 1 + T)
        read = self._read(places)
        targets = np.ascontiguousarray(read[:, 1:])
        inputs = np.where(places[:, 1:] == 0, self.newline, read[:, :-1])
        if end is None:
            return Window(inputs, targets)
        later = (lanes[:, None] + np.arange(first, end)[None, :] + 1) % size  # (B, T + lookahead)
        return Window(inputs, targets, np.where(later == 0, self.newline, self._read(later)))

    def span(self, epoch: int, index: int) -> Span:
        """Give where a window lies in each lane, and put the lanes in that epoch's order."""
        if epoch != self._epoch:
            self._begin(epoch)
        first = index * self.lane_length // self.windows
        last = (index + 1) * self.lane_length // self.windows
        if self.lookahead == 0:
            return Span(first, last)
        draw = np.random.default_rng([self.seed, _LOOKAHEAD, epoch, index])
        # in a text so short that the ring would come round to the window, there is less of it
        most = max(0, len(self.tokens) - 1 - (last - first))
        return Span(first, last, last + min(int(draw.integers(self.lookahead + 1)), most))

    def arrangement(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Give where documents end in this epoch's order (D), and how far each lies in the text from there (D)."""
        return self._ends, _end(self.starts, len(self.tokens), self._order) - self._ends

    def _read(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Give the tokens at places of the ring: of the text, or of its documents in this epoch's order."""
        if self.shuffled:
            # looked up and not put together anew: a text may be larger than memory
            document = np.searchsorted(self._ends, places, "right")
            places = places - self._ends[document] + _end(self.starts, len(self.tokens), self._order[document])
        return self.tokens[places].astype(np.int64)

    def _begin(self, epoch: int) -> None:
        if self.shuffled:
            self._order = np.random.default_rng([self.seed, _SHUFFLING, epoch]).permutation(len(self.starts))
            self._ends = _ends(self.starts, len(self.tokens), self._order)
        self.offset = int(np.random.default_rng([self.seed, _OFFSET, epoch]).integers(len(self.tokens)))
        self._epoch = epoch
