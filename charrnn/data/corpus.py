"""A text as tokens in three parts. Knows nothing of models, and of files only how to write to one.
Shapes: N characters, D documents, V vocabulary."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt

from charrnn.config.schema import DataConfig
from charrnn.data.splits import _BLOCK, SPLITS, SplitName, SplitPlan, split
from charrnn.data.spool import Codes, TextSpool
from charrnn.data.vocabulary import Counts, Vocabulary, count, empty_counts
from charrnn.errors import CharRNNError

MINIMUM = 100  # characters in all
Tokens = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Split:
    """Hold one part of a corpus: its tokens (N), where its documents begin (D, offsets in characters), and the code
    points of its unknown characters, in order. The arrays may lie in a file."""

    tokens: Tokens
    starts: npt.NDArray[np.int64]
    unknown: npt.NDArray[np.uint32]
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def text(self) -> str:
        """Give the part's text."""
        return "".join(self._pieces())

    @property
    def codes(self) -> Codes:
        """Give the part's code points (N), each in as few bytes as the largest needs, in memory."""
        largest = max(ord(max(self.vocabulary.characters)), int(self.unknown.max(initial=0)))
        codes = np.empty(len(self), dtype=np.min_scalar_type(largest))
        first = 0
        for piece in self._pieces():
            codes[first : first + len(piece)] = np.frombuffer(piece.encode("utf-32-le"), dtype="<u4")
            first += len(piece)
        return codes

    @property
    def frequencies(self) -> npt.NDArray[np.float64]:
        """Give each known character's share of the part (V), as if it came half a time more, so that none is 0."""
        counts: npt.NDArray[np.float64] = np.full(len(self.vocabulary), 0.5)
        for first in range(0, len(self.tokens), _BLOCK):
            counts += np.bincount(self.tokens[first : first + _BLOCK], minlength=len(counts) + 1)[: len(counts)]
        counts /= counts.sum()
        return counts

    def _pieces(self) -> Iterator[str]:
        known = 0
        for first in range(0, len(self.tokens), _BLOCK):
            tokens = self.tokens[first : first + _BLOCK]
            escaped = int((tokens == self.vocabulary.escape).sum())
            yield self.vocabulary.decode(tokens, self.unknown[known : known + escaped])
            known += escaped


@dataclass(frozen=True)
class Corpus:
    """Hold a text's three parts; the vocabulary is the training part's, and what was known before."""

    training: Split
    validation: Split
    test: Split
    vocabulary: Vocabulary
    shuffled: bool

    def part(self, name: SplitName) -> Split:
        """Give one of the three parts by name."""
        return {"training": self.training, "validation": self.validation, "test": self.test}[name]


@dataclass(frozen=True)
class Layout:
    """Say how much a store holds of each part; in it lie `starts` (int64), `unknown` (uint32) and tokens, in that order
    and each of the training, the validation and the test part."""

    documents: tuple[int, ...]
    unknown: tuple[int, ...]
    characters: tuple[int, ...]
    dtype: np.dtype[np.unsignedinteger]  # of tokens

    def fields(self) -> Iterator[tuple[str, np.dtype[np.generic], int, int]]:
        """Give the name, type, first byte and length of each array, as they lie one after another."""
        place = 0
        for name, dtype, lengths in (
            ("starts", np.dtype("<i8"), self.documents),
            ("unknown", np.dtype("<u4"), self.unknown),
            ("tokens", self.dtype.newbyteorder("<"), self.characters),
        ):
            for part, length in zip(SPLITS, lengths, strict=True):
                yield f"{part}/{name}", dtype, place, length
                place += length * dtype.itemsize

    @property
    def size(self) -> int:
        """Give the bytes that a store takes."""
        *_, (_, dtype, place, length) = self.fields()
        return place + length * dtype.itemsize


