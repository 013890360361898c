"""Negative log-likelihoods of characters under a model's logits, in NumPy and in nats.
The escape's probability is the vocabulary's; the softmax divides the rest among the characters.
Shapes: V vocabulary."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError

_NUMBERS = 1 << 18  # logits at a time: as many as fit into a cache


class Likeliest(NamedTuple):
    """The K likeliest characters at each of N positions, the likeliest first: their `tokens` (N, K) and
    `probabilities` (N, K)."""

    tokens: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]

    def named(self, vocabulary: Vocabulary) -> list[list[tuple[str, float]]]:
        """Return the characters and probabilities of each position."""
        rows = zip(self.tokens.tolist(), self.probabilities.tolist(), strict=True)
        return [[(vocabulary.characters[token], p) for token, p in zip(*row, strict=True)] for row in rows]


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


def likeliest(vocabulary: Vocabulary, logits: npt.NDArray[np.floating[Any]], count: int) -> Likeliest:
    """Find the `count` likeliest characters from logits (N, V), or all V where these are fewer; of equally likely ones
    those with the lower tokens, which are the more frequent."""
    count = min(count, logits.shape[-1])
    last = np.partition(logits, -count, -1)[:, -count, None]  # (N, 1), the least of those that are wanted
    above, equal = logits > last, logits == last
    wanted = above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdims=True)))
    tokens = np.nonzero(wanted)[1].reshape(-1, count)
    order = np.argsort(-np.take_along_axis(logits, tokens, -1), -1, kind="stable")
    tokens = np.take_along_axis(tokens, order, -1)
    below: npt.NDArray[np.float64] = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    odds = np.exp(np.take_along_axis(below, tokens, -1) - vocabulary.known_nats)
    return Likeliest(tokens, odds / np.exp(below).sum(-1, keepdims=True))
