"""A trained model at full speed on a CPU, without torch: the weights as they lie in the file, the equations of `cells`.
A step takes as long as memory takes to deliver the weights: so each is read once and nothing is packed anew, and what
the first layer makes of a character is kept in a table, which spares it its input weights altogether.
Shapes: B lanes, T steps, V vocabulary, E embedding, H hidden, G gates of a cell, F features (H, or E where tied)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from charrnn.models import cells
from charrnn.models.architecture import _BACKWARD, Architecture
from charrnn.models.cells import softmax
from charrnn.models.interface import WIDEST, BidirectionalHeads, Floats, LanguageModel, Tokens

Weights = Mapping[str, Floats]


class State(NamedTuple):
    """Carry B lanes from one read to the next: a step state of `cells` for each layer."""

    layers: tuple[cells.StepState, ...]

    def select(self, index: Tokens) -> State:
        """Choose, reorder or repeat lanes by index."""
        return State(
            tuple(
                cells.StepState(*(None if array is None else array.T[..., index].T for array in layer))
                for layer in self.layers
            )
        )

    def joined(self, others: Sequence[State]) -> State:
        """Put the lanes of other states of the same model after these."""
        states = [self.layers, *(other.layers for other in others)]
        return State(
            tuple(
                cells.StepState(
                    *(
                        # columns stay columns
                        None if arrays[0] is None else np.concatenate([array.T for array in arrays], -1).T
                        for arrays in zip(*layers, strict=True)
                    )
                )
                for layers in zip(*states, strict=True)
            )
        )


class _Layer:
    """One layer's weights, W_ih (G H, input), W_hh and U of a time skip (G H, H), and how it steps.

    The biases are added to the projected input, once for all steps; but a GRU's candidate has one on its own, inside
    what the reset gate lets through.
    """

    def __init__(self, made: Architecture, weights: Weights, own: str, norm: str) -> None:
        self.made = made
        self.weight_ih, self.weight_hh = weights[own + "kernel.weight_ih_l0"], weights[own + "kernel.weight_hh_l0"]
        self.skip_weight = weights.get(own + "skip_weight")
        self.norm = (weights[norm + "weight"], weights[norm + "bias"]) if made.layer_norm else None
        inner, outer = weights[own + "kernel.bias_hh_l0"].copy(), weights[own + "kernel.bias_ih_l0"].copy()
        folded = slice(0, 2 * made.hidden_size if made.cell == "gru" else None)
        outer[folded] += inner[folded]
        inner[folded] = 0.0
        self.bias = outer[:, None]  # (G H, 1)
        self.inner_bias = inner[:, None] if made.cell == "gru" else None

    def project(self, x: Floats) -> Floats:
        """Give W_ih x and the biases (G H, N) of inputs in columns (input, N)."""
        projected: Floats = self.weight_ih @ x
        projected += self.bias
        return projected

    def step(self, projected: Floats, state: cells.StepState) -> cells.StepState:
        """Step from a projected input in columns (G H, B)."""
        if self.skip_weight is not None:
            assert state.past is not None
            projected = projected + self.skip_weight @ state.past[:, 0].T
        recurrent = self.weight_hh @ state.hidden.T
        if self.inner_bias is not None:
            recurrent += self.inner_bias
        made = self.made
        return cells.advance(made.cell, projected.T, recurrent.T, state, activation=made.activation, leak=made.leak)


class Embedding:
    """Look up the vectors of tokens 0 to V, the escape's being the mean of all, and scale them."""

    def __init__(self, weights: Floats, scale: float) -> None:
        self.weights, self.scale = weights, scale  # (V, E)
        self.size = len(weights)
        self._mean: Floats | None = None

    def __call__(self, tokens: Tokens) -> Floats:
        """Give the vectors (N, E) of tokens (N)."""
        known = self.weights[np.minimum(tokens, self.size - 1)]
        escaped = tokens == self.size
        if escaped.any():
            if self._mean is None:
                self._mean = self.weights.mean(0)
            known[escaped] = self._mean
        return known * self.scale if self.scale != 1.0 else known


