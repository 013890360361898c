"""What a model file is: a page of text with its loss curve, one line, or fields for JSON. Prints nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from charrnn.checkpoints import base_model, model_file, run_dir
from charrnn.checkpoints.model_file import Header
from charrnn.cli.console import broken, clipped
from charrnn.config import loading
from charrnn.data.documents import Documents
from charrnn.data.duplicates import NOUNS
from charrnn.errors import CharRNNError
from charrnn.messages import counted
from charrnn.scores import Baselines, Score
from charrnn.showable import showable, shown

_INDENT = 14  # columns of a row's name
_HEIGHT = 12  # lines of the curve


def summary(run: Path) -> str:
    """Describe a run on one line."""
    try:
        header = model_file.read_header(run_dir.find_model(str(run)))
    except CharRNNError as error:
        return f"({error})"
    kind = header.config.model
    latest = header.latest
    score = "not yet evaluated"
    if latest is not None:
        score = f"{Score(latest.model_nats, latest.characters).bits_per_character:.4f} bits/char"
    both = " bidirectional" if kind.bidirectional else ""
    mixed = f" with {header.mixture.order}-grams" if header.mixture else ""
    return f"{kind.kind}{both}{mixed}, {score}, {shown(header.corpus.name)}"


def page(path: Path, header: Header, width: int = 80) -> str:
    """Describe a model file on a page of so many columns."""
    lines: list[str] = []
    for name, content in [*_rows(path, header), *_scores(header)]:
        lines += broken(f"{name:{_INDENT}}{content}", max(width, 40), " " * _INDENT)
    return "\n".join([*lines, *_curve(header, width)])


def fields(path: Path, header: Header) -> dict[str, Any]:
    """Return what JSON says of a model file."""
    latest, card = header.latest, header.corpus
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "config": loading.to_dict(header.config),
        "parameters": header.parameters,
        "half": header.half,
        "mixture": _mixture(header),
        "characters_read": header.characters_read,
        "flops": header.flops,
        "vocabulary": {
            "size": len(header.vocabulary),
            "characters": header.vocabulary.characters,
            "unseen": header.vocabulary.unseen,
            "escape_probability": header.vocabulary.escape_probability,
        },
        "corpus": {**asdict(card), "characters": card.characters},
        "init_from": base_model.name(header.config),
        "validation": None if latest is None else Score(latest.nats, latest.characters, latest.correct).fields,
        "mixture_validation": None
        if latest is None or latest.mixture_nats is None
        else {"nats": latest.mixture_nats, "bits_per_character": latest.mixture_bits},
        "baselines": None
        if header.baselines is None
        else {
            name: None if scores is None else scores.fields()
            for name, scores in (("validation", header.baselines.validation), ("test", header.baselines.test))
        },
        "history": [
            {
                "step": record.step,
                "epoch": record.epoch,
                "seconds": record.seconds,
                "training_bits_per_character": record.training_bits_per_character,
                "bits_per_character": record.bits_per_character,
                "mixture_bits_per_character": record.mixture_bits,
                "cloze_bits_per_character": None if record.cloze is None else record.cloze.bits_per_character,
            }
            for record in header.history
        ],
    }


def _rows(path: Path, header: Header) -> list[tuple[str, str]]:
    """Return the rows of the page, each with a name, but for those of training and scores."""
    model, card, vocabulary = header.config.model, header.corpus, header.vocabulary
    documents = Documents(header.config.data.documents, vocabulary.boundary)
    characters = json.dumps(vocabulary.characters[:40], ensure_ascii=False)[1:-1]
    beginning = clipped(showable(characters), 56)  # on one line, at its spaces too
    rows = [
        ("file", f"{shown(path)} ({path.stat().st_size / 1e6:.1f} MB)"),
        ("architecture", architecture(header)),
        (
            "parameters",
            f"{header.parameters:,} {'counts in its tables' if model.counted else 'weights'}"
            f"{' in fp16' if header.half else ''}",
        ),
    ]
    if (mixture := _mixture(header)) is not None:
        weights = [each for row in mixture["weights"] for each in row]
        least, most = f"{min(weights):.2f}", f"{max(weights):.2f}"
        weight = least if least == most else f"{least} to {most} by context"
        of = f"n-gram model of order {mixture['order']}, {mixture['counts']:,} counts"
        rows.append(("mixture", f"{of} ({mixture['bytes'] / 1e6:.1f} MB of the file), weight {weight}"))
    rows.append(("vocabulary", f"{len(vocabulary):,} characters: {beginning}{' ...' if len(vocabulary) > 40 else ''}"))
    if vocabulary.unseen:
        rows.append(("kept", f"{vocabulary.unseen:,} of them, which the new training split lacks"))
    rows += [
        ("escape", f"{vocabulary.escape_probability:.2e}, the probability of any character outside the vocabulary"),
        (
            "corpus",
            f"{shown(card.name)}, {card.characters:,} characters: {card.training:,} training,"
            f" {card.validation:,} validation, {card.test:,} test",
        ),
    ]
    if documents.known:
        kind = header.config.data.documents
        end = f", each ended by {shown(json.dumps(vocabulary.boundary, ensure_ascii=False))}" if kind != "file" else ""
        rows.append(("documents", f"{NOUNS[kind]}s{end}"))
    repeated = {split: each for split, each in (card.repeated or {}).items() if each.repeated}
    if repeated:
        told = [each.counted(split, header.config.data.documents) for split, each in repeated.items()]
        rows.append(("repeated", f"{' and '.join(told)} also stand in the training split"))
    if (base := base_model.name(header.config)) is not None:
        rows.append(("started from", shown(base)))
    return rows


def _scores(header: Header) -> list[tuple[str, str]]:
    """Return the rows of training, and of its scores and those of baselines."""
    rows: list[tuple[str, str]] = []
    model, latest = header.config.model, header.latest
    if latest is not None:
        trained = f"{latest.seconds:.0f} seconds, seed {header.config.train.seed}"
        if not model.counted:
            trained = f"{counted(latest.step, 'step')}, {latest.epoch:.2f} epochs, {trained}"
            rows.append(("trained", trained))
            rows.append(
                ("work", f"{header.characters_read:,} characters read, {header.flops:.2g} floating-point operations")
            )
        else:
            rows.append(("trained", f"counted once, {trained}"))
        accuracy = latest.correct / latest.characters
        of_network = f"{latest.bits_per_character:.4f} bits/char, {accuracy:.2%} predicted right"
        if header.mixture is not None and latest.mixture_bits is not None:
            of_network = f"{latest.mixture_bits:.4f} bits/char, mixed with n-grams; the network alone {of_network}"
        rows.append(("validation", of_network))
        if latest.cloze is not None and latest.backward_nats is not None:
            backward = Score(latest.backward_nats, latest.characters)
            rows.append(
                (
                    "both sides",
                    f"{latest.cloze.bits_per_character:.4f} bits/char given both sides (cloze),"
                    f" {latest.cloze.accuracy:.2%} right; {backward.bits_per_character:.4f} backwards",
                )
            )
    if header.baselines is not None:
        for split, scores in (("validation", header.baselines.validation), ("test", header.baselines.test)):
            if scores is not None:
                rows.append(("baselines", f"{_named(scores)} bits/char ({split})"))
    return rows


def _mixture(header: Header) -> dict[str, Any] | None:
    """Return what JSON says of a mixture's counts and weights."""
    if header.mixture is None:
        return None
    counts, size = header.mixture_size
    return {**asdict(header.mixture), "counts": counts, "bytes": size}


