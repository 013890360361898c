"""The equations of one step agree with torch's kernels, in NumPy and torch, and with results worked out by hand.
Sizes: B=2 batch rows, T=3 steps, E=4 inputs, H=5 hidden, K=3 the time skip."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn.config.schema import ModelConfig
from charrnn.models import cells, numpy_model
from charrnn.models.architecture import Architecture
from charrnn.models.cells import StepState
from charrnn.models.char_rnn import CharRNN
from tests.conftest import CELLS, close

FUSED = tuple(pair for pair in CELLS if cells.CELLS[pair[0]].kernel is not None and pair[1] != "leaky_relu")
B, T, E, H, K, V = 2, 3, 4, 5, 3, 7
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"leak": 0.3}, {"time_skip": K}, {"leak": 0.3, "time_skip": K})
SIGMOIDS_END = 1e3  # a bias at which a gate is exactly 0 or 1

Array = npt.NDArray[np.float64]


def kernel_of(cell: str, activation: str) -> Any:
    options = {"nonlinearity": activation} if cell == "rnn" else {}
    return getattr(nn, str(cells.CELLS[cell].kernel))(E, H, batch_first=True, dtype=torch.float64, **options)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def start(cell: str, time_skip: int | None = None) -> StepState:
    past = None if time_skip is None else random(B, time_skip, H, seed=1)
    hidden = random(B, H, seed=1) if past is None else past[:, -1]
    return StepState(hidden, random(B, H, seed=2) if cells.CELLS[cell].cell_state else None, past)


def to_torch(state: StepState) -> StepState:
    return StepState(*(None if array is None else torch.from_numpy(array.copy()) for array in state))


def test_every_cell_and_every_activation_is_tested() -> None:
    assert {cell for cell, _ in CELLS} == set(cells.CELLS)
    with_activation = {activation for cell, activation in CELLS if cells.CELLS[cell].takes_activation}
    assert with_activation == set(cells.ACTIVATIONS)


@pytest.mark.parametrize(("cell", "activation"), FUSED)
def test_steps_equal_torchs_kernel_forwards_and_in_every_gradient(cell: str, activation: str) -> None:
    torch.manual_seed(0)
    kernel = kernel_of(cell, activation)
    weight_ih, weight_hh, bias_ih, bias_hh = (parameter.detach().clone() for parameter in kernel.parameters())
    step_weights: list[Tensor] = [weight_ih, weight_hh, bias_ih, bias_hh]
    kernels: list[Tensor] = list(kernel.parameters())
    results = []
    for ours, leaves in ((True, step_weights), (False, kernels)):
        x = torch.from_numpy(random(B, T, E)).requires_grad_()
        state = to_torch(start(cell))
        inputs = [x, state.hidden] + ([] if state.cell is None else [state.cell])
        for leaf in (*leaves, *inputs):
            leaf.requires_grad_()
        if ours:
            outputs = []
            for t in range(T):
                state = cells.step(
                    cell, x[:, t] @ weight_ih.T + bias_ih, state, weight_hh, bias_hh, activation=activation
                )
                outputs.append(state.hidden)
            y, last = torch.stack(outputs, 1), [state.hidden] + ([] if state.cell is None else [state.cell])
        elif state.cell is not None:
            y, after = kernel(x, (state.hidden[None], state.cell[None]))
            last = [tensor[0] for tensor in after]
        else:
            y, after = kernel(x, state.hidden[None])
            last = [after[0]]
        # random weights of the outputs: a plain sum would hide a swapped row, step or unit
        loss = (y * torch.from_numpy(random(B, T, H, seed=3))).sum()
        for index, tensor in enumerate(last):
            loss = loss + (tensor * torch.from_numpy(random(B, H, seed=4 + index))).sum()
        gradients = torch.autograd.grad(loss, [*leaves, *inputs])
        results.append([y.detach(), *(tensor.detach() for tensor in last), *gradients])
    assert len(results[0]) == (10 if cells.CELLS[cell].cell_state else 8)
    for mine, theirs in zip(*results, strict=True):
        assert mine.shape == theirs.shape
        assert bool(theirs.any())
        close(mine, theirs, 1e-10)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("cell", "activation"), CELLS)
def test_numpy_and_torch_give_the_same(cell: str, activation: str, options: dict[str, Any]) -> None:
    gates = cells.CELLS[cell].gates
    weight, bias, skip = random(gates * H, H), random(gates * H), random(gates * H, H, seed=1)
    mine = start(cell, options.get("time_skip"))
    theirs = to_torch(mine)
    use_skip = "time_skip" in options
    for t in range(T):
        x = random(B, gates * H, seed=10 + t)
        common: dict[str, Any] = {"activation": activation, "leak": options.get("leak")}
        mine = cells.step(cell, x, mine, weight, bias, skip_weight=skip if use_skip else None, **common)
        theirs = cells.step(
            cell,
            torch.from_numpy(x),
            theirs,
            torch.from_numpy(weight),
            torch.from_numpy(bias),
            skip_weight=torch.from_numpy(skip) if use_skip else None,
            **common,
        )
        for array, tensor in zip(mine, theirs, strict=True):
            assert (array is None) == (tensor is None)
            if array is not None:
                assert isinstance(array, np.ndarray)
                assert isinstance(tensor, Tensor)
                assert array.dtype == np.float64
                assert tensor.dtype == torch.float64
                close(array, tensor)


@pytest.mark.parametrize(("cell", "activation"), CELLS)
def test_single_precision_stays_single(cell: str, activation: str) -> None:
    gates = cells.CELLS[cell].gates
    state = StepState(*(None if array is None else array.astype(np.float32) for array in start(cell, K)))
    x, weight, bias = (random(*shape).astype(np.float32) for shape in ((B, gates * H), (gates * H, H), (gates * H,)))
    new = cells.step(cell, x, state, weight, bias, activation=activation, leak=0.5, skip_weight=weight)
    assert {array.dtype for array in new if array is not None} == {np.dtype(np.float32)}


def test_an_lstm_that_forgets_all_and_lets_all_through_is_a_tanh_of_a_tanh_recurrence() -> None:
    """Gates at i=1, f=0, o=1 leave c' = tanh(g) and h' = tanh(c'): no trace of c may be left."""
    weight, bias, state = random(4 * H, H), random(4 * H), start("lstm")
    bias[:H], bias[H : 2 * H], bias[3 * H :] = SIGMOIDS_END, -SIGMOIDS_END, SIGMOIDS_END
    h = state.hidden
    for t in range(T):
        x = random(B, 4 * H, seed=10 + t)
        state = cells.lstm(x, state.hidden @ weight.T + bias, state)
        cell = np.tanh(x[:, 2 * H : 3 * H] + h @ weight[2 * H : 3 * H].T + bias[2 * H : 3 * H])
        h = np.tanh(cell)
        close(state.cell, cell, 1e-14)
        close(state.hidden, h, 1e-14)


def test_an_lstm_that_neither_forgets_nor_reads_keeps_its_cell_forever() -> None:
    weight, bias, state = random(4 * H, H), random(4 * H), start("lstm")
    bias[:H], bias[H : 2 * H] = -SIGMOIDS_END, SIGMOIDS_END
    cell = state.cell
    for t in range(T):
        state = cells.lstm(random(B, 4 * H, seed=10 + t), state.hidden @ weight.T + bias, state)
    np.testing.assert_array_equal(state.cell, cell)


def test_a_gru_that_resets_and_keeps_nothing_is_the_plain_recurrence() -> None:
    weight, bias, state = random(3 * H, H), random(3 * H), start("gru")
    bias[:H], bias[H : 2 * H] = SIGMOIDS_END, -SIGMOIDS_END
    plain = state
    for t in range(T):
        x = random(B, 3 * H, seed=10 + t)
        state = cells.gru(x, state.hidden @ weight.T + bias, state)
        plain = cells.rnn(x[:, 2 * H :], plain.hidden @ weight[2 * H :].T + bias[2 * H :], plain)
        close(state.hidden, plain.hidden, 1e-14)


def test_a_gru_whose_update_gate_is_open_keeps_its_state() -> None:
    weight, bias, state = random(3 * H, H), random(3 * H), start("gru")
    bias[H : 2 * H] = SIGMOIDS_END
    new = cells.gru(random(B, 3 * H), state.hidden @ weight.T + bias, state)
    np.testing.assert_array_equal(new.hidden, state.hidden)


def test_a_time_skip_of_three_adds_the_hidden_state_of_three_steps_ago() -> None:
    """h(t) = x(t) + h(t-1) + 10 h(t-3), from x = 1, 0, 0, ...: worked out by hand."""
    state = StepState(np.zeros((1, 1)), None, np.zeros((1, 3, 1)))
    one, ten, none = np.ones((1, 1)), np.full((1, 1), 10.0), np.zeros(1)
    hidden = []
    for t in range(7):
        x = np.full((1, 1), float(t == 0))
        state = cells.step("rnn", x, state, one, none, activation="relu", skip_weight=ten)
        hidden.append(float(state.hidden[0, 0]))
        assert state.past is not None
        expected_past = [*[0.0] * (2 - t), *hidden[-3:]]
        np.testing.assert_array_equal(state.past[0, :, 0], expected_past)
    assert hidden == [1, 1, 1, 11, 21, 31, 141]


@pytest.mark.parametrize(("cell", "activation"), CELLS)
def test_a_time_skip_reads_the_oldest_of_its_past_and_forgets_it(cell: str, activation: str) -> None:
    gates = cells.CELLS[cell].gates
    x, weight, bias, skip = random(B, gates * H), random(gates * H, H), random(gates * H), random(gates * H, H, seed=1)
    state = start(cell, K)
    assert state.past is not None
    new = cells.step(cell, x, state, weight, bias, activation=activation, skip_weight=skip)
    same = cells.step(
        cell, x + state.past[:, 0] @ skip.T, state._replace(past=None), weight, bias, activation=activation
    )
    close(new.hidden, same.hidden)
    assert new.past is not None
    np.testing.assert_array_equal(new.past[:, :-1], state.past[:, 1:])
    np.testing.assert_array_equal(new.past[:, -1], new.hidden)


@pytest.mark.parametrize(("cell", "activation"), CELLS)
def test_a_leak_blends_old_and_new_hidden_states_and_nothing_else(cell: str, activation: str) -> None:
    gates = cells.CELLS[cell].gates
    x, weight, bias, state = random(B, gates * H), random(gates * H, H), random(gates * H), start(cell)
    plain = cells.step(cell, x, state, weight, bias, activation=activation)
    leaky = cells.step(cell, x, state, weight, bias, activation=activation, leak=0.25)
    close(leaky.hidden, 0.75 * state.hidden + 0.25 * plain.hidden)
    if cells.CELLS[cell].cell_state:
        np.testing.assert_array_equal(leaky.cell, plain.cell)
    full = cells.step(cell, x, state, weight, bias, activation=activation, leak=1.0)
    np.testing.assert_array_equal(full.hidden, plain.hidden)


def test_what_a_time_skip_remembers_is_the_leaky_hidden_state() -> None:
    x, weight, bias, state = random(B, H), random(H, H), random(H), start("rnn", K)
    new = cells.step("rnn", x, state, weight, bias, leak=0.25, skip_weight=weight)
    assert new.past is not None
    np.testing.assert_array_equal(new.past[:, -1], new.hidden)


@pytest.mark.parametrize("name", cells.ACTIVATIONS)
def test_activations_equal_torchs(name: str) -> None:
    x = np.array([-1e3, -2.0, -1e-9, 0.0, 1e-9, 3.0, 1e3])
    theirs = getattr(F if name == "leaky_relu" else torch, name)(torch.from_numpy(x))
    close(cells.ACTIVATIONS[name](x), theirs, 1e-15)
    np.testing.assert_array_equal(np.asarray(cells.ACTIVATIONS[name](torch.from_numpy(x))), theirs.numpy())


def test_a_sigmoid_neither_overflows_nor_leaves_its_ends() -> None:
    x = np.array([-1e9, -3.0, 0.0, 2.0, 1e9])
    close(cells.sigmoid(x), torch.sigmoid(torch.from_numpy(x)), 1e-15)
    assert cells.sigmoid(x)[0] == 0.0
    assert cells.sigmoid(x)[2] == 0.5
    assert cells.sigmoid(x)[-1] == 1.0


@pytest.mark.parametrize("shape", [(B, H), (B, T, H)])
def test_layer_norm_equals_torchs_in_both_libraries(shape: tuple[int, ...]) -> None:
    x, weight, bias = 7 + 3 * random(*shape), random(H), random(H, seed=1)
    x_, weight_, bias_ = (torch.from_numpy(array) for array in (x, weight, bias))
    theirs = F.layer_norm(x_, (H,), weight_, bias_)
    close(cells.layer_norm(x, weight, bias), theirs)
    close(cells.layer_norm(x_, weight_, bias_), theirs)


def test_no_step_changes_the_state_it_was_given() -> None:
    for (cell, activation), options in itertools.product(CELLS, OPTIONS):
        gates, state = cells.CELLS[cell].gates, start(cell, options.get("time_skip"))
        copies = [None if array is None else array.copy() for array in state]
        skip = random(gates * H, H, seed=1) if "time_skip" in options else None
        x, weight, bias = random(B, gates * H), random(gates * H, H), random(gates * H)
        cells.step(cell, x, state, weight, bias, activation=activation, leak=options.get("leak"), skip_weight=skip)
        for array, copy in zip(state, copies, strict=True):
            np.testing.assert_array_equal(array, copy)


# A cell that is no more than a record


def minimal_gru(x: Any, r: Any, state: StepState) -> StepState:
    """Take a step of the minimal GRU (Feng et al. 2024), whose gates know only the input."""
    z, n = cells.split_gates(x, 2)
    z = cells.sigmoid(z)
    return StepState((1 - z) * state.hidden + z * n, None, state.past)


RECORDS = {"minimal": cells.Cell(minimal_gru, 2, recurrent=False), "gru": cells.Cell(cells.gru, 3, inner_gates=1)}


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "leak": 0.3, "time_skip": 2}], ids=str)
def test_a_cell_needs_only_a_record(record: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": H, "embedding_size": E, "num_layers": 1, "dropout": 0.0, "tie_weights": False}
    config = ModelConfig.model_validate({"cell": "gru", **sizes, **options})
    usual = CharRNN(config, V).double()
    usual.initialise(torch.Generator().manual_seed(0))
    monkeypatch.setitem(cells.CELLS, "new", RECORDS[record])
    model = CharRNN(config.model_copy(update={"cell": "new"}), V).double().eval()
    model.initialise(torch.Generator().manual_seed(0))
    architecture = Architecture.of(model.config.model_dump())
    assert architecture.shapes(V) == {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    weights = [tuple(weight.shape) for weight in model.layers[0].weights()]  # type: ignore[operator]
    assert weights == list(RECORDS[record].shapes(E, H).values())
    tokens = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))
    if record == "gru":
        model.load_state_dict(usual.state_dict())
    logits, _ = model(tokens, model.initial_state(B))
    if record == "gru":
        close(logits.detach(), usual(tokens, usual.initial_state(B))[0].detach())
    gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    assert all(bool(gradient.any()) for gradient in gradients)
    reader = numpy_model.build(architecture, {name: weight.numpy() for name, weight in model.state_dict().items()})
    features, _ = reader.read(tokens.numpy(), reader.initial_state(B))
    close(reader.logits(features), logits.detach())
    model.use_custom_kernel(True)
    assert torch.equal(model(tokens, model.initial_state(B))[0], logits)
