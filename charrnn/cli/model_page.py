"""What a model file is, as a page of text: rows that say it, and its loss curve. Prints nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from charrnn.checkpoints import model_file, run_dir
from charrnn.checkpoints.model_file import Header
from charrnn.errors import CharRNNError
from charrnn.scores import Score


def summary(run: Path) -> str:
    """Describe a run on one line."""
    try:
        header = model_file.read_header(run_dir.find_model(str(run)))
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
        lines.append(draw(curves))
    return "\n".join(lines)


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
