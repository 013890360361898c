"""The n-gram model of a run's training text, counted once and kept beside the run for later evaluations.
The file is an n-gram model like any other. It is used only if it names the same text, settings and vocabulary."""

from __future__ import annotations

import contextlib
from pathlib import Path

from charrnn.checkpoints import inference, model_file
from charrnn.checkpoints.model_file import Header
from charrnn.checkpoints.run_dir import LOCK
from charrnn.config.schema import Config
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError
from charrnn.models.ngram import Ngram

FILE = "baselines.safetensors"
MAX_BYTES = 1 << 26  # larger ones are counted again: that takes seconds, and nobody asked for so large a file


def load(path: Path, header: Header, vocabulary: Vocabulary, order: int | None) -> Ngram | None:
    """Read the n-gram model kept beside a model file, or that file itself if it is one of this order.

    Return None if there is none, if it is damaged, or was counted on another text.
    """
    files = [path.parent / FILE]
    if header.config.model.counted and header.config.model.order == order:
        files.append(path)
    for file in files:
        with contextlib.suppress(CharRNNError):
            kept = model_file.read_header(file)
            if _identity(kept) == _identity(header) and kept.vocabulary == vocabulary:
                model, _ = inference.load(file)
                if isinstance(model, Ngram) and order in (None, model.order):
                    return model
    return None


def save(path: Path, header: Header, vocabulary: Vocabulary, model: Ngram) -> None:
    """Keep an n-gram model beside a model file, if that is in a run folder: elsewhere nobody asked for a file."""
    tables = model.tables()
    if not (path.parent / LOCK).exists() or sum(table.nbytes for table in tables.values()) > MAX_BYTES:
        return
    config = Config.model_validate(
        {
            "model": {"cell": "ngram", "order": model.order},
            "data": header.config.data,
            "train": {"seed": header.config.train.seed},
        }
    )
    with contextlib.suppress(CharRNNError):  # in a read-only folder, it is counted again next time
        model_file.write_tables(path.parent / FILE, Header(config, vocabulary, header.corpus), tables)


def _identity(header: Header) -> object:
    """Return what the training split depends on; its texts may have moved since."""
    return header.config.data.model_dump(exclude={"texts"}), header.config.train.seed, header.corpus
