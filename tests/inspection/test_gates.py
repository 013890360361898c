"""Gates are those of the equations, and are counted as shut and open. Sizes: N=3 characters, L=2 layers, H=5 hidden."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from charrnn.inspection import gates
from charrnn.inspection.states import States, read_states
from charrnn.models import cells
from tests.conftest import CELLS, close
from tests.inspection.test_states import NEWLINE, TOKENS
from tests.models.test_numpy_model import OPTIONS, made, to_numpy


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("cell", "activation"), CELLS)
def test_states_follow_from_their_gates(cell: str, activation: str, options: dict[str, Any]) -> None:
    leak = options.get("leak")
    model = to_numpy(made(cell, activation, {**options, "num_layers": 2, "bidirectional": True}))
    found = read_states(model, TOKENS, np.array([NEWLINE]), gates=True)
    assert found.backward is not None
    for half in (found, found.backward.reversed()):
        assert half.gates is not None
        assert tuple(half.gates) == cells.CELLS[cell].gate_names
        for row in range(1, len(TOKENS)):
            before = half.hidden[row - 1]
            now = {name: values[row] for name, values in half.gates.items()}
            if cell == "lstm":
                assert half.cell is not None
                close(half.cell[row], now["f"] * half.cell[row - 1] + now["i"] * now["g"])
                new = now["o"] * np.tanh(half.cell[row])
            elif cell == "gru":
                new = (1 - now["z"]) * now["n"] + now["z"] * before
            else:
                continue
            close(half.hidden[row], new if leak is None else (1 - leak) * before + leak * new)


def test_shares_of_time_count_gates_below_a_tenth_and_above_nine_tenths() -> None:
    values = np.full((4, 2, 5), 0.5)
    values[:3, 0, 1] = 0.05
    values[1, 1, 4] = 0.95
    both = {"f": values, "g": np.ones_like(values)}
    found = gates.shares(States(values, None, States(values, None, None, {"f": 1 - values}), both)).layers
    named = [(one.direction, one.layer, one.gate) for one in found]
    assert named == [("forward", 0, "f"), ("forward", 1, "f"), ("backward", 0, "f"), ("backward", 1, "f")]
    close(found[0].low, [0, 0.75, 0, 0, 0])
    close(found[1].high, [0, 0, 0, 0, 0.25])
    close(found[2].high, [0, 0.75, 0, 0, 0])


def test_without_gates_nothing_is_counted() -> None:
    assert gates.shares(States(np.zeros((3, 2, 5)))).fields() == {"layers": []}
