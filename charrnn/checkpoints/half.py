"""Weights in fp16: half the size of a model file, and more than enough precision to generate and score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PureWindowsPath

import numpy as np

from charrnn.checkpoints import mixture_parts, model_file
from charrnn.checkpoints.model_file import Header
from charrnn.checkpoints.safetensors_file import NGRAM
from charrnn.errors import CharRNNError
from charrnn.models.interface import Floats


def rounded(weights: Mapping[str, Floats]) -> dict[str, Floats]:
    """Round weights to the nearest numbers of fp16. Raises CharRNNError for one that is too large."""
    found: dict[str, Floats] = {}
    for name, array in weights.items():
        with np.errstate(over="ignore"):
            found[name] = array.astype(np.float16)
        if not np.isfinite(found[name]).all():
            largest, most = np.abs(array).max(), np.finfo(np.float16).max
            raise CharRNNError(
                f"{name} has a weight of {largest:g}, and fp16 holds at most {most:.0f}. Share the model file as it is."
            )
    return found


def write(source: Path, target: Path, *, network_only: bool = False) -> None:
    """Write a copy of a network's file with weights in fp16, the counts of a mixture as they are, unless
    `network_only`, and neither what only resuming needs nor paths.

    Raises CharRNNError for a model that cannot be read, rounded or written.
    """
    header, contents = model_file.read_arrays(source, tables=not network_only)
    weights = rounded({name: contents.arrays[name] for name in contents.weights})
    tables = None
    if network_only:
        header = model_file.network_alone(header)
    elif header.mixture is not None:
        mixture_parts.read(contents)  # which checks them
        tables = {name: contents.arrays[NGRAM + name] for name in contents.tables}
    model_file.write(target, replace(_portable(header), position=None, half=True), weights, tables)


def _portable(header: Header) -> Header:
    """Return a header with the names of files alone: the folders of a machine are no one else's."""
    texts, base = header.config.data.texts, header.config.train.init_from
    config = header.config.with_values(
        data={"texts": [_name(text) for text in texts]}, train={"init_from": None if base is None else _name(base)}
    )
    return replace(header, config=config, corpus=replace(header.corpus, name=_name(header.corpus.name)))


def _name(path: str) -> str:
    return PureWindowsPath(path).name or path  # of a path of any system
