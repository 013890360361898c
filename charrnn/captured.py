"""One step of a model, recorded once and then replayed with a single call.
A step of a text or two is dozens of small kernels, and to launch them takes a GPU's host longer than they run.
Shapes: B lanes, R lanes that there is room for, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from charrnn.bidirectional import Causal
from charrnn.stack import State

Outputs = tuple[Tensor | None, ...]
# runs a function once; gives its outputs, and what runs it again on the same inputs into the same outputs
Record = Callable[[Callable[[], Outputs]], tuple[Outputs, Callable[[], Any]]]
_WARM_UPS = 3  # what libraries set up in a first call cannot be recorded


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
        self.state = model.start_state(room)
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
