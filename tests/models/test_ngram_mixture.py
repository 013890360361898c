"""Claims about a network and an n-gram model in one: weights by context, the mean, and steps that equal reading."""

from __future__ import annotations

import numpy as np
import pytest

from charrnn.data.vocabulary import SCALARS, Vocabulary
from charrnn.models import likelihood, ngram
from charrnn.models.cells import softmax
from charrnn.models.interface import LanguageModel
from charrnn.models.mixture import Mixture, Part, mix
from charrnn.models.ngram_mixture import NgramMixture, Weights, for_sampling, mix_probabilities
from tests.conftest import close
from tests.models.test_mixture import TOKENS, V, counts, network

TABLE = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])  # of order 1, and of longer ones; counted 0 or 1, 2 or 3, 4 times


def mixture(table: np.ndarray = TABLE, **settings: object) -> NgramMixture:
    return NgramMixture(network(**settings), counts(), Weights(table))


def test_weights_are_looked_up_by_the_longest_context_counted_and_how_often_it_was() -> None:
    orders, often = np.array([1, 1, 1, 1, 2, 2, 3, 3]), np.array([0, 1, 3, 4, 1, 2, 7, 900])
    expected = [0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6]
    weights = Weights(TABLE)
    close(weights.of(orders, often), expected)
    assert [weights.of_one(*each) for each in zip(orders.tolist(), often.tolist(), strict=True)] == expected
    assert Weights(np.array([[0.7]])).of_one(3, 1000) == 0.7


def test_its_probabilities_are_the_mean_by_the_weights_of_the_context() -> None:
    model = mixture()
    # learnt, after a 0: 0 1 2 0 1 3 4 0 1 2 2 3. After 0 1 came 2 twice and 3 once. Nothing came after 3 0, but after 0
    # a 0 at the start of the text, and a 1 that 0, 2 and 4 preceded. 5 is the escape, after which nothing was counted:
    # of order 1 are 0 to 4, preceded by 3, 1, 2, 2 and 1 different characters
    for text, order, count in (([0, 1], 3, 3), ([3, 0], 2, 4), ([5], 1, 9)):
        tokens = np.array([text])
        logits, after = model.step(tokens, model.initial_state(1))
        found = model.ngram.evidence(after.parts[1].numbers)
        assert [each.tolist() for each in found] == [[order], [count]]
        weight = TABLE[min(order, 2) - 1, min(count.bit_length(), 3) - 1]
        known, counted = (part.model.step(tokens, part.model.initial_state(1))[0] for part in model.parts)
        close(np.exp(logits), (1 - weight) * softmax(known.astype(np.float64)) + weight * np.exp(counted))


@pytest.mark.parametrize("rows", [1, 2, 30])  # few rows are read one by one
def test_a_step_predicts_what_reading_does(rows: int) -> None:
    model, tokens = mixture(), np.tile(TOKENS, (15, 1))[:rows]
    features, after = model.read(tokens, model.initial_state(rows))
    expected, state = model.logits(features), model.initial_state(rows)
    for column in range(tokens.shape[1]):
        logits, state = model.step(tokens[:, column : column + 1], state)
        assert logits.shape == (rows, V)
        assert logits.dtype == np.float64
        close(logits, expected[:, column], 1e-6)  # the network's are in single precision
    np.testing.assert_array_equal(state.parts[1].numbers, after.parts[1].numbers)
    close(model.step(tokens, model.initial_state(rows))[0], expected[:, -1], 1e-6)


def test_with_the_escape_its_share_probabilities_add_up_to_1() -> None:
    vocabulary = Vocabulary("\nabcd", 50, 3)
    model = mixture()
    logits, _ = model.step(TOKENS, model.initial_state(2))
    nats = [likelihood.target_nats(vocabulary, logits, np.full(2, token)) for token in range(V + 1)]
    p = np.exp(-np.array(nats))
    p[V] *= SCALARS - V  # of one unknown character, and there are so many
    close(p.sum(0), [1.0, 1.0])


