"""A CUDA device where there is none, so that the tests of one run on every machine.

Tensors stay on the CPU; of each piece of memory it is remembered whether it would lie on the device. Whoever mixes
both, waits where that is forbidden, or takes a copy that nobody has waited for, is told so, as by a device. A graph
replays its calls on the memory that they were recorded with. What it cannot show are a device's own kernels and
generators, the limits of its memory, and its speed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
import torch._dynamo  # reads the name torch.Generator, which is something else later on
from torch import Tensor
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from charrnn.stack import takes_bf16

aten = torch.ops.aten
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
# what gives Python a number, or as many results as the numbers say
WAITING = {
    aten._local_scalar_dense.default,
    aten._unique2.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
Operation = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]
RealGenerator = torch.Generator


class Memory:
    """Know pieces of memory again, as long as they last."""

    def __init__(self) -> None:
        self._known: dict[int, StorageWeakRef] = {}

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._known

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._known[storage._cdata] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # the number stays its own
        if len(self._known) > 10_000:
            self._known = {number: held for number, held in self._known.items() if not held.expired()}  # type: ignore[no-untyped-call]
        return tensor

    def discard(self, tensor: Tensor) -> None:
        self._known.pop(tensor.untyped_storage()._cdata, None)


class Device:
    """What is known of the device."""

    def __init__(self) -> None:
        self.memory, self.pinned = Memory(), Memory()
        self.generators: list[torch.Generator] = []
        self.may_wait = True
        self.recorded: list[Operation] | None = None  # while a graph is recorded
        self.going_back = False  # autograd's own operations, which name no device

    def wait(self, what: object) -> None:
        """Wait until all is done."""
        if self.recorded is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        if not self.may_wait:
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")

    def copy(self, to: bool, source: Tensor, target: Tensor | None, non_blocking: bool) -> None:
        """Bring a tensor to the device or to the CPU, where it is not there already."""
        if (source in self.memory) == to:
            return
        if not non_blocking:
            self.wait("a copy")
        elif not to and (target is None or target not in self.pinned):
            raise RuntimeError("nobody knows when this copy has arrived")
        elif self.recorded is not None:
            raise RuntimeError("a graph would read this place of the CPU's memory again, whatever is there by then")

    def check(self, operation: Any, tensors: list[Tensor], there: list[bool]) -> None:
        """Check an operation with tensors of which some are on the device."""
        if operation in INDEXING and there[0]:
            if not all(there) or any(tensor.dtype == torch.bool for tensor in tensors[1:]):
                self.wait(operation)
        elif any(tensor.dim() and not is_there for tensor, is_there in zip(tensors, there, strict=True)):
            raise RuntimeError(f"{operation}: expected all tensors to be on the same device, found {there}")
        if operation in WAITING:
            self.wait(operation)


def flat(values: Iterable[Any]) -> Iterator[Tensor]:
    """Find the tensors among arguments or results."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from flat(value)


