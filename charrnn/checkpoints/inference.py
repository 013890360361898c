"""Loading a model file for inference, with NumPy alone: neither torch nor pydantic is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charrnn.checkpoints import mixture_parts, safetensors_file
from charrnn.data.documents import Documents
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import MisuseError
from charrnn.models import ngram
from charrnn.models.architecture import Architecture
from charrnn.models.ngram_mixture import NgramMixture
from charrnn.models.numpy_model import NumpyHMM, NumpyModel, build

Model = NumpyModel | NumpyHMM | ngram.Ngram


def load(path: Path, *, network_only: bool = False) -> tuple[Model | NgramMixture, Vocabulary]:
    """Read a model and its vocabulary; with `network_only` of a mixture its network alone.

    Raises CharRNNError for a file that is not an intact charrnn model.
    """
    contents = safetensors_file.read(path, arrays=True, tables=not network_only)
    mixture_parts.check(contents)
    model, vocabulary = _model(path, contents), contents.vocabulary()
    if contents.content.get("mixture") is None or network_only:
        return model, vocabulary
    return NgramMixture(model, *mixture_parts.read(contents)), vocabulary


def _model(path: Path, contents: safetensors_file.Contents) -> Model:
    """Build the network of a file, or the n-gram model that it is."""
    settings, vocabulary = contents.content["config"]["model"], contents.vocabulary()
    try:
        if settings["cell"] == "ngram":
            return _ngram(settings.get("order"), contents, vocabulary)
        if settings["cell"] == "hmm":
            return _hmm(path, settings["hidden_size"], contents, len(vocabulary))
        architecture = Architecture.of(settings)
    except (KeyError, ValueError) as error:
        raise safetensors_file.garbled(path, error) from error
    if architecture.num_layers > len(contents.shapes):
        raise safetensors_file.damaged(path, "its header promises other sizes than its tensors have")
    safetensors_file.check_weights(path, architecture.shapes(len(vocabulary)), contents.weights)
    return build(architecture, contents.arrays)


def check_networks(option: str, paths: Sequence[Path]) -> None:
    """Raise MisuseError where an option asks for the network of an n-gram model."""
    for path in paths:
        if safetensors_file.read(path).content["config"]["model"]["cell"] == "ngram":
            raise MisuseError(f"{option}: {path} is an n-gram model, and has no network; leave {option} out.")


def check_counts(option: str, paths: Sequence[Path]) -> None:
    """Raise MisuseError where an option asks for the counts of models, and none of them has any."""
    if not any(safetensors_file.read(path).content.get("mixture") for path in paths):
        named = ", ".join(map(str, paths))
        raise MisuseError(f"{option} draws with counts, and there are none in {named}; leave {option} out.")


def documents(path: Path) -> Documents:
    """Read what the documents of a model are; errors as in `load`."""
    contents = safetensors_file.read(path)
    kind = contents.content["config"].get("data", {}).get("documents", "none")
    return Documents(kind, contents.vocabulary().boundary)


def _ngram(order: Any, contents: safetensors_file.Contents, vocabulary: Vocabulary) -> ngram.Ngram:
    """Build an n-gram model. Raises KeyError or ValueError that names an invalid setting or table."""
    if not ngram.fits(order, contents.shapes):
        raise ValueError("model.order")
    return ngram.from_tables(contents.arrays, order, len(vocabulary))


def _hmm(path: Path, states: int, contents: safetensors_file.Contents, vocabulary_size: int) -> NumpyHMM:
    expected: safetensors_file.Shapes = {"transition": (states, states), "emission": (vocabulary_size, states)}
    safetensors_file.check_weights(path, expected, contents.weights)
    return NumpyHMM(contents.arrays)
