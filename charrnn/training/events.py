"""What a training reports as it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from charrnn.checkpoints.model_file import EvaluationRecord


@dataclass(frozen=True)
class StepDone:
    """Report one optimizer step; `total` is the planned number of steps, None under a time budget."""

    step: int
    total: int | None
    epoch: float
    seconds: float
    progress: float
    bits_per_character: float
    gradient_norm: float
    learning_rate: float
    characters: int


@dataclass(frozen=True)
class Evaluated:
    """Report an evaluation of the whole validation part, and a text written after it."""

    evaluated: EvaluationRecord
    best: bool
    text: str
    seconds: float
    needs_single_pass: bool


@dataclass(frozen=True)
class RolledBack:
    """Report that something was not finite: training stands at `step` again, with a lower rate."""

    step: int
    learning_rate: float
    times: int


@dataclass(frozen=True)
class Finished:
    """Report why training ended, and all its evaluations."""

    reason: Literal["done", "time", "patience", "stopped"]
    history: tuple[EvaluationRecord, ...]
    step: int


Report = StepDone | Evaluated | RolledBack | Finished
