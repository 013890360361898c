"""Where a training stands: all that a checkpoint saves beside tensors and configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from charrnn.checkpoints import safetensors_file
from charrnn.checkpoints.model_file import Header
from charrnn.evaluation import scoring


@dataclass
class Position:
    """Say where a training stands: all that is neither a tensor nor settled in the configuration."""

    step: int = 0  # optimizer steps done
    epoch: int = 0
    window: int = 0  # of this epoch, the next to read
    seconds: float = 0.0
    startup: float = 0.0  # seconds of them that were over before the first step
    rate_scale: float = 1.0  # halved by each going back
    rollbacks: int = 0
    evaluated: int = 0  # step of the last evaluation
    best_bits: float | None = None
    stale: int = 0  # evaluations since the best
    warmup: int = scoring.WARMUP  # characters, to begin the next evaluation with
    backward_warmup: int = scoring.WARMUP
    evaluation_seconds: float = 0.0
    nats: float = 0.0  # training cost since the last evaluation
    characters: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    device: str = "cpu"


def read_position(path: Path, header: Header) -> Position:
    """Read where a training stood from its last file's header. Raises CharRNNError for one that makes no sense."""
    try:
        position = TypeAdapter(Position).validate_python(header.position)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise safetensors_file.damaged(path, f"its header garbles position {place}") from error
    if min(position.step, position.epoch, position.window) < 0 or min(position.warmup, position.backward_warmup) < 1:
        raise safetensors_file.damaged(path, "its header garbles the position")
    return position
