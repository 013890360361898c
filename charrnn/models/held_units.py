"""A network that writes while units of it are held at values, whatever it has read (Radford et al. 2017, "Learning to
Generate Reviews and Discovering Sentiment"). Never imports torch.
Shapes: B batch rows, T steps, V vocabulary, F features, H hidden, G gates of a cell."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from charrnn.errors import MisuseError
from charrnn.messages import counted
from charrnn.models import cells
from charrnn.models.interface import BidirectionalHeads, Floats, LanguageModel, Tokens
from charrnn.models.ngram_mixture import NgramMixture
from charrnn.models.numpy_model import Layer, NumpyModel, State


class Hold(NamedTuple):
    """A unit of a layer, both counted from 0, and the value that it has."""

    layer: int
    unit: int
    value: float


def parse(option: str, given: Sequence[str]) -> list[Hold]:
    """Read LAYER:UNIT=VALUE. Raises MisuseError for anything else, or for a unit that is held twice."""
    holds = list[Hold]()
    for one in given:
        found = re.fullmatch(r"(\d{1,6}):(\d{1,6})=(\S+)", one, re.ASCII)
        try:
            value = math.nan if found is None else float(found[3])
        except ValueError:
            value = math.nan
        if found is None or not math.isfinite(value):
            raise MisuseError(f"{option} is {one}; it must be LAYER:UNIT=VALUE, counted from 0: {option} 0:12=0.9")
        holds.append(Hold(int(found[1]), int(found[2]), value))
    units = [hold[:2] for hold in holds]
    if twice := [unit for unit in units if units.count(unit) > 1]:
        raise MisuseError(f"{option} holds unit {twice[0][1]} of layer {twice[0][0]} twice; name one value.")
    return holds


def hold(model: LanguageModel, holds: Sequence[Hold], option: str) -> LanguageModel:
    """Return a network with units held, of a mixture the whole; it shares all weights with the one given.

    Raises MisuseError for a model without units, or a unit that it does not have.
    """
    if isinstance(model, NgramMixture):
        return NgramMixture(hold(model.network, holds, option), model.ngram, model.by_context)
    if not isinstance(model, NumpyModel):
        raise MisuseError(f"{option} holds a unit of a recurrent network; this model is none, and has no units.")
    layers, units = model.architecture.num_layers, model.architecture.hidden_size
    for one in holds:
        if one.layer >= layers:
            raise MisuseError(f"{option}: there is no layer {one.layer}; this model has {_range(layers, 'layer')}.")
        if one.unit >= units:
            raise MisuseError(f"{option}: there is no unit {one.unit}; each layer has {_range(units, 'unit')}.")
    return HeldModel(model, holds)


def _range(number: int, noun: str) -> str:
    return f"{counted(number, noun)}, counted from 0" + (f" to {number - 1:,}" if number > 1 else "")


class HeldModel:
    """A model that predicts with held units; see `interface.LanguageModel`.

    What is read, such as a prime, is read as ever, up to its last character: each `step` holds the units while the last
    of its tokens is read, from which the next is predicted, so all that is written is written under them.
    """

    def __init__(self, model: NumpyModel, holds: Sequence[Hold]) -> None:
        self.model, self.held = model, copy.copy(model)
        self.held.layers = [
            _HeldLayer(layer, {one.unit: one.value for one in holds if one.layer == index})
            for index, layer in enumerate(model.layers)
        ]
        self.gates = model.gates
        self.bidirectional_heads: BidirectionalHeads | None = model.bidirectional_heads

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any text."""
        return self.model.initial_state(batch_size)

    def step(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V, the last of them with held units; return the logits (B, V) of the next token, and
        the state after the last."""
        if tokens.shape[1] > 1:
            _, state = self.model.read(tokens[:, :-1], state)
        return self.held.step(tokens[:, -1:], state)

    def read(self, tokens: Tokens, state: State) -> tuple[Floats, State]:
        """Read tokens (B, T), 0 to V; return the features (B, T, F) after each, and the state after the last."""
        return self.model.read(tokens, state)

    def logits(self, features: Floats) -> Floats:
        """Return the logits (..., V) of the next token from features (..., F)."""
        return self.model.logits(features)


class _HeldLayer(Layer):
    """A layer of which units have given values after every step.

    c'[unit] = value    h'[unit] = o[unit] tanh(value)      of an LSTM, its h' leaky where that is set
                        h'[unit] = value                    of any other cell
    """

    def __init__(self, layer: Layer, units: Mapping[int, float]) -> None:
        vars(self).update(vars(layer))  # the same weights, and what was computed of them
        self.units = units

    def step(
        self, projected: Floats, state: cells.StepState, observe: Callable[..., object] | None = None
    ) -> cells.StepState:
        """Take a step from a projected input in columns (G H, B)."""
        new = super().step(projected, state, observe)  # arrays of its own, which may be changed
        for unit, value in self.units.items():
            held: Floats | float = value
            if new.cell is not None:
                new.cell[:, unit] = value
                held = self._output_gate(unit, projected, state) * math.tanh(value)
                leak = self.architecture.leak
                held = held if leak is None else (1 - leak) * state.hidden[:, unit] + leak * held
            new.hidden[:, unit] = held
            if new.past is not None:
                new.past[:, -1, unit] = held
        return new

    def _output_gate(self, unit: int, projected: Floats, state: cells.StepState) -> Floats:
        """Compute the output gate (B) of one unit of an LSTM."""
        row = cells.CELLS["lstm"].gate_names.index("o") * self.architecture.hidden_size + unit
        assert self.weight_hh is not None
        x = projected[row] + self.weight_hh[row] @ state.hidden.T
        if self.skip_weight is not None:
            assert state.past is not None
            x = x + self.skip_weight[row] @ state.past[:, 0].T
        return np.asarray(cells.sigmoid(x))
