"""Negative log-likelihoods of characters under a model's logits, in NumPy and in nats.
The escape's probability is the vocabulary's; the softmax divides the rest among the characters.
Shapes: V vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError

_NUMBERS = 1 << 18  # logits at a time: as many as fit into a cache


def check_finite(values: float | npt.NDArray[np.floating[Any]]) -> None:
    """Raise CharRNNError for predictions that are not finite; weights may be finite, and yet far too large."""
    if not np.isfinite(values).all():
        raise CharRNNError(
            "The predictions of this model are not finite: its weights are damaged, or have grown out of bounds."
            " Name another model, or train it again."
        )


def all_nats(vocabulary: Vocabulary, logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Compute the negative log-likelihood of each character, in nats (..., V), from logits (..., V)."""
    largest = logits.max(-1, keepdims=True)
    check_finite(largest)
    below: npt.NDArray[np.float64] = logits.astype(np.float64) - largest
    return np.asarray(np.log(np.exp(below).sum(-1, keepdims=True)) - below + vocabulary.known_nats)


def target_nats(
    vocabulary: Vocabulary, logits: npt.NDArray[np.floating[Any]], targets: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.float64]:
    """Compute the negative log-likelihood of targets (...), 0 to V, under logits (..., V), in nats (...)."""
    size = len(vocabulary)
    flat, chosen = logits.reshape(-1, size), np.minimum(targets.ravel(), size - 1)
    nats = np.empty(len(flat))
    rows = max(64, _NUMBERS // size)
    for first in range(0, len(flat), rows):
        block = flat[first : first + rows]
        largest = block.max(-1)
        check_finite(largest)
        below = block - largest[:, None]
        target = below[np.arange(len(block)), chosen[first : first + rows]]
        nats[first : first + rows] = np.log(np.exp(below, out=below).sum(-1, dtype=np.float64)) - target
    nats = nats.reshape(targets.shape) + vocabulary.known_nats
    return np.asarray(np.where(targets == vocabulary.escape, vocabulary.escape_nats, nats))
