"""Sampling filters: pure functions from probabilities to probabilities.
Applied in the order temperature, top-k, top-p, min-p. Shapes: (..., V); each row sums to 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from charrnn.errors import ParameterError
from charrnn.models.cells import Probabilities, softmax


def top_k(probabilities: Probabilities, k: int) -> Probabilities:
    """Keep the k largest of (..., V); among ties, the lower index."""
    if k >= probabilities.shape[-1]:
        return probabilities
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    return _only(probabilities, order, np.arange(probabilities.shape[-1]) < k)


def top_p(probabilities: Probabilities, p: float) -> Probabilities:
    """Keep the smallest set of the largest of (..., V) that sums to at least p (Holtzman et al. 2020)."""
    if p >= 1.0:  # off: a probability too small to change the sum may still be drawn
        return probabilities
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, -1)
    before = np.cumsum(ranked, axis=-1) - ranked
    # 1e-12: a sum of tenths that should be 0.9 must not admit one more because of rounding
    return _only(probabilities, order, before <= max(p - 1e-12, 0.0))


def min_p(probabilities: Probabilities, p: float) -> Probabilities:
    """Keep those of (..., V) that are at least p times the largest (Nguyen et al. 2024)."""
    kept = np.where(probabilities >= p * probabilities.max(-1, keepdims=True), probabilities, 0.0)
    return np.asarray(kept / kept.sum(-1, keepdims=True))


def _only(
    probabilities: Probabilities, order: npt.NDArray[np.intp], kept_ranks: npt.NDArray[np.bool_]
) -> Probabilities:
    mask = np.zeros(probabilities.shape, dtype=bool)
    np.put_along_axis(mask, order, np.broadcast_to(kept_ranks, order.shape), -1)
    kept = np.where(mask, probabilities, 0.0)
    return np.asarray(kept / kept.sum(-1, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Sampling settings; None is off. Raises ParameterError for a value out of range."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    greedy: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < float("inf"):
            rule = "it must be above 0. For the likeliest character use {}."
            rule = "it must be finite." if self.temperature == float("inf") else rule
            raise ParameterError(f"{{}} is {self.temperature:g}; {rule}", "temperature", "greedy")
        if self.top_k is not None and self.top_k < 1:
            rule = "it must be at least 1. Leave it out to choose from all."
            raise ParameterError(f"{{}} is {self.top_k}; {rule}", "top_k")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ParameterError(f"{{}} is {self.top_p:g}; it must be above 0 and at most 1.", "top_p")
        if self.min_p is not None and not 0.0 <= self.min_p <= 1.0:
            raise ParameterError(f"{{}} is {self.min_p:g}; it must lie between 0 and 1.", "min_p")

    def __call__(self, logits: Probabilities) -> Probabilities:
        """Return the probabilities (..., V) to draw from, given logits (..., V)."""
        if self.greedy:
            best = logits.argmax(-1)
            return np.asarray(np.arange(logits.shape[-1]) == best[..., None], dtype=np.float64)
        probabilities = softmax(logits, self.temperature)
        if self.top_k is not None:
            probabilities = top_k(probabilities, self.top_k)
        if self.top_p is not None:
            probabilities = top_p(probabilities, self.top_p)
        if self.min_p is not None:
            probabilities = min_p(probabilities, self.min_p)
        return probabilities
