"""What a model remembers after each character of a text. Knows tokens, not text or files.
Shapes: N characters, L layers, H hidden, S states of a hidden Markov model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from charrnn.models.interface import Floats, Tokens
from charrnn.models.numpy_model import NumpyHMM, NumpyModel


@dataclass(frozen=True)
class States:
    """The states of a model after each of N characters.

    hidden    (N, L, H): row i after character i; of a hidden Markov model (N, 1, S), the probabilities of its S states
    cell      (N, L, H): the cell states of an LSTM; None for other cells
    backward  the states of a bidirectional model's backward half, whose row i has read all characters from the end back
              to i; None for a model that reads forwards only
    """

    hidden: Floats
    cell: Floats | None = None
    backward: States | None = None


def read_states(model: NumpyModel | NumpyHMM, tokens: Tokens, boundary: Tokens) -> States:
    """Read tokens (N) as a text between two boundaries (K); return the states after each of them."""
    forward = _read(model, tokens, boundary)
    if model.bidirectional_heads is None:
        return forward
    half = model.bidirectional_heads.backward
    assert isinstance(half, NumpyModel)
    back = _read(half, tokens[::-1], boundary[::-1])
    return States(
        forward.hidden, forward.cell, States(back.hidden[::-1], None if back.cell is None else back.cell[::-1])
    )


def _read(model: NumpyModel | NumpyHMM, tokens: Tokens, boundary: Tokens) -> States:
    """Read tokens (N) after a boundary (K), in one direction and one at a time: a model keeps its last state only."""
    _, state = model.read(boundary[None], model.initial_state(1))
    first = state.layers[0].hidden  # (1, H)
    hidden = np.empty((len(tokens), len(state.layers), first.shape[1]), first.dtype)
    cell = None if state.layers[0].cell is None else np.empty_like(hidden)
    for row, token in enumerate(tokens.tolist()):
        _, state = model.read(np.array([[token]]), state)
        for index, layer in enumerate(state.layers):
            hidden[row, index] = layer.hidden[0]
            if cell is not None and layer.cell is not None:
                cell[row, index] = layer.cell[0]
    return States(np.exp(hidden), cell) if isinstance(model, NumpyHMM) else States(hidden, cell)
