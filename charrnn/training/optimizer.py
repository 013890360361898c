"""The optimizer and the learning rate of each step."""

from __future__ import annotations

import math

import torch

from charrnn.config.schema import TrainConfig
from charrnn.models.factory import Network

_FLOOR = 0.01  # of the peak rate, where schedules end
_WARMUP_SHARE = 0.1


def rate_at(config: TrainConfig, step: int, progress: float) -> float:
    """Give the learning rate of the step after `step` steps, when a share `progress` (0 to 1) is done.

    It climbs from 0 over warmup_steps, or over the first tenth if that is sooner, and then follows the schedule.
    """
    warm = min(1.0, max((step + 1) / max(config.warmup_steps, 1), progress / _WARMUP_SHARE))
    fallen = {
        "constant": 1.0,
        "linear": 1.0 - (1.0 - _FLOOR) * progress,
        "cosine": _FLOOR + (1.0 - _FLOOR) * 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[config.schedule]
    assert config.learning_rate != "auto"
    return config.learning_rate * warm * fallen


def make_optimizer(train: TrainConfig, model: Network) -> torch.optim.Optimizer:
    """Make the optimizer; weight decay is not its business (see `Training`), so that it is the same for all."""
    if train.optimizer == "adamw":
        fused = model.embedding.device.type in {"cpu", "cuda"}
        return torch.optim.Adam(model.parameters(), betas=(0.9, 0.99), fused=fused)
    if train.optimizer == "rmsprop":
        return torch.optim.RMSprop(model.parameters(), alpha=0.95)
    return torch.optim.SGD(model.parameters(), momentum=0.9)
