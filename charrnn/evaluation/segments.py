"""Score a long text as parallel segments whose total must agree with a single pass over the text.
Shapes: K segments of n characters, W characters of warm-up, T steps of a window."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charrnn.evaluation.window_scorer import TOLERANCE, WINDOW, Bf16Trial, WindowScorer
from charrnn.models.layers import State
from charrnn.scores import Score

_CHARACTERS = 1 << 14  # a window of all segments: larger ones are no faster, and overshoot the text's end by more
_MAX_SEGMENTS = 256
MIN_WARMUPS = 16  # in a segment: so warm-ups and boundaries stay a small share of what is read
_ROUNDS = 8


def segment_count(length: int, warmup: int) -> int:
    """Choose how many segments to cut a text of `length` characters into, each with `warmup` before it."""
    return min(_MAX_SEGMENTS, length // (MIN_WARMUPS * warmup), math.isqrt(length))


def join(first: State, rest: State) -> State:
    """Concatenate two states along the batch."""
    joined: list[Any] = [
        None if one is None or other is None else torch.cat((one, other), 1)
        for one, other in zip(first, rest, strict=True)
    ]
    return State(*joined)


class SegmentScorer:
    """Scores a whole text, as one segment or as many in parallel; fills `each` (N), where given, with the nats of every
    character."""

    def __init__(self, scorer: WindowScorer, each: npt.NDArray[np.float64] | None = None) -> None:
        self.scorer, self.model, self.length, self.each = scorer, scorer.model, len(scorer.tokens), each
        self.bf16 = Bf16Trial(scorer)

    def single_pass(self) -> Score:
        """Score the text in one pass, in full precision."""
        score, _ = self._sweep(np.zeros(1, dtype=np.int64), self.length, self.scorer.start())
        return score

    def parallel(self, count: int, warmup: int) -> tuple[Score, int] | None:
        """Score the text in `count` segments; return the score and the characters after which a state is good enough,
        or None if the segments do not come to agree with a single pass.

        The characters after each segment boundary are scored twice: from the warmed-up state and from the carried one,
        the state at the end of the segment before. The carried state's nats count. The error that is left is what the
        warm-up still does after these characters: the mean difference over their last quarter, as if it never shrank
        again, times the segment length; signed, since differences go both ways, plus two standard errors. If that is
        too much, the next round starts from the carried states, as long as each round at least halves the error (the
        error of a round counts as the sum over all rounds that could follow). Rounding must not be the cause, so bf16
        is given up before the segments are.
        """
        n = -(-self.length // count)
        starts = n * np.arange(count)
        state = join(self.scorer.start(), self._warm_up(starts[1:], warmup))
        previous, memory = math.inf, 3 * warmup
        for _ in range(_ROUNDS):
            warmed = torch.zeros(2, count, 2 * warmup, dtype=torch.float64)
            score, ends = self._sweep(starts, n, state, warmed)
            carried = ends.select(slice(0, -1))
            again = torch.zeros_like(warmed[:, 1:])
            self._sweep(starts[1:], 2 * warmup, carried, again)
            nats, correct = again - warmed[:, 1:]  # (K-1, 2W)
            lasting = nats[:, -2 * warmup // 4 :].mean(1) * n
            error = float(lasting.sum().abs() + 2 * lasting.square().sum().sqrt())
            ratio = error / previous
            if error <= TOLERANCE * self.length * (1 - ratio) or not math.isfinite(error):
                return score + Score(float(nats.sum()), 0, int(correct.sum())), memory
            if ratio > 0.5:
                if not self.bf16.accepted:
                    return None
                self.bf16.accepted, error = False, math.inf
            state, previous, memory = join(self.scorer.start(), carried), error, memory + n
        return None

    def _window(self, segments: int) -> int:
        return min(WINDOW, max(_CHARACTERS // segments, WINDOW // 4))

    def _warm_up(self, starts: npt.NDArray[np.int64], warmup: int) -> State:
        state = self.model.initial_state(len(starts))
        window = self._window(len(starts))
        for first in range(-warmup, 0, window):
            positions = starts[:, None] + np.arange(first, min(first + window, 0))[None]
            _, _, state = self.scorer.read(positions, state)
        return state

    def _sweep(
        self, starts: npt.NDArray[np.int64], length: int, state: State, boundary: Tensor | None = None
    ) -> tuple[Score, State]:
        """Score `length` characters of each segment; return the sum and the state after.

        `boundary` (2, K, 2W), where given, is filled with the nats of each segment's first characters and whether they
        were correct; only windows after these may be read in bf16.
        """
        # a single segment is read in long windows: each call has the same overhead
        window = self._window(len(starts)) if len(starts) > 1 else 4 * self._window(4)
        total = Score()
        for first in range(0, length, window):
            last = min(first + window, length)
            positions = starts[:, None] + np.arange(first, last)[None]
            bf16 = boundary is not None and first >= boundary.shape[-1]
            bf16 = bf16 and self.bf16.accepts(positions, state, length - first)
            nats, correct, inside, state = self.scorer.read_and_score(positions, state, bf16)
            total += Score(float(nats.sum()), int(inside.sum()), int(correct.sum()))
            if self.each is not None:  # what is scored twice is scored from the carried state last
                self.each[positions[inside.numpy()]] = nats[inside].numpy()
            if boundary is not None and first < boundary.shape[-1]:
                boundary[:, :, first:last] = torch.stack((nats, correct))[:, :, : boundary.shape[-1] - first]
        return total, state
