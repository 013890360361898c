"""What a file holds of a mixture beside its network: the tables of counts and the weights. Needs no torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from charrnn.checkpoints.safetensors_file import NGRAM, TYPES, Contents, damaged, garbled
from charrnn.models import ngram
from charrnn.models.ngram_mixture import Weights


def check(contents: Contents) -> None:
    """Raise CharRNNError where the header names a mixture and there are no tables of its size, or the other way
    round."""
    mixture = contents.content.get("mixture")
    if mixture is None and contents.tables:
        raise damaged(contents.path, "it holds the counts of a mixture, and its header names none")
    if mixture is not None and not ngram.fits(mixture["order"], contents.tables):
        raise damaged(contents.path, "its header promises other counts than it holds")


def size(contents: Contents) -> tuple[int, int]:
    """Return how many counts the n-gram model has, and the bytes of its tables."""
    kinds = {name: kind for name, (kind, _) in contents.locations.items()}
    shapes = {name: math.prod(shape) for name, shape in contents.shapes.items() if name.startswith(NGRAM)}
    counts = sum(length for name, length in shapes.items() if name.endswith("/counts"))
    return counts, sum(length * TYPES[kinds[name]].itemsize for name, length in shapes.items())


def read(contents: Contents) -> tuple[ngram.Ngram, Weights]:
    """Build the n-gram model of a file that was read with its `tables`, and the weights. Raises CharRNNError."""
    mixture: dict[str, Any] = contents.content["mixture"]
    tables = {name: contents.arrays[NGRAM + name] for name in contents.tables}
    try:
        counted = ngram.from_tables(tables, mixture["order"], len(contents.vocabulary()))
    except ValueError as error:
        raise garbled(contents.path, ValueError(f"{NGRAM}{error}")) from error
    return counted, Weights(np.array(mixture["weights"], dtype=np.float64))
