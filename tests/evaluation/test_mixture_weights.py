"""Weights of a mixture are fitted on one half of a text and judged on the other."""

from __future__ import annotations

import numpy as np
import pytest

from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation import mixture_weights, short_texts
from charrnn.evaluation.mixture_weights import Known, fit, mixed
from charrnn.models import ngram
from charrnn.models.ngram_mixture import Weights

N = 20_000
SELDOM = np.random.default_rng(1).random(N) < 0.1


def simulated(likelier: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the nats of characters under two models, where the n-gram model is the better one with a probability."""
    rng = np.random.default_rng(seed)
    better = rng.random(N) < likelier
    return np.where(better, 3.0, 0.5), np.where(better, 0.5, 3.0)


def alike(nats: np.ndarray) -> Known:
    """Say that all characters stand after the same context."""
    return Known(nats, np.full(len(nats), 2), np.full(len(nats), 5))


def test_mixed_nats_are_those_of_the_averaged_probabilities() -> None:
    known = Known(np.array([1.0, 2.0]), np.array([1, 2]), np.array([1, 1]))
    weights = Weights(np.array([[0.25], [0.5]]))
    expected = -np.log([0.75 * np.exp(-3.0) + 0.25 * np.exp(-1.0), 0.5 * np.exp(-0.1) + 0.5 * np.exp(-2.0)])
    np.testing.assert_allclose(mixed(np.array([3.0, 0.1]), known, weights), expected)


def test_nats_that_no_float_holds_as_a_probability_are_mixed() -> None:
    known = alike(np.array([2000.0, 1900.0]))
    found = mixed(np.array([1900.0, 2000.0]), known, Weights(np.array([[0.5]])))
    np.testing.assert_allclose(found, 1900 + np.log(2))


def test_a_constant_weight_is_the_likeliest() -> None:
    network, counted = simulated(0.3)
    found = fit(network, alike(counted), 3)
    assert found.weights.table.shape == (1, 1)
    grid = np.linspace(0.01, 0.99, 99)
    nats = [mixed(network, alike(counted), Weights(np.array([[a]]))).sum() for a in grid]
    assert found.weights.table[0, 0] == pytest.approx(grid[int(np.argmin(nats))], abs=0.01)


def test_weights_are_by_order_where_it_matters() -> None:
    network, counted = simulated(0.5)
    orders = np.where((counted < network) ^ SELDOM, 3, 1)
    found = fit(network, Known(counted, orders, np.ones(N, dtype=np.int64)), 3)
    assert found.weights.table.shape == (3, 1)
    assert found.weights.table[0, 0] < 0.15 < 0.85 < found.weights.table[2, 0]
    # no context of order 2 was seen, so nothing speaks against the constant
    assert found.weights.table[1, 0] == pytest.approx(0.5, abs=0.02)


def test_weights_are_by_count_where_it_matters() -> None:
    network, counted = simulated(0.5)
    counts = np.where((counted < network) ^ SELDOM, 40, 3)
    found = fit(network, Known(counted, np.full(N, 2), counts), 2)
    rows, columns = found.weights.table.shape
    assert (rows, columns) == (2, mixture_weights.COLUMNS)
    assert found.weights.table[1, 1] < 0.15 < 0.85 < found.weights.table[1, 5]  # 3 is from 2 on, 40 from 32 on


def test_the_nats_of_a_half_are_with_weights_fitted_on_the_other() -> None:
    """Weights that a half had chosen for itself would suit it far better here."""
    fold = np.arange(N) * mixture_weights.PIECES // N % 2 == 1
    # the n-gram model is good in one half alone
    network, counted = np.full(N, 2.0), np.where(fold, 0.1, 8.0)
    cheating = 0.5 * N * (0.1 + 2.0)
    honest = fit(network, alike(counted), 1).nats
    assert honest > 1.5 * cheating


def test_few_characters_hardly_move_equal_weights() -> None:
    network, counted = np.full(4, 0.5), np.full(4, 3.0)
    assert fit(network, alike(counted), 2).weights.table[0, 0] == pytest.approx(0.5, abs=0.03)
    assert fit(np.empty(0), alike(np.empty(0)), 2).weights.table.tolist() == [[0.5]]


def test_known_is_read_as_scoring_reads() -> None:
    text = "the cat sat on the mat\n%%the dog sat on the log\n%%" * 9
    vocabulary = Vocabulary("\n%" + "".join(sorted(set(text) - set("\n%"))), len(text), 1, boundary="\n%%")
    tokens = vocabulary.encode(text)
    model = list(ngram.grow(tokens, 1, len(vocabulary)))[4]
    other = vocabulary.encode("the zebra sat\n%%the dog")
    known = mixture_weights.known(model, vocabulary, other)
    np.testing.assert_allclose(known.nats, short_texts.character_nats(model, vocabulary, other))
    read = np.append(vocabulary.boundary_tokens, other[:-1]).astype(np.int64)
    numbers = model.last_grams(read[None], model.initial_state(1))[0, 2:]
    orders, counts = model.evidence(numbers)
    assert known.orders.tolist() == orders.tolist()
    assert known.counts.tolist() == counts.tolist()
    assert set(orders.tolist()) >= {2, 5}
