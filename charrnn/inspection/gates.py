"""How often gates are nearly shut or wide open. Shapes: N characters, L layers, H hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from charrnn.inspection.states import States
from charrnn.models.interface import Floats

SHUT, OPEN = 0.1, 0.9
CANDIDATES = frozenset({"g", "n"})  # in (-1, 1): they are no gates that open and shut


@dataclass(frozen=True)
class Saturation:
    """The shares of time that each unit's gate is below SHUT, `low` (H), and above OPEN, `high` (H)."""

    direction: str
    layer: int
    gate: str
    low: Floats
    high: Floats


@dataclass(frozen=True)
class GateShares:
    """The saturation of every gate of every layer (Karpathy, Johnson and Li 2015, section 4.2)."""

    layers: tuple[Saturation, ...]

    def fields(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return {
            "layers": [
                {
                    "direction": one.direction,
                    "layer": one.layer,
                    "gate": one.gate,
                    "low": one.low.tolist(),
                    "high": one.high.tolist(),
                }
                for one in self.layers
            ]
        }


def shares(states: States) -> GateShares:
    """Count how often each gate is below SHUT and above OPEN, from states that were read with their gates."""
    found = []
    for direction, half in (("forward", states), ("backward", states.backward)):
        for name, values in ((half.gates if half else None) or {}).items():
            if name not in CANDIDATES:
                low, high = (values < SHUT).mean(0), (values > OPEN).mean(0)  # (L, H)
                for layer in range(values.shape[1]):
                    found.append(Saturation(direction, layer, name, low[layer], high[layer]))
    return GateShares(tuple(sorted(found, key=lambda one: (one.direction != "forward", one.layer))))
