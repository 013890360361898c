"""Units and what they follow: which signals of a model go with which features of a text, more closely than chance.
Shapes: N characters, n those of one half, H hidden, F features, G groups of H signals, K circular shifts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from charrnn.inspection import features
from charrnn.inspection.features import Feature
from charrnn.inspection.states import States
from charrnn.messages import Progress, no_progress
from charrnn.models.interface import Floats

SHIFTS = 100
LEAST_SHIFT = 100  # characters, as far as a half has room for that
QUANTILE = 0.95  # of the maxima of shifted features: one text in twenty has a larger one by chance
LISTED = 50  # signals of a feature at most: hundreds follow the space
HIGHLIGHTS = 12
_CENTRE = {"auc": 0.5, "r": 0.0}  # what chance gives on average
_CONSTANT = 1e-5  # standard deviation, below which a signal is rounding errors


@dataclass(frozen=True)
class Unit:
    """A signal and a feature that it follows: the area under the ROC curve of a binary feature, else Pearson's r, in
    the half of the text where it was found and in the other. Of a `sign` of -1 both are turned round: the signal is low
    where the feature is high."""

    direction: str
    layer: int
    state: str
    unit: int
    feature: str
    statistic: str
    sign: int
    found: float
    confirmed: float

    def fields(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return {**self.__dict__, "found": round(self.found, 4), "confirmed": round(self.confirmed, 4)}


@dataclass(frozen=True)
class Followed:
    """A feature with its mean over the text, how many signals follow it, and the one that was found to do so best."""

    feature: Feature
    mean: float
    signals: int
    best: Unit

    def fields(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        of = self.feature
        average = "share" if of.kind == "binary" else "mean"
        named = {"feature": of.name, "kind": of.kind, average: self.mean, "description": of.description}
        return {**named, "signals": self.signals, "best": self.best.fields()}


@dataclass(frozen=True)
class Units:
    """The signals that follow a feature more closely than chance in both halves of a text, best first.

    features     those that vary in both halves, in the order of `features.FEATURES`
    threshold    by statistic: what chance exceeds in the first half once in twenty texts; None without such a feature
    confirmation the same of the second half
    units        at most LISTED of a feature
    highlights   those most worth looking at: the best of each feature, then the second best
    """

    features: tuple[Followed, ...]
    threshold: dict[str, float | None]
    confirmation: dict[str, float | None]
    units: tuple[Unit, ...]
    highlights: tuple[Unit, ...]

    def fields(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return {
            "features": [one.fields() for one in self.features],
            "threshold": self.threshold,
            "confirmation": self.confirmation,
            "units": [one.fields() for one in self.units],
            "highlights": [one.fields() for one in self.highlights],
        }


def find(states: States, text: str, *, seed: int = 1, progress: Progress = no_progress) -> Units:
    """Find the units that follow features of a text (N).

    A signal is reported if it goes with a feature above the threshold in the first half, and in the second half again,
    in the same direction. Thresholds come from circular shifts of the features within a half, which keep how slowly
    both change (a permutation would not, and call every slow unit found), and are those of the largest value among all
    signals and features: the QUANTILE of K shifts. Progress counts N for each group of signals.
    """
    middle, measured = len(text) // 2, list[tuple[Feature, Floats]]()
    for feature in features.FEATURES:
        values: Floats = feature.values(text).astype(np.float64)
        if features.varies(values[:middle]) and features.varies(values[middle:]):
            measured.append((feature, values))
    generator = np.random.default_rng(seed)
    halves = [_Half(measured, span, generator) for span in (slice(0, middle), slice(middle, len(text)))]
    places, effects = list[tuple[str, int, str]](), list[list[Floats]]()
    for place, signals in _groups(states):
        places.append(place)
        effects.append([half.effects(signals) for half in halves])
        progress(len(text))
    of_halves = np.array(effects).transpose(1, 2, 0, 3)  # (2, F, G, H)
    lists = [_Pairs(places, feature, *pair) for (feature, _), *pair in zip(measured, *of_halves, strict=True)]
    first, second = (half.thresholds() for half in halves)
    followed, listed = list[Followed](), list[list[Unit]]()
    for pairs, (feature, values) in zip(lists, measured, strict=True):
        best_first = pairs.above(first[pairs.statistic], second[pairs.statistic])
        listed.append([pairs.unit(index) for index in best_first[:LISTED]])
        followed.append(Followed(feature, float(values.mean()), len(best_first), pairs.unit(pairs.best)))
    ordered = sorted((unit for units in listed for unit in units), key=lambda unit: -unit.confirmed)
    return Units(tuple(followed), first, second, tuple(ordered), tuple(_highlights(listed)))


def _groups(states: States) -> Iterator[tuple[tuple[str, int, str], Floats]]:
    """Yield each direction, layer and name of a state or gate with its signals (N, H)."""
    for direction, half in (("forward", states), ("backward", states.backward)):
        if half is not None:
            named = {"h": half.hidden, "c": half.cell, **(half.gates or {})}
            for layer in range(half.hidden.shape[1]):
                for name, values in named.items():
                    if values is not None:
                        yield (direction, layer, name), values[:, layer]


class _Half:
    """One half of a text, its features and K shifts of them, and the largest effects that these had by chance."""

    def __init__(self, measured: Sequence[tuple[Feature, Floats]], span: slice, generator: np.random.Generator) -> None:
        self.span, n = span, span.stop - span.start
        least = min(LEAST_SHIFT, n // 4)
        shifts = generator.permutation(np.arange(least, n - least + 1))[:SHIFTS]
        self._index = (np.arange(n) - np.append(0, shifts)[:, None]) % n  # (1+K, n)
        self._weights = [(_statistic(feature), _weights(feature, values[span])) for feature, values in measured]
        self._maxima = {statistic: np.zeros(len(shifts)) for statistic, _ in self._weights}

    def effects(self, signals: Floats) -> Floats:
        """Return how far the statistic of each feature and signal (N, H) is from what chance gives (F, H)."""
        columns = np.ascontiguousarray(signals[self.span].T, dtype=np.float32)  # (H, n)
        prepared = {}
        effects = np.empty((len(self._weights), len(columns)))
        for row, (statistic, weights) in enumerate(self._weights):
            if statistic not in prepared:
                prepared[statistic] = (_ranks if statistic == "auc" else _standardized)(columns).T
            each = weights[self._index] @ prepared[statistic]  # (1+K, H): row 0 is not shifted
            effects[row] = each[0]
            np.maximum(self._maxima[statistic], np.abs(each[1:]).max(1), out=self._maxima[statistic])
        return effects

    def thresholds(self) -> dict[str, float | None]:
        """Return what chance seldom exceeds, by statistic."""
        found: dict[str, float | None] = dict.fromkeys(_CENTRE)
        for statistic, maxima in self._maxima.items():
            found[statistic] = _CENTRE[statistic] + float(np.quantile(maxima, QUANTILE, method="higher"))
        return found


class _Pairs:
    """The effects of all signals on one feature, in both halves (G, H)."""

    def __init__(
        self, places: Sequence[tuple[str, int, str]], feature: Feature, found: Floats, confirmed: Floats
    ) -> None:
        self._places, self._feature, self.statistic = places, feature, _statistic(feature)
        self._signs, self._found = np.where(found < 0, -1, 1), np.abs(found)
        self._confirmed = confirmed * self._signs

    def above(self, first: float | None, second: float | None) -> list[int]:
        """Return the indexes of signals that exceed the thresholds of both halves, best first."""
        assert first is not None
        assert second is not None
        centre, confirmed = _CENTRE[self.statistic], self._confirmed.ravel()
        above = np.flatnonzero((self._found.ravel() > first - centre) & (confirmed > second - centre))
        return [int(index) for index in above[np.argsort(-confirmed[above], kind="stable")]]

    @property
    def best(self) -> int:
        """The index of the signal that was found to go best with the feature."""
        return int(self._found.argmax())

    def unit(self, index: int) -> Unit:
        """Return what is reported of a signal."""
        group, unit = divmod(index, self._found.shape[1])
        direction, layer, state = self._places[group]
        values = [_CENTRE[self.statistic] + float(half[group, unit]) for half in (self._found, self._confirmed)]
        sign = int(self._signs[group, unit])
        return Unit(direction, layer, state, unit, self._feature.name, self.statistic, sign, *values)


def _statistic(feature: Feature) -> str:
    return "auc" if feature.kind == "binary" else "r"


def _weights(feature: Feature, values: Floats) -> Floats:
    """Return what a signal's centred ranks, or standardized values, are multiplied by and added up (n) for the area
    under the curve, less 1/2, by the rank sum of Mann and Whitney, or for r."""
    if feature.kind == "binary":
        ones = values.sum()
        return np.asarray(values / (ones * (len(values) - ones)), dtype=np.float32)
    centred = values - values.mean()
    return np.asarray(centred / np.linalg.norm(centred), dtype=np.float32)


def _standardized(signals: Floats) -> Floats:
    """Return signals (H, n) with a mean of 0 and a norm of 1; zeros of a constant one."""
    centred = signals - signals.mean(1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    constant = norms <= _CONSTANT * np.sqrt(signals.shape[1])
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, norms)).astype(np.float32)


def _ranks(signals: Floats) -> Floats:
    """Return the ranks of signals (H, n), less their mean; equal values share the mean of theirs."""
    order = signals.argsort(1)
    ascending = np.take_along_axis(signals, order, 1)
    new = np.ones(signals.shape, dtype=bool)
    new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    index = np.arange(signals.shape[1], dtype=np.int32)
    first = np.maximum.accumulate(np.where(new, index, 0), 1)
    ends = np.ones_like(new)
    ends[:, :-1] = new[:, 1:]
    last = np.minimum.accumulate(np.where(ends, index, index[-1])[:, ::-1], 1)[:, ::-1]
    ranks = np.empty(signals.shape, dtype=np.float32)
    np.put_along_axis(ranks, order, ((first + last - index[-1]) / 2).astype(np.float32), 1)
    return ranks


def _highlights(listed: Sequence[Sequence[Unit]]) -> list[Unit]:
    """Choose the best unit of each feature, then the second best, but none twice."""
    chosen, taken = list[Unit](), set[tuple[str, int, int]]()
    for place in range(LISTED):
        for units in listed:
            for unit in units[place : place + 1]:
                if (which := (unit.direction, unit.layer, unit.unit)) not in taken and len(chosen) < HIGHLIGHTS:
                    taken.add(which)
                    chosen.append(unit)
    return chosen
