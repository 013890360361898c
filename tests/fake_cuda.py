"""The parts of torch that deal with CUDA, replaced by those of a fake device (see `fake_device`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.overrides import _get_current_function_mode_stack

from charrnn.device import cudnn_takes_bf16
from tests.fake_device import (
    CPU,
    CUDA,
    Calls,
    Copy,
    Device,
    Operation,
    Operations,
    flatten,
    is_cuda,
    replay,
    spoil,
    unobserved,
)


class Generator(torch.Generator):
    """A generator of the CPU that reports the device it was made for."""

    def __new__(cls, device: str | torch.device = "cpu") -> Generator:
        return super().__new__(cls, CPU)  # type: ignore[call-arg]

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self._named = CUDA if is_cuda(device) else torch.device(device)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._named


def real(kind: str) -> str:
    """Return the kind of device where the tensors really are."""
    return "cpu" if kind == "cuda" else kind


class Autocast(torch.autocast):
    """Autocast on the device where the tensors really are."""

    def __init__(self, device_type: str, *args: Any, **options: Any) -> None:
        super().__init__(real(device_type), *args, **options)


class Cudnn:
    """cuDNN's constants for recurrent networks."""

    class RNNMode:
        rnn_relu, rnn_tanh, lstm, gru = range(4)


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Provide a fake CUDA device for the duration: cuda:0, with a single stream."""
    device = Device()
    calls = Calls(device)

    class Stream:
        def wait_stream(self, other: Stream) -> None:
            """Do nothing: all operations run in order."""

        def is_capturing(self) -> bool:  # optimizers ask
            return device.recorded is not None

    stream = Stream()

    class Event:
        copies: list[Copy] | None = None

        def record(self, stream: Stream) -> None:
            self.copies = list(device.pending)

        def synchronize(self) -> None:
            assert self.copies is not None, "an event that was not recorded is awaited"
            device.complete(self.copies)

    class Graph:
        operations: list[Operation]

        def replay(self) -> None:
            replay(self.operations)

    @contextmanager
    def graph(made: Graph) -> Iterator[None]:
        device.recorded = []
        try:
            yield
        finally:
            made.operations, device.recorded = device.recorded, None
        with unobserved():
            for operation in made.operations:
                for tensor in operation.fresh:
                    spoil(tensor)  # what is recorded has not run

    run, group = vars(torch.autograd)["_engine_run_backward"], torch._C._group_tensors_by_device_and_dtype
    rounds, rounded_to = torch.is_autocast_enabled, torch.get_autocast_dtype
    real_device = torch._C.TensorBase.device

    def run_backward(tensors: Any, *args: Any, **options: Any) -> Any:
        """Run autograd so that it allocates on the device, and calls Python functions under `calls`, which is not
        active where Tensor.backward was called through it."""
        before, device.in_backward = device.in_backward, tensors[0] in device.memory
        try:
            with nullcontext() if calls in _get_current_function_mode_stack() else calls:  # type: ignore[no-untyped-call]
                return run(tensors, *args, **options)
        finally:
            device.in_backward = before

    def grouped(*args: Any) -> Any:
        """Group tensors under the fake CUDA device, for optimizers."""
        return {(next(flatten(lists)).device, dtype): (lists, at) for (_, dtype), (lists, at) in group(*args).items()}

    def set_sync_debug_mode(mode: str) -> None:
        device.may_synchronize = mode != "error"

    stand_ins: dict[Any, dict[str, Any]] = {
        torch: {
            "autocast": Autocast,
            "Generator": Generator,
            "is_autocast_enabled": lambda kind: rounds(real(kind)),
            "get_autocast_dtype": lambda kind: rounded_to(real(kind)),
            "_cudnn_rnn_flatten_weight": lambda *arguments: None,  # the CPU's kernels take weights in any layout
        },
        Tensor: {
            "is_cuda": property(lambda tensor: tensor in device.memory),
            "device": property(lambda tensor: CUDA if tensor in device.memory else real_device.__get__(tensor)),
        },
        torch.cuda: {
            "is_available": lambda: True,
            "is_bf16_supported": lambda including_emulation=True: True,
            "is_current_stream_capturing": lambda: device.recorded is not None,
            "device_count": lambda: 1,
            "get_device_name": lambda which=None: "fake",
            "set_device": is_cuda,
            "mem_get_info": lambda which=None: (1 << 34, 1 << 35),
            "synchronize": lambda which=None: device.complete(device.pending),
            "set_sync_debug_mode": set_sync_debug_mode,
            "Stream": Stream,
            "current_stream": lambda which=None: stream,
            "stream": lambda which: nullcontext(),
            "Event": Event,
            "CUDAGraph": Graph,
            "graph": graph,
        },
        torch.accelerator: {"current_stream": lambda which=None: stream},
        # newer than any version asked for; but torch.nn must not flatten weights for it
        torch.backends.cudnn: {"version": lambda: 10**6, "is_acceptable": lambda tensor: False},
        torch.autograd: {"_engine_run_backward": run_backward},
        torch._C: {"_group_tensors_by_device_and_dtype": grouped},
    }
    try:
        with pytest.MonkeyPatch.context() as patch:
            for owner, members in stand_ins.items():
                for name, member in members.items():
                    patch.setattr(owner, name, member)
            patch.setitem(get_cudnn_mode.__globals__, "_cudnn", Cudnn)
            cudnn_takes_bf16.cache_clear()
            with Operations(device), calls:
                yield
    finally:
        cudnn_takes_bf16.cache_clear()
