"""The architecture of a network: its sizes and options, and the shape of every weight. Holds no weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any

from charrnn.config.limits import MAX_TIME_SKIP
from charrnn.models import cells
from charrnn.models.interface import WIDEST

if TYPE_CHECKING:
    from charrnn.config.schema import ModelConfig


BACKWARD_STACK = "backward_stack."  # prefix of the names of its weights


@dataclass(frozen=True)
class Architecture:
    """The resolved settings `model.*` that a step depends on."""

    cell: str
    hidden_size: int
    num_layers: int
    embedding_size: int
    tie_weights: bool
    activation: str = "tanh"
    bidirectional: bool = False
    residual: bool = False
    layer_norm: bool = False
    leak: float | None = None
    time_skip: int | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Architecture:
        """Read it from the settings in a model file, with defaults for the options that are missing.

        Raises KeyError if `cell`, a size or `tie_weights` is missing, and ValueError naming a setting that is invalid.
        """
        if not isinstance(settings, dict):
            raise ValueError("config.model")
        chosen = {
            name: settings[name] if field.default is MISSING else settings.get(name, field.default)
            for name, field in cls.__dataclass_fields__.items()
        }
        checks = {
            "cell": chosen["cell"] in cells.CELLS,
            "activation": chosen["activation"] in cells.ACTIVATIONS,
            **{
                name: type(chosen[name]) is int and chosen[name] >= 1
                for name in ("hidden_size", "num_layers", "embedding_size")
            },
            **{name: type(chosen[name]) is bool for name in ("bidirectional", "residual", "layer_norm", "tie_weights")},
            "leak": chosen["leak"] is None or (type(chosen["leak"]) in {int, float} and 0.0 < chosen["leak"] <= 1.0),
            "time_skip": chosen["time_skip"] is None
            or (type(chosen["time_skip"]) is int and 2 <= chosen["time_skip"] <= MAX_TIME_SKIP),
        }
        for name, valid in checks.items():
            if not valid:
                raise ValueError(f"model.{name}")
        return cls(**chosen)

    @property
    def input_scale(self) -> float:
        """Return the factor for the embedding's vectors: tied ones are small, as a head's should be."""
        return math.sqrt(self.embedding_size) if self.tie_weights else 1.0

    def shapes(self, vocabulary_size: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight by its name."""
        cell = cells.CELLS[self.cell]
        size = self.embedding_size if self.tie_weights else self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "embedding": (vocabulary_size, self.embedding_size),
            "head_bias": (vocabulary_size,),
        }
        if not self.tie_weights:
            shapes["head"] = (vocabulary_size, size)
        for stack in ("", BACKWARD_STACK) if self.bidirectional else ("",):
            for layer in range(self.num_layers):
                prefix = f"{stack}layers.{layer}."
                inputs = self.hidden_size if layer else self.embedding_size
                for name, shape in cell.shapes(inputs, self.hidden_size).items():
                    shapes[f"{prefix}kernel.{name}"] = shape
                if self.time_skip is not None:
                    shapes[prefix + "skip_weight"] = (cell.gates * self.hidden_size, self.hidden_size)
                if self.layer_norm:
                    shapes[f"{stack}norms.{layer}.weight"] = shapes[f"{stack}norms.{layer}.bias"] = (self.hidden_size,)
            if self.tie_weights and self.hidden_size != self.embedding_size:
                shapes[f"{stack}bridge.weight"] = (self.embedding_size, self.hidden_size)
                shapes[f"{stack}bridge.bias"] = (self.embedding_size,)
        if self.bidirectional:
            shapes["backward_bias"] = shapes["joint_bias"] = (vocabulary_size,)
            shapes["joint_trust"], shapes["joint_width"] = (WIDEST, size), (WIDEST, 2 * size)
            shapes["joint_hidden.weight"] = (2 * size, 2 * size)
            shapes["joint_output.weight"] = (size, 2 * size)
        return shapes


def products(model: ModelConfig, vocabulary_size: int) -> int:
    """Count the multiplications of a forward pass per character: the weights in its matrix products."""
    if model.cell == "hmm":
        return int(model.hidden_size) * (int(model.hidden_size) + vocabulary_size)
    hidden, embedding, layers = int(model.hidden_size), int(model.embedding_size), int(model.num_layers)
    cell = cells.CELLS[model.cell]
    stack = cell.gates * hidden * (embedding + (layers - 1) * hidden + (layers * hidden if cell.recurrent else 0))
    # tied weights are (V, E): the hidden state is projected to E first
    features = embedding if model.tied else hidden
    stack += hidden * features if features != hidden else 0
    halves, heads, joint = (2, 3, 6 * features * features) if model.bidirectional else (1, 1, 0)
    return halves * stack + joint + heads * features * vocabulary_size
