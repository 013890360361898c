"""Claims about memory between steps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from charrnn import device

FAULTS = """
import resource
import statistics
import torch
from charrnn.device import keep_freed_memory
asked = {asked} and keep_freed_memory()
def step():
    return float(torch.ones(16 << 20).sum())  # 64 MB, freed at once
for _ in range(8):
    step()
faults = []
for _ in range(9):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(faults), asked)  # the system may take back a page, or the heap move, now and then
"""


def faults(asked: bool) -> tuple[int, bool]:
    printed = subprocess.run(
        [sys.executable, "-c", FAULTS.format(asked=asked)], check=True, capture_output=True, text=True, timeout=120
    ).stdout.split()
    return int(printed[0]), printed[1] == "True"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own way")
def test_memory_that_a_step_freed_is_there_for_the_next() -> None:
    given_back, _ = faults(False)
    kept, asked = faults(True)
    assert asked
    assert kept < given_back / 20 or given_back < 50  # huge pages fault too seldom to tell


def test_elsewhere_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert device.keep_freed_memory() is False
