"""Scores and models described in text: tables, tab-separated lines, the page of `charrnn info`. Prints nothing."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charrnn import checkpoint, curve, modelfile
from charrnn.errors import CharRNNError
from charrnn.metrics import Score
from charrnn.modelfile import Header


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


def summary(run: Path) -> str:
    """Describe a run on one line."""
    try:
        header = modelfile.read_header(checkpoint.find_model(str(run)))
    except CharRNNError as error:
        return f"({error})"
    kind = header.config.model
    score = f"{header.latest.bits_per_character:.4f} bits/char" if header.latest else "not yet evaluated"
    both = " both ways" if kind.bidirectional else ""
    return f"{kind.kind}{both}, {score}, {header.corpus.name}"


def page(path: Path, header: Header) -> str:
    """Describe a model file on a page."""
    model, corpus, vocabulary = header.config.model, header.corpus, header.vocabulary
    options = [
        name
        for name, on in (
            ("bidirectional", model.bidirectional),
            ("tied weights", model.tied),
            ("residual", model.residual),
            ("layer norm", model.layer_norm),
            (f"leak {model.leak}", model.leak is not None),
            (f"time skip {model.time_skip}", model.time_skip is not None),
            (model.activation, model.cell == "rnn"),
        )
        if on
    ]
    extra = f" ({', '.join(options)})" if options else ""
    plain = model.cell in model.OWN
    stack = "" if plain else f", embedding {model.embedding_size}, dropout {model.dropout}{extra}"
    shown = json.dumps(vocabulary.characters[:40], ensure_ascii=False)[1:-1]
    lines = [
        f"file          {path} ({path.stat().st_size / 1e6:.1f} MB)",
        f"architecture  {model.kind}{stack}",
        f"tables        {header.parameters:,} numbers" if model.counted else f"parameters    {header.parameters:,}",
        f"vocabulary    {len(vocabulary):,} characters: {shown}{' ...' if len(vocabulary) > 40 else ''}",
        *([f"kept          {vocabulary.unseen:,} of them, which its training part lacks"] if vocabulary.unseen else []),
        f"escape        {vocabulary.escape_probability:.2e} for a character never seen",
        f"corpus        {corpus.name}: {corpus.characters:,} characters"
        f" ({corpus.training:,} training, {corpus.validation:,} validation, {corpus.test:,} test)",
    ]
    if header.latest is not None:
        evaluated = header.latest
        reading = "once, " if model.counted else f"{evaluated.step:,} steps, {evaluated.epoch:.2f} epochs, "
        lines += [
            f"trained       {reading}{evaluated.seconds:.0f} seconds, seed {header.config.train.seed}",
            *([] if model.counted else [f"read          {header.read:,} characters, {header.flops:.2g} FLOPs"]),
            f"validation    {evaluated.bits_per_character:.4f} bits/char, accuracy"
            f" {evaluated.correct / evaluated.characters:.2%}",
        ]
        if evaluated.cloze is not None and evaluated.backward_nats is not None:
            backward = Score(evaluated.backward_nats, evaluated.characters)
            lines.append(
                f"both sides    cloze {evaluated.cloze.bits_per_character:.4f} bits/char, accuracy"
                f" {evaluated.cloze.accuracy:.2%}; backwards {backward.bits_per_character:.4f} bits/char"
            )
    if header.baselines is not None:
        for part, needs in (("validation", header.baselines.validation), ("test", header.baselines.test)):
            if needs is not None:
                listed = [
                    f"{f'n-gram of order {needs.order}' if name == 'ngram' else name}"
                    f" {Score(nats, needs.characters).bits_per_character:.4f}"
                    for name, nats in needs.named().items()
                ]
                lines.append(f"simpler       {', '.join(listed)} bits/char ({part})")
    if len(header.history) > 1:
        curves = {
            "o": [
                math.nan if evaluated.training_bits_per_character is None else evaluated.training_bits_per_character
                for evaluated in header.history
            ],
            "*": [evaluated.bits_per_character for evaluated in header.history],
        }
        when = f"orders 1 to {len(header.history)}" if model.counted else f"{len(header.history)} evaluations"
        dropout = "" if plain else " with dropout"
        lines += ["", f"bits/char at {when} (* validation, o training{dropout})"]
        lines.append(curve.draw(curves))
    return "\n".join(lines)
