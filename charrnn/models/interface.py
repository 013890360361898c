"""What generation and evaluation need of a model, in NumPy arrays, wherever it computes: `numpy_model` reads on the CPU
without torch, `torch_model` wraps a torch model. Knows neither.
Shapes: B batch rows, T steps, V vocabulary, F features, G H the numbers that a layer computes for one token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

WIDEST = 20  # characters of the widest gap that a joint head learns; wider gaps count as this wide
Tokens = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]


class ModelState(Protocol):
    """The state of B batch rows between reads."""

    def select(self, index: Tokens) -> ModelState:
        """Return the batch rows that `index` names, in its order; a row may come several times."""

    def joined(self, others: Sequence[Any]) -> ModelState:
        """Return these batch rows, followed by those of other states of the same model."""


class LanguageModel(Protocol):
    """Reads tokens from a state, which it does not change, and predicts the next one."""

    gates: int  # G H
    bidirectional_heads: BidirectionalHeads | None  # None unless the model is bidirectional

    def initial_state(self, batch_size: int) -> ModelState:
        """Return the state before any text."""

    def step(self, tokens: Tokens, state: Any) -> tuple[Floats, Any]:
        """Read tokens (B, T), 0 to V; return the logits (B, V) of the next token, and the state after the last."""

    def read(self, tokens: Tokens, state: Any) -> tuple[Floats, Any]:
        """Read tokens (B, T), 0 to V; return the features (B, T, F) after each, and the state after the last."""

    def logits(self, features: Floats) -> Floats:
        """Return the logits (..., V) of the next token from features (..., F)."""


def start_state(model: LanguageModel, boundary: Tokens, batch_size: int = 1) -> ModelState:
    """Return the state before the last token of a boundary (K), which is the first input of every text: zeros that have
    read the tokens before it."""
    state = model.initial_state(batch_size)
    if len(boundary) > 1:
        _, state = model.read(np.tile(boundary[:-1], (batch_size, 1)), state)
    return state


class BidirectionalHeads(Protocol):
    """The other two heads of a bidirectional model: one reads backwards, one joins both directions."""

    backward: LanguageModel  # reads reversed texts

    def joint_logits(self, before: Floats, after: Floats, remaining: Tokens | int) -> Floats:
        """Predict the first of `remaining` (...) unknown tokens between features (..., F); return logits (..., V)."""
