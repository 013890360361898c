"""Writing text: streaming, in batches, from any prime, until a text would appear.
Knows readers and characters, not files. Shapes: B lanes, V vocabulary."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from charrnn.data.decoding import check_characters
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import MisuseError
from charrnn.generation.backtracking import LAG, Place, Trail
from charrnn.generation.copying import Copies, Repeats
from charrnn.generation.filters import Filters
from charrnn.models import likelihood
from charrnn.models.cells import softmax
from charrnn.models.interface import LanguageModel, ModelState
from charrnn.scores import NATS_PER_BIT

# what samples are nearest to real text with (docs/results.md)
TEMPERATURE = 1.0
MIN_P = 0.02
_WINDOW = 1024
_MAX_UNSCORED = 1 << 16  # logits that wait for their price, at most
_NOTHING = (-1, 0, 0)  # written in no lane


@dataclass(frozen=True)
class Sample:
    """Hold one finished continuation, and its price in nats under the unfiltered model at temperature 1."""

    prime: str
    text: str
    nats: float
    seed: int | None  # None where nothing was drawn
    index: int
    ended_early: bool = False  # everything else would have been a copy

    @property
    def bits_per_character(self) -> float | None:
        """Give the mean price of a written character; None where nothing was written."""
        return self.nats / NATS_PER_BIT / len(self.text) if self.text else None


class _PartialSample:
    """What one sample has written: `pending` is held back because it may begin the text to stop before, or may still be
    taken back."""

    def __init__(self, prime: str, until: str | None, no_repeat: int | None, lag: int) -> None:
        self.prime, self.until, self.lag = prime, until, lag
        self.released, self.pending, self.done, self.ended_early = "", "", False, False
        self.length = 0  # characters written
        self.nats: list[float] = []  # their prices, as far as they are known
        self.trail = Trail(lag) if lag else None
        self.repeats = None if no_repeat is None else Repeats(no_repeat)
        if self.repeats is not None:
            self.repeats.add(prime)

    def write(self, character: str, length: int) -> str:
        """Add a character, of so many in all; gives what may be shown now."""
        self.pending += character
        self.length += 1
        if self.repeats is not None:
            self.repeats.add(character)
        if self.until is not None and self.pending.endswith(self.until):
            show, self.pending, self.done = self.pending[: -len(self.until)], "", True
        elif self.length == length:
            show, self.pending, self.done = self.pending, "", True
        else:
            keep = max(self._overlap(), min(self.lag, len(self.pending)))
            show, self.pending = self.pending[: len(self.pending) - keep], self.pending[len(self.pending) - keep :]
        self.released += show
        if show and self.trail is not None:
            self.trail.tries = 0
        return show

    def go_back(self) -> Place | None:
        """Take back its last characters at a dead end; gives the place to write anew, or None where there is none."""
        assert self.trail is not None
        count = self.trail.go_back()
        if count is None:
            return None
        self.pending, self.length = self.pending[: len(self.pending) - count], self.length - count
        if self.repeats is not None:
            self.repeats.remove(count)
        return self.trail.places[-1]

    def end(self) -> str:
        """End before its time; gives what may be shown now."""
        show, self.pending, self.done, self.ended_early = self.pending, "", True, True
        self.released += show
        return show

    def last(self, count: int) -> str:
        """Give its last characters, the prime's included, fewer where there are no more."""
        return (self.prime[-count:] + self.released[-count:] + self.pending)[-count:]

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


