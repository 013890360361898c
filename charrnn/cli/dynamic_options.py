"""The options of --dynamic to what scores with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn.cli.console import bar, note
from charrnn.cli.open_model import check_trainable

if TYPE_CHECKING:
    from charrnn.checkpoints.model_file import Header
    from charrnn.evaluation.dynamic import DynamicEvaluator


def dynamic_evaluator(
    path: Path, header: Header, model: Any, rate: float | None, decay: float | None, *, tune: bool
) -> DynamicEvaluator:
    """Make what --dynamic scores with; `tune` says whether the validation split may choose its rule."""
    from dataclasses import replace

    from charrnn.evaluation import dynamic, dynamic_tuning

    check_trainable("--dynamic", header)
    evaluator, found = dynamic.DynamicEvaluator.of(model, header.vocabulary), None
    if header.config.model.bidirectional:
        note("--dynamic scores the forward half alone.")
    if rate is None:
        if tune:
            length = min(header.corpus.validation, dynamic.TUNING_CHARACTERS)
            with bar(4 * length) as shown:  # as many rules are tried at least; each further one adds its length

                def progress(count: int) -> None:
                    shown.total = max(shown.total or 0, shown.n + count)
                    shown.update(count)

                found = dynamic_tuning.tune(path, header, evaluator, say=note, progress=progress)
        if found is None:
            why = "No validation split at hand is long enough to choose the rate on"
            why = why if tune else "What is scored is the validation split itself, which must not choose the rate"
            note(f"{why}: the default is used. --dynamic-rate sets another.")
    rule = found or evaluator.rule
    rate = rule.rate if rate is None else rate
    decay = rule.decay if decay is None else decay
    note(f"Dynamic evaluation at rate {rate:g}, decay {decay:g}.")
    return replace(evaluator, rule=replace(rule, rate=rate, decay=decay))
