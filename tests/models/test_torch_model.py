"""A torch model behind NumPy arrays gives the same numbers in the same type, and leaves its state unchanged.
Sizes: B=2 batch rows, T=3 steps, E=4 embedding, H=5 hidden, V=7 vocabulary, K=2 the time skip."""

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
    for left, right in zip(found.tensors, expected, strict=True):
        assert (left is None) == (right is None)
        assert left is None or torch.equal(left, right)


@every_model
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@torch.no_grad()
def test_reading_equals_the_model(cell: str, activation: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    model = made(cell, activation, options).to(dtype)
    halves: list[tuple[Causal, Any]] = [(model, TorchModel(model))]
    if isinstance(model, BidirectionalRNN):
        assert halves[0][1].bidirectional_heads is not None
        halves.append((model.backward_half, halves[0][1].bidirectional_heads.backward))
    for half, reader in halves:
        expected, found = half.initial_state(B), reader.initial_state(B)
        same_states(found, expected)
        for tokens in windows():
            before, saved = found, [tensor.clone() for tensor in found.tensors if tensor is not None]
            features, found = reader.read(tokens.numpy(), before)
            last, stepped = reader.step(tokens.numpy(), before)
            direct, _ = half.read(tokens, expected)
            logits, expected = half(tokens, expected)
            same(features, direct)
            np.testing.assert_allclose(reader.logits(features), logits.numpy(), rtol=1e-5)
            np.testing.assert_allclose(last, logits[:, -1].numpy(), rtol=1e-5)
            same_states(found, expected)
            same_states(stepped, expected)
            assert all(
                torch.equal(left, right)
                for left, right in zip((t for t in before.tensors if t is not None), saved, strict=True)
            )
        assert reader.gates == model.layers[0].weights()[0].shape[0]  # type: ignore[operator]


@torch.no_grad()
def test_the_joint_head_equals_the_models() -> None:
    model = made("gru", "tanh", {"bidirectional": True})
    assert isinstance(model, BidirectionalRNN)
    sides = TorchModel(model).bidirectional_heads
    assert sides is not None
    assert sides.backward.bidirectional_heads is None
    remaining = torch.tensor([1, 2, WIDEST, WIDEST + 1, 500])
    before, after = torch.randn(2, len(remaining), model.feature_size, generator=Generator().manual_seed(3)).double()
    found = sides.joint_logits(before.numpy(), after.numpy(), remaining.numpy())
    same(found, model.joint_logits(before, after, remaining))
    # features of one side shared by all positions, as in a search
    shared = np.broadcast_to(after[:1].numpy(), after.shape)
    same(sides.joint_logits(before.numpy(), shared, 3), model.joint_logits(before, after[:1].expand_as(after), 3))


@torch.no_grad()
def test_batch_rows_are_selected_reordered_and_repeated() -> None:
    model = made("lstm", "tanh", {"num_layers": 2, "time_skip": 2})
    reader, (first, second) = TorchModel(model), windows()
    _, found = reader.read(first.numpy(), reader.initial_state(B))
    _, expected = model.read(first, model.initial_state(B))
    index = np.array([1, 0, 1])
    features, _ = reader.read(second.numpy()[index], found.select(index))
    direct, _ = model.read(second[index], expected.select(torch.from_numpy(index)))
    same(features, direct)


@torch.no_grad()
def test_batch_rows_of_several_states_are_joined_in_order() -> None:
    model = made("lstm", "tanh", {"num_layers": 2, "time_skip": 2})
    reader, (first, second) = TorchModel(model), windows()
    _, early = reader.read(first.numpy(), reader.initial_state(B))
    _, late = reader.read(second.numpy(), early)
    joined = late.joined([early.select(np.array([1])), late])
    assert all(
        torch.equal(found, torch.cat((one, other[:, 1:2], one), 1))
        for found, one, other in zip(joined.tensors, late.tensors, early.tensors, strict=True)
        if found is not None and one is not None and other is not None
    )
    assert joined.tensors.past is not None


def test_a_causal_model_and_a_backward_half_have_no_other_heads() -> None:
    assert TorchModel(made("rnn", "relu", {})).bidirectional_heads is None
    model = made("rnn", "relu", {"bidirectional": True})
    assert isinstance(model, BidirectionalRNN)
    assert TorchModel(model.backward_half).bidirectional_heads is None


def test_dropout_is_off_and_no_gradient_is_kept() -> None:
    model = made("lstm", "tanh", {}).train()  # its dropout is 0.5
    assert model.dropout == 0.5
    reader, tokens = TorchModel(model), np.array([[V, 1, 2]])
    assert not model.training
    (first, state), (second, _) = (reader.step(tokens, reader.initial_state(1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not state.tensors.hidden.requires_grad
