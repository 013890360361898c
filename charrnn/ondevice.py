"""A torch model as a `reader`, for devices that NumPy does not know, and in training.
Shapes: B lanes, T steps, V vocabulary, F features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from charrnn import cells, stack
from charrnn.bidirectional import BidirectionalRNN, Causal
from charrnn.captured import CapturedStep, Record, cuda_graph
from charrnn.ngram import Ngram
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
    """A model that reads in one direction; see `reader.Reader`. Puts the model into evaluation mode.

    Where there is something to record with, single steps are recorded, for 1, 2, 4, 8 ... lanes as they are needed,
    and replayed.
    """

    def __init__(self, model: Causal, record: Record | None = None) -> None:
        self.model, self.record = model.eval(), record
        self.device = model.embedding.device
        config = model.config
        self.gates = cells.GATES.get(config.cell, 1) * int(config.hidden_size)
        self.sides: Sides | None = BothSides(model, record) if isinstance(model, BidirectionalRNN) else None
        self._captured: dict[int, CapturedStep] = {}

    def start_state(self, lanes: int) -> State:
        """Give the state before any text: zeros."""
        return State(self.model.start_state(lanes))

    # not in inference mode: what is recorded there can be replayed nowhere else
    @torch.no_grad()
    def step(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V; gives the logits (B, V) of what follows the last, and the state after it."""
        if self.record is not None and tokens.shape[1] == 1:
            room = 1 << (len(tokens) - 1).bit_length()
            if room not in self._captured:
                self._captured[room] = CapturedStep(self.model, room, self.record)
            logits, carried = self._captured[room](torch.from_numpy(tokens), state.carried)
        else:
            features, carried = self.model.read(torch.from_numpy(tokens).to(self.device), state.carried)
            logits = self.model.logits(features[:, -1])
        return _floats(logits), State(carried)

    @torch.inference_mode()
    def read(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V; gives the features (B, T, F) after each, and the state after the last."""
        features, carried = self.model.read(torch.from_numpy(tokens).to(self.device), state.carried)
        return _floats(features), State(carried)

    @torch.inference_mode()
    def logits(self, features: Floats) -> Floats:
        """Turn features (..., F) into the logits (..., V) of what follows."""
        return _floats(self.model.logits(torch.from_numpy(features).to(self.device)))


def reader(model: Causal | Ngram) -> Reader:
    """Give what reads with a model: an n-gram model itself, which needs no device; on CUDA in recorded steps."""
    if isinstance(model, Ngram):
        return model
    return OnDevice(model, cuda_graph if model.embedding.is_cuda else None)


class BothSides:
    """A bidirectional model's other two thirds; see `reader.Sides`."""

    def __init__(self, model: BidirectionalRNN, record: Record | None) -> None:
        self.model = model
        self.backward: Reader = OnDevice(model.backward_half, record)

    @torch.inference_mode()
    def joint_logits(self, before: Floats, after: Floats, remaining: Tokens | int) -> Floats:
        """Foretell the first of `remaining` (...) unknown tokens between features (..., F); gives logits (..., V)."""
        device = self.model.embedding.device
        known, beyond = (torch.tensor(features, device=device) for features in (before, after))
        return _floats(self.model.joint_logits(known, beyond, torch.as_tensor(remaining, device=device)))


def _floats(tensor: Tensor) -> Floats:
    floats: Floats = tensor.cpu().numpy()
    return floats
