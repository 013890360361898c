"""A recorded step, when replayed, gives what the model gives, and never changes its earlier results.
A stand-in for a CUDA graph runs the function again, from the same inputs, into the outputs of the first time.
Sizes: B=2 batch rows, H=5 hidden, V=7 vocabulary, K=2 the time skip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.data.vocabulary import Vocabulary
from charrnn.generation import beam_search, sampling
from charrnn.generation.filters import Filters
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.torch_model import CapturedStep, Outputs, TorchModel, TorchState
from tests.models.test_char_rnn import V, some_state, some_tokens
from tests.models.test_numpy_model import made
from tests.models.test_torch_model import every_model

VOCABULARY = Vocabulary("\nabcdef", 1000, 3)


class StandIn:
    """Records like a CUDA graph: a replay reads and writes the same memory."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, function: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], Any]]:
        self.recorded += 1
        outputs = function()

        def replay() -> None:
            for output, new in zip(outputs, function(), strict=True):
                if output is not None and new is not None:
                    output.copy_(new)

        return outputs, replay


@every_model
@torch.no_grad()
def test_a_replayed_step_equals_the_model(cell: str, activation: str, options: dict[str, Any]) -> None:
    model = made(cell, activation, options)
    halves: list[Any] = [model, model.backward_half] if isinstance(model, BidirectionalRNN) else [model]
    for half in halves:
        captured = CapturedStep(half, 4, StandIn())
        state = half.initial_state(3)
        for seed in range(3):
            tokens = some_tokens(3, 1, seed)  # an escape among them
            features, expected = half.read(tokens, state)
            logits, state = captured(tokens, state)
            torch.testing.assert_close(logits, half.logits(features[:, -1]))
            for mine, theirs in zip(state, expected, strict=True):
                assert (mine is None) == (theirs is None)
                if mine is not None:
                    torch.testing.assert_close(mine, theirs)


@torch.no_grad()
def test_later_steps_leave_earlier_results_unchanged() -> None:
    """A search reads several continuations of one state, and returns to older ones."""
    model = made("lstm", "tanh", {"num_layers": 2, "time_skip": 2})
    reader, plain = TorchModel(model, StandIn()), TorchModel(model)
    first = TorchState(some_state(model))
    given = [tensor.clone() for tensor in first.tensors if tensor is not None]
    one, two = np.array([[1], [V]]), np.array([[2], [3]])
    logits, after = reader.step(one, first)
    saved = logits.copy(), [tensor.clone() for tensor in after.tensors if tensor is not None]
    for tokens, state in ((two, after), (two, first), (one, first)):
        found, found_state = reader.step(tokens, state)
        expected, expected_state = plain.step(tokens, state)
        np.testing.assert_allclose(found, expected)
        for mine, theirs in zip(found_state.tensors, expected_state.tensors, strict=True):
            torch.testing.assert_close(mine, theirs)
    np.testing.assert_array_equal(logits, saved[0])
    for mine, theirs in zip((t for t in after.tensors if t is not None), saved[1], strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip((t for t in first.tensors if t is not None), given, strict=True):
        assert torch.equal(mine, theirs)


@torch.no_grad()
def test_few_recordings_serve_every_batch_size() -> None:
    model, record = made("gru", "tanh", {"num_layers": 2}), StandIn()
    reader, plain = TorchModel(model, record), TorchModel(model)
    for batch in (9, 8, 5, 4, 3, 2, 1, 7):
        tokens = some_tokens(batch, 1, batch).numpy()
        state = TorchState(some_state(model, batch))
        np.testing.assert_allclose(reader.step(tokens, state)[0], plain.step(tokens, state)[0])
    assert record.recorded == 5  # for 16, 8, 4, 2 and 1


def test_several_steps_at_once_are_not_recorded() -> None:
    record = StandIn()
    reader = TorchModel(made("gru", "tanh", {}), record)
    reader.step(np.array([[1, 2, 3]]), reader.initial_state(1))
    assert record.recorded == 0


def test_a_bidirectional_models_other_half_is_recorded_too() -> None:
    record = StandIn()
    sides = TorchModel(made("gru", "tanh", {"bidirectional": True}), record).bidirectional_heads
    assert sides is not None
    sides.backward.step(np.array([[1]]), sides.backward.initial_state(1))
    assert record.recorded == 1


@pytest.mark.parametrize("until", [None, "a"])
def test_the_text_is_the_same(until: str | None) -> None:
    model = made("lstm", "tanh", {"num_layers": 2})
    texts, best = [], []
    for reader in (TorchModel(model), TorchModel(model, StandIn())):
        # with `until`, samples end at different times
        sampler = sampling.Sampler(
            reader, VOCABULARY, ["", "ab", "f?"], 40, Filters(), seed=4, indices=[0, 1, 2], until=until
        )
        for _ in sampler:
            pass
        texts.append([made.text for made in sampler.samples])
        best.append([found.text for found in beam_search.search(reader, VOCABULARY, "b", 9, 5, until)])
    assert texts[0] == texts[1]
    assert best[0] == best[1]
