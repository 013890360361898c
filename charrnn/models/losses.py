"""The training loss: mean negative log-likelihoods of characters, given the text before, after, or on both sides.
Knows models and windows, not optimizers. Shapes: B batch rows, T steps, V vocabulary, F features."""

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
    """Compute the negative log-likelihood of targets (B, T) under logits (B, T, V), in nats (B, T): the softmax's plus
    `known_nats`, that of not being an escape; or `escape_nats` for an escape (see `vocabulary`)."""
    vocabulary_size = logits.shape[-1]
    escaped = targets == vocabulary_size
    inside = targets.masked_fill(escaped, 0).flatten()
    rows = logits.flatten(0, 1)
    # bf16 has 8 bits, too few for a sum over V
    rows = rows.float() if rows.dtype == torch.bfloat16 else rows
    loss = F.cross_entropy(rows, inside, reduction="none")
    return torch.where(escaped, escape_nats, loss.view_as(targets) + known_nats)


class Losses(NamedTuple):
    """Mean losses in nats: of the next character; for a bidirectional model also of the previous one, and of one in a
    gap between known characters; and the distillation loss, which a teacher adds."""

    forward: Tensor
    backward: Tensor | None = None
    joint: Tensor | None = None
    distillation: Tensor | None = None

    def total(self) -> Tensor:
        """Return the sum of all terms."""
        return self.forward + sum(term for term in self[1:] if term is not None)


@dataclass
class Teacher:
    """A frozen model, its state in the text, and the weight, 0 to 1, of its predictions among the targets; the text has
    the rest (distillation, Hinton, Vinyals and Dean 2015; with the model that a fine-tuning starts from, Yu et al.
    2013)."""

    model: Network
    weight: float
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
    """Compute the losses of a training window from a state; return them and the next state. For `known_nats` and
    `escape_nats` see `target_nats`. A teacher reads the window too, which changes its state.

    A bidirectional model's backward stack starts from zeros at the far end of each window's lookahead, which only warms
    it up: its state cannot be carried forwards in time. For the joint term each character is the first of a gap of r
    characters: half of the gaps are 1 wide, the others 2 to 20, drawn in proportion to 1/r, since in the end every gap
    becomes one character wide.
    """
    heads, state, remaining = _read(model, window, state, generator)
    teacher_heads: Sequence[Callable[[], Tensor]] = ()
    if teacher is not None:
        with torch.no_grad():
            teacher_heads, teacher.state, _ = _read(teacher.model, window, teacher.state, generator, remaining)
    terms, distillation = [], []
    for index, head in enumerate(heads):  # one after the other: logits of thousands of characters take much memory
        logits = head()
        terms.append(target_nats(logits, window.targets, known_nats, escape_nats).mean())
        if teacher is not None:
            distillation.append(_distillation_loss(logits, teacher_heads[index], window.targets))
        del logits
    losses = Losses(*terms)
    if teacher is not None:
        losses = losses._replace(distillation=teacher.weight * torch.stack(distillation).sum())
    return losses, state


def beginning_loss(model: Network, begun: Batch, known_nats: float, escape_nats: float, generator: Generator) -> Tensor:
    """Compute the mean loss of the first characters of documents (B, T) after their boundary, fed to zeros; for
    `known_nats` and `escape_nats` see `target_nats`."""
    features, _ = model.read(begun.inputs, model.initial_state(len(begun.inputs)), generator)
    logits = model.logits(features[:, -begun.targets.shape[1] :])
    return target_nats(logits, begun.targets, known_nats, escape_nats).mean()


def _read(
    model: Network, window: Batch, state: State, generator: Generator, remaining: Tensor | None = None
) -> tuple[Sequence[Callable[[], Tensor]], State, Tensor | None]:
    """Read a window; return a function for each head that computes the logits (B, T, V) of each target, from the text
    before it, and for a bidirectional model from the text after it and from both sides of a gap; the state after the
    window; and the width of the gap that each target begins (B, T), drawn unless given."""
    device = model.embedding.device
    before, state = model.read(window.inputs, state, generator)  # (B, T, F)
    forward = partial(model.logits, before)
    if not isinstance(model, BidirectionalRNN):
        return (forward,), state, None
    assert window.following is not None
    batch, steps = window.targets.shape
    start = model.backward_stack.initial_state(batch)
    after, _ = model.read_back(window.following, start, generator)  # (B, T + lookahead, F)
    if remaining is None:
        odds = 1 / torch.arange(1, WIDEST + 1, device=device)
        odds[0] = odds[1:].sum()
        drawn = torch.multinomial(odds, batch * steps, replacement=True, generator=generator)
        widest = after.shape[1] - torch.arange(steps, device=device)  # a gap ends before the end of the lookahead
        remaining = torch.minimum(1 + drawn.view(batch, steps), widest)
    positions = torch.arange(steps, device=device) + remaining - 1  # (B, T), where the known text continues
    rows = positions + after.shape[1] * torch.arange(batch, device=device)[:, None]
    beyond = F.embedding(rows, after.flatten(0, 1))  # (B, T, F); a gather's gradient is not deterministic on CUDA
    backward = partial(model.backward_logits, after[:, :steps])
    return (forward, backward, partial(model.joint_logits, before, beyond, remaining, generator)), state, remaining


def _distillation_loss(logits: Tensor, teacher_head: Callable[[], Tensor], targets: Tensor) -> Tensor:
    """Compute by how much the mean loss under logits (B, T, V) rises if targets are drawn from a teacher's predictions
    instead of the text (B, T). Both losses have the same normaliser, so only the targets' logits differ.

    Escapes do not count.
    """
    with torch.no_grad():
        odds = torch.softmax(teacher_head(), -1)
    escaped = targets == logits.shape[-1]
    # one index in each row: this gather's gradient is deterministic on CUDA as well
    target = logits.gather(-1, targets.masked_fill(escaped, 0).unsqueeze(-1)).squeeze(-1)
    drawn = (logits * odds).sum(-1)  # a matrix product would be far slower
    return torch.where(escaped, 0.0, target - drawn).mean()
