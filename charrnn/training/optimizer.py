"""The optimizer, the learning rate of each step, gradient clipping and weight decay."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from charrnn.config.schema import TrainConfig, resolved
from charrnn.models.char_rnn import BY_CHARACTER, LOOKED_UP
from charrnn.models.factory import Network

FINAL_RATE = 0.01  # of the peak rate, where schedules end
MAX_WARMUP = 0.1  # of the training


def rate_at(config: TrainConfig, step: int, progress: float) -> float:
    """Return the learning rate of the step after `step` steps, when a share `progress` (0 to 1) is done.

    It rises from 0 over warmup_steps, or over the first tenth if that is shorter, and then follows the schedule.
    """
    warmup = min(1.0, max((step + 1) / max(config.warmup_steps, 1), progress / MAX_WARMUP))
    decay = {
        "constant": 1.0,
        "linear": 1.0 - (1.0 - FINAL_RATE) * progress,
        "cosine": FINAL_RATE + (1.0 - FINAL_RATE) * 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[config.schedule]
    return resolved(config.learning_rate) * warmup * decay


def make_optimizer(train: TrainConfig, model: Network) -> torch.optim.Optimizer:
    """Make the optimizer, without weight decay: `decay_weights` is the same for all."""
    if train.optimizer == "adamw":
        fused = model.embedding.device.type in {"cpu", "cuda"}
        return torch.optim.Adam(model.parameters(), betas=(0.9, 0.99), fused=fused)
    if train.optimizer == "rmsprop":
        return torch.optim.RMSprop(model.parameters(), alpha=0.95)
    return torch.optim.SGD(model.parameters(), momentum=0.9)


def load_torch() -> None:
    """Let torch load what its first optimizer needs: a second that a plan has to know of."""
    torch.optim.SGD([torch.zeros(1)])


def clip_gradients(model: Network, train: TrainConfig, unseen: int) -> Tensor:
    """Add the L1 gradient, then clip by value and by norm; return the norm before clipping.

    The last `unseen` characters do not occur in the training split, whose gradient would only lower their probability:
    their rows get none.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    if train.l1 > 0.0:
        for parameter in parameters:
            if parameter.dim() > 1 and parameter.grad is not None:
                parameter.grad.add_(parameter.detach().sign(), alpha=train.l1)
    if unseen:
        for name, parameter in model.named_parameters():
            if name in BY_CHARACTER and parameter.grad is not None:
                parameter.grad[-unseen:].zero_()
    norm = clipped = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if train.clip_value is not None:
        clip_grad_value_(parameters, train.clip_value)
        clipped = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if train.clip_norm is not None:
        clip_grads_with_norm_(parameters, train.clip_norm, clipped)
    return norm


@torch.no_grad()
def decay_weights(model: Network, share: float, unseen: int) -> None:
    """Shrink matrices by a share, apart from the gradient (Loshchilov and Hutter 2019).

    Tables that are only looked up stay as they are, and so do rows of `unseen` characters.
    """
    if share > 0.0:
        tables = LOOKED_UP - ({"embedding"} if model.config.tied else set())  # a tied one is the head, too
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and name not in tables:
                rows = len(parameter) - (unseen if name in BY_CHARACTER else 0)
                parameter[:rows].mul_(1.0 - share)