class _Table:
    """The first layer's projected input of every token (V + 1, G H), each row made when first asked for."""

    def __init__(self, embedding: Embedding, layer: _Layer) -> None:
        self.embedding, self.layer = embedding, layer
        self.rows = np.empty((embedding.size + 1, len(layer.bias)), dtype=layer.bias.dtype)
        self.missing = np.ones(embedding.size + 1, dtype=bool)

    def __call__(self, tokens: Tokens) -> Floats:
        """Give the rows of tokens (N), as columns (G H, N)."""
        if self.missing[tokens].any():
            asked = np.zeros_like(self.missing)
            asked[tokens] = True
            new = np.flatnonzero(asked & self.missing)
            self.rows[new] = self.layer.project(self.embedding(new).T).T
            self.missing[new] = False
        columns: Floats = self.rows[tokens].T
        return columns


class Stack:
    """Layers from tokens to features, in one direction.

    Vectors of a step are columns, (H, B), inside: BLAS then takes half the time for a few lanes.
    """

    def __init__(self, architecture: Architecture, weights: Weights, prefix: str, embedding: Embedding) -> None:
        self.architecture, self.embedding = architecture, embedding
        self.layers = [
            _Layer(architecture, weights, f"{prefix}layers.{index}.", f"{prefix}norms.{index}.")
            for index in range(architecture.num_layers)
        ]
        bridge = f"{prefix}bridge."
        self.bridge = (weights[bridge + "weight"], weights[bridge + "bias"]) if bridge + "weight" in weights else None
        self.table = _Table(embedding, self.layers[0])

    def initial_state(self, lanes: int) -> State:
        """Give the state before any text: zeros."""
        made, dtype = self.architecture, self.embedding.weights.dtype
        blank = np.zeros((made.hidden_size, lanes), dtype).T
        cell = blank if made.cell == "lstm" else None
        past = None if made.time_skip is None else np.zeros((lanes, made.time_skip, made.hidden_size), dtype)
        return State((cells.StepState(blank, cell, past),) * made.num_layers)

    def read(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T) from a state; gives the features (B, T, F), and the state after the last."""
        made = self.architecture
        lanes, steps = tokens.shape
        in_turn = tokens.T.ravel()  # (T B): all lanes' first tokens, then all lanes' second ones ...
        added = made.residual and made.embedding_size == made.hidden_size and not made.tie_weights
        x = self.embedding(in_turn).T if added else None
        after = []
        for index, (layer, reached) in enumerate(zip(self.layers, state.layers, strict=True)):
            if index == 0:
                projected = self.table(in_turn)  # (G H, T B)
            else:
                assert x is not None
                projected = layer.project(x)
            outputs = []
            for step in range(0, steps * lanes, lanes):
                reached = layer.step(projected[:, step : step + lanes], reached)
                outputs.append(reached.hidden.T)
            after.append(reached)
            y = outputs[0] if steps == 1 else np.concatenate(outputs, 1)  # (H, T B)
            if layer.norm is not None:
                y = cells.layer_norm(y.T, *layer.norm).T
            x = x + y if made.residual and x is not None else y
        assert x is not None
        if self.bridge is not None:
            x = _affine(x.T, *self.bridge).T
        return x.reshape(-1, steps, lanes).transpose(2, 1, 0), State(tuple(after))


class NumpyModel:
    """A model that reads in one direction; see `reader.Reader`."""

    def __init__(self, stack: Stack, head: Floats, bias: Floats, sides: BidirectionalHeads | None = None) -> None:
        self.stack, self.head, self.bias, self.sides = stack, head, bias, sides
        self.gates = cells.GATES[stack.architecture.cell] * stack.architecture.hidden_size

    def initial_state(self, lanes: int) -> State:
        """Give the state before any text: zeros."""
        return self.stack.initial_state(lanes)

    def step(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V; gives the logits (B, V) of what follows the last, and the state after it."""
        features, state = self.stack.read(tokens, state)
        return self.logits(features[:, -1]), state

    def read(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V; gives the features (B, T, F) after each, and the state after the last."""
        return self.stack.read(tokens, state)

    def logits(self, features: Floats) -> Floats:
        """Turn features (..., F) into the logits (..., V) of what follows."""
        return _affine(features, self.head, self.bias)


class BothSides:
    """A bidirectional model's other two thirds; see `reader.Sides`."""

    def __init__(self, weights: Weights, backward: LanguageModel, head: Floats) -> None:
        self.weights, self.backward, self.head = weights, backward, head

    def joint_logits(self, before: Floats, after: Floats, remaining: Tokens | int) -> Floats:
        """Foretell the first of `remaining` (...) unknown tokens between features (..., F); gives logits (..., V).

        The equation is that of `bidirectional.BidirectionalRNN`.
        """
        trust, width = self.weights["joint_trust"], self.weights["joint_width"]
        row = np.minimum(np.asarray(remaining), WIDEST) - 1
        mixed = _affine(np.concatenate((before, after), -1), self.weights["joint_hidden.weight"]) + width[row]
        joint = before + trust[row] * after + _affine(cells.relu(mixed), self.weights["joint_output.weight"])
        return _affine(joint, self.head, self.weights["joint_bias"])


class NumpyHMM:
    """A hidden Markov model; see `hmm.HiddenMarkov` and `reader.Reader`. Its features are which hidden state comes
    next (..., S)."""

    sides: BidirectionalHeads | None = None

    def __init__(self, weights: Weights) -> None:
        self.transition = softmax(weights["transition"].astype(np.float64)).astype(weights["transition"].dtype)
        self.emission = cells.emission(weights["emission"])  # (V, S)
        self.likelihoods = np.concatenate((self.emission, np.ones_like(self.emission[:1])))
        self.gates = len(self.transition)

    def initial_state(self, lanes: int) -> State:
        """Give the state before any text: all hidden states are equally likely."""
        states = len(self.transition)
        return State((cells.StepState(np.full((lanes, states), -np.log(states), self.transition.dtype)),))

    def step(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V; gives the logits (B, V) of what follows the last, and the state after it."""
        features, state = self.read(tokens, state)
        return self.logits(features[:, -1]), state

    def read(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V; gives the features (B, T, S) after each, and the state after the last."""
        posterior = np.exp(state.layers[0].hidden)
        coming, outputs = posterior @ self.transition, []
        for column in tokens.T:
            posterior, coming = cells.hidden_markov(coming, self.likelihoods[column], self.transition)
            outputs.append(coming)
        least = np.finfo(posterior.dtype).tiny
        return np.stack(outputs, 1), State((cells.StepState(np.log(np.maximum(posterior, least))),))

    def logits(self, features: Floats) -> Floats:
        """Turn features (..., S) into the logits (..., V) of what follows: the logarithms of the probabilities."""
        return np.asarray(np.log(_affine(features, self.emission)))


def make(architecture: Architecture, weights: Weights) -> NumpyModel:
    """Make the model of an architecture from its weights, which are used as they are, in whatever type."""
    embedding = Embedding(weights["embedding"], architecture.input_scale)
    head = weights["embedding" if architecture.tie_weights else "head"]
    sides = None
    if architecture.bidirectional:
        backward = Stack(architecture, weights, _BACKWARD, embedding)
        sides = BothSides(weights, NumpyModel(backward, head, weights["backward_bias"]), head)
    return NumpyModel(Stack(architecture, weights, "", embedding), head, weights["head_bias"], sides)


def _affine(x: Floats, weight: Floats, bias: Floats | None = None) -> Floats:
    """Give W x + b (..., output) for x (..., input), W (output, input) and b (output)."""
    columns: Floats = weight @ x.reshape(-1, x.shape[-1]).T
    if bias is not None:
        columns += bias[:, None]
    rows: Floats = columns.T
    return rows.reshape(*x.shape[:-1], len(weight))
