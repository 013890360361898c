"""The parts of torch that speak of CUDA, for a pretended device."""

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
    flat,
    is_cuda,
    replay,
    spoil,
    unseen,
)


class Generator(torch.Generator):
    """A generator of the CPU that says whose it would be."""

    def __new__(cls, device: str | torch.device = "cpu") -> Generator:
        return super().__new__(cls, CPU)  # type: ignore[call-arg]

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self._named = CUDA if is_cuda(device) else torch.device(device)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._named


def real(kind: str) -> str:
    """Name the kind of device where the tensors are."""
    return "cpu" if kind == "cuda" else kind


class Autocast(torch.autocast):
    """Round where the tensors are."""

    def __init__(self, device_type: str, *args: Any, **options: Any) -> None:
        super().__init__(real(device_type), *args, **options)


class Cudnn:
    """cuDNN's numbers for its recurrent networks."""

    class RNNMode:
        rnn_relu, rnn_tanh, lstm, gru = range(4)


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Have a CUDA device for a while: cuda:0, with a single stream."""
    device = Device()
    calls = Calls(device)

    class Stream:
        def wait_stream(self, other: Stream) -> None:
            """Go on: everything comes after what was asked for before."""

        def is_capturing(self) -> bool:  # optimizers ask
            return device.recorded is not None

    stream = Stream()

    class Event:
        copies: list[Copy] | None = None

        def record(self, stream: Stream) -> None:
            self.copies = list(device.underway)

        def synchronize(self) -> None:
            assert self.copies is not None, "waits for what was never recorded"
            device.arrive(self.copies)

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
        with unseen():
            for operation in made.operations:
                for tensor in operation.fresh:
                    spoil(tensor)  # recorded is not run

    run, group = vars(torch.autograd)["_engine_run_backward"], torch._C._group_tensors_by_device_and_dtype
    rounds, rounded_to = torch.is_autocast_enabled, torch.get_autocast_dtype
    real_device = torch._C.TensorBase.device

    def go_back(tensors: Any, *args: Any, **options: Any) -> Any:
        """Run autograd so that it makes its tensors on the device, and calls Python's functions in sight of `calls`,
        which is not looking where Tensor.backward was called by way of it."""
        before, device.going_back = device.going_back, tensors[0] in device.memory
        try:
            with nullcontext() if calls in _get_current_function_mode_stack() else calls:  # type: ignore[no-untyped-call]
                return run(tensors, *args, **options)
        finally:
            device.going_back = before

    def grouped(*args: Any) -> Any:
        """Name the fake CUDA device, of which optimizers ask."""
        return {(next(flat(lists)).device, dtype): (lists, at) for (_, dtype), (lists, at) in group(*args).items()}

    def set_sync_debug_mode(mode: str) -> None:
        device.may_wait = mode != "error"

    stand_ins: dict[Any, dict[str, Any]] = {
        torch: {
            "autocast": Autocast,
            "Generator": Generator,
            "is_autocast_enabled": lambda kind: rounds(real(kind)),
            "get_autocast_dtype": lambda kind: rounded_to(real(kind)),
            "_cudnn_rnn_flatten_weight": lambda *arguments: None,  # kernels of the CPU take weights as they lie
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
            "get_device_name": lambda which=None: "pretended",
            "set_device": is_cuda,
            "mem_get_info": lambda which=None: (1 << 34, 1 << 35),
            "synchronize": lambda which=None: device.arrive(device.underway),
            "set_sync_debug_mode": set_sync_debug_mode,
            "Stream": Stream,
            "current_stream": lambda which=None: stream,
            "stream": lambda which: nullcontext(),
            "Event": Event,
            "CUDAGraph": Graph,
            "graph": graph,
        },
        torch.accelerator: {"current_stream": lambda which=None: stream},
        # newer than anyone asks for; but torch.nn shall not move weights about for it
        torch.backends.cudnn: {"version": lambda: 10**6, "is_acceptable": lambda tensor: False},
        torch.autograd: {"_engine_run_backward": go_back},
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
