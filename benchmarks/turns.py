"""Timing on noisy machines: alternatives run in turns in one process, and are compared round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Seconds = Mapping[str, list[float]]


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int = 7) -> Seconds:
    """Run every way once to warm up, then `rounds` times in turns; return wall-clock seconds by way."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def report(seconds: Seconds, amounts: Mapping[str, float], unit: str, baseline: str) -> None:
    """Print the speed of each way, and its ratio to the baseline: median, lowest and highest."""
    width = max(len(name) for name in seconds)
    print(f"{'':{width}}  {unit + '/s':>14}  times the first (lowest to highest of {len(seconds[baseline])} rounds)")
    for name, spent in seconds.items():
        rate = statistics.median(amounts[name] / each for each in spent)
        ratios = sorted(
            (amounts[name] / mine) / (amounts[baseline] / theirs)
            for mine, theirs in zip(spent, seconds[baseline], strict=True)
        )
        print(f"{name:{width}}  {rate:14,.0f}  {statistics.median(ratios):7.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
