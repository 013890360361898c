"""Backtracking from dead ends: the latest choices of a sample, and which of them to make differently.
At a dead end every permitted character is unlikely, because the model is sure of one that would complete a forbidden
run. Writing another one there would be a mistake, so the sample returns to an earlier choice that had alternatives.
Knows tokens, not characters. Shapes: V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from charrnn.models.cells import Probabilities
from charrnn.models.interface import ModelState

MAX_BACKTRACK = 64  # characters that can be taken back
MAX_DEAD_ENDS = 200  # without a character becoming final; then the sample ends
_MIN_REMAINING = 0.1  # probability; a position with less left is a dead end
_FILTERED_WEIGHT = 1e-9  # of a token that the filters remove: it counts only where nothing else is left


@dataclass
class ChoicePoint:
    """A position of a sample at which a token is chosen.

    `token` is the one before that position, and row `row` of `state` the model's state before it.
    """

    state: ModelState
    row: int
    token: int
    chosen: int = -1
    rejected: list[int] = field(default_factory=list)  # earlier choices, which led to dead ends
    remaining: float = 0.0  # probability of the permitted tokens that were not chosen


class BacktrackStack:
    """The choice points of one sample that can still be returned to; the last is the position to write next."""

    def __init__(self, depth: int) -> None:
        self.points: list[ChoicePoint] = []
        self.depth = depth
        self.dead_ends = 0  # since a character became final

    def push(self, point: ChoicePoint) -> None:
        """Add the next position, and forget those out of reach."""
        self.points.append(point)
        del self.points[: -(self.depth + 1)]

    def choose(
        self, filtered: Probabilities, unfiltered: Probabilities, forbidden: npt.NDArray[np.integer], draw: float | None
    ) -> int | None:
        """Return a token for the last position, or None at a dead end.

        The token is drawn by inverting the cumulative distribution at `draw`, or is the likeliest where that is None:
        among all of `filtered` (V) but the forbidden and the rejected ones, or of `unfiltered` (V) if none is left.
        """
        point = self.points[-1]
        inside, outside = filtered.copy(), unfiltered.copy()
        for weights in (inside, outside):
            weights[forbidden] = weights[point.rejected] = 0.0
        point.remaining = _remaining(inside, outside)
        if point.remaining < _MIN_REMAINING and self._best_point() != len(self.points) - 1:
            return None
        weights = inside if inside.any() else outside
        if draw is None:
            point.chosen = int(weights.argmax())
        else:
            cumulative = weights.cumsum()
            point.chosen = int((cumulative > draw * cumulative[-1]).argmax())
        inside[point.chosen] = outside[point.chosen] = 0.0
        point.remaining = _remaining(inside, outside)
        return point.chosen

    def backtrack(self) -> int | None:
        """Return to an earlier choice and reject it; return how many characters that takes back, None to give up."""
        best = self._best_point()
        self.dead_ends += 1
        if best is None or self.dead_ends > MAX_DEAD_ENDS:
            return None
        count = len(self.points) - 1 - best
        del self.points[best + 1 :]
        self.points[best].rejected.append(self.points[best].chosen)
        return count

    def _best_point(self) -> int | None:
        """Find the last point with enough probability left, else the one with most; None if none has any."""
        remaining = [point.remaining for point in self.points]
        enough = [index for index, left in enumerate(remaining) if left >= _MIN_REMAINING]
        best = enough[-1] if enough else int(np.argmax(remaining))
        return best if remaining[best] > 0.0 else None


def _remaining(inside: Probabilities, outside: Probabilities) -> float:
    return float(inside.sum() + _FILTERED_WEIGHT * outside.sum())
