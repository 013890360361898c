"""A trained model at full speed on a CPU, without torch: the weights as the file stores them, the equations of `cells`.
Reading the weights from memory takes most of a step: each is read once and never repacked, and a table of the first
layer's projected inputs, one for each character, replaces that layer's input weights altogether.
Shapes: B batch rows, T steps, N tokens, V vocabulary, E embedding, I inputs, H hidden, G gates of a cell, F features
(H, or E where tied)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from charrnn.models import cells
from charrnn.models.architecture import BACKWARD_STACK, Architecture
from charrnn.models.cells import softmax
from charrnn.models.interface import WIDEST, BidirectionalHeads, Floats, LanguageModel, Tokens

Weights = Mapping[str, Floats]
# called with a layer, a step, its projected input x and state r (B, G H) as in `cells.advance`, and the state after it
Observe = Callable[[int, int, Floats, "Floats | None", cells.StepState], object]


def _spurious_flags_ignored() -> np.errstate:
    """Ignore the invalid flag of products: OpenBLAS 0.3.31's AVX-512 kernel for a float32 matrix and one vector also
    computes with unused lanes of its own stack, never written, where rows have 5 numbers. Results are right all the
    same, and `likelihood.check_finite` tells what is not finite. Entered once a step, since it costs a microsecond."""
    return np.errstate(invalid="ignore")


class State(NamedTuple):
    """The state of B batch rows between reads: a step state of `cells` for each layer."""

    layers: tuple[cells.StepState, ...]

    def select(self, index: Tokens) -> State:
        """Return the batch rows that `index` names, in its order; a row may come several times."""
        return State(tuple(_step_state(lambda arrays: arrays[0][..., index], layer) for layer in self.layers))

    def joined(self, others: Sequence[State]) -> State:
        """Return these batch rows, followed by those of other states of the same model."""
        states = zip(self.layers, *(other.layers for other in others), strict=True)
        return State(tuple(_step_state(lambda arrays: np.concatenate(arrays, -1), *layer) for layer in states))


def _step_state(function: Callable[[list[Floats]], Floats], *states: cells.StepState) -> cells.StepState:
    """Return a step state, each array of it a function of the same array of several states, all in columns (..., B)."""
    return cells.StepState(
        *(
            None if arrays[0] is None else function([array.T for array in arrays]).T
            for arrays in zip(*states, strict=True)
        )
    )


class Layer:
    """One layer's weights, W_ih (G H, I), W_hh and U of a time skip (G H, H), and its step.

    Both biases are added to the projected input, once for all steps; but those of a GRU's candidate stay apart, since
    the reset gate scales one of them.
    """

    def __init__(self, architecture: Architecture, weights: Weights, prefix: str, norm: str) -> None:
        self.architecture = architecture
        cell = cells.CELLS[architecture.cell]
        self.weight_ih = weights[prefix + "kernel.weight_ih_l0"]
        self.weight_hh = weights.get(prefix + "kernel.weight_hh_l0")
        self.skip_weight = weights.get(prefix + "skip_weight")
        self.norm = (weights[norm + "weight"], weights[norm + "bias"]) if architecture.layer_norm else None
        bias = weights[prefix + "kernel.bias_ih_l0"].copy()
        self.inner_bias: Floats | None = None
        if cell.recurrent:
            inner = weights[prefix + "kernel.bias_hh_l0"].copy()
            added = slice((cell.gates - cell.inner_gates) * architecture.hidden_size)
            bias[added] += inner[added]
            inner[added] = 0.0
            self.inner_bias = inner[:, None] if cell.inner_gates else None
        self.bias = bias[:, None]  # (G H, 1)

    def project(self, x: Floats) -> Floats:
        """Compute W_ih x and the biases (G H, N) of inputs in columns (I, N)."""
        projected: Floats = self.weight_ih @ x
        projected += self.bias
        return projected

    def step(
        self, projected: Floats, state: cells.StepState, observe: Callable[..., object] | None = None
    ) -> cells.StepState:
        """Take a step from a projected input in columns (G H, B); see `Observe`, here without layer and step."""
        if self.skip_weight is not None:
            assert state.past is not None
            projected = projected + self.skip_weight @ state.past[:, 0].T
        recurrent = None if self.weight_hh is None else self.weight_hh @ state.hidden.T
        if recurrent is not None:
            if self.inner_bias is not None:
                recurrent += self.inner_bias
            recurrent = recurrent.T
        of, x = self.architecture, projected.T
        after = cells.advance(of.cell, x, recurrent, state, activation=of.activation, leak=of.leak)
        if observe is not None:
            observe(x, recurrent, after)
        return after


class Embedding:
    """The vectors of tokens 0 to V, scaled; the escape's is the mean of all others."""

    def __init__(self, weights: Floats, scale: float) -> None:
        self.weights, self.scale = weights, scale  # (V, E)
        self.size = len(weights)
        self._mean: Floats | None = None

    def __call__(self, tokens: Tokens) -> Floats:
        """Look up the vectors (N, E) of tokens (N)."""
        vectors = self.weights[np.minimum(tokens, self.size - 1)]
        escaped = tokens == self.size
        if escaped.any():
            if self._mean is None:
                self._mean = self.weights.mean(0)
            vectors[escaped] = self._mean
        return vectors * self.scale if self.scale != 1.0 else vectors


