"""Gradients through time, by torch: how much a loss depends on a state k characters before, and on each input vector.
Weights are left alone, and get no gradients.
Shapes: P positions, K distances, W a window, L layers, H hidden, E embedding."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from charrnn.inspection.states import States
from charrnn.messages import Progress, no_progress
from charrnn.models.char_rnn import CharRNN
from charrnn.models.factory import start_state
from charrnn.models.interface import Floats, Tokens
from charrnn.models.layers import RecurrentLayer, State

_STEP_NUMBERS = 1 << 27  # that autograd keeps for one batch


@dataclass(frozen=True)
class GradientNorms:
    """Norms of d loss(t) / d state(t-k), the mean over positions, in nats.

    hidden, cell   (K): of the states of all layers together; cell is None for cells that have none
    layers         (L, K) each: of each layer's hidden and cell state
    """

    hidden: Floats
    cell: Floats | None
    hidden_of_layers: Floats
    cell_of_layers: Floats | None


@contextlib.contextmanager
def _frozen(network: CharRNN) -> Iterator[None]:
    """Compute no gradients of weights, drop nothing, and run the layers on charrnn's kernel, whose gradients take a
    third of the time of torch's on a CPU."""
    flags, training = [parameter.requires_grad for parameter in network.parameters()], network.training
    layers = [layer for layer in network.modules() if isinstance(layer, RecurrentLayer)]
    custom = [layer.custom for layer in layers]
    network.requires_grad_(False).eval().use_custom_kernel(not network.embedding.is_cuda)
    try:
        with torch.enable_grad():
            yield
    finally:
        network.train(training)
        for layer, flag in zip(layers, custom, strict=True):
            layer.custom = flag
        for parameter, flag in zip(network.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)


def norms(
    network: CharRNN,
    states: States,
    tokens: Tokens,
    positions: Tokens,
    distances: Sequence[int],
    progress: Progress = no_progress,
) -> GradientNorms:
    """Measure d loss(t) / d state(t-k) at P positions t of N tokens, for each distance k, ascending and 1 or more.

    loss(t) is that of character t + 1, predicted from state(t), the one after character t: k steps lie between the two
    states. A state is what all layers carry on, h and, of an LSTM, c; each of its numbers is a variable of its own, so
    that c(t-k) acts through later steps only. With a time skip h(t-k) also acts through the skip. `states` are those of
    the whole text, and every position is at least `distances[-1]` + `earliest`. Progress counts positions times steps.
    """
    rows = _rows_at_a_time(network, distances[-1])
    layers = len(network.layers)
    total = np.zeros((2, layers + 1, len(distances)))
    with _frozen(network):
        for first in range(0, len(positions), rows):
            chosen = positions[first : first + rows]
            leaves = _leaves(network, states, tokens, chosen, distances, progress)
            for column, (hidden, cell) in enumerate(leaves):
                for row, leaf in enumerate((hidden, cell)):
                    if leaf is not None:
                        assert leaf.grad is not None
                        squares = leaf.grad.double().square().sum(-1)  # (L, B)
                        total[row, :layers, column] += squares.sqrt().sum(-1).cpu().numpy()
                        total[row, layers, column] += float(squares.sum(0).sqrt().sum())
    mean = total / len(positions)
    has_cell = states.cell is not None
    return GradientNorms(
        mean[0, layers], mean[1, layers] if has_cell else None, mean[0, :layers], mean[1, :layers] if has_cell else None
    )


def _leaves(
    network: CharRNN,
    states: States,
    tokens: Tokens,
    positions: Tokens,
    distances: Sequence[int],
    progress: Progress,
) -> list[tuple[Tensor, Tensor | None]]:
    """Run from the state at the largest distance to the loss, adding zeros to the state at each distance; return these
    zeros (L, B, H) of h and c, by distance, with their gradients."""
    state, leaves = _state_after(network, states, positions - distances[-1]), []
    ends = [*reversed(distances), 0]
    features = torch.empty(0)
    for begin, end in itertools.pairwise(ends):
        hidden = torch.zeros_like(state.hidden, requires_grad=True)
        cell = None if state.cell is None else torch.zeros_like(state.cell, requires_grad=True)
        leaves.append((hidden, cell))
        state = _added(state, hidden, cell)
        inputs = tokens[positions[:, None] + np.arange(1 - begin, 1 - end)].astype(np.int64)  # (B, begin - end)
        features, state = network.read(torch.from_numpy(inputs).to(hidden.device), state)
        progress(inputs.size)
    log_p = _log_probabilities(network, features[:, -1], tokens[positions + 1])
    torch.autograd.backward(-log_p.sum())
    return leaves[::-1]


