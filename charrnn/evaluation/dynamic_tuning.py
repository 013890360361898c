"""How fast a model's weights follow a text: chosen on the validation part of its own corpus, and kept beside the run.
Knows runs and files; the following itself is the business of `dynamic`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from pathlib import Path

from charrnn.atomic_files import write_atomically
from charrnn.callbacks import Progress, Say, no_progress
from charrnn.checkpoints import training_corpus
from charrnn.checkpoints.model_file import Header
from charrnn.checkpoints.run_dir import LOCK
from charrnn.errors import CharRNNError
from charrnn.evaluation import dynamic
from charrnn.evaluation.dynamic import DynamicEvaluator, UpdateRule

KEPT = "dynamic.json"
_LEAST = 1000  # characters: on fewer, chance would choose


def choose(
    path: Path, header: Header, evaluator: DynamicEvaluator, *, say: Say, progress: Progress = no_progress
) -> UpdateRule | None:
    """Give the rule that scores the validation part of a model's corpus best; None where that part is not at hand.

    What was chosen is kept in the run folder, so that it is chosen once for each model file.
    """
    rule = kept(path)
    if rule is not None:
        return rule
    try:
        validation = training_corpus.find(header, path, "", say=say).validation.tokens
    except CharRNNError:
        return None
    if len(validation) < _LEAST:
        return None
    length = min(len(validation), dynamic.CHOOSING)
    once = ", once," if (path.parent / LOCK).exists() else ""
    say(f"Choosing how fast the weights follow{once} on {length:,} characters of the validation part ...")
    rule, tried = evaluator.choose(validation, progress)
    scores = [
        {"rate": each.rate, "decay": each.decay, "bits_per_character": score.bits_per_character}
        for each, score in tried
        if math.isfinite(score.nats)  # the weights did not run away
    ]
    _keep(path, rule, scores, length)
    return rule


def kept(path: Path) -> UpdateRule | None:
    """Give what was chosen for a model file before; None if it has changed since, or if nothing sound is there."""
    try:
        entry = json.loads((path.parent / KEPT).read_text("utf-8"))[path.name]
        rule = UpdateRule(float(entry["rate"]), float(entry["decay"]))
        same = entry["segment"] == dynamic.SEGMENT and entry["sha256"] == _digest(path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return rule if same and math.isfinite(rule.rate) and rule.rate >= 0 and 0 <= rule.decay <= 1 else None


def _keep(path: Path, rule: UpdateRule, tried: list[dict[str, float]], characters: int) -> None:
    """Write down a choice, if the model lies in a run folder: elsewhere nobody asked for a file."""
    if not (path.parent / LOCK).exists():
        return
    place = path.parent / KEPT
    try:
        entries = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        entries = {}
    entry = {
        "rate": rule.rate,
        "decay": rule.decay,
        "segment": dynamic.SEGMENT,
        "sha256": _digest(path),
        "characters": characters,
        "tried": tried,
    }
    entries = {**entries, path.name: entry} if isinstance(entries, dict) else {path.name: entry}
    # where a folder may only be read, it is chosen anew another time
    with contextlib.suppress(CharRNNError):
        write_atomically(place, (json.dumps(entries, indent=1) + "\n").encode())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
