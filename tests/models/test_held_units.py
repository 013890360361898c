"""A held unit has its value after every step that predicts, and nothing else of the step is changed.
Sizes: B=2 batch rows, T=3 steps, E=4 embedding, H=5 hidden, V=7 vocabulary, K=2 the time skip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from charrnn.errors import MisuseError
from charrnn.models.cells import lstm_gates
from charrnn.models.held_units import Hold, hold, parse
from charrnn.models.numpy_model import NumpyHMM, NumpyModel, State
from tests.conftest import CELLS, close
from tests.models.test_char_rnn import B, H, T, V
from tests.models.test_numpy_model import made, to_numpy

OPTIONS: tuple[dict[str, Any], ...] = ({}, {"leak": 0.3}, {"time_skip": 2}, {"layer_norm": True, "residual": True})
TOKENS = np.array([[1, 5, 2], [V, 0, 3]])  # (B, T)
every_model = pytest.mark.parametrize(
    ("cell", "activation", "options"), [(*pair, options) for pair in CELLS for options in OPTIONS], ids=str
)


def network(cell: str, activation: str, options: dict[str, Any], both: bool = False) -> NumpyModel:
    return to_numpy(made(cell, activation, {**options, "num_layers": 2, "bidirectional": both}))


def arrays(state: State) -> list[np.ndarray]:
    return [np.asarray(array) for layer in state.layers for array in layer if array is not None]


@every_model
@pytest.mark.parametrize("layer", [0, 1])
def test_to_hold_a_unit_at_the_value_that_it_has_anyway_changes_nothing(
    cell: str, activation: str, options: dict[str, Any], layer: int
) -> None:
    model = network(cell, activation, options)
    logits, state = model.step(TOKENS[:1], model.initial_state(1))
    after = state.layers[layer]
    value = float((after.hidden if after.cell is None else after.cell)[0, 3])
    held_logits, held_state = hold(model, [Hold(layer, 3, value)], "--hold").step(TOKENS[:1], model.initial_state(1))
    close(held_logits, logits)
    for held, free in zip(arrays(held_state), arrays(state), strict=True):
        close(held, free)


@every_model
def test_the_last_step_leaves_the_unit_at_its_value_and_the_steps_before_are_free(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    model = network(cell, activation, options)
    held_model = hold(model, [Hold(1, 3, 0.75), Hold(1, 4, -2.0)], "--hold")
    logits, held = held_model.step(TOKENS, model.initial_state(B))
    _, before = model.read(TOKENS[:, :-1], model.initial_state(B))
    free_logits, free = model.step(TOKENS[:, -1:], before)
    assert not np.allclose(logits, free_logits)
    rest = np.arange(H) < 3
    for held_layer, free_layer in zip(held.layers, free.layers, strict=True):
        close(held_layer.hidden[:, rest], free_layer.hidden[:, rest])
    last = held.layers[1]
    kept = last.hidden if last.cell is None else last.cell
    np.testing.assert_array_equal(kept[:, 3:], np.tile([0.75, -2.0], (B, 1)))
    if last.past is not None:
        np.testing.assert_array_equal(last.past[:, -1], last.hidden)
    for one, other in zip(arrays(held_model.read(TOKENS, model.initial_state(B))[1]), arrays(free), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)  # what is read alone is free to its end


def test_the_hidden_state_of_an_lstm_follows_its_held_cell_state() -> None:
    model = network("lstm", "tanh", {})
    _, before = model.read(TOKENS, model.initial_state(B))
    _, after = hold(model, [Hold(0, 2, 1.5)], "--hold").step(TOKENS[:, :1], before)
    first = model.layers[0]
    x = (first.weight_ih @ model.embedding(TOKENS[:, 0]).T + first.bias).T
    assert first.weight_hh is not None
    *_, o = lstm_gates(x, before.layers[0].hidden @ first.weight_hh.T)
    close(after.layers[0].hidden[:, 2], o[:, 2] * np.tanh(1.5))


def test_a_held_model_leaves_the_given_one_and_its_states_as_they_are() -> None:
    model = network("gru", "tanh", {"time_skip": 2})
    logits, state = model.step(TOKENS, model.initial_state(B))
    copies = [array.copy() for array in arrays(state)]
    hold(model, [Hold(0, 1, 9.0)], "--hold").step(TOKENS, state)
    for array, copy in zip(arrays(state), copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(model.step(TOKENS, model.initial_state(B))[0], logits)


def test_of_a_bidirectional_model_the_forward_half_is_held() -> None:
    model = network("lstm", "tanh", {}, both=True)
    held = hold(model, [Hold(1, 0, 3.0)], "--hold")
    assert held.step(TOKENS[:, :T], held.initial_state(B))[1].layers[1].cell[0, 0] == 3.0
    assert held.bidirectional_heads is model.bidirectional_heads


@pytest.mark.parametrize("given", ["", "1", "1:2", "1:2=", "a:2=1", "1:-2=1", "1:2=x", "1:2=inf", "1:2=nan", "1:2= 1"])
def test_what_names_no_unit_and_value_is_a_sentence(given: str) -> None:
    with pytest.raises(MisuseError, match="must be LAYER:UNIT=VALUE"):
        parse("--hold", [given])


def test_layers_units_and_values_are_read() -> None:
    assert parse("--hold", ["0:12=-1.5", "1:12=2e-1"]) == [Hold(0, 12, -1.5), Hold(1, 12, 0.2)]
    with pytest.raises(MisuseError, match="holds unit 12 of layer 0 twice"):
        parse("--hold", ["0:12=1", "0:12=2"])


def test_a_unit_that_is_not_there_is_a_sentence_that_says_how_many_there_are() -> None:
    model = network("gru", "tanh", {})
    with pytest.raises(MisuseError, match="no layer 2; this model has 2 layers, counted from 0 to 1"):
        hold(model, [Hold(2, 0, 1.0)], "--hold")
    with pytest.raises(MisuseError, match="no unit 5; each layer has 5 units, counted from 0 to 4"):
        hold(model, [Hold(0, 5, 1.0)], "--hold")
    hidden_markov = NumpyHMM({"transition": np.zeros((3, 3)), "emission": np.zeros((V, 3))})
    with pytest.raises(MisuseError, match="this model is none, and has no units"):
        hold(hidden_markov, [Hold(0, 0, 1.0)], "--hold")
