"""A CUDA device where there is none: what is known of its memory, and who is seen to use it.

Tensors stay on the CPU; of each piece of memory it is remembered whether it would lie on the device. Whoever mixes
both, waits where that is forbidden, or reads a copy before it has arrived, is found. What cannot be shown: kernels and
generators of a device's own, the limits of its memory, its speed, and whether what a graph reads is there as long."""

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
# besides pointwise operations
TAKES_NUMBERS = {aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}


class Memory:
    """Know pieces of memory again, as long as they last."""

    def __init__(self) -> None:
        self._known: dict[int, StorageWeakRef] = {}
        self._many = 1_000

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._known

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._known[storage._cdata] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # the number stays its own
        if len(self._known) > self._many:
            self._known = {number: held for number, held in self._known.items() if not held.expired()}  # type: ignore[no-untyped-call]
            self._many = max(1_000, 2 * len(self._known))
        return tensor

    def discard(self, tensor: Tensor) -> None:
        self._known.pop(tensor.untyped_storage()._cdata, None)


class Operation(NamedTuple):
    """Hold what was called, and those of its results that lie in memory of their own."""

    function: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    results: Any
    fresh: list[Tensor]


class Copy(NamedTuple):
    """Hold a copy on its way to the CPU."""

    target: Tensor
    values: Tensor


class Device:
    """What is known of the device."""

    def __init__(self) -> None:
        self.memory, self.pinned = Memory(), Memory()
        self.may_wait = True
        self.underway: list[Copy] = []
        self.recorded: list[Operation] | None = None  # while a graph is recorded
        self.going_back = False  # autograd's own operations, which name no device

    def wait(self, what: object) -> None:
        """Let everything arrive. Raises RuntimeError where waiting is forbidden."""
        if self.recorded is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        if not self.may_wait:
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")
        self.arrive(list(self.underway))

    def arrive(self, copies: list[Copy]) -> None:
        """Let copies arrive."""
        with unseen():
            for copy in copies:
                copy.target.copy_(copy.values)
        self.underway = [copy for copy in self.underway if not any(copy is other for other in copies)]

    def copy(self, source: Tensor, target: Tensor | None, to: bool, non_blocking: bool) -> None:
        """Check a copy to the device or the CPU, where it begins on the other; `target` if that was there before."""
        if (source in self.memory) == to:
            return
        if not non_blocking or (to and source not in self.pinned):
            self.wait("a copy")
        elif not to and (target is None or target not in self.pinned):
            raise RuntimeError("nobody knows when this copy has arrived")
        elif self.recorded is not None:
            raise RuntimeError("a graph would copy whatever is there by then")

    def check(self, operation: Any, tensors: list[Tensor], there: list[bool]) -> None:
        """Check an operation with tensors of which some are on the device."""
        others = [tensor for tensor, is_there in zip(tensors, there, strict=True) if not is_there]
        if operation in INDEXING and there[0]:
            indices = tensors[1:] if operation is aten.index.Tensor else tensors[1:-1]
            others = [tensor for tensor in others if not any(tensor is index for index in indices)]
            if any(index.dtype == torch.bool or index not in self.memory for index in indices):
                self.wait(operation)
        written = operation._schema.name.endswith("_") and not there[0]
        numbers = torch.Tag.pointwise in operation.tags or operation in {*TAKES_NUMBERS, *INDEXING}
        if written or any(tensor.dim() or not numbers for tensor in others):
            raise RuntimeError(f"{operation}: expected all tensors to be on the same device, found {there}")
        if self.recorded is not None and others:
            raise RuntimeError(f"{operation}: a graph would not see another number there later on")
        if operation in WAITING:
            self.wait(operation)


@contextmanager
def unseen() -> Iterator[None]:
    """Do something with no one looking."""
    with ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch._C.DisableTorchFunction())
        yield


def flat(values: Iterable[Any]) -> Iterator[Tensor]:
    """Find the tensors among arguments or results."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from flat(value)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """See every operation, autograd's too, and put its results where its tensors are."""

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
            return self._copied(*args, **kwargs)
        if any(there):
            device.check(func, tensors, there)
        results = func(*args, **kwargs)
        given = {tensor.untyped_storage()._cdata for tensor in tensors}
        fresh = [tensor for tensor in flat([results]) if tensor.untyped_storage()._cdata not in given]
        # what is made of nothing lies where its maker says; only autograd does not say
        if any(there) or (not tensors and device.going_back):
            for tensor in fresh:
                device.memory.add(tensor)
        self._record(Operation(func, args, kwargs, results, fresh))
        return results

    def _copied(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        device, to = self.device, target in self.device.memory
        device.copy(source, target, to, non_blocking)
        target.copy_(source)
        if non_blocking and not to and source in device.memory:
            device.underway.append(Copy(target, target.clone()))
            spoil(target)
        self._record(Operation(aten.copy_.default, (target, source), {}, target, []))
        return target

    def _record(self, operation: Operation) -> None:
        recorded = self.device.recorded
        if recorded is None:
            return
        if operation.function._schema.name.endswith("_"):
            own = {tensor.untyped_storage()._cdata for before in recorded for tensor in before.fresh}
            if operation.arguments[0].untyped_storage()._cdata not in own:
                raise NotImplementedError(f"{operation.function}: has changed what a recording would leave as it is")
        recorded.append(operation)


def spoil(tensor: Tensor) -> None:
    """Leave nothing in a tensor that could be taken for a result."""
    if tensor.is_floating_point():
        tensor.fill_(float("nan"))
    else:
        tensor.zero_().bitwise_not_()


def is_cuda(named: str | torch.device) -> bool:
    """Say whether a device is the pretended one. Raises RuntimeError for a second one."""
    device = torch.device(named)
    if device.type == "cuda" and device.index not in {None, 0}:
        raise RuntimeError("invalid device ordinal")
    return device.type == "cuda"


class Calls(TorchFunctionMode):
    """See every call that names a device, or leaves one."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        device = self.device
        before, device.going_back = device.going_back, False
        try:
            return self._call(func, args, dict(kwargs or {}))
        finally:
            device.going_back = before

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
            device.wait(func)
        generator = options.get("generator")
        if generator is not None and (to != is_cuda(generator.device) or device.recorded is not None):
            raise RuntimeError(f"{func}: the generator is another device's, or no graph's")
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
        """Bring a tensor to where `Tensor.to`, `cuda` or `cpu` say."""
        named, dtype, non_blocking = CUDA if func is Tensor.cuda else CPU, None, options.get("non_blocking", False)
        if func is Tensor.to:
            named, dtype, non_blocking, _ = _parsed(*args, **options)
        memory, is_there = self.device.memory, source in self.device.memory
        to = is_there if named is None else is_cuda(named)
        self.device.copy(source, None, to, non_blocking)
        if to != is_there or copy:
            with unseen():
                source = source.clone()
            (memory.add if to else memory.discard)(source)
        return source if dtype is None else source.to(dtype)


def _parsed(*args: Any, **options: Any) -> Any:
    """Read the arguments of `Tensor.to`; a tensor among them says where it pretends to be."""
    named, *others = torch._C._nn._parse_to(*args, **options)
    like = next(flat((*args, *options.values())), None)
    return (named if like is None else like.device, *others)


def replay(operations: list[Operation]) -> None:
    """Run recorded operations again, into the results of the first time."""
    with unseen():
        for operation in operations:
            new = operation.function(*operation.arguments, **operation.options)
            for kept, made in zip(flat([operation.results]), flat([new]), strict=True):
                if any(kept is own for own in operation.fresh):
                    kept.copy_(made)
