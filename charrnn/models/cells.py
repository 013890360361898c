"""The equations of one step in time, each written once, for torch tensors and NumPy arrays alike.
The reference of every faster path, and what runs where a text grows by one character.
Shapes: B lanes, H hidden, K the time skip, G gates (rnn 1, gru 3, lstm 4), in torch's order of gates."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_LEAST = 1e-6  # share of a hidden state's characters that is dealt to all alike, so that no text is impossible
Array = Any  # a torch.Tensor or a numpy.ndarray: the equations read the same
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


class StepState(NamedTuple):
    """Carry one layer from step to step: `hidden` (B, H); `cell` (B, H), LSTM only; `past` (B, K, H), the
    K hidden states before this step, oldest first, with a time skip only."""

    hidden: Array
    cell: Array | None = None
    past: Array | None = None


def tanh(x: Array) -> Array:
    """Squash to (-1, 1)."""
    return np.tanh(x) if isinstance(x, np.ndarray) else x.tanh()


def sigmoid(x: Array) -> Array:
    """Squash to (0, 1): 1 / (1 + exp(-x)), written as a tanh because that cannot overflow."""
    return 0.5 * tanh(0.5 * x) + 0.5


def relu(x: Array) -> Array:
    """Cut off below 0."""
    return _where(x > 0, x, x * 0)


def leaky_relu(x: Array) -> Array:
    """Leave a slope of 0.01 below 0 (Maas et al. 2013), so that no unit is ever without a gradient."""
    return _where(x > 0, x, 0.01 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": tanh, "relu": relu, "leaky_relu": leaky_relu}


def rnn(x: Array, r: Array, state: StepState, activation: str = "tanh") -> StepState:
    """Step the plain recurrence (Elman 1990), from x and r (B, H).

    h' = f(x + r)
    """
    h = ACTIVATIONS[activation](x + r)
    return StepState(h, None, state.past)


def lstm(x: Array, r: Array, state: StepState) -> StepState:
    """Step the long short-term memory (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000).

    i, f, g, o = x + r                x, r (B, 4H)
    c' = sigmoid(f) c + sigmoid(i) tanh(g)
    h' = sigmoid(o) tanh(c')
    """
    i, f, g, o = _gates(x + r, 4)
    c = sigmoid(f) * state.cell + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)
    return StepState(h, c, state.past)


def gru(x: Array, r: Array, state: StepState) -> StepState:
    """Step the gated recurrent unit (Cho et al. 2014), reset gate after the product, as cuDNN has it.

    r = sigmoid(x_r + r_r)            x, r (B, 3H)
    z = sigmoid(x_z + r_z)
    n = tanh(x_n + r r_n)
    h' = (1 - z) n + z h
    """
    x_r, x_z, x_n = _gates(x, 3)
    r_r, r_z, r_n = _gates(r, 3)
    r = sigmoid(x_r + r_r)
    z = sigmoid(x_z + r_z)
    n = tanh(x_n + r * r_n)
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
    """Step any cell, with its two options, from the projected input x = W_ih input + b_ih (B, G H).

    r = W h + b                                     W (G H, H), b (G H)
    time skip   x + U h(t-K)                        U (G H, H)   (Lin et al. 1996, NARX networks)
    leak        h' = (1 - leak) h + leak h_new      h only       (Jaeger et al. 2007, leaky units)
    """
    if skip_weight is not None:
        assert state.past is not None
        x = x + state.past[:, 0] @ skip_weight.T
    return advance(cell, x, state.hidden @ weight.T + bias, state, activation=activation, leak=leak)


def advance(
    cell: str, x: Array, r: Array, state: StepState, *, activation: str = "tanh", leak: float | None = None
) -> StepState:
    """Do what is left of `step` once all products are there: the projected input x and state r (B, G H)."""
    if cell == "rnn":
        new = rnn(x, r, state, activation)
    elif cell == "lstm":
        new = lstm(x, r, state)
    else:
        new = gru(x, r, state)
    if leak is not None:
        new = new._replace(hidden=(1 - leak) * state.hidden + leak * new.hidden)
    if state.past is not None:
        new = new._replace(past=_library(x).concatenate((state.past[:, 1:], new.hidden[:, None]), 1))
    return new


def hidden_markov(coming: Array, likelihood: Array, transition: Array) -> tuple[Array, Array]:
    """Step the forward recursion of a hidden Markov model, scaled (Rabiner 1989, equations 20 and 91 to 92).

    p = f * b / sum(f * b)     what hidden state it was, now that its character is known
    f' = p A                   which one comes next
    f is `coming`, b the `likelihood` of the character in each (B, S); A is `transition` (S, S), rows add up to 1.
    """
    p = coming * likelihood
    p = p / p.sum(-1, keepdims=True)
    return p, p @ transition


def emission(weights: Array) -> Array:
    """Turn weights (V, S) into E (V, S), the probability of each character in each hidden state; none is 0."""
    below = weights.max(0) if isinstance(weights, np.ndarray) else weights.detach().amax(0)
    odds = (np.exp if isinstance(weights, np.ndarray) else _library(weights).exp)(weights - below)
    return (1 - _LEAST) * odds / odds.sum(0) + _LEAST / len(weights)


def layer_norm(x: Array, weight: Array, bias: Array, epsilon: float = 1e-5) -> Array:
    """Shift and scale each row of x (..., H) to mean 0 and variance 1, then to what was learnt (Ba et al. 2016)."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred / (variance + epsilon) ** 0.5 * weight + bias


def _gates(x: Array, count: int) -> list[Array]:
    size = x.shape[-1] // count
    return [x[:, gate * size : (gate + 1) * size] for gate in range(count)]


def _where(condition: Array, x: Array, y: Array) -> Array:
    return np.where(condition, x, y) if isinstance(x, np.ndarray) else x.where(condition, y)


def _library(array: Array) -> Any:
    return sys.modules[type(array).__module__.partition(".")[0]]


Probabilities = npt.NDArray[np.float64]


def softmax(logits: Probabilities, temperature: float = 1.0) -> Probabilities:
    """Turn logits (..., V) into probabilities at a temperature: below 1 safer, above 1 wilder."""
    below = logits - logits.max(-1, keepdims=True)
    if temperature < 1e-100:  # all but the likeliest would be at minus infinity, or beyond
        below = np.where(below < 0.0, -np.inf, 0.0)
        temperature = 1.0
    weights = np.exp(below / temperature)
    return np.asarray(weights / weights.sum(-1, keepdims=True))
