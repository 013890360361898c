"""Writing text: streaming, in batches, from any prime, until a text would appear.
Knows readers and characters, not files. Shapes: B lanes, V vocabulary."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from charrnn.errors import MisuseError
from charrnn.filters import Filters
from charrnn.metrics import NATS_PER_BIT
from charrnn.reader import Carried, Reader
from charrnn.text import check_characters
from charrnn.vocabulary import Vocabulary

TEMPERATURE = 0.8
_WINDOW = 1024
_UNPRICED = 1 << 16  # logits that wait for their price, at most


@dataclass(frozen=True)
class Sample:
    """Hold one finished continuation, and its price in nats under the unfiltered model at temperature 1."""

    prime: str
    text: str
    nats: float
    seed: int | None  # None where nothing was drawn
    index: int

    @property
    def bits_per_character(self) -> float | None:
        """Give the mean price of a written character; None where nothing was written."""
        return self.nats / NATS_PER_BIT / len(self.text) if self.text else None


class _Lane:
    """What one sample has written: `pending` is held back because it may begin the text to stop before."""

    def __init__(self, until: str | None) -> None:
        self.until, self.released, self.pending, self.done = until, "", "", False
        self.length = 0  # characters written
        self.nats: list[float] = []  # their prices, as far as they are known

    def write(self, character: str, length: int) -> str:
        """Add a character, of so many in all; gives what may be shown now."""
        self.pending += character
        self.length += 1
        if self.until is not None and self.pending.endswith(self.until):
            show, self.pending, self.done = self.pending[: -len(self.until)], "", True
        elif self.length == length:
            show, self.pending, self.done = self.pending, "", True
        else:
            keep = self._overlap()
            show, self.pending = self.pending[: len(self.pending) - keep], self.pending[len(self.pending) - keep :]
        self.released += show
        return show

    def _overlap(self) -> int:
        if self.until is None:
            return 0
        longest = min(len(self.pending), len(self.until) - 1)
        return next((size for size in range(longest, 0, -1) if self.pending.endswith(self.until[:size])), 0)


def _draws(seed: int, index: int) -> Iterator[float]:
    """Give the uniform numbers of one stream, drawn in blocks."""
    stream = np.random.default_rng([seed, index])
    while True:
        yield from stream.random(256).tolist()


class Writer:
    """Write on from B primes side by side; iterate for what each lane shows at each step, then read `samples`.

    Lane i draws from the random stream (seed, indices[i]) alone: what it writes does not depend on its neighbours.
    Raises MisuseError for a length below 1 or an empty `until`; CharRNNError for a prime with a lone surrogate.
    """

    def __init__(
        self,
        model: Reader,
        vocabulary: Vocabulary,
        primes: Sequence[str],
        length: int,
        filters: Filters,
        *,
        seed: int,
        indices: Sequence[int],
        until: str | None = None,
    ) -> None:
        if length < 1:
            raise MisuseError(f"length is {length}; it must be at least 1.")
        if until == "":
            raise MisuseError("until is empty; name the text to stop before, or leave it out.")
        for prime in primes:
            check_characters(prime, "prime")
        self.model, self.vocabulary, self.filters = model, vocabulary, filters
        self.primes, self.length, self.seed, self.indices = primes, length, seed, indices
        self.lanes = [_Lane(until) for _ in primes]
        # steps not yet priced: logits of their rows (B, V), and for each row the lane and the token chosen
        self._unpriced: list[tuple[npt.NDArray[np.float64], list[tuple[int, int]]]] = []

    @property
    def samples(self) -> list[Sample]:
        """Give what was written, a sample a lane."""
        self._price()
        return [
            Sample(prime, lane.released, float(sum(lane.nats[: len(lane.released)])), self.seed, index)
            for prime, lane, index in zip(self.primes, self.lanes, self.indices, strict=True)
        ]

    def __iter__(self) -> Iterator[list[str]]:
        draws = [_draws(self.seed, index) for index in self.indices]
        logits, state, queues = self._read_primes()
        rows = list(range(len(self.lanes)))  # lane of each row that still runs
        while True:
            drawn = np.array([0.0 if queues[index] else next(draws[index]) for index in rows])
            chosen = self._choose(logits, drawn)
            shown = [""] * len(self.lanes)
            written = list(zip(rows, chosen.tolist(), strict=True))
            for row, (index, token) in enumerate(written):
                if queues[index]:
                    chosen[row] = queues[index].popleft()
                    written[row] = -1, 0
                else:
                    shown[index] = self.lanes[index].write(self.vocabulary.characters[token], self.length)
            self._unpriced.append((logits, written))
            if len(self._unpriced) * logits.size >= _UNPRICED:
                self._price()
            yield shown
            running = [row for row, index in enumerate(rows) if not self.lanes[index].done]
            if not running:
                return
            if len(running) < len(rows):
                rows, chosen = [rows[row] for row in running], chosen[running]
                state = state.lanes(np.array(running))
            logits, state = self._step(chosen[:, None], state)

    def _read_primes(self) -> tuple[npt.NDArray[np.float64], Carried, list[deque[int]]]:
        """Read at once what all primes share; gives the logits after it, and the rest that each lane is fed."""
        newline = [self.vocabulary.newline]
        encoded = [newline + self.vocabulary.encode(prime).tolist() for prime in self.primes]
        shared = len(encoded[0]) if all(tokens == encoded[0] for tokens in encoded) else 1
        state = self.model.start_state(1)
        for first in range(0, shared, _WINDOW):
            logits, state = self._step(np.array([encoded[0][first : min(first + _WINDOW, shared)]]), state)
        lanes = np.zeros(len(encoded), dtype=np.int64)
        return np.repeat(logits, len(encoded), 0), state.lanes(lanes), [deque(tokens[shared:]) for tokens in encoded]

    def _step(self, tokens: npt.NDArray[np.int64], state: Carried) -> tuple[npt.NDArray[np.float64], Carried]:
        logits, state = self.model.step(tokens, state)
        return logits.astype(np.float64), state

    def _choose(self, logits: npt.NDArray[np.float64], draws: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Draw one token a row (B) by inverting the cumulative distribution."""
        cumulative = self.filters(logits).cumsum(-1)
        return np.asarray((cumulative > draws[:, None] * cumulative[:, -1:]).argmax(-1))

    def _price(self) -> None:
        """Price what was written since the last time: many steps at once, since each call costs as much as a step."""
        if self._unpriced:
            logits = np.concatenate([each for each, _ in self._unpriced])
            written = [pair for _, pairs in self._unpriced for pair in pairs]
            costs = self.vocabulary.costs(logits, np.array([token for _, token in written]))
            for (index, _), cost in zip(written, costs.tolist(), strict=True):
                if index >= 0:
                    self.lanes[index].nats.append(cost)
            self._unpriced.clear()
