"""Going back from a dead end: the last places of a sample, and at which of them to turn off.
A dead end is a place where all that may be written is unlikely, the model being sure of a character that would complete
a run. Something else there would be an error; so the sample turns off at an earlier place, where there was a choice.
Knows tokens, not characters. Shapes: V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from charrnn.models.cells import Probabilities
from charrnn.models.interface import ModelState

LAG = 64  # characters that can be taken back, at most
TRIES = 200  # dead ends without anything being settled, until a sample is given up
_CHOICE = 0.1  # the probability that must be left at a place for it to be no dead end
_OUTSIDE = 1e-9  # what a character that the filters leave out counts for: something only where there is nothing else


@dataclass
class Place:
    """One place of a sample: how to read up to it, and what was found there.

    `before` and `row` are the state before `token`, the one that stands before this place.
    """

    before: ModelState
    row: int
    token: int
    chosen: int = -1
    barred: list[int] = field(default_factory=list)  # chosen before, and led to dead ends
    spare: float = 0.0  # the probability of all that may be written here and was not chosen


class Trail:
    """The places of one sample that can still be taken back; the last is the one to be written next."""

    def __init__(self, lag: int) -> None:
        self.places: list[Place] = []
        self.lag = lag
        self.tries = 0  # dead ends since something was settled

    def arrive(self, place: Place) -> None:
        """Come to a new place."""
        self.places.append(place)
        del self.places[: -(self.lag + 1)]

    def choose(
        self,
        filtered: Probabilities,
        unfiltered: Probabilities,
        forbidden: npt.NDArray[np.integer],
        draw: float | None,
    ) -> int | None:
        """Choose a token for the last place, by inverting the cumulative distribution, or if `draw` is None the
        likeliest; give None at a dead end.

        All of `filtered` (V) but the forbidden and the barred may be written; of `unfiltered` (V) if none is left.
        """
        here = self.places[-1]
        inside, outside = filtered.copy(), unfiltered.copy()
        for weights in (inside, outside):
            weights[forbidden] = weights[here.barred] = 0.0
        here.spare = _worth(inside, outside)
        if here.spare < _CHOICE and self._turn() != len(self.places) - 1:
            return None
        weights = inside if inside.any() else outside
        if draw is None:
            here.chosen = int(weights.argmax())
        else:
            cumulative = weights.cumsum()
            here.chosen = int((cumulative > draw * cumulative[-1]).argmax())
        inside[here.chosen] = outside[here.chosen] = 0.0
        here.spare = _worth(inside, outside)
        return here.chosen

    def go_back(self) -> int | None:
        """Turn off at an earlier place; gives how many characters are taken back, or None where there is no way on."""
        turn = self._turn()
        self.tries += 1
        if turn is None or self.tries > TRIES:
            return None
        count = len(self.places) - 1 - turn
        del self.places[turn + 1 :]
        self.places[turn].barred.append(self.places[turn].chosen)
        return count

    def _turn(self) -> int | None:
        """Find the last place that leaves a choice, else the one that leaves most; None if nothing is left at any."""
        spares = [place.spare for place in self.places]
        choices = [index for index, spare in enumerate(spares) if spare >= _CHOICE]
        best = choices[-1] if choices else int(np.argmax(spares))
        return best if spares[best] > 0.0 else None


def _worth(inside: Probabilities, outside: Probabilities) -> float:
    return float(inside.sum() + _OUTSIDE * outside.sum())
