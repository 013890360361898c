"""Saliency: which of the characters before mattered for the prediction of one.
Shapes: N characters, P positions, W a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation import short_texts
from charrnn.inspection import gradients
from charrnn.inspection.states import States, read_states
from charrnn.messages import Progress, no_progress
from charrnn.models.architecture import products
from charrnn.models.char_rnn import CharRNN
from charrnn.models.interface import Floats, Tokens
from charrnn.models.numpy_model import NumpyModel
from charrnn.scores import NATS_PER_BIT

WINDOW = 128  # characters
BUDGET = 1e12  # floating-point operations: ten seconds or so on a core
_FEWEST = 64  # positions, whatever the budget


@dataclass(frozen=True)
class Saliency:
    """Saliency of the characters before P characters of a text.

    positions  (P)
    values     (P, W): the norm of the gradient of log p(character) by the input vector of each character before it, the
               nearest last; 0 before the text
    nats       (P): the negative log-likelihood of each character
    """

    text: str
    positions: Tokens
    values: Floats
    nats: Floats

    @property
    def window(self) -> int:
        """Return W."""
        return int(self.values.shape[1])

    def rows(self) -> list[dict[str, Any]]:
        """Return each character's position, character, bits and first character of its window."""
        return [
            {
                "position": position,
                "character": self.text[position],
                "bits": nats / NATS_PER_BIT,
                "first": max(0, position - self.window),
            }
            for position, nats in zip(self.positions.tolist(), self.nats.tolist(), strict=True)
        ]

    def fields(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        rows = self.rows()
        for row, values in zip(rows, self.values.tolist(), strict=True):
            count = row["position"] - row["first"]
            row["values"] = values[self.window - count :]
        return {"window": self.window, "rows": rows}


def measure(
    model: NumpyModel,
    network: CharRNN,
    vocabulary: Vocabulary,
    text: str,
    *,
    states: States | None = None,
    positions: Tokens | None = None,
    window: int = WINDOW,
    progress: Progress = no_progress,
) -> Saliency:
    """Measure the saliency of the characters before those at `positions` (P) of a text; by default of as many from the
    beginning as `count` allows. Progress counts positions.

    By the gradient of the logarithm of the probability (Madsen 2019, Visualizing memorization in RNNs, Distill).
    `model` and `network` are the same one; `states`, where they are at hand, are those of the text. Of a bidirectional
    model the forward half is measured.
    """
    encoded, boundary = vocabulary.encode(text), vocabulary.boundary_tokens
    tokens = encoded.astype(np.int64)
    window = max(1, min(window, len(tokens) - 1))
    states = read_states(model, tokens, boundary) if states is None else states
    if positions is None:
        positions = np.arange(count(network, len(vocabulary), len(tokens), window))
    nats = short_texts.character_nats(model, vocabulary, encoded)[positions]
    values = gradients.input_norms(network, states, boundary, tokens, positions, window, progress)
    return Saliency(text, positions, values, nats)


def count(network: CharRNN, vocabulary_size: int, characters: int, window: int = WINDOW) -> int:
    """Return how many of a text's characters the budget allows: two operations a product forwards, four backwards."""
    affordable = int(BUDGET / (6.0 * window * products(network.config, vocabulary_size)))
    return min(characters, max(_FEWEST, affordable))
