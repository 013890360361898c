"""The n-gram model of a run's training text, counted once and kept beside the run for later evaluations.
The file is an n-gram model like any other. It is used only if it names the same text, settings and vocabulary, and its
tables are those that were written: other counts would be other scores, and nobody would look there for the reason."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from charrnn.checkpoints import inference, model_file, safetensors_file
from charrnn.checkpoints.model_file import Header
from charrnn.checkpoints.run_dir import LOCK
from charrnn.config.schema import Config
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError
from charrnn.models.ngram import Integers, Ngram

FILE = "baselines.safetensors"
_DIGEST = "tables_sha256"  # in the record of the file
MAX_BYTES = 1 << 26  # larger ones are counted again: that takes seconds, and nobody asked for so large a file


def load(path: Path, header: Header, vocabulary: Vocabulary, order: int | None) -> Ngram | None:
    """Read the n-gram model kept beside a model file, or that file itself if it is one of this order.

    Return None if there is none, if it is damaged, or was counted on another text.
    """
    cache = path.parent / FILE
    files = [cache]
    if header.config.model.counted and header.config.model.order == order:
        files.append(path)
    for file in files:
        with contextlib.suppress(CharRNNError):
            kept = model_file.read_header(file)
            if _identity(kept) == _identity(header) and kept.vocabulary == vocabulary:
                model, _ = inference.load(file)
                if not isinstance(model, Ngram) or order not in (None, model.order):
                    continue
                if file != cache or _digest(model.tables()) == safetensors_file.read(file).content.get(_DIGEST):
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
        kept = Header(config, vocabulary, header.corpus)
        model_file.write_tables(path.parent / FILE, kept, tables, {_DIGEST: _digest(tables)})


def _digest(tables: Mapping[str, Integers]) -> str:
    """Return the SHA-256 of tables, with their names, types and sizes."""
    sha = hashlib.sha256()
    for name, table in sorted(tables.items()):
        sha.update(f"{name} {table.dtype.str} {table.shape}\n".encode())
        sha.update(np.ascontiguousarray(table).data)
    return sha.hexdigest()


def _identity(header: Header) -> object:
    """Return what the training split depends on; its texts may have moved since."""
    return header.config.data.model_dump(exclude={"texts"}), header.config.train.seed, header.corpus
