"""What whoever writes, searches and fills gaps needs of a model, in NumPy arrays, wherever it computes:
`decoder` reads on the CPU without torch, `ondevice` hands on to a torch model. Knows neither.
Shapes: B lanes, T steps, V vocabulary, F features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

WIDEST = 20  # characters of the widest gap that a joint head learns; wider ones count as this wide
Tokens = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]


class ModelState(Protocol):
    """Carry B lanes from one read to the next."""

    def select(self, index: Tokens) -> ModelState:
        """Choose, reorder or repeat lanes by index."""

    def joined(self, others: Sequence[Any]) -> ModelState:
        """Put the lanes of other states of the same model after these."""


class LanguageModel(Protocol):
    """Read tokens on from a state, which it does not change, and foretell what follows."""

    gates: int  # G H, the numbers that a layer makes of one token
    sides: BidirectionalHeads | None  # what a bidirectional model has besides; None for every other

    def initial_state(self, lanes: int) -> ModelState:
        """Give the state before any text."""

    def step(self, tokens: Tokens, state: Any) -> tuple[Floats, Any]:
        """Read tokens (B, T), 0 to V; gives the logits (B, V) of what follows the last, and the state after it."""

    def read(self, tokens: Tokens, state: Any) -> tuple[Floats, Any]:
        """Do the same, but give the features (B, T, F) after each token."""

    def logits(self, features: Floats) -> Floats:
        """Turn features (..., F) into the logits (..., V) of what follows."""


class BidirectionalHeads(Protocol):
    """What a bidirectional model knows besides: how to read backwards, and how to join both sides."""

    backward: LanguageModel  # reads reversed texts

    def joint_logits(self, before: Floats, after: Floats, remaining: Tokens | int) -> Floats:
        """Foretell the first of `remaining` (...) unknown tokens between features (..., F); gives logits (..., V)."""