class _Table:
    """The first layer's projected input of every token (V + 1, G H), each row computed when first needed."""

    def __init__(self, embedding: Embedding, layer: Layer) -> None:
        self.embedding, self.layer = embedding, layer
        self.rows = np.empty((embedding.size + 1, len(layer.bias)), dtype=layer.bias.dtype)
        self.missing = np.ones(embedding.size + 1, dtype=bool)

    def __call__(self, tokens: Tokens) -> Floats:
        """Look up the rows of tokens (N), as columns (G H, N)."""
        if self.missing[tokens].any():
            needed = np.zeros_like(self.missing)
            needed[tokens] = True
            new = np.flatnonzero(needed & self.missing)
            self.rows[new] = self.layer.project(self.embedding(new).T).T
            self.missing[new] = False
        columns: Floats = self.rows[tokens].T
        return columns


class Stack:
    """Layers from tokens to features, in one direction.

    Inside, the vectors of a step are columns, (H, B): BLAS then takes half the time for a few batch rows.
    """

    def __init__(self, architecture: Architecture, weights: Weights, prefix: str, embedding: Embedding) -> None:
        self.architecture, self.embedding = architecture, embedding
        self.layers = [
            Layer(architecture, weights, f"{prefix}layers.{index}.", f"{prefix}norms.{index}.")
            for index in range(architecture.num_layers)
        ]
        bridge = f"{prefix}bridge."
        self.bridge = (weights[bridge + "weight"], weights[bridge + "bias"]) if bridge + "weight" in weights else None
        self.table = _Table(embedding, self.layers[0])

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any text: zeros."""
        of, dtype = self.architecture, self.embedding.weights.dtype
        zeros = np.zeros((of.hidden_size, batch_size), dtype).T
        cell = zeros if cells.CELLS[of.cell].cell_state else None
        past = None if of.time_skip is None else np.zeros((batch_size, of.time_skip, of.hidden_size), dtype)
        return State((cells.StepState(zeros, cell, past),) * of.num_layers)

    def read(self, tokens: Tokens, state: State, observe: Observe | None = None) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V; return the features (B, T, F) after each, and the state after the last."""
        with _spurious_flags_ignored():
            return self._read(tokens, state, observe)

    def _read(self, tokens: Tokens, state: State, observe: Observe | None = None) -> tuple[Floats, State]:
        of = self.architecture
        batch, steps = tokens.shape
        ordered = tokens.T.ravel()  # (T B): the first tokens of all rows, then the second ones ...
        added = of.residual and of.embedding_size == of.hidden_size and not of.tie_weights
        x = self.embedding(ordered).T if added else None
        after = []
        for index, (layer, layer_state) in enumerate(zip(self.layers, state.layers, strict=True)):
            if index == 0:
                projected = self.table(ordered)  # (G H, T B)
            else:
                assert x is not None
                projected = layer.project(x)
            outputs = []
            for step in range(steps):
                seen = None if observe is None else partial(observe, index, step)
                layer_state = layer.step(projected[:, step * batch : (step + 1) * batch], layer_state, seen)
                outputs.append(layer_state.hidden.T)
            after.append(layer_state)
            y = outputs[0] if steps == 1 else np.concatenate(outputs, 1)  # (H, T B)
            if layer.norm is not None:
                y = cells.layer_norm(y.T, *layer.norm).T
            x = x + y if of.residual and x is not None else y
        assert x is not None
        if self.bridge is not None:
            x = _affine(x.T, *self.bridge).T
        return x.reshape(-1, steps, batch).transpose(2, 1, 0), State(tuple(after))


