"""Opening a model file to read with, in NumPy alone: neither torch nor pydantic is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charrnn.checkpoints import safetensors_file
from charrnn.data.vocabulary import Vocabulary
from charrnn.models import ngram
from charrnn.models.architecture import Architecture
from charrnn.models.numpy_model import NumpyHMM, NumpyModel, make


def load(path: Path) -> tuple[NumpyModel | NumpyHMM | ngram.Ngram, Vocabulary]:
    """Read a model file. Raises CharRNNError where it is none, damaged, or its header and tensors disagree."""
    contents = safetensors_file.read(path, arrays=True)
    try:
        settings = dict(contents.content["config"])["model"]
        vocabulary = contents.vocabulary()
        cell = settings.get("cell") if isinstance(settings, dict) else None
        if cell == "ngram":
            return _counted(settings.get("order"), contents, vocabulary), vocabulary
        if cell == "hmm":
            return _markov(path, settings.get("hidden_size"), contents, len(vocabulary)), vocabulary
        architecture = Architecture.of(settings)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise safetensors_file.garbled(path, error) from error
    if architecture.num_layers > len(contents.shapes):
        raise safetensors_file.damaged(path, "its header promises other sizes than its tensors have")
    safetensors_file.check_weights(path, architecture.shapes(len(vocabulary)), contents.weights)
    return make(architecture, contents.arrays), vocabulary


def _counted(order: Any, contents: safetensors_file.Contents, vocabulary: Vocabulary) -> ngram.Ngram:
    """Make an n-gram model of a file's tables. Raises KeyError or ValueError naming one that cannot be."""
    if not ngram.fits(order, contents.shapes):
        raise ValueError("model.order")
    return ngram.made(contents.arrays, order, len(vocabulary))


def _markov(path: Path, states: Any, contents: safetensors_file.Contents, vocabulary_size: int) -> NumpyHMM:
    """Make a hidden Markov model of a file's weights. Raises ValueError for a size that cannot be."""
    if type(states) is not int or states < 1:
        raise ValueError("model.hidden_size")
    expected: safetensors_file.Shapes = {"transition": (states, states), "emission": (vocabulary_size, states)}
    safetensors_file.check_weights(path, expected, contents.weights)
    return NumpyHMM(contents.arrays)
