"""Scores and models described in text: tables, tab-separated lines, the page of `charrnn info`. Prints nothing."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay scores out in columns, a line a model and text, and below them what simpler models need for the texts."""
    dynamic = any("dynamic_rate" in row for row in rows)
    heads = ["model", "text", *(["mode"] if dynamic else []), "characters", "bits/char", "perplexity", "accuracy"]
    body = [
        [
            row["model"],
            row["text"],
            *([row["mode"]] if dynamic else []),
            f"{row['characters']:,}",
            f"{row['bits_per_character']:.4f}",
            f"{row['perplexity']:.3f}",
            f"{row['accuracy']:.2%}",
        ]
        for row in rows
    ]
    return _laid_out([heads, *body, *_simpler(rows, dynamic)])


def _simpler(rows: Sequence[dict[str, Any]], dynamic: bool) -> list[list[str]]:
    """Give the lines of the baselines, each once; where models differ in them, whose they are."""
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for kind, needs in row.get("baselines", {}).items():
            name, bits = f"n-gram of order {needs['order']}" if kind == "ngram" else kind, needs["bits_per_character"]
            mode = [""] if dynamic else []
            line = [row["text"], *mode, f"{row['characters']:,}", f"{bits:.4f}", f"{2.0 ** min(bits, 1000):.3f}", ""]
            if lines.setdefault((name, row["text"]), [name, *line])[1:] != line:
                lines[(f"{name} ({row['model']})", row["text"])] = [f"{name} ({row['model']})", *line]
    return list(lines.values())


def two_sided_table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out what bidirectional models make of each character given those on both sides, or those after it alone."""
    heads = ["given both sides (cloze)", "text", "characters", "cloze bits/char", "accuracy", "backward bits/char"]
    body = [
        [
            row["model"],
            row["text"],
            f"{row['characters']:,}",
            f"{row['cloze_bits_per_character']:.4f}",
            f"{row['cloze_accuracy']:.2%}",
            f"{row['backward_bits_per_character']:.4f}",
        ]
        for row in rows
        if "cloze_accuracy" in row
    ]
    return _laid_out([heads, *body])


def _laid_out(table: list[list[str]]) -> str:
    """Align columns: the first two to the left, numbers to the right."""
    widths = [max(columns(line[place]) for line in table) for place in range(len(table[0]))]
    lines = []
    for line in table:
        cells = [
            cell + " " * (width - columns(cell)) if place < 2 else " " * (width - columns(cell)) + cell
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def columns(text: str) -> int:
    """Count terminal columns: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
