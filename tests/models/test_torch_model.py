"""A torch model behind NumPy arrays is that model: the same numbers, its state untouched, its own type kept.
Sizes: B=2 lanes, T=3 steps, E=4 embedding, H=5 hidden, V=7 vocabulary, K=2 the time skip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.factory import Causal
from charrnn.models.interface import WIDEST
from charrnn.models.torch_model import TorchModel, TorchState
from tests.conftest import CELLS
from tests.models.test_char_rnn import B, V
from tests.models.test_numpy_model import made, windows

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"num_layers": 2, "time_skip": 2, "leak": 0.3},
    {"num_layers": 3, "residual": True, "layer_norm": True, "tie_weights": True},
    {"num_layers": 2, "bidirectional": True},
    {"time_skip": 2, "tie_weights": True, "bidirectional": True},
)
every_model = pytest.mark.parametrize(
    ("cell", "activation", "options"), [(*pair, options) for pair in CELLS for options in OPTIONS], ids=str
)


def same(found: np.ndarray[Any, Any], expected: Tensor) -> None:
    np.testing.assert_array_equal(found, expected.numpy(), strict=True)  # values, shape and type


def same_states(found: TorchState, expected: Any) -> None:
    for left, right in zip(found.carried, expected, strict=True):
        assert (left is None) == (right is None)
        assert left is None or torch.equal(left, right)


@every_model
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@torch.no_grad()
def test_what_is_read_is_what_the_model_says(
    cell: str, activation: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    model = made(cell, activation, options).to(dtype)
    halves: list[tuple[Causal, Any]] = [(model, TorchModel(model))]
    if isinstance(model, BidirectionalRNN):
        assert halves[0][1].sides is not None
        halves.append((model.backward_half, halves[0][1].sides.backward))
    for half, reader in halves:
        expected, found = half.initial_state(B), reader.initial_state(B)
        same_states(found, expected)
        for tokens in windows():
            before, kept = found, [tensor.clone() for tensor in found.carried if tensor is not None]
            features, found = reader.read(tokens.numpy(), before)
            last, stepped = reader.step(tokens.numpy(), before)
            known, _ = half.read(tokens, expected)
            logits, expected = half(tokens, expected)
            same(features, known)
            np.testing.assert_allclose(reader.logits(features), logits.numpy(), rtol=1e-5)
            np.testing.assert_allclose(last, logits[:, -1].numpy(), rtol=1e-5)
            same_states(found, expected)
            same_states(stepped, expected)
            assert all(
                torch.equal(left, right)
                for left, right in zip((t for t in before.carried if t is not None), kept, strict=True)
            )
        assert reader.gates == model.layers[0].weights()[1].shape[0]  # type: ignore[operator]


@torch.no_grad()
def test_both_sides_are_joined_as_the_model_joins_them() -> None:
    model = made("gru", "tanh", {"bidirectional": True})
    assert isinstance(model, BidirectionalRNN)
    sides = TorchModel(model).sides
    assert sides is not None
    assert sides.backward.sides is None
    remaining = torch.tensor([1, 2, WIDEST, WIDEST + 1, 500])
    before, after = torch.randn(2, len(remaining), model.feature_size, generator=Generator().manual_seed(3)).double()
    found = sides.joint_logits(before.numpy(), after.numpy(), remaining.numpy())
    same(found, model.joint_logits(before, after, remaining))
    # one side that all places share, as a search has it
    shared = np.broadcast_to(after[:1].numpy(), after.shape)
    same(sides.joint_logits(before.numpy(), shared, 3), model.joint_logits(before, after[:1].expand_as(after), 3))


@torch.no_grad()
def test_lanes_are_chosen_reordered_and_repeated() -> None:
    model = made("lstm", "tanh", {"num_layers": 2, "time_skip": 2})
    reader, (first, second) = TorchModel(model), windows()
    _, found = reader.read(first.numpy(), reader.initial_state(B))
    _, expected = model.read(first, model.initial_state(B))
    index = np.array([1, 0, 1])
    features, _ = reader.read(second.numpy()[index], found.select(index))
    known, _ = model.read(second[index], expected.select(torch.from_numpy(index)))
    same(features, known)


@torch.no_grad()
def test_lanes_of_several_states_are_joined_in_order() -> None:
    model = made("lstm", "tanh", {"num_layers": 2, "time_skip": 2})
    reader, (first, second) = TorchModel(model), windows()
    _, early = reader.read(first.numpy(), reader.initial_state(B))
    _, late = reader.read(second.numpy(), early)
    joined = late.joined([early.select(np.array([1])), late])
    assert all(
        torch.equal(found, torch.cat((one, other[:, 1:2], one), 1))
        for found, one, other in zip(joined.carried, late.carried, early.carried, strict=True)
        if found is not None and one is not None and other is not None
    )
    assert joined.carried.past is not None


def test_a_causal_model_and_a_backward_half_have_no_other_side() -> None:
    assert TorchModel(made("rnn", "relu", {})).sides is None
    model = made("rnn", "relu", {"bidirectional": True})
    assert isinstance(model, BidirectionalRNN)
    assert TorchModel(model.backward_half).sides is None


def test_dropout_is_off_and_no_gradient_is_kept() -> None:
    model = made("lstm", "tanh", {}).train()  # its dropout is 0.5
    assert model.dropout == 0.5
    reader, tokens = TorchModel(model), np.array([[V, 1, 2]])
    assert not model.training
    (first, state), (second, _) = (reader.step(tokens, reader.initial_state(1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not state.carried.hidden.requires_grad
