"""The corpus that several models were trained on, where it is one and the same: then all know the same splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from charrnn.checkpoints import model_file, training_corpus
from charrnn.checkpoints.model_file import Header
from charrnn.data.corpus import Split
from charrnn.data.spool import Codes
from charrnn.errors import CharRNNError
from charrnn.messages import Say, silent


def same_splits(headers: Sequence[Header]) -> bool:
    """Say whether models were trained on the same part of the same text, and held out the same parts of it."""
    return len({_splits(header) for header in headers}) == 1


def validation(paths: Sequence[Path], *, say: Say = silent) -> tuple[Split | None, str]:
    """Read the validation split of several model files, or say why there is none that is held out for all of them."""
    headers = [model_file.read_header(path) for path in paths]
    if not same_splits(headers):
        return None, "the models were trained on different texts or splits"
    try:
        split = training_corpus.find(headers[0], paths[0], "", say=say).validation
    except CharRNNError as error:
        return None, str(error).strip().removesuffix(".")
    return (split, "") if len(split) else (None, "there is no validation split")


def training_codes(paths: Sequence[Path], lost: str, *, say: Say = silent) -> Codes:
    """Return the code points of the training splits of several model files, each once, with a NUL between.

    Raises CharRNNError as `training_corpus.find` does.
    """
    found = {_splits(header): (header, path) for path in paths for header in [model_file.read_header(path)]}
    first, *others = [training_corpus.find(*each, lost, say=say).training.codes for each in found.values()]
    for codes in others:
        first = np.concatenate((first, np.zeros(1, first.dtype), codes))
    return first


def _splits(header: Header) -> tuple[object, ...]:
    corpus, data = header.corpus, header.config.data
    seed = None if data.documents == "none" else header.config.train.seed  # it deals documents to the splits
    documents = data.documents, header.vocabulary.boundary, seed
    return corpus.sha256, corpus.training, corpus.validation, corpus.test, *documents