class Sampler:
    """Write on from B primes side by side; iterate for what each lane shows at each step, then read `samples`.

    Lane i draws from the random stream (seed, indices[i]) alone: what it writes does not depend on its neighbours.
    No character completes a run that `no_copy` knows, nor one of `no_repeat` characters that the sample has already; at
    a dead end a lane goes back, and shows what it writes up to LAG characters later.
    Raises MisuseError for a length below 1, an empty `until`, or a `no_repeat` below 2; CharRNNError for a prime with a
    lone surrogate.
    """

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        primes: Sequence[str],
        length: int,
        filters: Filters,
        *,
        seed: int,
        indices: Sequence[int],
        until: str | None = None,
        no_copy: Copies | None = None,
        no_repeat: int | None = None,
    ) -> None:
        if length < 1:
            raise MisuseError(f"length is {length}; it must be at least 1.")
        if until == "":
            raise MisuseError("until is empty; name the text to stop before, or leave it out.")
        for prime in primes:
            check_characters(prime, "prime")
        self.model, self.vocabulary, self.filters = model, vocabulary, filters
        self.primes, self.length, self.seed, self.indices = primes, length, seed, indices
        self.no_copy = no_copy
        lag = min(max(0 if no_copy is None else no_copy.size, no_repeat or 0), LAG)
        self.lanes = [_PartialSample(prime, until, no_repeat, lag) for prime in primes]
        self._avoiding = lag > 0
        # steps not yet priced: logits of their rows (B, V), and for each row the lane, its place, and the token chosen
        self._unscored: list[tuple[npt.NDArray[np.float64], list[tuple[int, int, int]]]] = []

    @property
    def samples(self) -> list[Sample]:
        """Give what was written, a sample a lane."""
        self._score_pending()
        return [
            Sample(
                lane.prime,
                lane.released,
                float(sum(lane.nats[: len(lane.released)])),
                self.seed,
                index,
                lane.ended_early,
            )
            for lane, index in zip(self.lanes, self.indices, strict=True)
        ]

    def __iter__(self) -> Iterator[list[str]]:
        draws = [_draws(self.seed, index) for index in self.indices]
        logits, state, queues = self._read_primes()
        rows = list(range(len(self.lanes)))  # lane of each row that still runs
        while True:
            drawn = np.array([0.0 if queues[index] else next(draws[index]) for index in rows])
            writing = [None if queues[index] else self.lanes[index] for index in rows]  # lanes beyond their primes
            chosen = self._choose_allowed(logits, drawn, writing) if self._avoiding else self._choose(logits, drawn)
            shown = [""] * len(self.lanes)
            written, again = [_NOTHING] * len(rows), dict[int, Place]()  # again: rows that go back, and where to
            for row, (index, lane) in enumerate(zip(rows, writing, strict=True)):
                if lane is None:
                    chosen[row] = queues[index].popleft()
                elif chosen[row] >= 0:
                    written[row] = index, lane.length, int(chosen[row])
                    shown[index] = lane.write(self.vocabulary.characters[chosen[row]], self.length)
                else:
                    place = lane.go_back()
                    if place is None:
                        shown[index] = lane.end()
                    else:
                        again[row], chosen[row] = place, place.token
            self._unscored.append((logits, written))
            if len(self._unscored) * logits.size >= _MAX_UNSCORED:
                self._score_pending()
            yield shown
            running = [row for row, index in enumerate(rows) if not self.lanes[index].done]
            if not running:
                return
            earlier = list[ModelState]()  # states of rows that go back
            source = list(range(len(rows)))
            for row, place in again.items():
                source[row] = len(rows) + len(earlier)
                earlier.append(place.before.select(np.array([place.row])))
            if again:
                state = state.joined(earlier)
            if again or len(running) < len(rows):
                state = state.select(np.array(source)[running])
                rows, chosen = [rows[row] for row in running], chosen[running]
            before = state
            logits, state = self._step(chosen[:, None], before)
            for row, (old, index) in enumerate(zip(running, rows, strict=True)):
                trail = self.lanes[index].trail
                if trail is not None and old not in again and not queues[index]:
                    trail.arrive(Place(before, row, int(chosen[row])))

    def _read_primes(self) -> tuple[npt.NDArray[np.float64], ModelState, list[deque[int]]]:
        """Read at once what all primes share; gives the logits after it, and the rest that each lane is fed."""
        newline = [self.vocabulary.newline]
        encoded = [newline + self.vocabulary.encode(prime).tolist() for prime in self.primes]
        shared = len(encoded[0]) if all(tokens == encoded[0] for tokens in encoded) else 1
        shared -= self._avoiding  # to go back to the first place is to read the last of the prime again
        logits, state = np.zeros((1, len(self.vocabulary))), self.model.initial_state(1)
        for first in range(0, shared, _WINDOW):
            logits, state = self._step(np.array([encoded[0][first : min(first + _WINDOW, shared)]]), state)
        lanes = np.zeros(len(encoded), dtype=np.int64)
        return np.repeat(logits, len(encoded), 0), state.select(lanes), [deque(tokens[shared:]) for tokens in encoded]

    def _step(self, tokens: npt.NDArray[np.int64], state: ModelState) -> tuple[npt.NDArray[np.float64], ModelState]:
        logits, state = self.model.step(tokens, state)
        return logits.astype(np.float64), state

    def _choose(self, logits: npt.NDArray[np.float64], draws: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Draw one token a row (B) by inverting the cumulative distribution."""
        cumulative = self.filters(logits).cumsum(-1)
        return np.asarray((cumulative > draws[:, None] * cumulative[:, -1:]).argmax(-1))

    def _choose_allowed(
        self, logits: npt.NDArray[np.float64], draws: npt.NDArray[np.float64], writing: Sequence[_PartialSample | None]
    ) -> npt.NDArray[np.int64]:
        """Draw one token a row (B) that completes no run that must not be; -1 at a dead end, and where nothing is to be
        written."""
        contexts = ["" if lane is None or self.no_copy is None else lane.last(self.no_copy.size) for lane in writing]
        none = np.empty(0, dtype=np.uint32)
        copies = [none] * len(writing) if self.no_copy is None else self.no_copy.following(contexts)
        filtered, unfiltered = self.filters(logits), softmax(logits, self.filters.temperature)
        chosen = np.full(len(writing), -1)
        for row, lane in enumerate(writing):
            if lane is None:
                continue
            forbidden = self.vocabulary.tokens(copies[row])
            if lane.repeats is not None:
                forbidden = np.append(forbidden, self.vocabulary.encode(lane.repeats.following()))
            forbidden = forbidden[forbidden != self.vocabulary.escape]
            assert lane.trail is not None
            draw = None if self.filters.greedy else float(draws[row])
            token = lane.trail.choose(filtered[row], unfiltered[row], forbidden, draw)
            chosen[row] = -1 if token is None else token
        return chosen

    def _score_pending(self) -> None:
        """Price what was written since the last time: many steps at once, since each call costs as much as a step."""
        if self._unscored:
            logits = np.concatenate([each for each, _ in self._unscored])
            written = [pair for _, pairs in self._unscored for pair in pairs]
            costs = likelihood.target_nats(self.vocabulary, logits, np.array([token for _, _, token in written]))
            for (index, place, _), cost in zip(written, costs.tolist(), strict=True):
                if index >= 0:
                    self.lanes[index].nats[place:] = [cost]  # what was there was taken back
            self._unscored.clear()
