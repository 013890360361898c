"""The equations of one time step, for torch tensors and NumPy arrays alike, and a record of each cell.
They are the reference for every faster path, and run where a text grows by a character at a time. Never imports torch.
Shapes: B batch rows, I inputs, H hidden, K the time skip, G gates of a cell, in torch's order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_EMISSION_FLOOR = 1e-6  # share of each hidden state's probability that is spread evenly, so that no text is impossible
Array = Any  # a torch.Tensor or a numpy.ndarray: the equations read the same
Probabilities = npt.NDArray[np.float64]


class StepState(NamedTuple):
    """The state of one layer between steps: `hidden` (B, H); `cell` (B, H), for cells that have one; `past` (B, K, H),
    the K hidden states before this step, oldest first, with a time skip only."""

    hidden: Array
    cell: Array | None = None
    past: Array | None = None


def tanh(x: Array) -> Array:
    """Compute tanh(x), in (-1, 1)."""
    return np.tanh(x) if isinstance(x, np.ndarray) else x.tanh()


def sigmoid(x: Array) -> Array:
    """Compute 1 / (1 + exp(-x)), in (0, 1), as a tanh because that cannot overflow."""
    return 0.5 * tanh(0.5 * x) + 0.5


def relu(x: Array) -> Array:
    """Compute max(x, 0)."""
    return _where(x > 0, x, x * 0)


def leaky_relu(x: Array) -> Array:
    """Compute max(x, 0.01 x) (Maas et al. 2013): no unit is ever without a gradient."""
    return _where(x > 0, x, 0.01 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": tanh, "relu": relu, "leaky_relu": leaky_relu}


def rnn(x: Array, r: Array, state: StepState, activation: str = "tanh") -> StepState:
    """Take a step of the plain recurrence (Elman 1990), from x and r (B, H).

    h' = f(x + r)
    """
    h = ACTIVATIONS[activation](x + r)
    return StepState(h, None, state.past)


def lstm_gates(x: Array, r: Array) -> tuple[Array, ...]:
    """Compute the gates of an LSTM (B, H each) from x and r (B, 4H).

    i, f, o = sigmoid(x + r)          input, forget and output gate
    g = tanh(x + r)                   candidate
    """
    i, f, g, o = split_gates(x + r, 4)
    return sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)


def lstm(x: Array, r: Array, state: StepState) -> StepState:
    """Take a step of the long short-term memory (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000).

    i, f, g, o = lstm_gates(x, r)     x, r (B, 4H)
    c' = f c + i g
    h' = o tanh(c')
    """
    i, f, g, o = lstm_gates(x, r)
    c = f * state.cell + i * g
    h = o * tanh(c)
    return StepState(h, c, state.past)


def gru_gates(x: Array, r: Array) -> tuple[Array, ...]:
    """Compute the gates of a GRU (B, H each) from x and r (B, 3H).

    r = sigmoid(x_r + r_r)            reset gate, after the product, as in cuDNN
    z = sigmoid(x_z + r_z)            update gate
    n = tanh(x_n + r r_n)             candidate
    """
    x_r, x_z, x_n = split_gates(x, 3)
    r_r, r_z, r_n = split_gates(r, 3)
    reset = sigmoid(x_r + r_r)
    return reset, sigmoid(x_z + r_z), tanh(x_n + reset * r_n)


def gru(x: Array, r: Array, state: StepState) -> StepState:
    """Take a step of the gated recurrent unit (Cho et al. 2014).

    r, z, n = gru_gates(x, r)         x, r (B, 3H)
    h' = (1 - z) n + z h
    """
    _, z, n = gru_gates(x, r)
    h = (1 - z) * n + z * state.hidden
    return StepState(h, None, state.past)


@dataclass(frozen=True)
class Cell:
    """What the rest of charrnn asks about a cell. The defaults are those of a cell that has nothing but an equation:
    it runs step by step, and autograd differentiates it.

    equation       from the projected input x and state r (B, G H; r is None unless `recurrent`) to the next state
    kernel         the class in torch.nn that runs it, and stores its weights
    custom_kernel  whether `bptt` runs it, with a gradient written by hand
    cell_state     whether its state has a `cell` besides the hidden state
    recurrent      whether it has W_hh and b_hh
    inner_gates    how many of the last gates use r by itself, not x + r: their two biases cannot be added up in advance
    first_biases   first values of b_ih by gate, where they are not 0
    gate_names     names of its gates, as in the equation; () for a cell that has none
    gate_values    from x and r to the values of its gates (B, H each), in the order of the names
    """

    equation: Callable[..., StepState]
    gates: int
    kernel: str | None = None
    custom_kernel: bool = False
    cell_state: bool = False
    recurrent: bool = True
    takes_activation: bool = False
    inner_gates: int = 0
    first_biases: Mapping[int, float] = field(default_factory=dict)
    gate_names: tuple[str, ...] = ()
    gate_values: Callable[[Array, Array], tuple[Array, ...]] | None = None

    def shapes(self, inputs: int, hidden: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a layer's weights by name, in torch's order and under its names."""
        rows = self.gates * hidden
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih_l0": (rows, inputs),
            "weight_hh_l0": (rows, hidden),
            "bias_ih_l0": (rows,),
            "bias_hh_l0": (rows,),
        }
        return {name: shape for name, shape in shapes.items() if self.recurrent or "_ih_" in name}