def test_rows_of_its_states_are_selected_and_joined() -> None:
    model = mixture()
    _, state = model.step(TOKENS, model.initial_state(2))
    expected, _ = model.step(TOKENS[:, :1], state)
    turned = state.select(np.array([1])).joined([state.select(np.array([0]))])
    close(model.step(TOKENS[::-1, :1], turned)[0], expected[::-1], 1e-6)
    alone, _ = model.step(TOKENS[1:, :1], state.select(np.array([1])))
    close(alone, expected[1:], 1e-6)


def test_the_other_heads_of_a_bidirectional_network_stay() -> None:
    model, bare = mixture(bidirectional=True), network(bidirectional=True)
    heads, own = model.bidirectional_heads, bare.bidirectional_heads
    assert heads is not None
    assert own is not None
    found = heads.joint_logits(features_of(model), features_of(heads.backward), 2)
    close(found, own.joint_logits(features_of(bare), features_of(own.backward), 2), 1e-6)


def features_of(model: LanguageModel) -> np.ndarray:
    return np.asarray(model.read(TOKENS, model.initial_state(2))[0][:, -1])


@pytest.mark.parametrize("weight", [0.0, 1e-300, 0.3, 1.0])
def test_probabilities_mix_as_their_logarithms_do_also_where_they_underflow(weight: float) -> None:
    logits, p = np.array([[0.0, -800.0, -900.0, 3.0]], dtype=np.float32), np.array([[0.1, 0.2, 0.3, 0.4]])
    with np.errstate(divide="ignore"):
        expected = mix([logits, np.log(p)], np.array([1 - weight, weight]))
    close(mix_probabilities(logits, p, weight), expected)
    both = mix_probabilities(np.tile(logits, (2, 1)), np.tile(p, (2, 1)), np.array([[weight], [0.5]]))
    close(both[:1], expected)


def test_samples_are_drawn_with_shorter_ngrams() -> None:
    """Long ones write what stands in the training text; the parts and weights stay, and `grow` counts the same."""
    tokens = np.random.default_rng(0).integers(0, 3, 4000, dtype=np.uint8)
    models = list(ngram.grow(tokens, 0, 3))
    short, long = models[4], models[7]
    mixture = NgramMixture(short, long, Weights(np.array([[0.25]])))
    drawn = for_sampling(mixture, mixture=True)
    assert isinstance(drawn, NgramMixture)
    assert drawn.ngram.order == 5
    assert drawn.network is mixture.network
    assert drawn.by_context is mixture.by_context
    numbers = short.last_grams(tokens[None, :300].astype(np.int64), short.initial_state(1))[0]
    np.testing.assert_allclose(drawn.ngram.distribution(numbers), short.distribution(numbers), atol=0.02)
    assert for_sampling(short, mixture=True) is short
    assert for_sampling(mixture, mixture=False) is short
    assert ngram.up_to(short, 7) is short


def test_samples_of_an_ensemble_are_drawn_with_shorter_ngrams() -> None:
    models = list(ngram.grow(np.random.default_rng(0).integers(0, V, 4000, dtype=np.uint8), 0, V))
    order = np.array([2, 0, 1, 4, 3, V])
    mixed = NgramMixture(network(), models[6], Weights(TABLE))
    ensemble = Mixture([Part(counts()), Part(mixed, order)], [0.25, 0.75])
    drawn = for_sampling(ensemble, mixture=True)
    assert isinstance(drawn, Mixture)
    assert drawn.parts[0].model is ensemble.parts[0].model
    inner = drawn.parts[1].model
    assert isinstance(inner, NgramMixture)
    assert (inner.ngram.order, mixed.ngram.order) == (5, 7)
    assert drawn.parts[1].order is order
    np.testing.assert_array_equal(drawn.weights, ensemble.weights)
    found, expected = (
        model.step(TOKENS[:, :4], model.initial_state(2))[0]
        for model in (drawn, Mixture([Part(counts()), Part(for_sampling(mixed, mixture=True), order)], [0.25, 0.75]))
    )
    close(found, expected)
    alone = for_sampling(ensemble, mixture=False)
    assert isinstance(alone, Mixture)
    assert alone.parts[1].model is mixed.network
