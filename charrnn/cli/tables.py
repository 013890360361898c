"""Scores laid out in columns, to fit a terminal. Prints nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from charrnn.cli.console import clipped, columns, padded
from charrnn.messages import counted
from charrnn.showable import shown

Scores = dict[str, Any]  # a row of `charrnn evaluate`, as in its JSON
_NUMBERS: dict[str, Callable[[Scores], str]] = {
    "bits/char": lambda row: _bits(row["bits_per_character"]),
    "accuracy": lambda row: f"{row['accuracy']:.2%}",
    "perplexity": lambda row: "-" if math.isinf(row["perplexity"]) else f"{row['perplexity']:.3f}",
}
_BOTH_SIDES: dict[str, Callable[[Scores], str]] = {
    "given both sides": lambda row: _bits(row["cloze_bits_per_character"]),
    "right": lambda row: f"{row['cloze_accuracy']:.2%}",
    "backwards": lambda row: _bits(row["backward_bits_per_character"]),
}
_LEAST_NAME = 12  # columns


def _bits(bits: float) -> str:
    return f"{bits:.4f}" if bits < 1e6 else f"{bits:.4g}"


def table(rows: Sequence[Scores], width: int = 80) -> str:
    """Lay scores out, a block a text: its name and length, a line a model, and below them the baselines.

    Perplexity, and then accuracy, is left out where the lines would be wider than `width` columns. Held-out splits of
    the same name and another length are other texts.
    """
    blocks: dict[tuple[str, int], list[Scores]] = {}
    for row in rows:
        blocks.setdefault((row["text"], row["characters"]), []).append(row)
    return "\n\n".join(_block(block, width) for block in blocks.values())


def _block(rows: list[Scores], width: int) -> str:
    title = f"{shown(rows[0]['text'])}, {counted(rows[0]['characters'], 'character')}"
    dynamic = any("dynamic_rate" in row for row in rows)
    models = [shown(row["model"].removesuffix("/best.safetensors")) for row in rows]
    names = [
        f"{model} (dynamic)" if row.get("mode") == "dynamic" else model for model, row in zip(models, rows, strict=True)
    ]
    numbers = {heading: [number(row) for row in rows] for heading, number in _NUMBERS.items()}
    if any("cloze_accuracy" in row for row in rows):
        for heading, number in _BOTH_SIDES.items():
            numbers[heading] = [number(row) if "cloze_accuracy" in row else "" for row in rows]
    baselines = _baselines(rows)
    name_size = max(columns(name) for name in ("model", *names, *(f"  {name}" for name, _ in baselines)))
    sizes = {heading: max(columns(cell) for cell in (heading, *cells)) for heading, cells in numbers.items()}
    for heading in ("perplexity", "accuracy"):
        if max(_LEAST_NAME, min(name_size, 2 * _LEAST_NAME)) + sum(size + 2 for size in sizes.values()) > width:
            del sizes[heading]
    name_size = max(_LEAST_NAME, min(name_size, width - sum(size + 2 for size in sizes.values())))

    def line(name: str, cells: Sequence[str]) -> str:
        aligned = [padded(cell, -size) for cell, size in zip(cells, sizes.values(), strict=False)]
        return "  ".join((padded(clipped(name, name_size, start=True), name_size), *aligned)).rstrip()

    lines = [clipped(title, width, start=True), line("model", list(sizes))]
    lines += [line(name, [numbers[heading][place] for heading in sizes]) for place, name in enumerate(names)]
    if baselines:
        lines.append("baselines" + (" (static)" if dynamic else ""))
        # of a baseline that belongs to one model the end may be cut, not its kind
        lines += [line(clipped(f"  {name}", name_size), [bits]) for name, bits in baselines]
    return "\n".join(lines)


def _baselines(rows: Sequence[Scores]) -> list[tuple[str, str]]:
    """Name each baseline once, with its bits per character; where models differ in one, whose it is."""
    found: dict[str, str] = {}
    for row in rows:
        for kind, score in row.get("baselines", {}).items():
            name, bits = f"{score['order']}-gram" if kind == "ngram" else kind, f"{score['bits_per_character']:.4f}"
            if found.setdefault(name, bits) != bits:
                found[f"{name} ({row['model']})"] = bits
    return list(found.items())