CELLS: dict[str, Cell] = {
    "rnn": Cell(rnn, 1, "RNN", custom_kernel=True, takes_activation=True),
    "gru": Cell(gru, 3, "GRU", custom_kernel=True, inner_gates=1, gate_names=("r", "z", "n"), gate_values=gru_gates),
    "lstm": Cell(
        lstm,
        4,
        "LSTM",
        custom_kernel=True,
        cell_state=True,
        first_biases={1: 1.0},  # remember at first (Jozefowicz et al. 2015)
        gate_names=("i", "f", "g", "o"),
        gate_values=lstm_gates,
    ),
}


def step(
    cell: str,
    x: Array,
    state: StepState,
    weight: Array | None,
    bias: Array | None,
    *,
    activation: str = "tanh",
    leak: float | None = None,
    skip_weight: Array | None = None,
) -> StepState:
    """Take a step of any cell, with its two options, from the projected input x = W_ih input + b_ih (B, G H).

    r = W h + b                                     W (G H, H), b (G H)
    time skip   x + U h(t-K)                        U (G H, H)   (Lin et al. 1996, NARX networks)
    leak        h' = (1 - leak) h + leak h_new      h only       (Jaeger et al. 2007, leaky units)
    """
    if skip_weight is not None:
        assert state.past is not None
        x = x + state.past[:, 0] @ skip_weight.T
    r = None if weight is None else state.hidden @ weight.T + bias
    return advance(cell, x, r, state, activation=activation, leak=leak)


def advance(
    cell: str, x: Array, r: Array | None, state: StepState, *, activation: str = "tanh", leak: float | None = None
) -> StepState:
    """Do the rest of `step` after its products: from the projected input x and state r (B, G H)."""
    record = CELLS[cell]
    options = (activation,) if record.takes_activation else ()
    new = record.equation(x, r, state, *options)
    if leak is not None:
        new = new._replace(hidden=(1 - leak) * state.hidden + leak * new.hidden)
    if state.past is not None:
        new = new._replace(past=_library(x).concatenate((state.past[:, 1:], new.hidden[:, None]), 1))
    return new


def hidden_markov(predicted: Array, likelihood: Array, transition: Array) -> tuple[Array, Array]:
    """Take a step of a hidden Markov model's forward recursion, scaled (Rabiner 1989, equations 20 and 91 to 92).

    p = f * b / sum(f * b)     posterior of the hidden state, given its character
    f' = p A                   prediction of the next hidden state
    f is `predicted` (B, S), b the character's `likelihood` in each state (B, S), A the `transition` (S, S), whose rows
    add up to 1.
    """
    p = predicted * likelihood
    p = p / p.sum(-1, keepdims=True)
    return p, p @ transition


def emission(weights: Array) -> Array:
    """Compute E (V, S), the probability of each character in each hidden state, from weights (V, S); none is 0."""
    largest = weights.max(0) if isinstance(weights, np.ndarray) else weights.detach().amax(0)
    odds = (np.exp if isinstance(weights, np.ndarray) else _library(weights).exp)(weights - largest)
    return (1 - _EMISSION_FLOOR) * odds / odds.sum(0) + _EMISSION_FLOOR / len(weights)


def layer_norm(x: Array, weight: Array, bias: Array, epsilon: float = 1e-5) -> Array:
    """Normalise each row of x (..., H) to mean 0 and variance 1, then scale and shift it (Ba et al. 2016)."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred / (variance + epsilon) ** 0.5 * weight + bias


def split_gates(x: Array, count: int) -> list[Array]:
    """Split x (B, G H) into its G gates (B, H)."""
    size = x.shape[-1] // count
    return [x[:, gate * size : (gate + 1) * size] for gate in range(count)]


def _where(condition: Array, x: Array, y: Array) -> Array:
    return np.where(condition, x, y) if isinstance(x, np.ndarray) else x.where(condition, y)


def _library(array: Array) -> Any:
    return sys.modules[type(array).__module__.partition(".")[0]]


def softmax(logits: Probabilities, temperature: float = 1.0) -> Probabilities:
    """Compute probabilities (..., V) from logits (..., V) at a temperature: below 1 safer, above 1 more random."""
    below = logits - logits.max(-1, keepdims=True)
    if temperature < 1e-100:  # all but the likeliest would overflow
        below = np.where(below < 0.0, -np.inf, 0.0)
        temperature = 1.0
    weights = np.exp(below / temperature)
    return np.asarray(weights / weights.sum(-1, keepdims=True))
