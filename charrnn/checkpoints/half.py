"""Weights in fp16: half the size of a model file, and more than enough precision to generate and score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from charrnn.errors import CharRNNError
from charrnn.models.interface import Floats

_LARGEST = float(np.finfo(np.float16).max)  # 65504


def rounded(weights: Mapping[str, Floats]) -> dict[str, Floats]:
    """Round weights to the nearest numbers of fp16. Raises CharRNNError, naming it, for one that is too large."""
    found: dict[str, Floats] = {}
    for name, array in weights.items():
        largest = float(np.abs(array).max(initial=0.0))
        with np.errstate(over="ignore"):
            found[name] = array.astype(np.float16)
        if not np.isfinite(found[name]).all():
            raise CharRNNError(
                f"{name} has a weight of {largest:g}, and fp16 holds up to {_LARGEST:.0f}: keep this model in fp32."
            )
    return found
