"""Units that follow a feature are found, and none that only change as slowly.
Sizes: N=2000 characters, H=5 hidden, 20 random walks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.data.vocabulary import Vocabulary
from charrnn.inspection import quotations, units
from charrnn.inspection.states import States, read_states
from charrnn.models.interface import Floats
from charrnn.models.numpy_model import NumpyModel
from tests.models.test_numpy_model import made, to_numpy

VOCABULARY = Vocabulary("\n()[]ab", seen=100, novel=3)
N = 2000


def nested(seed: int, length: int = N) -> str:
    """Write nested brackets and letters; the depth wanders between 0 and 6."""
    generator, text, stack = np.random.default_rng(seed), "", list[str]()
    for draw in generator.random(length).tolist():
        if draw < 0.2 and len(stack) < 6:
            text, stack = text + "(["[draw < 0.1], [*stack, ")]"[draw < 0.1]]
        elif draw > 0.8 and stack:
            text += stack.pop()
        else:
            text += "ab"[draw < 0.5]
    return text


def counter() -> NumpyModel:
    """Make a ReLU network whose unit 3 counts the open brackets, among others with random weights."""
    network = made("rnn", "relu", {"embedding_size": 5})
    kernel: Any = network.layers[0].kernel
    with torch.no_grad():
        network.embedding[:, 0] = torch.tensor([0.0, 1.0, -1.0, 1.0, -1.0, 0.0, 0.0, 0.0])[: len(network.embedding)]
        kernel.weight_hh_l0.mul_(0.3)  # the others forget
        for weights in (kernel.weight_ih_l0, kernel.weight_hh_l0, kernel.bias_ih_l0, kernel.bias_hh_l0):
            weights[3] = 0.0
        kernel.weight_ih_l0[3, 0] = kernel.weight_hh_l0[3, 3] = 1.0
    return to_numpy(network, np.float32)


def states_of(model: NumpyModel, text: str) -> States:
    return read_states(model, VOCABULARY.encode(text).astype(np.int64), VOCABULARY.boundary_tokens)


def walks(seed: int) -> States:
    """Return states that wander at random."""
    steps = np.random.default_rng(seed).standard_normal((N, 1, 20))
    return States(np.asarray(steps.cumsum(0), dtype=np.float32))


def test_a_unit_that_counts_brackets_is_found() -> None:
    found = units.find(states_of(counter(), nested(1)), nested(1))
    (best,) = [unit for unit in found.units if unit.feature == "bracket depth"][:1]
    assert (best.direction, best.layer, best.state, best.unit, best.sign) == ("forward", 0, "h", 3, 1)
    assert best.statistic == "r"
    assert best.found == pytest.approx(1.0, abs=1e-5)
    assert best.confirmed == pytest.approx(1.0, abs=1e-5)
    assert best in found.highlights
    assert [one.best for one in found.features if one.feature.name == "bracket depth"] == [best]


def test_a_unit_that_falls_where_its_feature_rises_has_a_negative_sign() -> None:
    states = states_of(counter(), nested(1))
    found = units.find(States(-states.hidden), nested(1))
    (best,) = [unit for unit in found.units if unit.feature == "bracket depth"][:1]
    assert (best.unit, best.sign) == (3, -1)
    assert best.confirmed == pytest.approx(1.0, abs=1e-5)


def test_a_unit_that_turns_round_in_the_second_half_follows_nothing() -> None:
    depth = quotations.depth(nested(1))
    depth[N // 2 :] *= -1
    assert not units.find(States(depth[:, None, None]), nested(1)).units


def test_units_follow_no_feature_of_another_text() -> None:
    model = counter()
    found = [units.find(states_of(model, nested(seed)), nested(100 + seed), seed=seed) for seed in range(20)]
    assert sum(bool(one.units) for one in found) <= 1


def test_random_walks_follow_nothing_though_permutations_would_say_so() -> None:
    permuted = 0
    wrong = 0
    for seed in range(20):
        states, text = walks(seed), nested(seed)
        wrong += bool(units.find(states, text, seed=seed).units)
        permuted += followed_by_permutations(states.hidden[:, 0], quotations.depth(text))
    assert wrong <= 1
    assert permuted > 40


def followed_by_permutations(signals: Floats, feature: Floats) -> int:
    """Count the signals (N, H) that correlate in both halves more than with 100 permutations of a feature (N)."""
    generator, above = np.random.default_rng(0), []
    for half in (slice(0, N // 2), slice(N // 2, N)):
        r = correlations(signals[half], feature[half])
        null = [np.abs(correlations(signals[half], generator.permutation(feature[half]))).max() for _ in range(100)]
        above.append(np.where(np.abs(r) > np.quantile(null, 0.95), np.sign(r), 0.0))
    return int((above[0] * above[1] > 0).sum())


def correlations(signals: Floats, feature: Floats) -> Floats:
    x, y = signals - signals.mean(0), feature - feature.mean()
    return np.asarray((y @ x) / (np.linalg.norm(x, axis=0) * np.linalg.norm(y)))


def test_the_area_under_the_curve_counts_pairs_and_ties_are_half() -> None:
    text = "ab(a)b\n" * 30
    newline = np.array([character == "\n" for character in text], dtype=np.float64)
    signals = np.random.default_rng(3).integers(0, 4, (len(text), 1, 2)) + newline[:, None, None]
    (best,) = [one.best for one in units.find(States(signals), text).features if one.feature.name == "newline"]
    for half, value in ((slice(0, 105), best.found), (slice(105, 210), best.confirmed)):
        signal, ones = signals[half, 0, best.unit], newline[half] == 1
        high, low = signal[ones][:, None], signal[~ones][None]
        assert value == pytest.approx(((high > low) + 0.5 * (high == low)).mean(), abs=1e-6)


def test_a_signal_that_never_changes_follows_nothing() -> None:
    found = units.find(States(np.full((N, 1, 5), 0.7, dtype=np.float32)), nested(1))
    assert not found.units
    assert {one.best.found for one in found.features} == {0.0, 0.5}


def test_every_direction_layer_and_state_is_named() -> None:
    text = nested(1)
    noise = np.random.default_rng(0).standard_normal((N, 2, 5))
    planted = noise.copy()
    planted[:, 1, 4] = quotations.depth(text)
    found = units.find(States(noise, noise, States(noise, planted)), text)
    (unit,) = {(one.direction, one.layer, one.state, one.unit) for one in found.units}
    assert unit == ("backward", 1, "c", 4)


def test_a_text_without_features_has_neither_units_nor_thresholds() -> None:
    found = units.find(walks(0), "a" * N)
    assert found.fields() == {
        "features": [],
        "threshold": {"auc": None, "r": None},
        "confirmation": {"auc": None, "r": None},
        "units": [],
        "highlights": [],
    }


def test_fields_are_json_and_the_same_for_the_same_seed() -> None:
    text = nested(1)
    one, same = (units.find(states_of(counter(), text), text).fields() for _ in range(2))
    assert json.loads(json.dumps(one)) == same
    assert {"feature", "kind", "mean", "description", "signals", "best"} == set(one["features"][0])
    assert set(one["units"][0]) == {
        *("direction", "layer", "state", "unit", "feature", "statistic", "sign", "found", "confirmed")
    }
