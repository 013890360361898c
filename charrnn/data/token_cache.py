"""The tokens of a long text in a file: written once, in bounded memory, and memory-mapped from then on.
The file is in safetensors format. It is used only if it names the same text and settings, and its checksums match."""

from __future__ import annotations

import json
import os
import struct
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from charrnn.atomic_files import atomic_writer
from charrnn.config.schema import DataConfig
from charrnn.data import corpus
from charrnn.data.corpus import Corpus, CorpusCard, Layout, SplitText
from charrnn.data.splits import SPLITS
from charrnn.data.spool import cannot_store
from charrnn.data.text_files import Stamp, stamp
from charrnn.data.vocabulary import Vocabulary

FORMAT = 1
MIN_FILE_BYTES = 1 << 26  # a corpus of fewer bytes stays in memory
_NAMES = {"<i8": "I64", "<u4": "U32", "<u2": "U16", "|u1": "U8"}
_LONGEST_HEADER = 100_000_000
_BLOCK = 1 << 20  # bytes summed at a time
# settings that earlier versions did not have: the digest covers what they say
_LATER = {"texts", "glob", "encoding_errors", "max_expansion"}


def write(split_text: SplitText, data: DataConfig, seed: int, stamps: Sequence[Stamp | None], path: Path) -> Corpus:
    """Encode a text, a long one into the file `path`, a short one into memory.

    `stamps` are those of its files before they were read. Raises CharRNNError if the disk is full.
    """
    if split_text.layout.size < MIN_FILE_BYTES:
        return split_text.in_memory()
    identity = _identity(split_text.source.digest, data, seed, _relative(stamps, path.parent), split_text.vocabulary)
    header = _header(split_text.layout, identity, {})
    with atomic_writer(path, len(header) + split_text.layout.size) as file:
        file.write(header)
        checksums = split_text.write(file)
        file.seek(0)  # the header's length does not depend on the checksums
        file.write(_header(split_text.layout, identity, checksums))
    return _mapped(path, len(header), split_text.layout, split_text.vocabulary, split_text.shuffled)


def in_memory_or_temporary(split_text: SplitText) -> Corpus:
    """Encode a text, a long one into an unnamed file that vanishes with the process, a short one into memory."""
    if split_text.layout.size < MIN_FILE_BYTES:
        return split_text.in_memory()
    try:
        with tempfile.TemporaryFile() as file:
            split_text.write(file)
            file.flush()
            return _mapped(file, 0, split_text.layout, split_text.vocabulary, split_text.shuffled)
    except OSError as error:
        raise cannot_store(None, error) from error


def load(path: Path, data: DataConfig, seed: int, card: CorpusCard, vocabulary: Vocabulary) -> Corpus | None:
    """Map a file that `write` made. Return None if there is none, if it is damaged, is not of the text of `card` split
    as `data` says, or if the text's files were modified since."""
    stamps = [stamp(name) for name in data.texts]
    characters = (card.training, card.validation, card.test)
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0]
            raw = start + file.read(min(length, _LONGEST_HEADER))
            tree = json.loads(raw[8:])
            documents, unknown = (
                tuple(int(tree[f"{split}/{name}"]["shape"][0]) for split in SPLITS) for name in ("starts", "unknown")
            )
            layout = Layout(documents, unknown, characters, np.dtype(vocabulary.dtype))
            names = [name for name, *_ in layout.fields()]
            stored = [int(checksum, 16) for checksum in tree["__metadata__"]["crc32"].split()]
            checksums = dict(zip(names, stored, strict=True))
            identity = _identity(card.sha256, data, seed, _relative(stamps, path.parent), vocabulary)
            if None in stamps or raw != _header(layout, identity, checksums):
                return None
            # a failed disk or a crash may have left other bytes
            if os.fstat(file.fileno()).st_size != len(raw) + layout.size or _checksums(file, layout) != checksums:
                return None
            return _mapped(file, len(raw), layout, vocabulary, data.documents != "none")
    except (
        OSError,
        struct.error,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        RecursionError,
    ):
        return None


def _checksums(file: BinaryIO, layout: Layout) -> dict[str, int]:
    """Compute the CRC-32 of each array of a store at a file's current position, in bounded memory."""
    checksums = {}
    for name, dtype, _, length in layout.fields():
        checksum, left = 0, length * dtype.itemsize
        while left and (block := file.read(min(left, _BLOCK))):
            checksum, left = zlib.crc32(block, checksum), left - len(block)
        checksums[name] = checksum
    return checksums


def _relative(stamps: Sequence[Stamp | None], folder: Path) -> list[Stamp | None]:
    """Make the paths in a run folder relative to it, so that the run can be moved."""
    folder = folder.absolute()
    return [
        (Path(stamp[0]).name, *stamp[1:]) if stamp is not None and Path(stamp[0]).parent == folder else stamp
        for stamp in stamps
    ]


def _identity(
    digest: str, data: DataConfig, seed: int, stamps: Sequence[Stamp | None], vocabulary: Vocabulary
) -> dict[str, Any]:
    """Return all that the tokens depend on, and the stamps that show whether the texts have changed."""
    return {
        "format": FORMAT,
        "sha256": digest,
        "files": stamps,
        "data": data.model_dump(mode="json", exclude=_LATER | ({"separator"} if data.separator is None else set())),
        "seed": seed,
        "vocabulary": {
            "characters": vocabulary.characters,
            "seen": vocabulary.seen,
            "novel": vocabulary.novel,
        },
    }


def _header(layout: Layout, identity: dict[str, Any], checksums: Mapping[str, int]) -> bytes:
    """Return the safetensors header. Its length does not depend on the checksums, which may still be missing."""
    sums = " ".join(f"{checksums.get(name, 0):08x}" for name, *_ in layout.fields())
    tree: dict[str, Any] = {"__metadata__": {"tokens": json.dumps(identity, ensure_ascii=False), "crc32": sums}}
    for name, dtype, offset, length in layout.fields():
        offsets = [offset, offset + length * dtype.itemsize]
        tree[name] = {"dtype": _NAMES[dtype.str], "shape": [length], "data_offsets": offsets}
    raw = json.dumps(tree, ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)  # aligns the arrays
    return struct.pack("<Q", len(raw)) + raw


def _mapped(file: Path | BinaryIO, offset: int, layout: Layout, vocabulary: Vocabulary, shuffled: bool) -> Corpus:
    store = np.memmap(file, dtype=np.uint8, mode="r", offset=offset, shape=(layout.size,))
    # a plain array: slicing a memmap is slower
    return corpus.view(np.asarray(store), layout, vocabulary, shuffled)
