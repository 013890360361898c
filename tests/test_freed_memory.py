"""Memory that is freed in one step is reused in the next."""

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
agreed = {kept} and keep_freed_memory()
def step():
    return float(torch.ones(16 << 20).sum())  # 64 MB, freed at once
for _ in range(32):  # the heap may grow for a while before it finds its size
    step()
faults = []
for _ in range(9):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(faults), agreed)  # the system may reclaim a page, or the heap move, now and then
"""


def faults(kept: bool) -> tuple[int, bool]:
    printed = subprocess.run(
        [sys.executable, "-c", FAULTS.format(kept=kept)], check=True, capture_output=True, text=True, timeout=120
    ).stdout.split()
    return int(printed[0]), printed[1] == "True"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's mallopt")
def test_freed_memory_is_reused_by_the_next_step() -> None:
    returned, _ = faults(False)
    kept, agreed = faults(True)
    assert agreed
    assert kept < returned / 20 or returned < 50  # huge pages fault too rarely to tell


def test_other_systems_do_not_support_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert device.keep_freed_memory() is False
