"""What learning makes small: each character's price for those who know what is before it, after it, or both.
Knows models and windows, not optimizers. Shapes: B lanes, T steps, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from charrnn.data.loader import Batch
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.factory import Network
from charrnn.models.interface import WIDEST
from charrnn.models.layers import State


def target_nats(logits: Tensor, targets: Tensor, known_nats: float, escape_nats: float) -> Tensor:
    """Price every target (B, T) under logits (B, T, V), in nats (B, T): the softmax's price plus that of not being
    an escape, or the escape's own (see `vocabulary`)."""
    vocabulary_size = logits.shape[-1]
    escaped = targets == vocabulary_size
    inside = targets.masked_fill(escaped, 0).flatten()
    rows = logits.flatten(0, 1)
    # bf16 has 8 bits for a sum over V: the softmax is taken in fp32 at least
    rows = rows.float() if rows.dtype == torch.bfloat16 else rows
    loss = F.cross_entropy(rows, inside, reduction="none")
    return torch.where(escaped, escape_nats, loss.view_as(targets) + known_nats)


class Losses(NamedTuple):
    """Hold mean prices in nats: of the next character, and for a bidirectional model of the previous one, and of one
    in a gap whose sides are known; and what a teacher adds to their sum."""

    forward: Tensor
    backward: Tensor | None = None
    joint: Tensor | None = None
    teaching: Tensor | None = None

    def total(self) -> Tensor:
        """Give the loss: the sum of its terms."""
        return self.forward + sum(term for term in self[1:] if term is not None)


@dataclass
class Teacher:
    """A model that stays as it is, and where it stands in the text: what it expects is a share, 0 to 1, of what is to
    be learnt, the text itself is the rest (distillation, Hinton, Vinyals and Dean 2015; with the model that a
    fine-tuning starts from, Yu et al. 2013)."""

    model: Network
    share: float
    state: State


def compute_losses(
    model: Network,
    window: Batch,
    state: State,
    known_nats: float,
    escape_nats: float,
    generator: Generator,
    teacher: Teacher | None = None,
) -> tuple[Losses, State]:
    """Price a window of training from a carried state; gives the costs and the state after it; see `nats` for the
    two prices. A teacher reads the window too, and stands after it then.

    A bidirectional model's backward stack starts anew at the far end of each window's lookahead, which only warms it
    up: its state cannot be carried forwards in time. For its joint term each character is the first of a gap of its
    own, r characters wide: half of them 1, the others drawn from 2 to 20 in proportion to 1/r. Every gap comes to be
    one character wide in the end.
    """
    heads, state, remaining = _read(model, window, state, generator)
    their_heads: Sequence[Callable[[], Tensor]] = ()
    if teacher is not None:
        with torch.no_grad():
            their_heads, teacher.state, _ = _read(teacher.model, window, teacher.state, generator, remaining)
    terms, distillation = [], []
    for place, head in enumerate(heads):  # one after the other: logits of thousands of characters take much memory
        logits = head()
        terms.append(target_nats(logits, window.targets, known_nats, escape_nats).mean())
        if teacher is not None:
            distillation.append(_distillation_loss(logits, their_heads[place], window.targets))
        del logits
    found = Losses(*terms)
    if teacher is not None:
        found = found._replace(teaching=teacher.share * torch.stack(distillation).sum())
    return found, state


def _read(
    model: Network, window: Batch, state: State, generator: Generator, remaining: Tensor | None = None
) -> tuple[Sequence[Callable[[], Tensor]], State, Tensor | None]:
    """Read a window; gives what makes the logits (B, T, V) of each target from what is before it, and for a
    bidirectional model from what is after it and from both sides of a gap; the state after the window; and how many
    characters each target's gap has (B, T), itself the first: drawn unless given."""
    device = model.embedding.device
    before, state = model.read(window.inputs, state, generator)  # (B, T, F)
    forward = partial(model.logits, before)
    if not isinstance(model, BidirectionalRNN):
        return (forward,), state, None
    assert window.following is not None
    lanes, steps = window.targets.shape
    start = model.backward_stack.initial_state(lanes)
    after, _ = model.read_back(window.following, start, generator)  # (B, T + lookahead, F)
    if remaining is None:
        odds = 1 / torch.arange(1, WIDEST + 1, device=device)
        odds[0] = odds[1:].sum()
        drawn = torch.multinomial(odds, lanes * steps, replacement=True, generator=generator)
        room = after.shape[1] - torch.arange(steps, device=device)  # a gap ends where there is text to be known
        remaining = torch.minimum(1 + drawn.view(lanes, steps), room)
    places = torch.arange(steps, device=device) + remaining - 1  # (B, T), where the known text goes on
    rows = places + after.shape[1] * torch.arange(lanes, device=device)[:, None]
    beyond = F.embedding(rows, after.flatten(0, 1))  # (B, T, F); a gather's gradient is not the same every time on CUDA
    backward = partial(model.backward_logits, after[:, :steps])
    return (forward, backward, partial(model.joint_logits, before, beyond, remaining, generator)), state, remaining


def _distillation_loss(logits: Tensor, expect: Callable[[], Tensor], targets: Tensor) -> Tensor:
    """Say by how much the mean price under logits (B, T, V) rises where targets (B, T) are drawn from what a teacher
    expects instead, as logits (B, T, V). Both prices have the same normaliser, so only the targets' logits differ.

    An escape teaches nothing.
    """
    with torch.no_grad():
        odds = torch.softmax(expect(), -1)
    escaped = targets == logits.shape[-1]
    # one place in a row, so that this gather's gradient is the same every time on CUDA as well
    given = logits.gather(-1, targets.masked_fill(escaped, 0).unsqueeze(-1)).squeeze(-1)
    drawn = (logits * odds).sum(-1)  # a product of matrices would be far slower
    return torch.where(escaped, 0.0, given - drawn).mean()
