"""What torch and this machine can do: devices, number formats of products, rounding, memory, numbers read back.
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

from charrnn.callbacks import Say, silent
from charrnn.errors import CharRNNError, MisuseError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
# of torch's allocators, cuBLAS and cuDNN, and of sizes beyond all numbers
_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "alloc_failed",
    "allocation_failed",
    "size calculation overflow",
    "multiplication overflow",
)
_SIZE = 128  # rows and columns of the matrices that are multiplied to compare number formats
_ROUNDS = 10
_WORTH_A_TRIAL = 1.5  # how much longer a product in bf16 may take than in fp32, and whole steps in it still be tried


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, for the next step; say whether the C library takes that request."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


class Readback:
    """Copy a few numbers (N) to where Python can see them; a GPU does so once it has come to them."""

    def __init__(self, values: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:
            # into pinned memory: to any other the copy would wait, and the program with it
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """Give the numbers, waiting for them where they are not there yet, but for nothing that came after them."""
        if self._copied is not None:
            self._copied.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers


def is_out_of_memory(error: RuntimeError) -> bool:
    """Say whether an error of torch's means that memory ran out."""
    told = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(sign in told for sign in _NO_MEMORY)


def out_of_memory(device: torch.device) -> CharRNNError:
    """Say what to do about too little memory."""
    return CharRNNError(
        f"There is not enough memory on {device} for this training."
        " Set a smaller model.hidden_size or train.batch_size, e.g. -s train.batch_size=8."
    )


def choose_device(name: str, say: Say = silent) -> torch.device:
    """Turn auto, cpu, cuda, cuda:N or mps into a device; auto is CUDA, or where that does not compute, the CPU.

    Raises MisuseError where there is no device of that name that computes.
    """
    # read when CUDA starts up: with room of one fixed size cuBLAS, and cuDNN by it, does the same thing every time
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # older versions have no other name for what torch 2.9 warns of
    warnings.filterwarnings("ignore", "Please use the new API settings to control TF32")
    auto = name == "auto"
    if auto:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MisuseError(f"{name} is no device; name auto, cpu, cuda, cuda:N or mps.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        there = f"there are {count} CUDA devices here, from cuda:0" if count else "there is no CUDA device here"
        raise MisuseError(f"{name}: {there}. Leave --device out, or name cpu.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise MisuseError("mps: there is no such device here. Leave --device out, or name cpu.")
    if device.type not in {"cpu", "cuda", "mps"}:
        raise MisuseError(f"{name}: charrnn knows the devices cpu, cuda and mps.")
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # streams and graphs are made where one stands
        refusal = _refusal(device)
        if refusal is not None and auto:
            say(f"cuda does not compute here ({refusal}); taking the CPU.")
            return torch.device("cpu")
        if refusal is not None:
            raise MisuseError(f"{name} does not compute here ({refusal}). Leave --device out, or name cpu.")
        allow_tf32(False)  # fp32 means fp32; who wants speed has bf16
    return device


def _refusal(device: torch.device) -> str | None:
    """Say why a device does not compute: it may be too old for this torch, taken by others or full. None if it does."""
    try:
        return None if float(torch.ones(1, device=device) + 1) == 2.0 else "it miscalculates"
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        return str(error).partition("\n")[0]


@dataclass(frozen=True)
class Bf16:
    """Say what a device does in bf16: whether its products may be faster than in fp32, and whether torch's LSTM kernel
    runs in it at all (other cells' kernels do on every CPU; on CUDA it stands for all of them)."""

    fast: bool
    lstm: bool


def bf16_on(device: torch.device) -> Bf16:
    """Find out what a device does in bf16, once for each kind of device."""
    if device.type == "cuda":
        return Bf16(fast=cudnn_takes_bf16(), lstm=cudnn_takes_bf16())
    if device.type == "cpu":
        return Bf16(fast=_cpu_slowdown() <= _WORTH_A_TRIAL, lstm=cpu_lstm_takes_bf16())
    return Bf16(fast=False, lstm=False)


def bf16_may_pay(weights: Tensor) -> bool:
    """Say whether products in bf16 may be faster where these weights are; double precision is never rounded."""
    return weights.dtype == torch.float32 and bf16_on(weights.device).fast


@cache
def cudnn_takes_bf16() -> bool:
    """Say whether torch hands bf16 on to cuDNN's recurrent kernels: since torch 2.10, cuDNN 9.13 and Ampere."""
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return False
    supported = torch.cuda.is_bf16_supported(including_emulation=False)
    return supported and torch.__version__ >= "2.10" and (torch.backends.cudnn.version() or 0) >= 91300  # type: ignore[no-untyped-call]


@cache
def cpu_lstm_takes_bf16() -> bool:
    """Say whether torch's LSTM kernel runs under autocast to bf16 on this CPU: it is oneDNN's, which has none for some.

    A tiny one is run, forwards and backwards, since neither the processor's name nor its instructions tell: oneDNN
    decides, and an environment variable of its own (ONEDNN_MAX_CPU_ISA) has a say in it.
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
    """Measure how much longer a product of matrices takes in bf16 than in fp32 on this CPU: a half where it has
    instructions for it, up to 40 times as long where it has not. It takes some milliseconds."""
    seconds = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other where another program wants the processors as well
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            factors = {kind: torch.ones(_SIZE, _SIZE, dtype=kind) for kind in seconds}
            for _ in range(_ROUNDS):  # in turns; the first product of a kind, which sets itself up, is not the fastest
                for kind, factor in factors.items():
                    began = time.perf_counter()
                    torch.mm(factor, factor)
                    seconds[kind] = min(seconds[kind], time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return seconds[torch.bfloat16] / seconds[torch.float32]


def allow_tf32(allowed: bool) -> bool:
    """Allow or forbid cuDNN to round the numbers that it multiplies; gives what held before."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    return before


@contextmanager
def tf32(device: torch.device, allowed: bool) -> Iterator[None]:
    """Let cuDNN round within, forwards and backwards, where that is wanted.

    torch asks the switch that is there for fp32 (TF32) about recurrent kernels in bf16 as well: where it is off, they
    have to do without tensor cores.
    """
    if device.type != "cuda":
        yield
        return
    before = allow_tf32(allowed)
    try:
        yield
    finally:
        allow_tf32(before)