def fresh(operation: Operation) -> Iterator[Tensor]:
    """Give the results of an operation that lie in memory of their own."""
    _, arguments, options, results = operation
    given = {tensor.untyped_storage()._cdata for tensor in flat((*arguments, *options.values()))}
    yield from (tensor for tensor in flat([results]) if tensor.untyped_storage()._cdata not in given)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """See every operation, autograd's too, and give its results to the device where its tensors are."""

    def __init__(self, device: Device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        device, kwargs = self.device, kwargs or {}
        tensors = list(flat((*args, *kwargs.values())))
        there = [tensor in device.memory for tensor in tensors]
        if func is aten.copy_.default:
            device.copy(there[0], args[1], args[0], args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        elif any(there):
            device.check(func, tensors, there)
        results = func(*args, **kwargs)
        operation = func, args, kwargs, results
        if any(there) if tensors else device.going_back:
            for tensor in fresh(operation):
                device.memory.add(tensor)
        if device.recorded is not None:
            device.recorded.append(operation)
        return results


class Calls(TorchFunctionMode):
    """See every call that names a device, or leaves one."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        device, options = self.device, dict(kwargs or {})
        before, device.going_back = device.going_back, False
        try:
            return self._call(func, args, options)
        finally:
            device.going_back = before

    def _call(self, func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        device, named = self.device, options.get("device")
        first = args[0] if args and isinstance(args[0], Tensor) else None
        to = torch.device(named).type == "cuda" if named is not None else first is not None and first in device.memory
        if func in (Tensor.to, Tensor.cuda, Tensor.cpu):
            return self._moved(func, *args, **options)
        if func is Tensor.pin_memory:
            return device.pinned.add(args[0].clone())
        if to and func in (Tensor.numpy, Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        if to and func is Tensor.tolist:
            device.wait(func)
        generator = options.get("generator")
        if generator is not None and to != any(generator is each for each in device.generators):
            raise RuntimeError(f"{func}: the generator is another device's")
        pinned = options.pop("pin_memory", False)
        if named is None:
            made = func(*args, **options)
        elif to and func in (torch.tensor, torch.as_tensor):
            made = self._moved(Tensor.to, func(*args, **options | {"device": None}), CUDA)
        else:
            made = func(*args, **options | {"device": CPU})
            (device.memory.add if to else device.memory.discard)(made)
        return device.pinned.add(made) if pinned else made

    def _moved(self, func: Any, source: Tensor, *args: Any, copy: bool = False, **options: Any) -> Tensor:
        """Bring a tensor to where `Tensor.to`, `cuda` or `cpu` say."""
        there, dtype, non_blocking = CUDA if func is Tensor.cuda else CPU, None, options.get("non_blocking", False)
        if func is Tensor.to:
            there, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **options)
        here = source in self.device.memory
        to = here if there is None else there.type == "cuda"
        self.device.copy(to, source, None, non_blocking)
        if to != here:
            with _disable_current_modes():
                copied = source.clone()
            source = self.device.memory.add(copied) if to else copied
        return source if dtype is None else source.to(dtype, copy=copy and to == here)


class Stream:
    """Do what it is told in the order in which it is told."""

    def wait_stream(self, other: Stream) -> None:
        """Wait on the device, and nowhere else."""

    def is_capturing(self) -> bool:
        return False


class Event:
    """Be waited for, but not before it is recorded."""

    recorded = False

    def record(self, stream: Stream) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded


class Graph:
    """Run recorded operations again, into the results of the first time."""

    operations: list[Operation]

    def replay(self) -> None:
        with _disable_current_modes():
            for function, arguments, options, results in self.operations:
                again = function, arguments, options, function(*arguments, **options)
                own = {id(tensor) for tensor in fresh((function, arguments, options, results))}
                for kept, new in zip(flat([results]), flat([again[3]]), strict=True):
                    if id(kept) in own:
                        kept.copy_(new)


class Autocast(torch.autocast):
    """Round on the CPU, where the tensors are."""

    def __init__(self, device_type: str, *args: Any, **options: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **options)


@contextmanager
def pretended(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a CUDA device for a while, cuda:0, with a stream that it is given all its work by."""
    device = Device()
    operations, calls = Operations(device), Calls(device)
    stream = Stream()

    class Generator:
        """A generator on the CPU, and whose it would be."""

        def __new__(cls, device_: str | torch.device = CPU) -> RealGenerator:  # type: ignore[misc]
            made = RealGenerator()
            if torch.device(device_).type == "cuda":
                device.generators.append(made)
            return made

    @contextmanager
    def graph(made: Graph) -> Iterator[None]:
        device.recorded = []
        try:
            yield
        finally:
            made.operations, device.recorded = device.recorded, None
        with _disable_current_modes():
            for operation in made.operations:  # recorded is not run
                for tensor in fresh(operation):
                    if tensor.is_floating_point():
                        tensor.fill_(float("nan"))

    def wait_or_not(mode: str) -> None:
        device.may_wait = mode != "error"

    run, group = vars(torch.autograd)["_engine_run_backward"], torch._C._group_tensors_by_device_and_dtype

    def go_back(tensors: Any, *args: Any, **options: Any) -> Any:
        before, device.going_back = device.going_back, tensors[0] in device.memory
        try:
            with nullcontext() if torch._C._len_torch_function_stack() else calls:
                return run(tensors, *args, **options)
        finally:
            device.going_back = before

    def grouped(*args: Any) -> Any:
        return {
            (next(flat(lists)).device, dtype): (lists, places) for (_, dtype), (lists, places) in group(*args).items()
        }

    of_cuda: dict[str, Any] = {
        "is_available": lambda: True,
        "is_bf16_supported": lambda including_emulation: True,
        "device_count": lambda: 1,
        "is_current_stream_capturing": lambda: device.recorded is not None,
        "get_device_name": lambda device: "pretended",
        "set_device": lambda device: None,
        "mem_get_info": lambda device: (1 << 34, 1 << 35),
        "synchronize": lambda which=None: device.wait("synchronize"),
        "set_sync_debug_mode": wait_or_not,
        "Stream": lambda: stream,
        "current_stream": lambda device=None: stream,
        "stream": lambda stream: nullcontext(),
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": graph,
    }
    of_torch: dict[str, Any] = {
        "autocast": Autocast,
        "Generator": Generator,
        "is_autocast_enabled": lambda kind, known=torch.is_autocast_enabled: known(_here(kind)),
        "get_autocast_dtype": lambda kind, known=torch.get_autocast_dtype: known(_here(kind)),
        "_cudnn_rnn_flatten_weight": lambda *arguments: None,
    }
    of_tensors = {"is_cuda": property(lambda tensor: tensor in device.memory), "device": property(_device(device))}
    of_cudnn: dict[str, Any] = {"version": lambda: 91300, "is_acceptable": lambda tensor: False}
    for owner, members in (
        (torch.cuda, of_cuda),
        (torch, of_torch),
        (Tensor, of_tensors),
        (torch.backends.cudnn, of_cudnn),
        (torch.accelerator, {"current_stream": lambda: stream}),
        (torch.autograd, {"_engine_run_backward": go_back}),
        (torch._C, {"_group_tensors_by_device_and_dtype": grouped}),
    ):
        for name, member in members.items():
            patch.setattr(owner, name, member)
    patch.setitem(get_cudnn_mode.__globals__, "_cudnn", _Cudnn)
    takes_bf16.cache_clear()
    with operations, calls:
        yield
    takes_bf16.cache_clear()


def _here(kind: str) -> str:
    return "cpu" if kind == "cuda" else kind


def _device(device: Device) -> Callable[[Tensor], torch.device]:
    real = torch._C.TensorBase.device
    return lambda tensor: CUDA if tensor in device.memory else real.__get__(tensor)


class _Cudnn:
    class RNNMode:
        rnn_relu, rnn_tanh, lstm, gru = range(4)