class NumpyModel(Stack):
    """A model that reads in one direction; see `interface.LanguageModel`."""

    bidirectional_heads: BidirectionalHeads | None = None

    def __init__(
        self, architecture: Architecture, weights: Weights, prefix: str, embedding: Embedding, head_bias: str
    ) -> None:
        super().__init__(architecture, weights, prefix, embedding)
        self.head, self.bias = weights["embedding" if architecture.tie_weights else "head"], weights[head_bias]
        self.gates = cells.CELLS[architecture.cell].gates * architecture.hidden_size

    def step(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V; return the logits (B, V) of the next token, and the state after the last."""
        with _spurious_flags_ignored():
            features, state = self._read(tokens, state)
            return _affine(features[:, -1], self.head, self.bias), state

    def logits(self, features: Floats) -> Floats:
        """Return the logits (..., V) of the next token from features (..., F)."""
        with _spurious_flags_ignored():
            return _affine(features, self.head, self.bias)


class NumpyBidirectionalHeads:
    """The other two heads of a bidirectional model; see `interface.BidirectionalHeads`."""

    def __init__(self, weights: Weights, backward: NumpyModel) -> None:
        self.backward: LanguageModel = backward
        self.weights, self.head = weights, backward.head

    def joint_logits(self, before: Floats, after: Floats, remaining: Tokens | int) -> Floats:
        """Predict the first of `remaining` (...) unknown tokens between features (..., F); return logits (..., V).

        The equation is that of `bidirectional.BidirectionalRNN`.
        """
        trust, width = self.weights["joint_trust"], self.weights["joint_width"]
        row = np.minimum(np.asarray(remaining), WIDEST) - 1
        with _spurious_flags_ignored():
            mixed = _affine(np.concatenate((before, after), -1), self.weights["joint_hidden.weight"]) + width[row]
            joint = before + trust[row] * after + _affine(cells.relu(mixed), self.weights["joint_output.weight"])
            return _affine(joint, self.head, self.weights["joint_bias"])


class NumpyHMM:
    """A hidden Markov model; see `hmm.HiddenMarkov` and `interface.LanguageModel`. Its features (..., S) are the
    predicted probabilities of the next hidden state."""

    bidirectional_heads: BidirectionalHeads | None = None

    def __init__(self, weights: Weights) -> None:
        self.transition = softmax(weights["transition"].astype(np.float64)).astype(weights["transition"].dtype)
        self.emission = cells.emission(weights["emission"])  # (V, S)
        self.likelihoods = np.concatenate((self.emission, np.ones_like(self.emission[:1])))
        self.gates = len(self.transition)

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any text: all hidden states are equally likely."""
        states = len(self.transition)
        return State((cells.StepState(np.full((batch_size, states), -np.log(states), self.transition.dtype)),))

    def step(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V; return the logits (B, V) of the next token, and the state after the last."""
        features, state = self.read(tokens, state)
        return self.logits(features[:, -1]), state

    def read(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V; return the features (B, T, S) after each, and the state after the last."""
        posterior, outputs = np.exp(state.layers[0].hidden), []
        with _spurious_flags_ignored():
            predicted = posterior @ self.transition
            for column in tokens.T:
                posterior, predicted = cells.hidden_markov(predicted, self.likelihoods[column], self.transition)
                outputs.append(predicted)
        tiny = np.finfo(posterior.dtype).tiny
        return np.stack(outputs, 1), State((cells.StepState(np.log(np.maximum(posterior, tiny))),))

    def logits(self, features: Floats) -> Floats:
        """Return the logits (..., V) of the next token from features (..., S): the logarithms of its probabilities."""
        with _spurious_flags_ignored():
            return np.asarray(np.log(_affine(features, self.emission)))


def build(architecture: Architecture, weights: Weights) -> NumpyModel:
    """Build the model of an architecture from its weights, which are used as they are, in whatever type."""
    embedding = Embedding(weights["embedding"], architecture.input_scale)
    model = NumpyModel(architecture, weights, "", embedding, "head_bias")
    if architecture.bidirectional:
        backward = NumpyModel(architecture, weights, BACKWARD_STACK, embedding, "backward_bias")
        model.bidirectional_heads = NumpyBidirectionalHeads(weights, backward)
    return model


def _affine(x: Floats, weight: Floats, bias: Floats | None = None) -> Floats:
    """Compute W x + b (..., output) for x (..., input), W (output, input) and b (output)."""
    columns: Floats = weight @ x.reshape(-1, x.shape[-1]).T
    if bias is not None:
        columns += bias[:, None]
    rows: Floats = columns.T
    return rows.reshape(*x.shape[:-1], len(weight))
