"""The equations of one step in time, each written once, for torch tensors and NumPy arrays alike.
The reference of every faster path, and what runs where torch has no kernel of its own.
Shapes: B lanes, H hidden, K the time skip, G gates (rnn 1, gru 3, lstm 4), in torch's order of gates."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

Array = Any  # a torch.Tensor or a numpy.ndarray: the equations read the same

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


class StepState(NamedTuple):
    """Carry one layer from step to step: `hidden` (B, H); `cell` (B, H), LSTM only; `past` (B, K, H), the
    K hidden states before this step, oldest first, with a time skip only."""

    hidden: Array
    cell: Array | None = None
    past: Array | None = None


def _library(array: Array) -> Any:
    return sys.modules[type(array).__module__.partition(".")[0]]


def tanh(x: Array) -> Array:
    """Squash to (-1, 1)."""
    return _library(x).tanh(x)


def sigmoid(x: Array) -> Array:
    """Squash to (0, 1): 1 / (1 + exp(-x)), written as a tanh because that cannot overflow."""
    return 0.5 * tanh(0.5 * x) + 0.5


def relu(x: Array) -> Array:
    """Cut off below 0."""
    return _library(x).where(x > 0, x, x * 0)


def leaky_relu(x: Array) -> Array:
    """Leave a slope of 0.01 below 0 (Maas et al. 2013), so that no unit is ever without a gradient."""
    return _library(x).where(x > 0, x, 0.01 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": tanh, "relu": relu, "leaky_relu": leaky_relu}


def rnn(x: Array, state: StepState, weight: Array, bias: Array, activation: str = "tanh") -> StepState:
    """Step the plain recurrence (Elman 1990).

    h' = f(x + W h + b), with x (B, H) the projected input, W (H, H), b (H).
    """
    h = ACTIVATIONS[activation](x + state.hidden @ weight.T + bias)
    return StepState(h, None, state.past)


def lstm(x: Array, state: StepState, weight: Array, bias: Array) -> StepState:
    """Step the long short-term memory (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000).

    i, f, g, o = x + W h + b          x (B, 4H), W (4H, H), b (4H)
    c' = sigmoid(f) c + sigmoid(i) tanh(g)
    h' = sigmoid(o) tanh(c')
    """
    i, f, g, o = _gates(x + state.hidden @ weight.T + bias, 4)
    c = sigmoid(f) * state.cell + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)
    return StepState(h, c, state.past)


def gru(x: Array, state: StepState, weight: Array, bias: Array) -> StepState:
    """Step the gated recurrent unit (Cho et al. 2014), reset gate after the product, as cuDNN has it.

    r = sigmoid(x_r + W_r h + b_r)    x (B, 3H), W (3H, H), b (3H)
    z = sigmoid(x_z + W_z h + b_z)
    n = tanh(x_n + r (W_n h + b_n))
    h' = (1 - z) n + z h
    """
    x_r, x_z, x_n = _gates(x, 3)
    h_r, h_z, h_n = _gates(state.hidden @ weight.T + bias, 3)
    r = sigmoid(x_r + h_r)
    z = sigmoid(x_z + h_z)
    n = tanh(x_n + r * h_n)
    h = (1 - z) * n + z * state.hidden
    return StepState(h, None, state.past)


def step(
    cell: str,
    x: Array,
    state: StepState,
    weight: Array,
    bias: Array,
    *,
    activation: str = "tanh",
    leak: float | None = None,
    skip_weight: Array | None = None,
) -> StepState:
    """Step any cell, with its two options; x (B, G H) is the projected input W_ih x + b_ih.

    time skip   x + U h(t-K)                        U (G H, H)   (Lin et al. 1996, NARX networks)
    leak        h' = (1 - leak) h + leak h_new      h only       (Jaeger et al. 2007, leaky units)
    """
    if skip_weight is not None:
        assert state.past is not None
        x = x + state.past[:, 0] @ skip_weight.T
    if cell == "rnn":
        new = rnn(x, state, weight, bias, activation)
    elif cell == "lstm":
        new = lstm(x, state, weight, bias)
    else:
        new = gru(x, state, weight, bias)
    if leak is not None:
        new = new._replace(hidden=(1 - leak) * state.hidden + leak * new.hidden)
    if state.past is not None:
        past = _library(x).concatenate((state.past[:, 1:], new.hidden[:, None]), 1)
        new = new._replace(past=past)
    return new


def layer_norm(x: Array, weight: Array, bias: Array, epsilon: float = 1e-5) -> Array:
    """Shift and scale each row of x (..., H) to mean 0 and variance 1, then to what was learnt (Ba et al. 2016)."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred / (variance + epsilon) ** 0.5 * weight + bias


def _gates(x: Array, count: int) -> list[Array]:
    size = x.shape[-1] // count
    return [x[:, gate * size : (gate + 1) * size] for gate in range(count)]