@dataclass(frozen=True)
class SplitText:
    """Hold a text that is dealt to its parts and whose vocabulary is known, ready to be encoded.

    `read` counts its characters without the newlines that were added to its last document.
    """

    source: TextSpool
    deal: SplitPlan
    vocabulary: Vocabulary
    layout: Layout
    shuffled: bool
    read: int

    def write(self, file: BinaryIO | mmap.mmap) -> dict[str, int]:
        """Write the store to a file, from where it stands, in one walk through the text; gives each array's CRC-32."""
        base = file.tell()
        places = {name: base + place for name, _, place, _ in self.layout.fields()}
        checksums = dict.fromkeys(places, 0)

        def put(name: str, array: npt.NDArray[np.generic]) -> None:
            file.seek(places[name])
            raw = array.tobytes()
            file.write(raw)
            checksums[name] = zlib.crc32(raw, checksums[name])
            places[name] += len(raw)

        for part, name in enumerate(SPLITS):
            for starts in self.deal.starts(part):
                put(f"{name}/starts", starts.astype("<i8", copy=False))
        token = self.layout.dtype.newbyteorder("<")
        for part, codes in self.deal.split_text(self.source):
            tokens = self.vocabulary.tokens(codes)
            put(f"{SPLITS[part]}/tokens", tokens.astype(token, copy=False))
            if self.layout.unknown[part]:
                put(f"{SPLITS[part]}/unknown", codes[tokens == self.vocabulary.escape].astype("<u4"))
        return checksums

    def in_memory(self) -> Corpus:
        """Encode the text into memory."""
        memory = mmap.mmap(-1, self.layout.size)
        self.write(memory)
        return view(np.frombuffer(memory, dtype=np.uint8), self.layout, self.vocabulary, self.shuffled)


def view(store: npt.NDArray[np.uint8], layout: Layout, vocabulary: Vocabulary, shuffled: bool) -> Corpus:
    """See a corpus in the bytes of a store, wherever they lie; nothing is copied."""
    arrays = {
        name: store[place : place + length * dtype.itemsize].view(dtype)
        for name, dtype, place, length in layout.fields()
    }
    training, validation, test = (
        Split(arrays[f"{part}/tokens"], arrays[f"{part}/starts"], arrays[f"{part}/unknown"], vocabulary)
        for part in SPLITS
    )
    return Corpus(training, validation, test, vocabulary, shuffled)


def read(data: DataConfig, seed: int, name: str) -> tuple[Corpus, str]:
    """Read the texts that a configuration names into memory; gives the corpus and the text's SHA-256."""
    with TextSpool.read(data.texts, data.encoding) as source:
        return build(source, data, seed, name).in_memory(), source.digest


def build(
    source: TextSpool, data: DataConfig, seed: int, name: str, *, vocabulary: Vocabulary | None = None, known: str = ""
) -> SplitText:
    """Split a text and collect its vocabulary, with all characters `known` from before; one that was collected
    already, the model's own, is taken as it is. Raises CharRNNError for a text too short or too plain."""
    length = source.length
    if length < MINIMUM:
        raise CharRNNError(f"{name} has {length} characters; training needs at least {MINIMUM}.")
    only = next(source.pieces(0, 1))
    if all((codes == ord(only)).all() for codes in source.chunks()):
        raise CharRNNError(f"{name} is one character over and over ({only!r}); there is nothing to learn.")
    deal = split(source, data, seed)
    counts = _counts(source, deal)
    training, validation, test = (int(each.sum()) for each in counts)
    if not training or not validation:
        raise CharRNNError(
            f"{name}: data.split {list(data.split)} leaves the {'validation' if training else 'training'} part"
            " without a character. Give it a larger share, or set data.documents=none."
        )
    if training < 10:
        raise CharRNNError(
            f"{name}: data.split {list(data.split)} leaves {training} characters to learn."
            " Give the training part a larger share."
        )
    if vocabulary is None:
        vocabulary = Vocabulary.counted(counts[0], data.min_count, known)
    unknown = vocabulary.tokens(np.arange(len(counts[0]), dtype=np.uint32)) == vocabulary.escape
    layout = Layout(
        tuple(int((deal.owners == part).sum()) for part in range(len(SPLITS))),
        tuple(int(each[unknown].sum()) for each in counts),
        (training, validation, test),
        np.dtype(vocabulary.dtype),
    )
    return SplitText(source, deal, vocabulary, layout, data.documents != "none", length)


def _counts(source: TextSpool, deal: SplitPlan) -> list[Counts]:
    counts = [empty_counts() for _ in SPLITS]
    for part, codes in deal.split_text(source):
        count(codes, counts[part])
    return counts


@dataclass(frozen=True)
class CorpusCard:
    """Say what a model learnt from: `sha256` is of the text as UTF-8, counts are characters."""

    name: str
    sha256: str
    training: NonNegativeInt
    validation: NonNegativeInt
    test: NonNegativeInt

    @property
    def characters(self) -> int:
        """Count the characters of the whole text."""
        return self.training + self.validation + self.test
