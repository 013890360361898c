"""A loss curve drawn in text. Knows numbers, not where they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def draw(curves: Mapping[str, Sequence[float]], width: int = 60, height: int = 10) -> str:
    """Draw curves of one length, the last on top, each with its one-character mark as key; x runs over evaluations."""
    values = [value for curve in curves.values() for value in curve if math.isfinite(value)]
    if not values:
        return "(nothing finite to draw)"
    low, high = min(values), max(values)
    span = high - low or 1.0
    count = max(len(curve) for curve in curves.values())
    columns = min(width, count)
    grid = [[" "] * columns for _ in range(height)]
    for mark, curve in curves.items():
        for column in range(columns):
            # more evaluations than columns: each column shows the last one that falls into it
            value = curve[(column + 1) * count // columns - 1]
            if math.isfinite(value):
                grid[round((high - value) / span * (height - 1))][column] = mark
    lines = []
    for row, cells in enumerate(grid):
        label = high - span * row / (height - 1)
        lines.append(f"{label:8.3f} |{''.join(cells).rstrip()}")
    return "\n".join([*lines, " " * 9 + "+" + "-" * columns])