def architecture(header: Header) -> str:
    """Describe the network of a model, or what it is instead, on one line."""
    model = header.config.model
    if model.cell in model.ONLY_SETTINGS:
        return model.kind
    options = {
        "bidirectional": model.bidirectional,
        "tied weights": model.tied,
        "residual": model.residual,
        "layer norm": model.layer_norm,
        f"leak {model.leak}": model.leak is not None,
        f"time skip {model.time_skip}": model.time_skip is not None,
        model.activation: model.cell == "rnn",
    }
    extra = ", ".join(name for name, on in options.items() if on)
    return f"{model.kind}, embedding {model.embedding_size}, dropout {model.dropout}" + (f" ({extra})" if extra else "")


def _named(scores: Baselines) -> str:
    return ", ".join(
        f"{f'{scores.order}-gram' if name == 'ngram' else name} {Score(nats, scores.characters).bits_per_character:.4f}"
        for name, nats in scores.by_name().items()
    )


def _curve(header: Header, width: int) -> list[str]:
    """Draw the scores of all evaluations."""
    history, model = header.history, header.config.model
    if len(history) < 2:
        return []
    missing = math.nan
    training = [record.training_bits_per_character for record in history]
    curves = {
        "o": [missing if bits is None else bits for bits in training],
        "*": [record.bits_per_character for record in history],
    }
    dropout = "" if model.cell in model.ONLY_SETTINGS or model.dropout == 0 else " with dropout"
    x = "order" if model.counted else "step"
    drawing = draw(curves, max(width - 11, 10), _HEIGHT, labels=[f"{record.step:,}" for record in history])
    return ["", f"bits/char by {x}: * validation, o training{dropout}", drawing]


def draw(curves: Mapping[str, Sequence[float]], width: int = 60, height: int = 10, labels: Sequence[str] = ()) -> str:
    """Draw curves of one length over the whole width, the last on top, each with its one-character mark as key.

    The x axis runs over evaluations; their `labels` stand below it as far as there is space.
    """
    values = [value for curve in curves.values() for value in curve if math.isfinite(value)]
    if not values:
        return "(nothing finite to draw)"
    low, high = min(values), max(values)
    span = high - low or 1.0
    count = max(len(curve) for curve in curves.values())
    grid = [[" "] * width for _ in range(height)]
    # more evaluations than columns: each column shows the last one that falls into it
    shown = range(count) if count <= width else [(column + 1) * count // width - 1 for column in range(width)]
    places = [round(place * (width - 1) / max(len(shown) - 1, 1)) for place in range(len(shown))]
    for mark, curve in curves.items():
        for column, evaluation in zip(places, shown, strict=True):
            if math.isfinite(curve[evaluation]):
                grid[round((high - curve[evaluation]) / span * (height - 1))][column] = mark
    lines = []
    for row, cells in enumerate(grid):
        lines.append(f"{high - span * row / (height - 1):8.3f} |{''.join(cells)}".rstrip())
    lines.append(" " * 9 + "+" + "-" * width)
    if labels:
        lines.append(
            _axis([(place, labels[evaluation]) for place, evaluation in zip(places, shown, strict=True)], width)
        )
    return "\n".join(lines)


def _axis(labels: list[tuple[int, str]], width: int) -> str:
    """Write labels below their columns, the last one always, and of the others those that leave a gap."""
    line = [" "] * width
    free = width
    for place, label in (labels[-1], *labels[:-1][::-1]):
        start = max(0, min(place - len(label) // 2, width - len(label)))
        if start + len(label) + 3 <= free or free == width:
            line[start : start + len(label)] = label
            free = start
    return (" " * 10 + "".join(line)).rstrip()
