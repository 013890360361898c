"""A torch model behind NumPy arrays, for generation and evaluation; on CUDA its single steps are recorded as graphs.
A step of a text or two is dozens of small kernels, which take the host longer to launch than the GPU to run.
Shapes: B batch rows, R the batch rows that a recorded step has capacity for, T steps, V vocabulary."""

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
from charrnn.models.ngram_mixture import NgramMixture
from charrnn.models.torch_mixture import TorchMixture

_WARM_UPS = 3  # libraries set things up in a first call that cannot be recorded
Outputs = tuple[Tensor | None, ...]
# runs a function once; returns its outputs, and what runs it again, from the same inputs into the same outputs
Record = Callable[[Callable[[], Outputs]], tuple[Outputs, Callable[[], Any]]]


def cuda_graph(function: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], Any]]:
    """Record a function as a CUDA graph, on the current device."""
    side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(_WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return outputs, graph.replay


class CapturedStep:
    """A recorded step of a model for up to R batch rows: each call copies its inputs into the step's own buffers."""

    def __init__(self, model: Causal, capacity: int, record: Record) -> None:
        self.state = model.initial_state(capacity)
        self.tokens = torch.zeros(capacity, 1, dtype=torch.long, device=self.state.hidden.device)

        def step() -> Outputs:
            features, after = model.read(self.tokens, self.state)
            return model.logits(features[:, -1]), *after

        self.outputs, self.replay = record(step)

    def __call__(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read tokens (B, 1) from a state; return copies of the logits (B, V), on the CPU, and of the next state."""
        batch = len(tokens)
        self.tokens[:batch].copy_(tokens, non_blocking=True)
        for buffer, given in zip(self.state, state, strict=True):
            if buffer is not None and given is not None:
                buffer[:, :batch].copy_(given)
        self.replay()
        logits, hidden, *more = self.outputs
        assert logits is not None
        assert hidden is not None
        # a search reads from one state several times: the next call must not change it
        after = State(hidden, *more).map(lambda tensor: tensor[:, :batch].clone())
        return logits[:batch].to("cpu", copy=True), after


class TorchState(NamedTuple):
    """The state of B batch rows between reads, on the model's device."""

    tensors: layers.State

    def select(self, index: Tokens) -> TorchState:
        """Return the batch rows that `index` names, in its order; a row may come several times."""
        return TorchState(self.tensors.select(torch.from_numpy(index).to(self.tensors.hidden.device)))

    def joined(self, others: Sequence[TorchState]) -> TorchState:
        """Return these batch rows, followed by those of other states of the same model."""
        tensors = zip(self.tensors, *(other.tensors for other in others), strict=True)
        hidden, cell, past = (None if each[0] is None else torch.cat(each, 1) for each in tensors)
        assert hidden is not None
        return TorchState(layers.State(hidden, cell, past))


class TorchModel:
    """A model that reads in one direction; see `interface.LanguageModel`. Puts the model into evaluation mode.

    With `record`, single steps are recorded, for 1, 2, 4, 8 ... batch rows as they are needed, and replayed.
    """

    def __init__(self, model: Causal, record: Record | None = None) -> None:
        self.model, self.record = model.eval(), record
        self.device = model.embedding.device
        cell, hidden_size = model.config.cell, int(model.config.hidden_size)
        self.gates = (cells.CELLS[cell].gates if cell in cells.CELLS else 1) * hidden_size
        self.bidirectional_heads: BidirectionalHeads | None = (
            TorchBidirectionalHeads(model, record) if isinstance(model, BidirectionalRNN) else None
        )
        self._captured: dict[int, CapturedStep] = {}

    def initial_state(self, batch_size: int) -> TorchState:
        """Return the state before any text."""
        return TorchState(self.model.initial_state(batch_size))

    # no inference mode: a step recorded in it could be replayed only in it
    @torch.no_grad()
    def step(self, tokens: Tokens, state: TorchState) -> tuple[Floats, TorchState]:
        """Read tokens (B, T), 0 to V; return the logits (B, V) of the next token, and the state after the last."""
        if self.record is not None and tokens.shape[1] == 1:
            capacity = 1 << (len(tokens) - 1).bit_length()
            if capacity not in self._captured:
                self._captured[capacity] = CapturedStep(self.model, capacity, self.record)
            logits, after = self._captured[capacity](torch.from_numpy(tokens), state.tensors)
        else:
            features, after = self.model.read(torch.from_numpy(tokens).to(self.device), state.tensors)
            logits = self.model.logits(features[:, -1])
        return _floats(logits), TorchState(after)

    @torch.inference_mode()
    def read(self, tokens: Tokens, state: TorchState) -> tuple[Floats, TorchState]:
        """Read tokens (B, T), 0 to V; return the features (B, T, F) after each, and the state after the last."""
        features, after = self.model.read(torch.from_numpy(tokens).to(self.device), state.tensors)
        return _floats(features), TorchState(after)

    @torch.inference_mode()
    def logits(self, features: Floats) -> Floats:
        """Return the logits (..., V) of the next token from features (..., F)."""
        return _floats(self.model.logits(torch.from_numpy(features).to(self.device)))


def language_model(model: Causal | Ngram | TorchMixture) -> LanguageModel:
    """Return a model behind NumPy arrays: an n-gram model as it is, a network in a `TorchModel`, recorded on CUDA, and
    a mixture as an `NgramMixture` of both."""
    if isinstance(model, Ngram):
        return model
    if isinstance(model, TorchMixture):
        return NgramMixture(language_model(model.network), model.ngram, model.weights)
    return TorchModel(model, cuda_graph if model.embedding.is_cuda else None)


class TorchBidirectionalHeads:
    """The other two heads of a bidirectional model; see `interface.BidirectionalHeads`."""

    def __init__(self, model: BidirectionalRNN, record: Record | None) -> None:
        self.model = model
        self.backward: LanguageModel = TorchModel(model.backward_half, record)

    @torch.inference_mode()
    def joint_logits(self, before: Floats, after: Floats, remaining: Tokens | int) -> Floats:
        """Predict the first of `remaining` (...) unknown tokens between features (..., F); return logits (..., V)."""
        device = self.model.embedding.device
        left, right = (torch.tensor(features, device=device) for features in (before, after))
        return _floats(self.model.joint_logits(left, right, torch.as_tensor(remaining, device=device)))


def _floats(tensor: Tensor) -> Floats:
    floats: Floats = tensor.cpu().numpy()
    return floats
