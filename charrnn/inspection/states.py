"""What a model remembers after each character of a text, and what its gates did. Knows tokens, not text or files.
Shapes: N characters, L layers, H hidden, S states of a hidden Markov model, G H the numbers of all gates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from charrnn.models import cells
from charrnn.models.interface import Floats, Tokens
from charrnn.models.numpy_model import NumpyHMM, NumpyModel

_WINDOW = 512  # characters at a time: their projected inputs lie in memory


@dataclass(frozen=True)
class States:
    """The states of a model after each of N characters.

    hidden    (N, L, H): row i after character i; of a hidden Markov model (N, 1, S), the probabilities of its S states
    cell      (N, L, H): the cell states of an LSTM; None for other cells
    backward  the states of a bidirectional model's backward half, whose row i has read all characters from the end back
              to i; None for a model that reads forwards only
    gates     by name, as in `cells.Cell.gate_names`: (N, L, H), row i at the step that read character i; empty for a
              cell without gates, None where they were not asked for
    """

    hidden: Floats
    cell: Floats | None = None
    backward: States | None = None
    gates: dict[str, Floats] | None = None

    def reversed(self) -> States:
        """Return the states in the opposite order of characters."""
        gates = None if self.gates is None else {name: values[::-1] for name, values in self.gates.items()}
        return States(self.hidden[::-1], None if self.cell is None else self.cell[::-1], None, gates)


def read_states(model: NumpyModel | NumpyHMM, tokens: Tokens, boundary: Tokens, *, gates: bool = False) -> States:
    """Read tokens (N) as a text between two boundaries (K); return the states after each of them, with `gates` also the
    values of the gates at each step."""
    if isinstance(model, NumpyHMM):
        return _hidden_markov(model, tokens, boundary)
    forward = _read(model, tokens, boundary, gates)
    if model.bidirectional_heads is None:
        return forward
    half = model.bidirectional_heads.backward
    assert isinstance(half, NumpyModel)
    return replace(forward, backward=_read(half, tokens[::-1], boundary[::-1], gates).reversed())


class _Recorder:
    """Keeps what the steps of a stack compute, for one text."""

    def __init__(self, model: NumpyModel, characters: int, gates: bool) -> None:
        of, dtype = model.architecture, model.embedding.weights.dtype
        self.cell, shape = cells.CELLS[of.cell], (characters, of.num_layers, of.hidden_size)
        self.hidden = np.empty(shape, dtype)
        self.cells = np.empty(shape, dtype) if self.cell.cell_state else None
        self.gates = {name: np.empty(shape, dtype) for name in self.cell.gate_names} if gates else None
        self.first = 0  # the text's character that the window begins with

    def __call__(self, layer: int, step: int, x: Floats, r: Floats | None, after: cells.StepState) -> None:
        """Note a step of a layer: its projected input and state (1, G H), and its state after."""
        row = self.first + step
        self.hidden[row, layer] = after.hidden[0]
        if self.cells is not None and after.cell is not None:
            self.cells[row, layer] = after.cell[0]
        if self.gates and self.cell.gate_values is not None:
            for values, found in zip(self.gates.values(), self.cell.gate_values(x, r), strict=True):
                values[row, layer] = found[0]


def _read(model: NumpyModel, tokens: Tokens, boundary: Tokens, gates: bool) -> States:
    """Read tokens (N) after a boundary (K), in one direction."""
    _, state = model.read(boundary[None], model.initial_state(1))
    recorder = _Recorder(model, len(tokens), gates)
    for recorder.first in range(0, len(tokens), _WINDOW):
        _, state = model.read(tokens[None, recorder.first : recorder.first + _WINDOW], state, recorder)
    return States(recorder.hidden, recorder.cells, None, recorder.gates)


def _hidden_markov(model: NumpyHMM, tokens: Tokens, boundary: Tokens) -> States:
    """Do the same for a hidden Markov model."""
    _, state = model.read(boundary[None], model.initial_state(1))
    posteriors = np.empty((len(tokens), 1, len(model.transition)), model.transition.dtype)
    for row, token in enumerate(tokens.tolist()):
        _, state = model.read(np.array([[token]]), state)
        posteriors[row, 0] = np.exp(state.layers[0].hidden[0])
    return States(posteriors)
