"""Gradients through time that are known in advance, and those of finite differences.
Sizes: N=12 characters, E=4 embedding, H=5 hidden, L=2 layers, V=7 vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator
from torch.nn import functional as F

from charrnn.data.vocabulary import Vocabulary
from charrnn.inspection import gradients, reach, saliency
from charrnn.inspection.states import read_states
from charrnn.models.char_rnn import CharRNN
from charrnn.models.layers import State
from tests.conftest import CELLS, close
from tests.models.test_numpy_model import OPTIONS, made, to_numpy

VOCABULARY = Vocabulary("\nabcdef", seen=100, novel=3, unseen=100)
TEXT = "abfed\ncab?ac"  # ? is the escape
BOUNDARY = VOCABULARY.boundary_tokens
TOKENS = VOCABULARY.encode(TEXT).astype(np.int64)
every_network = pytest.mark.parametrize(
    ("cell", "activation", "options"),
    [(*pair, {**options, "num_layers": 2}) for pair in CELLS for options in OPTIONS],
    ids=str,
)


def alone(cell: str, activation: str = "tanh") -> CharRNN:
    """Make a network of one layer with weights to be set by hand."""
    return made(cell, activation, {"embedding_size": 5})


def test_a_relu_network_in_its_positive_region_has_norms_of_rho_to_the_k() -> None:
    rho, network = 0.9, alone("rnn", "relu")
    drawn = torch.randn(5, 5, dtype=torch.float64, generator=Generator().manual_seed(2))
    orthogonal = torch.linalg.matrix_exp(0.02 * (drawn - drawn.T))  # turns little, so that all stays positive
    kernel: Any = network.layers[0].kernel
    with torch.no_grad():
        kernel.weight_hh_l0.copy_(rho * orthogonal)
        kernel.weight_ih_l0.abs_()
        network.embedding.abs_()
        kernel.bias_ih_l0.copy_(100.0 * (1 - rho * orthogonal.sum(1)))
        kernel.bias_hh_l0.zero_()
        network.head_bias.zero_()
        network.get_parameter("head").mul_(0.01)
    model = to_numpy(network)
    text = TEXT.replace("?", "a") * 20
    states = read_states(model, VOCABULARY.encode(text).astype(np.int64), BOUNDARY)
    assert (states.hidden > 0).all()
    found = reach.measure(model, network, VOCABULARY, text, positions=9).gradient
    assert found is not None
    assert found.cell is None
    distances = np.array(reach.distances_of(len(text)))
    assert found.hidden[0] > 0
    close(found.hidden / found.hidden[0], rho ** (distances - 1.0))


def test_an_lstm_with_an_open_forget_gate_and_no_recurrence_carries_the_gradient_of_c_unchanged() -> None:
    network = alone("lstm")
    kernel: Any = network.layers[0].kernel
    with torch.no_grad():
        kernel.weight_hh_l0.zero_()
        kernel.weight_ih_l0[5:10] = 0.0
        kernel.bias_ih_l0[5:10] = 40.0
        kernel.bias_hh_l0[5:10] = 0.0
    found = reach.measure(to_numpy(network), network, VOCABULARY, TEXT * 20, positions=9).gradient
    assert found is not None
    assert found.cell is not None
    assert found.cell[0] > 0
    close(found.cell / found.cell[0], np.ones(len(found.cell)))
    close(found.hidden, np.zeros(len(found.hidden)))


def loss_from(network: CharRNN, state: State, after: int, position: int) -> float:
    """Compute the loss of the character after `position` from a state after the character `after`."""
    inputs = torch.from_numpy(TOKENS[None, after + 1 : position + 1])
    with torch.no_grad():
        features, _ = network.read(inputs, state)
        return float(F.cross_entropy(network.logits(features[:, -1]), torch.from_numpy(TOKENS[position + 1 :][:1])))


@every_network
def test_norms_are_those_of_finite_differences(cell: str, activation: str, options: dict[str, Any]) -> None:
    network = made(cell, activation, options)
    states = read_states(to_numpy(network), TOKENS, BOUNDARY)
    position, distances = 7, (1, 4)
    found = gradients.norms(network, states, TOKENS, np.array([position]), distances)
    for column, distance in enumerate(distances):
        with torch.no_grad():
            _, state = network.read(
                torch.from_numpy(np.concatenate((BOUNDARY, TOKENS[: position - distance + 1]))[None]),
                network.initial_state(1),
            )
        for kind, expected in ((0, found.hidden_of_layers), (1, found.cell_of_layers)):
            if expected is None:
                continue
            for layer in range(2):
                slopes = []
                for unit in range(5):
                    moves = (moved(state, kind, layer, unit, by) for by in (1e-5, -1e-5))
                    above, below = (loss_from(network, near, position - distance, position) for near in moves)
                    slopes.append((above - below) / 2e-5)
                assert expected[layer, column] == pytest.approx(float(np.linalg.norm(slopes)), abs=1e-7)


def moved(state: State, kind: int, layer: int, unit: int, by: float) -> State:
    """Return a state of which one number is another: of h, also where the time skip keeps it, or of c."""
    hidden, cell, past = (None if tensor is None else tensor.clone() for tensor in state)
    assert hidden is not None
    if kind == 1:
        assert cell is not None
        cell[layer, 0, unit] += by
    else:
        hidden[layer, 0, unit] += by
        if past is not None:
            past[layer, 0, -1, unit] += by
    return State(hidden, cell, past)


@pytest.mark.parametrize("window", [2, 4, 11])
@every_network
def test_saliency_is_that_of_finite_differences(
    cell: str, activation: str, options: dict[str, Any], window: int
) -> None:
    network = made(cell, activation, options)
    found = saliency.measure(to_numpy(network), network, VOCABULARY, TEXT, window=window)
    assert found.values.shape == (12, window)
    inputs = torch.from_numpy(np.concatenate((BOUNDARY, TOKENS))[None])
    x = network.embed(inputs).detach()
    for position in (0, 2, 8, 9, 11):
        for back in range(1, window + 1):
            at = position - back
            if at < 0:
                assert found.values[position, -back] == 0
                continue
            slopes = []
            for number in range(x.shape[2]):
                pair = []
                for by in (1e-5, -1e-5):
                    changed = x[:, : position + 1].clone()
                    changed[0, at + 1, number] += by
                    with torch.no_grad():
                        features, _ = network.run_layers(changed, network.initial_state(1))
                        log_p = network.logits(features[0, -1]).log_softmax(-1)
                    pair.append(0.0 if TOKENS[position] == 7 else float(log_p[TOKENS[position]]))
                slopes.append((pair[0] - pair[1]) / 2e-5)
            assert found.values[position, -back] == pytest.approx(float(np.linalg.norm(slopes)), abs=1e-7)


def test_the_rows_of_saliency_name_the_characters_before() -> None:
    network = made("gru", "tanh", {})
    found = saliency.measure(to_numpy(network), network, VOCABULARY, TEXT, window=3, positions=np.array([1, 6]))
    first, second = found.fields()["rows"]
    assert (first["position"], first["character"], first["first"]) == (1, "b", 0)
    assert (second["position"], second["character"], second["first"]) == (6, "c", 3)
    assert [len(row["values"]) for row in (first, second)] == [1, 3]
    close(second["values"], found.values[1])
    assert all(row["bits"] > 0 for row in (first, second))


def test_weights_get_no_gradients_and_dropout_stays_off() -> None:
    network = made("lstm", "tanh", {"num_layers": 2}).train()
    one, two = (saliency.measure(to_numpy(network), network, VOCABULARY, TEXT).values for _ in range(2))
    close(one, two)
    assert network.training
    for parameter in network.parameters():
        assert parameter.grad is None
        assert parameter.requires_grad
