"""Claims about the recorded step: replayed, it gives what the model gives, and what it gave is never changed.
A stand-in for a CUDA graph runs the function again, into the outputs of the first time, from the inputs' own places.
Sizes: B=2 lanes, H=5 hidden, V=7 vocabulary, K=2 the time skip."""

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
    """Records as a CUDA graph does: what it runs finds its inputs and leaves its outputs where they were."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, function: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], Any]]:
        self.recorded += 1
        outputs = function()

        def replay() -> None:
            for kept, new in zip(outputs, function(), strict=True):
                if kept is not None and new is not None:
                    kept.copy_(new)

        return outputs, replay


@every_model
@torch.no_grad()
def test_a_replayed_step_is_the_models(cell: str, activation: str, options: dict[str, Any]) -> None:
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
def test_what_a_step_gave_outlasts_the_next_ones() -> None:
    """A search reads on from one state in several ways, and from an old one after a new one."""
    model = made("lstm", "tanh", {"num_layers": 2, "time_skip": 2})
    reader, plain = TorchModel(model, StandIn()), TorchModel(model)
    first = TorchState(some_state(model))
    given = [tensor.clone() for tensor in first.carried if tensor is not None]
    one, two = np.array([[1], [V]]), np.array([[2], [3]])
    logits, after = reader.step(one, first)
    kept = logits.copy(), [tensor.clone() for tensor in after.carried if tensor is not None]
    for tokens, state in ((two, after), (two, first), (one, first)):
        found, found_state = reader.step(tokens, state)
        expected, expected_state = plain.step(tokens, state)
        np.testing.assert_allclose(found, expected)
        for mine, theirs in zip(found_state.carried, expected_state.carried, strict=True):
            torch.testing.assert_close(mine, theirs)
    np.testing.assert_array_equal(logits, kept[0])
    for mine, theirs in zip((t for t in after.carried if t is not None), kept[1], strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip((t for t in first.carried if t is not None), given, strict=True):
        assert torch.equal(mine, theirs)


@torch.no_grad()
def test_few_recordings_serve_every_number_of_lanes() -> None:
    model, record = made("gru", "tanh", {"num_layers": 2}), StandIn()
    reader, plain = TorchModel(model, record), TorchModel(model)
    for lanes in (9, 8, 5, 4, 3, 2, 1, 7):
        tokens = some_tokens(lanes, 1, lanes).numpy()
        state = TorchState(some_state(model, lanes))
        np.testing.assert_allclose(reader.step(tokens, state)[0], plain.step(tokens, state)[0])
    assert record.recorded == 5  # for 16, 8, 4, 2 and 1


def test_several_steps_at_once_are_not_recorded() -> None:
    record = StandIn()
    reader = TorchModel(made("gru", "tanh", {}), record)
    reader.step(np.array([[1, 2, 3]]), reader.initial_state(1))
    assert record.recorded == 0


def test_a_bidirectional_models_other_half_is_recorded_too() -> None:
    record = StandIn()
    sides = TorchModel(made("gru", "tanh", {"bidirectional": True}), record).sides
    assert sides is not None
    sides.backward.step(np.array([[1]]), sides.backward.initial_state(1))
    assert record.recorded == 1


@pytest.mark.parametrize("until", [None, "a"])
def test_the_text_is_the_same(until: str | None) -> None:
    model = made("lstm", "tanh", {"num_layers": 2})
    texts, best = [], []
    for reader in (TorchModel(model), TorchModel(model, StandIn())):
        # lanes end at different times where there is something to stop at
        sampler = sampling.Sampler(
            reader, VOCABULARY, ["", "ab", "f?"], 40, Filters(), seed=4, indices=[0, 1, 2], until=until
        )
        for _ in sampler:
            pass
        texts.append([made.text for made in sampler.samples])
        best.append([found.text for found in beam_search.search(reader, VOCABULARY, "b", 9, 5, until)])
    assert texts[0] == texts[1]
    assert best[0] == best[1]
