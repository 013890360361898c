"""The training split as batches of contiguous rows, one window of characters at a time.
Shapes: N characters, D documents, B batch rows, T steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charrnn.data.corpus import Tokens
from charrnn.data.splits import BLOCK, ends_in_order, ends_in_text

# independent random streams of the seed
_SHUFFLING, _OFFSET, _LOOKAHEAD, _BEGINNINGS = 2, 3, 4, 5


class Window(NamedTuple):
    """The tokens of one window: the targets, the character before each (`inputs`) and the one after each (`following`).

    `following` goes on beyond the window by the lookahead; None if there is no lookahead.
    """

    inputs: npt.NDArray[np.int64]  # (B, T)
    targets: npt.NDArray[np.int64]  # (B, T)
    following: npt.NDArray[np.int64] | None = None  # (B, T + 0 to lookahead)


class Span(NamedTuple):
    """The part of each row that a window covers, from `first` to before `last`, and where its lookahead ends."""

    first: int
    last: int
    end: int | None = None  # None if there is no lookahead


class EpochOrder(NamedTuple):
    """Where the first row of an epoch starts, and, if documents are shuffled, where they lie.

    The character at position p of the epoch's text is the one at p + shifts[d] of the split, where d is the first
    document with p < ends[d].
    """

    offset: int
    ends: npt.NDArray[np.int64] | None = None  # (D)
    shifts: npt.NDArray[np.int64] | None = None  # (D)


class Rows(NamedTuple):
    """The rows of a split of N characters: each one's length, and the windows that all are cut into together."""

    length: int
    windows: int
    batch_size: int

    @classmethod
    def of(cls, characters: int, batch_size: int, sequence_length: int) -> Rows:
        """Lay a split out as B rows, in as few windows of at most T characters as will do."""
        length = characters // batch_size
        return cls(length, -(-length // sequence_length), batch_size)

    def first(self, window: int) -> int:
        """Return where in each row a window of an epoch starts; windows share the row evenly."""
        return window * self.length // self.windows

    def characters_read(self, steps: int) -> int:
        """Count the characters in the windows of so many steps."""
        epochs, window = divmod(steps, self.windows)
        return self.batch_size * (epochs * self.length + self.first(window))


@dataclass
class ContiguousBatches:
    """Read the training split as B contiguous rows, in windows of at most T characters, cut elsewhere each epoch.

    The split is a ring. An epoch starts at a random offset and covers every character once, except for fewer than B.
    The windows of an epoch have equal lengths, up to one character.
    """

    tokens: Tokens
    starts: npt.NDArray[np.int64]
    boundary: Sequence[int]  # tokens (K), of which the last stands before the split, and the first after it
    batch_size: int
    sequence_length: int
    seed: int
    shuffled: bool = False
    lookahead: int = 0  # maximum number of characters to show after a window
    _latest: tuple[int, EpochOrder] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        assert self.batch_size <= len(self.tokens)
        self.rows = Rows.of(len(self.tokens), self.batch_size, self.sequence_length)
        self.row_length, self.windows = self.rows.length, self.rows.windows

    def window(self, epoch: int, index: int) -> Window:
        """Return one window of an epoch; the boundary stands before the split's first character and after its last."""
        order, (first, last, end), size = self.order(epoch), self.span(epoch, index), len(self.tokens)
        rows = order.offset + self.row_length * np.arange(self.batch_size)[:, None]  # (B, 1)
        positions = (rows + np.arange(first - 1, last)) % size  # (B, 1 + T)
        tokens = self._tokens_at(positions, order)
        targets = np.ascontiguousarray(tokens[:, 1:])
        inputs = np.where(positions[:, 1:] == 0, self.boundary[-1], tokens[:, :-1])
        if end is None:
            return Window(inputs, targets)
        positions = (rows + np.arange(first + 1, end + 1)) % size  # (B, T + lookahead)
        return Window(inputs, targets, np.where(positions == 0, self.boundary[0], self._tokens_at(positions, order)))

    def beginnings(self, step: int, length: int) -> npt.NDArray[np.int64]:
        """Return the first `length` characters of B documents (B, T), drawn at random for a step; of shorter ones, what
        follows in the split as well."""
        drawn = np.random.default_rng([self.seed, _BEGINNINGS, step]).integers(len(self.starts), size=self.batch_size)
        positions = self.starts[drawn][:, None] + np.arange(length)  # (B, T)
        return np.asarray(self.tokens[positions % len(self.tokens)], dtype=np.int64)

    def span(self, epoch: int, index: int) -> Span:
        """Return which part of each row a window covers.

        The length of its lookahead is drawn uniformly, so that a backward network learns to start anywhere, and to
        predict after few characters as well as after many.
        """
        first, last = self.rows.first(index), self.rows.first(index + 1)
        if self.lookahead == 0:
            return Span(first, last)
        length = int(np.random.default_rng([self.seed, _LOOKAHEAD, epoch, index]).integers(self.lookahead + 1))
        # less in a text so short that the ring would come round to the window
        return Span(first, last, last + min(length, max(0, len(self.tokens) - 1 - (last - first))))

    def order(self, epoch: int) -> EpochOrder:
        """Return in which order an epoch reads the split; that of the latest epoch is cached."""
        if self._latest is None or self._latest[0] != epoch:
            offset = int(np.random.default_rng([self.seed, _OFFSET, epoch]).integers(len(self.tokens)))
            self._latest = epoch, EpochOrder(offset, *(self._shuffle(epoch) if self.shuffled else ()))
        return self._latest[1]

    def _shuffle(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        order = np.random.default_rng([self.seed, _SHUFFLING, epoch]).permutation(len(self.starts))
        ends = ends_in_order(self.starts, len(self.tokens), order)
        for first in range(0, len(order), BLOCK):  # in place: there may be very many documents
            block = slice(first, first + BLOCK)
            order[block] = ends_in_text(self.starts, len(self.tokens), order[block]) - ends[block]
        return ends, order

    def _tokens_at(self, positions: npt.NDArray[np.int64], order: EpochOrder) -> npt.NDArray[np.int64]:
        """Look up the tokens at positions of the epoch's text; building that text could take more than memory."""
        if order.ends is not None and order.shifts is not None:
            positions = positions + order.shifts[np.searchsorted(order.ends, positions, "right")]
        return self.tokens[positions].astype(np.int64)
