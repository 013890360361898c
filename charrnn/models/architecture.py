"""What a model is but its weights: sizes, options, and the shape of every weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charrnn.models import cells
from charrnn.models.interface import WIDEST

if TYPE_CHECKING:
    from charrnn.config.schema import ModelConfig


_BACKWARD = "backward_stack."


@dataclass(frozen=True)
class Architecture:
    """Hold what a model is but its weights: the resolved settings `model.*` that a step depends on."""

    cell: str
    hidden_size: int
    num_layers: int
    embedding_size: int
    activation: str = "tanh"
    bidirectional: bool = False
    residual: bool = False
    layer_norm: bool = False
    leak: float | None = None
    time_skip: int | None = None
    tie_weights: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Architecture:
        """Take it from settings as a model file has them, one left out having its default.

        Raises KeyError for a size, cell or tie left out, ValueError naming a setting that cannot be.
        """
        if not isinstance(settings, dict):
            raise ValueError("config.model")
        sizes = {
            name: settings[name] for name in ("cell", "hidden_size", "num_layers", "embedding_size", "tie_weights")
        }
        own = {name: field.default for name, field in cls.__dataclass_fields__.items() if name not in sizes}
        chosen = sizes | {name: settings.get(name, default) for name, default in own.items()}
        checks = {
            "cell": chosen["cell"] in cells.GATES,
            "activation": chosen["activation"] in cells.ACTIVATIONS,
            **{
                name: type(chosen[name]) is int and chosen[name] >= 1
                for name in ("hidden_size", "num_layers", "embedding_size")
            },
            **{name: type(chosen[name]) is bool for name in ("bidirectional", "residual", "layer_norm", "tie_weights")},
            "leak": chosen["leak"] is None or (type(chosen["leak"]) in {int, float} and 0.0 < chosen["leak"] <= 1.0),
            "time_skip": chosen["time_skip"] is None
            or (type(chosen["time_skip"]) is int and 2 <= chosen["time_skip"] <= 1_000_000),
        }
        for name, sound in checks.items():
            if not sound:
                raise ValueError(f"model.{name}")
        return cls(**chosen)

    @property
    def input_scale(self) -> float:
        """Give what the embedding's vectors are multiplied by: tied ones are small, as is right for a head."""
        return math.sqrt(self.embedding_size) if self.tie_weights else 1.0

    def shapes(self, vocabulary_size: int) -> dict[str, tuple[int, ...]]:
        """Give the shape of every weight by its name."""
        gates = cells.GATES[self.cell] * self.hidden_size
        size = self.embedding_size if self.tie_weights else self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "embedding": (vocabulary_size, self.embedding_size),
            "head_bias": (vocabulary_size,),
        }
        if not self.tie_weights:
            shapes["head"] = (vocabulary_size, size)
        for stack in ("", _BACKWARD) if self.bidirectional else ("",):
            for layer in range(self.num_layers):
                own = f"{stack}layers.{layer}."
                inputs = self.hidden_size if layer else self.embedding_size
                shapes[own + "kernel.weight_ih_l0"] = (gates, inputs)
                shapes[own + "kernel.weight_hh_l0"] = (gates, self.hidden_size)
                shapes[own + "kernel.bias_ih_l0"] = shapes[own + "kernel.bias_hh_l0"] = (gates,)
                if self.time_skip is not None:
                    shapes[own + "skip_weight"] = (gates, self.hidden_size)
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
    """Count the multiplications of one character, forwards: the weights that it meets."""
    if model.cell == "hmm":
        return int(model.hidden_size) * (int(model.hidden_size) + vocabulary_size)
    hidden, embedding, layers = int(model.hidden_size), int(model.embedding_size), int(model.num_layers)
    stack = cells.GATES[model.cell] * hidden * (embedding + hidden + (layers - 1) * 2 * hidden)
    # tied weights are (V, E): the hidden state is brought to E first
    features = embedding if model.tied else hidden
    stack += hidden * features if features != hidden else 0
    halves, heads, joint = (2, 3, 6 * features * features) if model.bidirectional else (1, 1, 0)
    return halves * stack + joint + heads * features * vocabulary_size
