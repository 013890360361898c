"""One step of a model, recorded once and then replayed with a single call.
A step of a text or two is dozens of small kernels, and to launch them takes a GPU's host longer than they run.
Shapes: B lanes, R lanes that there is room for, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from charrnn.models import cells, layers
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.factory import Causal
from charrnn.models.interface import BidirectionalHeads, Floats, LanguageModel, Tokens
from charrnn.models.layers import State
from charrnn.models.ngram import Ngram

_WARM_UPS = 3  # what libraries set up in a first call cannot be recorded
Outputs = tuple[Tensor | None, ...]
# runs a function once; gives its outputs, and what runs it again on the same inputs into the same outputs
Record = Callable[[Callable[[], Outputs]], tuple[Outputs, Callable[[], Any]]]


def cuda_graph(function: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], Any]]:
    """Record a function as a CUDA graph, on the current device."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return outputs, graph.replay


class CapturedStep:
    """A model's single step for up to R lanes, in buffers of its own, which each call fills and reads anew."""

    def __init__(self, model: Causal, room: int, record: Record) -> None:
        self.state = model.initial_state(room)
        self.tokens = torch.zeros(room, 1, dtype=torch.long, device=self.state.hidden.device)

        def step() -> Outputs:
            features, after = model.read(self.tokens, self.state)
            return model.logits(features[:, -1]), *after

        self.outputs, self.replay = record(step)

    def __call__(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read tokens (B, 1) on from a state; gives logits (B, V), on the CPU, and the state after; both are copies."""
        lanes = len(tokens)
        self.tokens[:lanes].copy_(tokens, non_blocking=True)
        for own, given in zip(self.state, state, strict=True):
            if own is not None and given is not None:
                own[:, :lanes].copy_(given)
        self.replay()
        logits, hidden, *more = self.outputs
        assert logits is not None
        assert hidden is not None
        # whoever searches reads on from one state several times: the next call must not change it
        after = State(hidden, *more).map(lambda tensor: tensor[:, :lanes].clone())
        return logits[:lanes].to("cpu", copy=True), after


class TorchState(NamedTuple):
    """Carry B lanes from one read to the next, on the model's device."""

    carried: layers.State

    def select(self, index: Tokens) -> TorchState:
        """Choose, reorder or repeat lanes by index."""
        return TorchState(self.carried.select(torch.from_numpy(index).to(self.carried.hidden.device)))

    def joined(self, others: Sequence[TorchState]) -> TorchState:
        """Put the lanes of other states of the same model after these."""
        tensors = zip(self.carried, *(other.carried for other in others), strict=True)
        hidden, cell, past = (None if each[0] is None else torch.cat(each, 1) for each in tensors)
        assert hidden is not None
        return TorchState(layers.State(hidden, cell, past))


class TorchModel:
    """A model that reads in one direction; see `reader.Reader`. Puts the model into evaluation mode.

    Where there is something to record with, single steps are recorded, for 1, 2, 4, 8 ... lanes as they are needed,
    and replayed.
    """

    def __init__(self, model: Causal, record: Record | None = None) -> None:
        self.model, self.record = model.eval(), record
        self.device = model.embedding.device
        config = model.config
        self.gates = cells.GATES.get(config.cell, 1) * int(config.hidden_size)
        self.sides: BidirectionalHeads | None = (
            BothSides(model, record) if isinstance(model, BidirectionalRNN) else None
        )
        self._captured: dict[int, CapturedStep] = {}

    def initial_state(self, lanes: int) -> TorchState:
        """Give the state before any text: zeros."""
        return TorchState(self.model.initial_state(lanes))

    # not in inference mode: what is recorded there can be replayed nowhere else
    @torch.no_grad()
    def step(self, tokens: Tokens, state: TorchState) -> tuple[Floats, TorchState]:
        """Read tokens (B, T), 0 to V; gives the logits (B, V) of what follows the last, and the state after it."""
        if self.record is not None and tokens.shape[1] == 1:
            room = 1 << (len(tokens) - 1).bit_length()
            if room not in self._captured:
                self._captured[room] = CapturedStep(self.model, room, self.record)
            logits, carried = self._captured[room](torch.from_numpy(tokens), state.carried)
        else:
            features, carried = self.model.read(torch.from_numpy(tokens).to(self.device), state.carried)
            logits = self.model.logits(features[:, -1])
        return _floats(logits), TorchState(carried)

    @torch.inference_mode()
    def read(self, tokens: Tokens, state: TorchState) -> tuple[Floats, TorchState]:
        """Read tokens (B, T), 0 to V; gives the features (B, T, F) after each, and the state after the last."""
        features, carried = self.model.read(torch.from_numpy(tokens).to(self.device), state.carried)
        return _floats(features), TorchState(carried)

    @torch.inference_mode()
    def logits(self, features: Floats) -> Floats:
        """Turn features (..., F) into the logits (..., V) of what follows."""
        return _floats(self.model.logits(torch.from_numpy(features).to(self.device)))


def reader(model: Causal | Ngram) -> LanguageModel:
    """Give what reads with a model: an n-gram model itself, which needs no device; on CUDA in recorded steps."""
    if isinstance(model, Ngram):
        return model
    return TorchModel(model, cuda_graph if model.embedding.is_cuda else None)


class BothSides:
    """A bidirectional model's other two thirds; see `reader.Sides`."""

    def __init__(self, model: BidirectionalRNN, record: Record | None) -> None:
        self.model = model
        self.backward: LanguageModel = TorchModel(model.backward_half, record)

    @torch.inference_mode()
    def joint_logits(self, before: Floats, after: Floats, remaining: Tokens | int) -> Floats:
        """Foretell the first of `remaining` (...) unknown tokens between features (..., F); gives logits (..., V)."""
        device = self.model.embedding.device
        known, beyond = (torch.tensor(features, device=device) for features in (before, after))
        return _floats(self.model.joint_logits(known, beyond, torch.as_tensor(remaining, device=device)))


def _floats(tensor: Tensor) -> Floats:
    floats: Floats = tensor.cpu().numpy()
    return floats