def _added(state: State, hidden: Tensor, cell: Tensor | None) -> State:
    """Add to the hidden state, also where the time skip keeps it, and to the cell state."""
    past = state.past
    if past is not None:
        past = torch.cat((past[:, :, :-1], past[:, :, -1:] + hidden[:, :, None]), 2)
    return State(state.hidden + hidden, None if state.cell is None or cell is None else state.cell + cell, past)


def earliest(network: CharRNN) -> int:
    """Return the first position of a text whose states tell all that the network carries on: with a time skip, as many
    as it looks back."""
    return (network.config.time_skip or 1) - 1


def _state_after(network: CharRNN, states: States, positions: Tokens) -> State:
    """Build the state of B batch rows (L, B, H) from the states after the characters at `positions` (B) of a text, each
    `earliest` or later."""

    def rows(values: Floats, at: Tokens) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values[at].swapaxes(0, 1))).to(network.embedding)

    skip, past = network.config.time_skip, None
    if skip is not None:
        past = torch.stack([rows(states.hidden, positions - back) for back in range(skip - 1, -1, -1)], 2)
    return State(rows(states.hidden, positions), None if states.cell is None else rows(states.cell, positions), past)


def input_norms(
    network: CharRNN,
    states: States,
    boundary: Tokens,
    tokens: Tokens,
    positions: Tokens,
    window: int,
    progress: Progress = no_progress,
) -> Floats:
    """Return the norm of the gradient of log p(character) by the input vector of each of the W characters before, at P
    positions of N tokens (P, W), the nearest last; 0 where there is none. The state before the window is given.
    Progress counts positions."""
    found = np.zeros((len(positions), window))
    rows = _rows_at_a_time(network, window)
    is_early = positions <= window + earliest(network)
    with _frozen(network):
        for early in (True, False):
            group = np.flatnonzero(is_early == early)
            for first in range(0, len(group), rows):
                some = group[first : first + rows]
                if early:
                    begins, state = np.zeros_like(some), _read_boundary(network, boundary, len(some))
                else:
                    begins = positions[some] - window
                    state = _state_after(network, states, begins - 1)
                found[some] = _input_norms(network, state, tokens, begins, positions[some], window)
                progress(len(some))
    return found


@torch.no_grad()
def _read_boundary(network: CharRNN, boundary: Tokens, batch_size: int) -> State:
    """Return the state before a text's first character."""
    last = torch.full((batch_size, 1), int(boundary[-1]), device=network.embedding.device)
    return network.read(last, start_state(network, boundary, batch_size))[1]


def _input_norms(
    network: CharRNN, state: State, tokens: Tokens, begins: Tokens, positions: Tokens, window: int
) -> Floats:
    """Do the same from the state before the characters at `begins` (B), in one batch."""
    found = np.zeros((len(positions), window))
    width = int((positions - begins).max())
    if not width:
        return found
    at = np.minimum(begins[:, None] + np.arange(width), len(tokens) - 1)  # what comes after a position has no gradient
    x = network.embed(torch.from_numpy(tokens[at]).to(network.embedding.device)).detach().requires_grad_()  # (B, T, E)
    features, _ = network.run_layers(x, state)
    ends = torch.from_numpy(positions - begins).to(x.device)
    last = features[torch.arange(len(ends), device=x.device), (ends - 1).clamp_min(0)]
    torch.autograd.backward(_log_probabilities(network, last, tokens[positions]).sum())
    assert x.grad is not None
    norm = x.grad.double().norm(dim=-1).cpu().numpy()  # (B, T)
    for row, count in enumerate((positions - begins).tolist()):
        shown = min(count, window)
        if shown:
            found[row, window - shown :] = norm[row, count - shown : count]
    return found


def _log_probabilities(network: CharRNN, features: Tensor, targets: Tokens) -> Tensor:
    """Return log p (B) of targets (B) from features (B, F), but for a constant; 0 for escapes, which no state moves."""
    chosen = torch.from_numpy(targets.astype(np.int64)).to(features.device)
    known = chosen < network.vocabulary_size
    log_p = F.log_softmax(network.logits(features), -1)
    return log_p.gather(1, chosen.where(known, 0)[:, None])[:, 0] * known


def _rows_at_a_time(network: CharRNN, steps: int) -> int:
    """Return how many positions are computed in one batch of so many steps, that memory stays bounded."""
    numbers = len(network.layers) * 6 * int(network.config.hidden_size) * steps
    return max(1, min(256, _STEP_NUMBERS // numbers))
