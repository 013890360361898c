"""A long text's tokens in a file: written once, in bounded memory, and mapped into memory ever after.
The file is of the safetensors format; it is trusted only where it says that it is of this very text and settings, and
where its bytes are those that were written."""

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

from charrnn.atomic_files import writing
from charrnn.config.schema import DataConfig
from charrnn.data import corpus
from charrnn.data.corpus import Corpus, CorpusCard, Layout, SplitText
from charrnn.data.splits import SPLITS
from charrnn.data.spool import no_room
from charrnn.data.text_files import Stamp, stamp
from charrnn.data.vocabulary import Vocabulary

FORMAT = 1
LONG = 1 << 26  # bytes of tokens from which on they are kept in a file
_NAMES = {"<i8": "I64", "<u4": "U32", "<u2": "U16", "|u1": "U8"}
_LONGEST_HEADER = 100_000_000
_BLOCK = 1 << 20  # bytes checked at a time


def keep(split_text: SplitText, data: DataConfig, seed: int, stamps: Sequence[Stamp | None], path: Path) -> Corpus:
    """Encode a text, a long one into a file, a short one into memory; `stamps` are its files' before they were read.

    Raises CharRNNError when the disk is full.
    """
    if split_text.layout.size < LONG:
        return split_text.in_memory()
    about = _about(split_text.source.digest, data, seed, _from(path.parent, stamps), split_text.vocabulary)
    header = _header(split_text.layout, about, {})
    with writing(path, len(header) + split_text.layout.size) as file:
        file.write(header)
        checksums = split_text.write(file)
        file.seek(0)  # its length is the same, whatever the sums are
        file.write(_header(split_text.layout, about, checksums))
    return _mapped(path, len(header), split_text.layout, split_text.vocabulary, split_text.shuffled)


def hold(split_text: SplitText) -> Corpus:
    """Encode a text: a long one into a file without a name, which is gone with the process, a short one into memory."""
    if split_text.layout.size < LONG:
        return split_text.in_memory()
    try:
        with tempfile.TemporaryFile() as file:
            split_text.write(file)
            file.flush()
            return _mapped(file, 0, split_text.layout, split_text.vocabulary, split_text.shuffled)
    except OSError as error:
        raise no_room(None, error) from error


def find(path: Path, data: DataConfig, seed: int, card: CorpusCard, vocabulary: Vocabulary) -> Corpus | None:
    """Map a file that `keep` made; give None if it is not whole and sound, not of the text of `card` parted as `data`
    says, or if the text's files have been touched since."""
    stamps = [stamp(name) for name in data.texts]
    characters = (card.training, card.validation, card.test)
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0]
            raw = start + file.read(min(length, _LONGEST_HEADER))
            tree = json.loads(raw[8:])
            documents, unknown = (
                tuple(int(tree[f"{part}/{name}"]["shape"][0]) for part in SPLITS) for name in ("starts", "unknown")
            )
            layout = Layout(documents, unknown, characters, np.dtype(vocabulary.dtype))
            names = [name for name, *_ in layout.fields()]
            sums = [int(each, 16) for each in tree["__metadata__"]["crc32"].split()]
            checksums = dict(zip(names, sums, strict=True))
            about = _about(card.sha256, data, seed, _from(path.parent, stamps), vocabulary)
            if None in stamps or raw != _header(layout, about, checksums):
                return None
            # before what it says is believed: a disk that failed, or a crash, may have left other bytes in their place
            if os.fstat(file.fileno()).st_size != len(raw) + layout.size or _summed(file, layout) != checksums:
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


def _summed(file: BinaryIO, layout: Layout) -> dict[str, int]:
    """Give the CRC-32 of each array of a store, from where a file stands, in bounded memory."""
    checksums = {}
    for name, dtype, _, length in layout.fields():
        checksum, left = 0, length * dtype.itemsize
        while left and (block := file.read(min(left, _BLOCK))):
            checksum, left = zlib.crc32(block, checksum), left - len(block)
        checksums[name] = checksum
    return checksums


def _from(folder: Path, stamps: Sequence[Stamp | None]) -> list[Stamp | None]:
    """Name files that lie in a run folder by their names there: a run that was moved has the same ones."""
    folder = folder.absolute()
    return [
        (Path(stamp[0]).name, *stamp[1:]) if stamp is not None and Path(stamp[0]).parent == folder else stamp
        for stamp in stamps
    ]


def _about(
    digest: str, data: DataConfig, seed: int, stamps: Sequence[Stamp | None], vocabulary: Vocabulary
) -> dict[str, Any]:
    """Say all that the tokens depend on, and by what to see that the texts are still the same."""
    return {
        "format": FORMAT,
        "sha256": digest,
        "files": stamps,
        "data": data.model_dump(mode="json", exclude={"texts"}),
        "seed": seed,
        "vocabulary": {
            "characters": vocabulary.characters,
            "seen": vocabulary.seen,
            "novel": vocabulary.novel,
        },
    }


def _header(layout: Layout, about: dict[str, Any], checksums: Mapping[str, int]) -> bytes:
    """Say what lies where; of the same length whatever the checksums of the arrays are, also where they are not known
    yet."""
    sums = " ".join(f"{checksums.get(name, 0):08x}" for name, *_ in layout.fields())
    tree: dict[str, Any] = {"__metadata__": {"tokens": json.dumps(about, ensure_ascii=False), "crc32": sums}}
    for name, dtype, place, length in layout.fields():
        offsets = [place, place + length * dtype.itemsize]
        tree[name] = {"dtype": _NAMES[dtype.str], "shape": [length], "data_offsets": offsets}
    raw = json.dumps(tree, ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)  # so that the numbers lie where a processor likes them
    return struct.pack("<Q", len(raw)) + raw


def _mapped(file: Path | BinaryIO, place: int, layout: Layout, vocabulary: Vocabulary, shuffled: bool) -> Corpus:
    store = np.memmap(file, dtype=np.uint8, mode="r", offset=place, shape=(layout.size,))
    # a plain array: a memmap's every slice costs more
    return corpus.view(np.asarray(store), layout, vocabulary, shuffled)
