"""The update rule of a model's dynamic evaluation: tuned on its validation split and saved in the run folder.
Knows runs and files; evaluation itself belongs to `dynamic`."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

from charrnn.atomic_files import write_atomically
from charrnn.checkpoints import safetensors_file, training_corpus
from charrnn.checkpoints.model_file import Header
from charrnn.checkpoints.run_dir import LOCK
from charrnn.errors import CharRNNError
from charrnn.evaluation import dynamic
from charrnn.evaluation.dynamic import DynamicEvaluator, UpdateRule
from charrnn.messages import Progress, Say, no_progress

RULE_FILE = "dynamic.json"
_MIN_CHARACTERS = 1000  # on fewer, the choice would be left to chance


def tune(
    path: Path, header: Header, evaluator: DynamicEvaluator, *, say: Say, progress: Progress = no_progress
) -> UpdateRule | None:
    """Return the rule that scores the validation split of a model's corpus best; None where that is not available.

    The rule is saved in the run folder, so that each model file is tuned once.
    """
    mixture = evaluator.mixture is not None
    rule = load_rule(path, mixture=mixture)
    if rule is not None:
        return rule
    try:
        validation = training_corpus.find(header, path, "", say=say).validation.tokens
    except CharRNNError:
        return None
    if len(validation) < _MIN_CHARACTERS:
        return None
    length = min(len(validation), dynamic.TUNING_CHARACTERS)
    once = ", once," if (path.parent / LOCK).exists() else ""
    say(f"Tuning dynamic evaluation{once} on {length:,} characters of the validation split ...")
    rule, tried = evaluator.tune(validation, progress)
    scores = [
        {"rate": each.rate, "decay": each.decay, "bits_per_character": score.bits_per_character}
        for each, score in tried
        if math.isfinite(score.nats)  # it did not diverge
    ]
    _save_rule(path, rule, scores, length, mixture=mixture)
    return rule


def load_rule(path: Path, *, mixture: bool = False) -> UpdateRule | None:
    """Read the saved rule of a model file, of the `mixture` in it or of its network alone; None if there is no valid
    one, or the model has changed since."""
    try:
        entries, name = json.loads((path.parent / RULE_FILE).read_text("utf-8")), _name(path, mixture=mixture)
        entry = entries[name if name in entries else path.name]  # where a mixture's was kept too, the latest of both
        rule = UpdateRule(float(entry["rate"]), float(entry["decay"]))
        same = entry["segment"] == dynamic.SEGMENT and entry.get("mixture", False) == mixture
        same = same and entry["sha256"] == safetensors_file.digest(path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return rule if same and math.isfinite(rule.rate) and rule.rate >= 0 and 0 <= rule.decay <= 1 else None


def _name(path: Path, *, mixture: bool) -> str:
    """Return the name of an entry: a mixture and its network, which are one file, have a rule each."""
    return f"{path.name} (mixture)" if mixture else path.name


def _save_rule(path: Path, rule: UpdateRule, tried: list[dict[str, float]], characters: int, *, mixture: bool) -> None:
    """Save a rule if the model is in a run folder: elsewhere nobody asked for a file."""
    if not (path.parent / LOCK).exists():
        return
    file = path.parent / RULE_FILE
    try:
        entries = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        entries = {}
    entry = {
        "rate": rule.rate,
        "decay": rule.decay,
        "segment": dynamic.SEGMENT,
        "mixture": mixture,
        "sha256": safetensors_file.digest(path),
        "characters": characters,
        "tried": tried,
    }
    entries = {**(entries if isinstance(entries, dict) else {}), _name(path, mixture=mixture): entry}
    # in a read-only folder, the model is tuned again next time
    with contextlib.suppress(CharRNNError):
        write_atomically(file, (json.dumps(entries, indent=1) + "\n").encode())
