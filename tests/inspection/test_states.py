"""The states after each character are those that the torch model carries there, in both directions.
Sizes: N=6 characters, E=4 embedding, H=5 hidden, L=2 layers, V=7 vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from charrnn.inspection.states import States, read_states
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.factory import Causal
from tests.conftest import CELLS, close
from tests.models.test_numpy_model import OPTIONS, made, to_numpy

TOKENS, NEWLINE = np.array([3, 1, 7, 0, 4, 1]), 2  # 7 is the escape


def check(found: States, model: Causal, tokens: list[int]) -> None:
    """Compare with the state after each prefix of a text."""
    for row in range(len(tokens)):
        prefix = torch.tensor([[NEWLINE, *tokens[: row + 1]]])
        with torch.no_grad():
            _, state = model.read(prefix, model.initial_state(1))
        close(found.hidden[row], state.hidden[:, 0])
        assert (found.cell is None) == (state.cell is None)
        if found.cell is not None and state.cell is not None:
            close(found.cell[row], state.cell[:, 0])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("cell", "activation"), CELLS)
def test_states_are_those_after_each_prefix_and_each_suffix(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    model = made(cell, activation, {**options, "num_layers": 2, "bidirectional": True})
    assert isinstance(model, BidirectionalRNN)
    found = read_states(to_numpy(model), TOKENS, np.array([NEWLINE]))
    assert found.hidden.shape == (6, 2, 5)
    check(found, model, TOKENS.tolist())
    assert found.backward is not None
    back = found.backward
    mirrored = States(back.hidden[::-1], None if back.cell is None else back.cell[::-1])
    check(mirrored, model.backward_half, TOKENS[::-1].tolist())
