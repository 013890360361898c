"""The page of inspect: every analysis that makes sense for a model and a text, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charrnn.atomic_files import write_atomically
from charrnn.checkpoints import model_file, run_dir
from charrnn.cli import model_page
from charrnn.cli.console import note, put_line
from charrnn.cli.inspect_subject import Subject, model_names
from charrnn.inspection import page

_TOP = 5  # likeliest characters, where the page cannot run the model
_ONE_MODEL = ("units", "gates", "errors", "saliency")


def write(target: Path, subjects: Sequence[Subject], seed: int) -> None:
    """Write the page of the first model, with the reach of all, and print its path."""
    first = subjects[0]
    tables: dict[str, Any] = {}
    for analysis in _ONE_MODEL:
        if not first.unavailable(analysis):
            tables[analysis] = first.analyse(analysis, seed)
    tensors = {"saliency": tables["saliency"].values} if "saliency" in tables else {}
    tables = {name: found.fields() for name, found in tables.items()}
    for row in tables.get("saliency", {"rows": ()})["rows"]:
        del row["values"]
    measured = [pair for pair in zip(model_names(subjects), subjects, strict=True) if not pair[1].unavailable("reach")]
    if measured:
        tables["reach"] = [{"model": name, **one.analyse("reach", seed).fields()} for name, one in measured]
    else:
        note(f"{first.unavailable('reach')} So the page has no view of it.".replace("--", "", 1))
    if first.header.config.model.counted:
        tables["surprise"] = _surprise(first)
    title = run_dir.model_name(first.path)
    described = page.PageModel(title, model_page.architecture(first.header), first.header, _weights(first))
    html = page.build(title, described, text=first.text, tables=tables, tensors=tensors).encode()
    write_atomically(target, html)
    note(f"Wrote {target} ({len(html) / 1e6:.1f} MB). Open it in any browser: {target.absolute().as_uri()}")
    put_line(str(target))


def _weights(subject: Subject) -> dict[str, Any]:
    if subject.header.config.model.counted:
        return {}
    contents = model_file.read_arrays(subject.path)[1]
    return {name: contents.arrays[name] for name in contents.weights}


def _surprise(subject: Subject) -> list[dict[str, Any]]:
    """Return the bits, the rank and the likeliest characters of each character, which a page without a network cannot
    compute."""
    from charrnn.evaluation.ensemble import characters
    from charrnn.scores import NATS_PER_BIT

    tokens, rows = subject.vocabulary.encode(subject.text), list[dict[str, Any]]()
    for block in characters(subject.model, subject.vocabulary, tokens, top=_TOP):
        assert block.likeliest is not None
        named = block.likeliest.named(subject.vocabulary)
        for nats, rank, top in zip(block.nats.tolist(), block.ranks.tolist(), named, strict=True):
            likeliest = [{"character": character, "probability": p} for character, p in top]
            rows.append({"bits": nats / NATS_PER_BIT, "rank": rank, "likeliest": likeliest})
    return rows
