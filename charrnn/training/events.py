"""What a training reports on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from charrnn.checkpoints.model_file import EvaluationRecord


@dataclass(frozen=True)
class StepDone:
    """One optimizer step; `total` is the planned number of steps, None under a time budget."""

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
    """An evaluation on the whole validation split, and a sample written after it; `counted` says whether there is an
    n-gram model to mix the network with."""

    record: EvaluationRecord
    best: bool
    text: str
    seconds: float
    needs_single_pass: bool
    counted: bool = False


@dataclass(frozen=True)
class RolledBack:
    """Something was not finite: training is back at `step`, with a lower learning rate, for the `times`-th time."""

    step: int
    learning_rate: float
    times: int


@dataclass(frozen=True)
class Finished:
    """Why training ended, and all its evaluations; `startup` seconds passed before the first step."""

    reason: Literal["done", "time", "patience", "stopped"]
    history: tuple[EvaluationRecord, ...]
    step: int
    startup: float = 0.0


Report = StepDone | Evaluated | RolledBack | Finished
