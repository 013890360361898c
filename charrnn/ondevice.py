"""A torch model as a `reader`, for devices that NumPy does not know, and in training.
Shapes: B lanes, T steps, V vocabulary, F features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from charrnn import cells, stack
from charrnn.bidirectional import BidirectionalRNN, Causal
from charrnn.reader import Floats, Reader, Sides, Tokens


class State(NamedTuple):
    """Carry B lanes from one read to the next, on the model's device."""

    carried: stack.State

    def lanes(self, index: Tokens) -> State:
        """Choose, reorder or repeat lanes by index."""
        return State(self.carried.lanes(torch.from_numpy(index).to(self.carried.hidden.device)))

    def joined(self, others: Sequence[State]) -> State:
        """Put the lanes of other states of the same model after these."""
        tensors = zip(self.carried, *(other.carried for other in others), strict=True)
        hidden, cell, past = (None if each[0] is None else torch.cat(each, 1) for each in tensors)
        assert hidden is not None
        return State(stack.State(hidden, cell, past))


class OnDevice:
    """A model that reads in one direction; see `reader.Reader`. Puts the model into evaluation mode."""

    def __init__(self, model: Causal) -> None:
        self.model = model.eval()
        self.device = model.embedding.device
        config = model.config
        self.gates = cells.GATES[config.cell] * int(config.hidden_size)
        self.sides: Sides | None = BothSides(model) if isinstance(model, BidirectionalRNN) else None

    def start_state(self, lanes: int) -> State:
        """Give the state before any text: zeros."""
        return State(self.model.start_state(lanes))

    @torch.inference_mode()
    def step(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V; gives the logits (B, V) of what follows the last, and the state after it."""
        features, carried = self.model.read(torch.from_numpy(tokens).to(self.device), state.carried)
        return _floats(self.model.logits(features[:, -1])), State(carried)

    @torch.inference_mode()
    def read(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V; gives the features (B, T, F) after each, and the state after the last."""
        features, carried = self.model.read(torch.from_numpy(tokens).to(self.device), state.carried)
        return _floats(features), State(carried)

    @torch.inference_mode()
    def logits(self, features: Floats) -> Floats:
        """Turn features (..., F) into the logits (..., V) of what follows."""
        return _floats(self.model.logits(torch.from_numpy(features).to(self.device)))


class BothSides:
    """A bidirectional model's other two thirds; see `reader.Sides`."""

    def __init__(self, model: BidirectionalRNN) -> None:
        self.model = model
        self.backward: Reader = OnDevice(model.backward_half)

    @torch.inference_mode()
    def joint_logits(self, before: Floats, after: Floats, remaining: Tokens | int) -> Floats:
        """Foretell the first of `remaining` (...) unknown tokens between features (..., F); gives logits (..., V)."""
        device = self.model.embedding.device
        known, beyond = (torch.tensor(features, device=device) for features in (before, after))
        return _floats(self.model.joint_logits(known, beyond, torch.as_tensor(remaining)))


def _floats(tensor: Tensor) -> Floats:
    floats: Floats = tensor.cpu().numpy()
    return floats
