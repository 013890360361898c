"""Claims about probing what torch and this machine can do, and about tests that depend on it."""

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
def probed_anew() -> Iterator[None]:
    """Forget the results of all probes, before and after the test."""
    probes = device.cudnn_takes_bf16, device.cpu_lstm_takes_bf16, device._cpu_slowdown
    for probe in probes:
        probe.cache_clear()
    yield
    for probe in probes:
        probe.cache_clear()


@pytest.mark.parametrize(("product", "fast"), [(0.5, True), (1.4, True), (1.6, False), (36.0, False)])
def test_bf16_is_fast_if_its_products_are_about_as_fast_as_fp32(
    product: float, fast: bool, probed_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first product of each dtype takes much longer, for its set-up."""
    now, products, multiply = 0.0, [0, 0], torch.mm

    def timed(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        nonlocal now
        rounded = one.dtype == torch.bfloat16
        now += (product if rounded else 1.0) + 50.0 * (products[rounded] == 0)
        products[rounded] += 1
        return multiply(one, other)

    monkeypatch.setattr(torch, "mm", timed)
    monkeypatch.setattr("charrnn.device.time.perf_counter", lambda: now)
    assert bf16_on(CPU).fast is fast
    assert bf16_on(CPU).fast is fast
    assert products == [device._ROUNDS] * 2  # a single probe


@pytest.mark.parametrize("fails", [False, True])
def test_the_lstm_kernel_of_a_cpu_is_probed(fails: bool, probed_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def lstm(x: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        if fails:
            raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive")
        hidden, weights = arguments[:2]
        return (sum((each.sum() for each in (*hidden, *weights)), x.sum()), *hidden)

    monkeypatch.setattr(torch, "lstm", lstm)
    before = torch.get_rng_state()
    with torch.inference_mode():
        assert device.cpu_lstm_takes_bf16() is not fails
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.bf16
def test_the_probe_agrees_with_an_lstm_layer_of_torch() -> None:
    layer, x = torch.nn.LSTM(5, 7, batch_first=True), torch.ones(2, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        if bf16_on(CPU).lstm:
            layer(x)[0].float().sum().backward()
        else:
            with pytest.raises(RuntimeError):
                layer(x)


def test_other_devices_and_float64_never_use_bf16() -> None:
    assert bf16_on(torch.device("mps")) == Bf16(fast=False, lstm=False)
    assert not bf16_may_pay(torch.zeros(1, dtype=torch.float64))


def test_the_bf16_tests_pass_on_a_cpu_without_bf16() -> None:
    """Environment variables limit oneDNN and torch to AVX2."""
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
