"""What torch and this machine can do: devices, bf16 and TF32, memory, asynchronous read-back.
Knows no models."""

from __future__ import annotations

import ctypes
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from charrnn.errors import CharRNNError, MisuseError
from charrnn.messages import Say, silent

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
# messages of torch's allocators, cuBLAS and cuDNN, and of sizes that overflow
_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "alloc_failed",
    "allocation_failed",
    "size calculation overflow",
    "multiplication overflow",
)
_SIZE = 128  # rows and columns of the matrices that time bf16 against fp32
_ROUNDS = 10
_WORTH_A_TRIAL = 1.5  # try training steps in bf16 while its products take at most this many times as long as fp32's


def keep_freed_memory() -> bool:
    """Make malloc reuse freed memory instead of returning it to the system. Return whether the C library agreed.

    A training step frees hundreds of megabytes; a page fault for every 4 KB of them take a tenth to a fifth of it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


class Readback:
    """An asynchronous copy of a few numbers (N) from the device."""

    def __init__(self, values: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:
            # into pinned memory: any other copy would block until the GPU has finished
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """Return the numbers, waiting for their copy but for no work queued after it."""
        if self._copied is not None:
            self._copied.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch means that memory ran out."""
    message = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(sign in message for sign in _NO_MEMORY)


def out_of_memory(device: torch.device) -> CharRNNError:
    """Return the error for a training that does not fit in memory."""
    return CharRNNError(
        f"Not enough memory on {device} for this training."
        " Set a smaller model.hidden_size or train.batch_size, e.g. -s train.batch_size=8."
    )


def choose_device(name: str, say: Say = silent) -> torch.device:
    """Turn auto, cpu, cuda, cuda:N or mps into a device; auto is CUDA if it works, else the CPU.

    Raises MisuseError if there is no such device or it does not work.
    """
    # read when CUDA starts: with a workspace of fixed size cuBLAS, and through it cuDNN, is deterministic
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # torch 2.9 warns about the only API that older versions have
    warnings.filterwarnings("ignore", "Please use the new API settings to control TF32")
    auto = name == "auto"
    if auto:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MisuseError(f"{name} is not a device; choose auto, cpu, cuda, cuda:N or mps.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        several = f"there are {count} CUDA devices here, from cuda:0" if count > 1 else "cuda:0 is the only one here"
        there = several if count else "there is no CUDA device here"
        raise MisuseError(f"{name}: {there}. Leave out --device, or choose cpu.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise MisuseError("mps: there is no such device here. Leave out --device, or choose cpu.")
    if device.type not in {"cpu", "cuda", "mps"}:
        raise MisuseError(f"{name}: charrnn supports the devices cpu, cuda and mps.")
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # streams and graphs are created on the current device
        defect = _defect(device)
        if defect is not None and auto:
            say(f"cuda does not work here ({defect}); using the CPU.")
            return torch.device("cpu")
        if defect is not None:
            raise MisuseError(f"{name} does not work here ({defect}). Leave out --device, or choose cpu.")
        allow_tf32(False)  # fp32 means fp32; bf16 is there for speed
    return device


def _defect(device: torch.device) -> str | None:
    """Return why a device does not work (too old for this torch, in use, full), or None if it does."""
    try:
        return None if float(torch.ones(1, device=device) + 1) == 2.0 else "it miscalculates"
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        return str(error).partition("\n")[0]


@dataclass(frozen=True)
class Bf16:
    """What a device does in bf16: whether products may be faster than in fp32, and whether torch's LSTM kernel runs.

    The kernels of other cells run in bf16 on every CPU; on CUDA `lstm` holds for all cells.
    """

    fast: bool
    lstm: bool


def bf16_on(device: torch.device) -> Bf16:
    """Probe what a device does in bf16, once for each type of device."""
    if device.type == "cuda":
        return Bf16(fast=cudnn_takes_bf16(), lstm=cudnn_takes_bf16())
    if device.type == "cpu":
        return Bf16(fast=_cpu_slowdown() <= _WORTH_A_TRIAL, lstm=cpu_lstm_takes_bf16())
    return Bf16(fast=False, lstm=False)


def bf16_may_pay(weights: Tensor) -> bool:
    """Return whether bf16 products may be faster on the device of these weights; float64 is never rounded."""
    return weights.dtype == torch.float32 and bf16_on(weights.device).fast


@cache
def cudnn_takes_bf16() -> bool:
    """Return whether torch passes bf16 to cuDNN's recurrent kernels: from torch 2.10, cuDNN 9.13 and Ampere on."""
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return False
    supported = torch.cuda.is_bf16_supported(including_emulation=False)
    return supported and torch.__version__ >= "2.10" and (torch.backends.cudnn.version() or 0) >= 91300  # type: ignore[no-untyped-call]


@cache
def cpu_lstm_takes_bf16() -> bool:
    """Return whether torch's LSTM kernel, which is oneDNN's, runs under autocast to bf16 on this CPU.

    A tiny LSTM is run forward and backward: the CPU's name and instructions do not tell, since oneDNN decides, and
    its environment variable ONEDNN_MAX_CPU_ISA limits it.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        shapes = (2, 3, 4), (1, 2, 5), (1, 2, 5), (20, 4), (20, 5), (20,), (20,)
        tensors = [torch.zeros(shape, requires_grad=True) for shape in shapes]
        x, hidden, cell, *weights = tensors
        try:
            y, _, _ = torch.lstm(x, (hidden, cell), weights, True, 1, 0.0, True, False, True)
            torch.autograd.grad(y.float().sum(), tensors)
        except RuntimeError:
            return False
    return True


@cache
def _cpu_slowdown() -> float:
    """Measure the time of a matrix product in bf16 divided by its time in fp32 on this CPU, in a few milliseconds.

    About 0.5 where the CPU has bf16 instructions, up to 40 where it has not.
    """
    seconds = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other when another program uses the cores
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            factors = {kind: torch.ones(_SIZE, _SIZE, dtype=kind) for kind in seconds}
            for _ in range(_ROUNDS):  # the minimum skips the first product of a dtype, which sets itself up
                for kind, factor in factors.items():
                    began = time.perf_counter()
                    torch.mm(factor, factor)
                    seconds[kind] = min(seconds[kind], time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return seconds[torch.bfloat16] / seconds[torch.float32]


def allow_tf32(allowed: bool) -> bool:
    """Allow or forbid cuDNN to use TF32. Return the previous setting."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    return before


@contextmanager
def tf32(device: torch.device, allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 within the context; a no-op on other devices than CUDA.

    torch consults the TF32 switch for recurrent kernels in bf16 as well: while it is off, they use no tensor cores.
    """
    if device.type != "cuda":
        yield
        return
    before = allow_tf32(allowed)
    try:
        yield
    finally:
        allow_tf32(before)
