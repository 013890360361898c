"""What torch and this machine can do: number formats of products, and rounding. Knows no models."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

_SIZE = 128  # rows and columns of the matrices that are multiplied to compare number formats
_ROUNDS = 10
_WORTH_A_TRIAL = 1.5  # how much longer a product in bf16 may take than in fp32, and whole steps in it still be tried


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


def let_round(allowed: bool) -> bool:
    """Allow or forbid cuDNN to round the numbers that it multiplies; gives what held before."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    return before


@contextmanager
def rounding(device: torch.device, allowed: bool) -> Iterator[None]:
    """Let cuDNN round within, forwards and backwards, where that is wanted.

    torch asks the switch that is there for fp32 (TF32) about recurrent kernels in bf16 as well: where it is off, they
    have to do without tensor cores.
    """
    if device.type != "cuda":
        yield
        return
    before = let_round(allowed)
    try:
        yield
    finally:
        let_round(before)
