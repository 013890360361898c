"""What learning makes small: each character's price for those who know what is before it, after it, or both.
Knows models and windows, not optimizers. Shapes: B lanes, T steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from charrnn.bidirectional import BidirectionalRNN, Network
from charrnn.feed import Batch
from charrnn.model import nats
from charrnn.reader import WIDEST
from charrnn.stack import State


class Costs(NamedTuple):
    """Hold mean prices in nats: of the next character, and for a bidirectional model of the previous one, and of one
    in a gap whose sides are known."""

    forward: Tensor
    backward: Tensor | None = None
    joint: Tensor | None = None

    def total(self) -> Tensor:
        """Give the loss: the sum of its terms."""
        return self.forward + sum(term for term in self[1:] if term is not None)


def costs(
    model: Network, window: Batch, state: State, known_nats: float, escape_nats: float, generator: Generator
) -> tuple[Costs, State]:
    """Price a window of training from a carried state; gives the costs and the state after it; see `nats` for the
    two prices.

    A bidirectional model's backward stack starts anew at the far end of each window's lookahead, which only warms it
    up: its state cannot be carried forwards in time. For its joint term each character is the first of a gap of its
    own, r characters wide: half of them 1, the others drawn from 2 to 20 in proportion to 1/r. Every gap comes to be
    one character wide in the end.
    """
    device = model.embedding.device
    targets = window.targets  # (B, T)
    before, state = model.read(window.inputs, state, generator)  # (B, T, F)
    forward = nats(model.logits(before), targets, known_nats, escape_nats).mean()
    if not isinstance(model, BidirectionalRNN):
        return Costs(forward), state
    assert window.following is not None
    lanes, steps = targets.shape
    start = model.backward_stack.start_state(lanes)
    after, _ = model.read_back(window.following, start, generator)  # (B, T + lookahead, F)
    backward = nats(model.backward_logits(after[:, :steps]), targets, known_nats, escape_nats).mean()
    odds = 1 / torch.arange(1, WIDEST + 1, device=device)
    odds[0] = odds[1:].sum()
    remaining = 1 + torch.multinomial(odds, targets.numel(), replacement=True, generator=generator).view(lanes, steps)
    room = after.shape[1] - torch.arange(steps, device=device)  # a gap ends where there is text to be known
    remaining = torch.minimum(remaining, room)
    places = torch.arange(steps, device=device) + remaining - 1  # (B, T), where the known text goes on
    rows = places + after.shape[1] * torch.arange(lanes, device=device)[:, None]
    beyond = F.embedding(rows, after.flatten(0, 1))  # (B, T, F); a gather's gradient is not the same every time on CUDA
    logits = model.joint_logits(before, beyond, remaining, generator)
    return Costs(forward, backward, nats(logits, targets, known_nats, escape_nats).mean()), state
