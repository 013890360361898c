"""Claims about what torch and this machine can do, and about tests that depend on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from charrnn import device
from charrnn.device import Bf16, bf16_may_pay, bf16_on

CPU = torch.device("cpu")


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """Forget what this machine was found to do, before and after."""
    probes = device.cudnn_takes_bf16, device.cpu_lstm_takes_bf16, device._cpu_slowdown
    for probe in probes:
        probe.cache_clear()
    yield
    for probe in probes:
        probe.cache_clear()


@pytest.mark.parametrize(("product", "fast"), [(0.5, True), (1.4, True), (1.6, False), (36.0, False)])
def test_bf16_is_tried_where_its_products_are_about_as_fast(
    product: float, fast: bool, asked_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first product of each kind sets itself up, and takes much longer."""
    now, taken, multiply = 0.0, [0, 0], torch.mm

    def timed(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        nonlocal now
        rounded = one.dtype == torch.bfloat16
        now += (product if rounded else 1.0) + 50.0 * (taken[rounded] == 0)
        taken[rounded] += 1
        return multiply(one, other)

    monkeypatch.setattr(torch, "mm", timed)
    monkeypatch.setattr("charrnn.device.time.perf_counter", lambda: now)
    assert bf16_on(CPU).fast is fast
    assert bf16_on(CPU).fast is fast
    assert taken == [device._ROUNDS] * 2  # once for all


@pytest.mark.parametrize("refuses", [False, True])
def test_a_cpu_is_asked_for_its_lstm_kernel(refuses: bool, asked_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def lstm(x: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        if refuses:
            raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive")
        hidden, weights = arguments[:2]
        return (sum((each.sum() for each in (*hidden, *weights)), x.sum()), *hidden)

    monkeypatch.setattr(torch, "lstm", lstm)
    before = torch.get_rng_state()
    with torch.inference_mode():
        assert device.cpu_lstm_takes_bf16() is not refuses
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.bf16
def test_a_probe_agrees_with_what_a_layer_of_torchs_does() -> None:
    layer, x = torch.nn.LSTM(5, 7, batch_first=True), torch.ones(2, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        if bf16_on(CPU).lstm:
            layer(x)[0].float().sum().backward()
        else:
            with pytest.raises(RuntimeError):
                layer(x)


def test_other_devices_and_double_precision_are_never_rounded() -> None:
    assert bf16_on(torch.device("mps")) == Bf16(fast=False, lstm=False)
    assert not bf16_may_pay(torch.zeros(1, dtype=torch.float64))


def test_what_depends_on_bf16_holds_on_a_cpu_without_it() -> None:
    """oneDNN and torch leave out what a processor has beyond AVX2 where they are told to, as they start."""
    limited = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "bf16", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=Path(__file__).parent.parent,
        env=os.environ | limited,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=400,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout
