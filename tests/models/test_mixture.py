"""Claims about mixtures: the mean of their parts' distributions, behind the interface of any model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.checkpoints import inference, model_file
from charrnn.config.schema import ModelConfig
from charrnn.models import factory, torch_model
from charrnn.models.architecture import Architecture
from charrnn.models.cells import softmax
from charrnn.models.interface import LanguageModel
from charrnn.models.mixture import Mixture, Part, mix
from charrnn.models.ngram import Ngram, grow
from charrnn.models.numpy_model import NumpyHMM, build
from tests.conftest import close

V = 5
TOKENS = np.array([[0, 1, 2, 5, 3, 4, 1], [3, 3, 0, 1, 2, 2, 5]])  # 5 is the escape
WEIGHTS = [0.2, 0.5, 0.3]


def network(**settings: object) -> LanguageModel:
    """Draw a network and open it in NumPy."""
    config = ModelConfig(hidden_size=4, num_layers=2, embedding_size=3, dropout=0.0, tie_weights=False, **settings)  # type: ignore[arg-type]
    model = factory.make_model(config, V)
    model.initialise(torch.Generator().manual_seed(1))
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    return build(Architecture.of(config.model_dump()), weights)


def counts() -> Ngram:
    return list(grow(np.array([0, 1, 2, 0, 1, 3, 4, 0, 1, 2, 2, 3], dtype=np.uint8), 0, V))[2]


@pytest.fixture
def models() -> list[LanguageModel]:
    return [network(), counts(), NumpyHMM(hmm_weights())]


def hmm_weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(2)
    return {
        "transition": random.normal(size=(6, 6)).astype(np.float32),
        "emission": random.normal(size=(V, 6)).astype(np.float32),
    }


def mixed(models: list[LanguageModel], weights: list[float] = WEIGHTS) -> Mixture:
    return Mixture([Part(model) for model in models], weights)


def test_its_probabilities_are_the_weighted_mean_of_those_of_its_parts(models: list[LanguageModel]) -> None:
    mixture = mixed(models)
    logits, _ = mixture.step(TOKENS, mixture.initial_state(2))
    expected = np.zeros((2, V))
    for weight, model in zip(WEIGHTS, models, strict=True):
        own, _ = model.step(TOKENS, model.initial_state(2))
        expected += weight * softmax(own.astype(np.float64))
    close(np.exp(logits), expected)


def test_reading_and_stepping_predict_the_same(models: list[LanguageModel]) -> None:
    mixture = mixed(models)
    features, after = mixture.read(TOKENS, mixture.initial_state(2))
    assert features.shape == (2, 7, 4 + 3 + 6)
    found = mixture.logits(features)  # (B, T, V)
    state = mixture.initial_state(2)
    for column in range(7):
        logits, state = mixture.step(TOKENS[:, column : column + 1], state)
        close(found[:, column], logits, 1e-6)
    close(mixture.step(TOKENS[:, :1], state)[0], mixture.step(TOKENS[:, :1], after)[0], 1e-6)


def test_rows_of_its_states_are_selected_and_joined_in_all_parts(models: list[LanguageModel]) -> None:
    mixture = mixed(models)
    _, state = mixture.step(TOKENS, mixture.initial_state(2))
    expected, _ = mixture.step(TOKENS[:, :1], state)
    turned = state.select(np.array([1])).joined([state.select(np.array([0]))])
    close(mixture.step(TOKENS[::-1, :1], turned)[0], expected[::-1], 1e-6)


def test_numbers_of_grams_are_not_rounded_beside_features_in_single_precision() -> None:
    class Counted(Ngram):
        """Give each gram a number that single precision does not hold."""

        def read(self, tokens, state):  # type: ignore[no-untyped-def]
            features, after = super().read(tokens, state)
            return features + (1 << 24), after

        def logits(self, features):  # type: ignore[no-untyped-def]
            return super().logits(features - (1 << 24))

    whole, shifted = mixed([network(), counts()], [0.5, 0.5]), mixed([network(), Counted(counts().levels)], [0.5, 0.5])
    expected, found = (model.logits(model.read(TOKENS, model.initial_state(2))[0]) for model in (whole, shifted))
    assert (found == expected).all()


def test_a_part_with_another_order_of_characters_is_translated() -> None:
    order = np.array([2, 0, 1, 4, 3, V])  # the part's tokens of the mixture's
    model = network()
    mixture = Mixture([Part(counts()), Part(model, order)], [0.0, 1.0])
    features, _ = mixture.read(TOKENS, mixture.initial_state(2))
    own, _ = model.step(order[TOKENS], model.initial_state(2))
    close(np.exp(mixture.logits(features)[:, -1]), softmax(own.astype(np.float64))[:, order[:-1]])


def test_the_joint_head_of_a_bidirectional_part_reads_its_own_features() -> None:
    model = network(bidirectional=True)
    order = np.array([2, 0, 1, 4, 3, V])
    mixture = Mixture([Part(counts()), Part(model, order)], [0.5, 0.5])
    heads, own = mixture.bidirectional_heads, model.bidirectional_heads
    assert heads is not None
    assert own is not None
    before, _ = mixture.read(TOKENS, mixture.initial_state(2))
    after, _ = heads.backward.read(TOKENS, heads.backward.initial_state(2))
    own_before, _ = model.read(order[TOKENS], model.initial_state(2))
    own_after, _ = own.backward.read(order[TOKENS], own.backward.initial_state(2))
    close(after, own_after)
    found = heads.joint_logits(before[:, -1], after[:, -1], 2)
    close(found, own.joint_logits(own_before[:, -1], own_after[:, -1], 2)[:, order[:-1]], 1e-6)
    assert mixed([counts(), network()], [0.5, 0.5]).bidirectional_heads is None


def test_torch_and_numpy_parts_predict_the_same(runs: dict[str, Path]) -> None:
    path = runs["causal"] / "best.safetensors"
    plain, _ = inference.load(path)
    tokens, found = np.array([[1, 3, 2]]), []
    for model in (plain, torch_model.language_model(model_file.read_model(path)[1])):
        mixture = mixed([model, inference.load(runs["ngram"] / "best.safetensors")[0]], [3.0, 1.0])
        features, _ = mixture.read(tokens, mixture.initial_state(1))
        found.append(mixture.logits(features))
    close(found[0], found[1], 1e-5)


logits = st.lists(st.lists(st.floats(-900, 900), min_size=4, max_size=4), min_size=3, max_size=3)


@given(logits, st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda given: sum(given) > 1e-3))
def test_probabilities_add_up_to_one(found: list[list[float]], weights: list[float]) -> None:
    mixed_logits = mix([np.array([each]) for each in found], np.array(weights) / sum(weights))
    assert not np.isnan(mixed_logits).any()
    close(np.exp(mixed_logits).sum(), 1.0)


def test_what_underflows_is_added_as_logarithms() -> None:
    first, second = np.array([[0.0, -800.0, -900.0]]), np.array([[0.0, -900.0, -900.0]])
    expected = [0.0, np.log(0.25) - 800, -900.0]
    close(mix([first, second], np.array([0.25, 0.75])), [expected])


def test_weights_may_differ_from_position_to_position() -> None:
    first, second = np.log([[[0.9, 0.1], [0.9, 0.1]]]), np.log([[[0.5, 0.5], [0.5, 0.5]]])
    found = mix([first, second], np.array([[[1.0, 0.0], [0.5, 0.5]]]))
    close(np.exp(found), [[[0.9, 0.1], [0.7, 0.3]]])
