"""A fake CUDA device: it tracks which memory would be on the device, and checks each operation.

Tensors stay on the CPU; for each storage it is recorded whether it would be on the device. It detects operations that
mix devices, that synchronize where that is forbidden, or that read a copy before it has completed. It cannot show the
kernels and generators of a real device, its memory limits, its speed, or whether memory that a graph reads still
exists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

aten = torch.ops.aten
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
# operations that return a number to Python, or whose output shape depends on values
SYNCHRONIZING = {
    aten._local_scalar_dense.default,
    aten._unique2.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
# operations besides the pointwise ones that take a number from the CPU
TAKES_NUMBERS = {aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}


class Memory:
    """A set of storages, as long as they exist."""

    def __init__(self) -> None:
        self._storages: dict[int, StorageWeakRef] = {}
        self._limit = 1_000

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._storages

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # keeps the address unique
        if len(self._storages) > self._limit:
            self._storages = {number: held for number, held in self._storages.items() if not held.expired()}  # type: ignore[no-untyped-call]
            self._limit = max(1_000, 2 * len(self._storages))
        return tensor

    def discard(self, tensor: Tensor) -> None:
        self._storages.pop(tensor.untyped_storage()._cdata, None)


class Operation(NamedTuple):
    """A recorded call, its results, and those of them that have storage of their own."""

    function: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    results: Any
    fresh: list[Tensor]


class Copy(NamedTuple):
    """An asynchronous copy to the CPU that is still pending."""

    target: Tensor
    values: Tensor


class Device:
    """The state of the fake device."""

    def __init__(self) -> None:
        self.memory, self.pinned = Memory(), Memory()
        self.may_synchronize = True
        self.pending: list[Copy] = []
        self.recorded: list[Operation] | None = None  # while a graph is recorded
        self.in_backward = False  # in autograd's own operations, which name no device

    def synchronize(self, what: object) -> None:
        """Complete all copies. Raises RuntimeError where that is forbidden."""
        if self.recorded is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        if not self.may_synchronize:
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")
        self.complete(list(self.pending))

    def complete(self, copies: list[Copy]) -> None:
        """Complete copies: their values reach their targets."""
        with unobserved():
            for copy in copies:
                copy.target.copy_(copy.values)
        self.pending = [copy for copy in self.pending if not any(copy is other for other in copies)]

    def copy(self, source: Tensor, target: Tensor | None, to: bool, non_blocking: bool) -> None:
        """Check a copy between the devices, to the fake one if `to`; `target` is None for a new tensor."""
        if (source in self.memory) == to:
            return
        if not non_blocking or (to and source not in self.pinned):
            self.synchronize("a copy")
        elif not to and (target is None or target not in self.pinned):
            raise RuntimeError("an asynchronous copy to unpinned memory: nothing shows when it has completed")
        elif self.recorded is not None:
            raise RuntimeError("a graph would copy what is there at its replay")

    def check(self, operation: Any, tensors: list[Tensor], there: list[bool]) -> None:
        """Check an operation with tensors of which some are on the device, as `there` says."""
        others = [tensor for tensor, is_there in zip(tensors, there, strict=True) if not is_there]
        if operation in INDEXING and there[0]:
            indices = tensors[1:] if operation is aten.index.Tensor else tensors[1:-1]
            others = [tensor for tensor in others if not any(tensor is index for index in indices)]
            if any(index.dtype == torch.bool or index not in self.memory for index in indices):
                self.synchronize(operation)
        written = operation._schema.name.endswith("_") and not there[0]
        numbers = torch.Tag.pointwise in operation.tags or operation in {*TAKES_NUMBERS, *INDEXING}
        if written or any(tensor.dim() or not numbers for tensor in others):
            raise RuntimeError(f"{operation}: expected all tensors to be on the same device, found {there}")
        if self.recorded is not None and others:
            raise RuntimeError(f"{operation}: a graph would not see a later change of this number")
        if operation in SYNCHRONIZING:
            self.synchronize(operation)


@contextmanager
def unobserved() -> Iterator[None]:
    """Run operations without checks."""
    with ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch._C.DisableTorchFunction())
        yield


def flatten(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among arguments or results."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from flatten(value)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Observes every operation, autograd's too, and places its results where its tensors are."""

    def __init__(self, device: Device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        device, kwargs = self.device, kwargs or {}
        tensors = list(flatten((*args, *kwargs.values())))
        there = [tensor in device.memory for tensor in tensors]
        if func is aten.copy_.default:
            return self._copied(*args, **kwargs)
        if any(there):
            device.check(func, tensors, there)
        results = func(*args, **kwargs)
        given = {tensor.untyped_storage()._cdata for tensor in tensors}
        fresh = [tensor for tensor in flatten([results]) if tensor.untyped_storage()._cdata not in given]
        # a factory function names its device; only autograd does not
        if any(there) or (not tensors and device.in_backward):
            for tensor in fresh:
                device.memory.add(tensor)
        self._record(Operation(func, args, kwargs, results, fresh))
        return results

    def _copied(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        device, to = self.device, target in self.device.memory
        device.copy(source, target, to, non_blocking)
        target.copy_(source)
        if non_blocking and not to and source in device.memory:
            device.pending.append(Copy(target, target.clone()))
            spoil(target)
        self._record(Operation(aten.copy_.default, (target, source), {}, target, []))
        return target

    def _record(self, operation: Operation) -> None:
        recorded = self.device.recorded
        if recorded is None:
            return
        if operation.function._schema.name.endswith("_"):
            allocated = {tensor.untyped_storage()._cdata for before in recorded for tensor in before.fresh}
            if operation.arguments[0].untyped_storage()._cdata not in allocated:
                raise NotImplementedError(f"{operation.function}: changed memory that a recording must leave unchanged")
        recorded.append(operation)


def spoil(tensor: Tensor) -> None:
    """Overwrite a tensor with values that cannot pass for a result."""
    if tensor.is_floating_point():
        tensor.fill_(float("nan"))
    else:
        tensor.zero_().bitwise_not_()


def is_cuda(named: str | torch.device) -> bool:
    """Say whether a device is the fake one. Raises RuntimeError for a second CUDA device."""
    device = torch.device(named)
    if device.type == "cuda" and device.index not in {None, 0}:
        raise RuntimeError("invalid device ordinal")
    return device.type == "cuda"


class Calls(TorchFunctionMode):
    """Observes every call that names a device, or moves tensors between devices."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        device = self.device
        before, device.in_backward = device.in_backward, False
        try:
            return self._call(func, args, dict(kwargs or {}))
        finally:
            device.in_backward = before

    def _call(self, func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        device, named = self.device, options.get("device")
        if func is torch._C._nn._parse_to:
            return _parsed(*args, **options)
        if func in (Tensor.to, Tensor.cuda, Tensor.cpu):
            return self._moved(func, *args, **options)
        if func is Tensor.pin_memory:
            return device.pinned.add(args[0].clone())
        source = args[0] if args and isinstance(args[0], Tensor) else None
        to = is_cuda(named) if named is not None else source is not None and source in device.memory
        if to and func in (Tensor.numpy, Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        if to and func is Tensor.tolist:
            device.synchronize(func)
        generator = options.get("generator")
        if generator is not None and (to != is_cuda(generator.device) or device.recorded is not None):
            raise RuntimeError(f"{func}: the generator is of another device, or used in a graph")
        pinned = options.pop("pin_memory", False)
        if to and func in (torch.tensor, torch.as_tensor):
            made = self._moved(Tensor.to, func(*args, **options | {"device": None}), CUDA)
        elif to and named is not None:
            made = device.memory.add(func(*args, **options | {"device": CPU}))
        else:
            made = func(*args, **options)
            if named is not None:
                device.memory.discard(made)
        return device.pinned.add(made) if pinned else made

    def _moved(self, func: Any, source: Tensor, *args: Any, copy: bool = False, **options: Any) -> Tensor:
        """Move a tensor to the device of `Tensor.to`, `cuda` or `cpu`."""
        named, dtype, non_blocking = CUDA if func is Tensor.cuda else CPU, None, options.get("non_blocking", False)
        if func is Tensor.to:
            named, dtype, non_blocking, _ = _parsed(*args, **options)
        memory, is_there = self.device.memory, source in self.device.memory
        to = is_there if named is None else is_cuda(named)
        self.device.copy(source, None, to, non_blocking)
        if to != is_there or copy:
            with unobserved():
                source = source.clone()
            (memory.add if to else memory.discard)(source)
        return source if dtype is None else source.to(dtype)


def _parsed(*args: Any, **options: Any) -> Any:
    """Parse the arguments of `Tensor.to`; a tensor among them stands for its fake device."""
    named, *others = torch._C._nn._parse_to(*args, **options)
    like = next(flatten((*args, *options.values())), None)
    return (named if like is None else like.device, *others)


def replay(operations: list[Operation]) -> None:
    """Run recorded operations again, into the results of the first time."""
    with unobserved():
        for operation in operations:
            again = operation.function(*operation.arguments, **operation.options)
            for result, new in zip(flatten([operation.results]), flatten([again]), strict=True):
                if any(result is tensor for tensor in operation.fresh):
                    result.copy_(new)
