"""A text as tokens in three splits. Knows no models, and of files only how to write to one.
Shapes: N characters, D documents, V vocabulary."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from charrnn.config.schema import DataConfig
from charrnn.data import spool
from charrnn.data.duplicates import NOUNS, Repeated
from charrnn.data.splits import BLOCK, SPLITS, SplitName, SplitPlan, plan_split
from charrnn.data.spool import Codes, TextSpool
from charrnn.data.vocabulary import Counts, Vocabulary, add_counts, empty_counts
from charrnn.errors import CharRNNError
from charrnn.messages import counted, silent

MIN_CHARACTERS = 100
_MANY_UNKNOWN = 0.05  # of the training split
_CUT_ANYWHERE = "Set data.documents=none, which cuts anywhere."
Tokens = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Split:
    """One split of a corpus: its tokens (N), where its documents start (D, in characters), and the code points of its
    unknown characters, in order. The arrays may be mapped from a file."""

    tokens: Tokens
    starts: npt.NDArray[np.int64]
    unknown: npt.NDArray[np.uint32]
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def text(self) -> str:
        """The text of the split."""
        return "".join(self._pieces())

    def first(self, characters: int) -> str:
        """Return its first characters."""
        tokens = self.tokens[:characters]
        return self.vocabulary.decode(tokens, self.unknown[: int((tokens == self.vocabulary.escape).sum())])

    def last(self, characters: int) -> str:
        """Return its last characters."""
        tokens = self.tokens[max(0, len(self) - characters) :]
        escaped = int((tokens == self.vocabulary.escape).sum())
        return self.vocabulary.decode(tokens, self.unknown[len(self.unknown) - escaped :])

    @property
    def codes(self) -> Codes:
        """The code points of the split (N) in memory, of the smallest type that holds all of them."""
        largest = max(ord(max(self.vocabulary.characters)), int(self.unknown.max(initial=0)))
        codes = np.empty(len(self), dtype=np.min_scalar_type(largest))
        first = 0
        for piece in self._pieces():
            codes[first : first + len(piece)] = np.frombuffer(piece.encode("utf-32-le"), dtype="<u4")
            first += len(piece)
        return codes

    @property
    def frequencies(self) -> npt.NDArray[np.float64]:
        """The share of each character of the vocabulary (V), smoothed by half a count so that none is 0."""
        counts: npt.NDArray[np.float64] = np.full(len(self.vocabulary), 0.5)
        for first in range(0, len(self.tokens), BLOCK):
            counts += np.bincount(self.tokens[first : first + BLOCK], minlength=len(counts) + 1)[: len(counts)]
        counts /= counts.sum()
        return counts

    def _pieces(self) -> Iterator[str]:
        read = 0  # unknown characters
        for first in range(0, len(self.tokens), BLOCK):
            tokens = self.tokens[first : first + BLOCK]
            escaped = int((tokens == self.vocabulary.escape).sum())
            yield self.vocabulary.decode(tokens, self.unknown[read : read + escaped])
            read += escaped


@dataclass(frozen=True)
class Corpus:
    """The three splits of a text; the vocabulary is that of the training split, and any inherited characters."""

    training: Split
    validation: Split
    test: Split
    vocabulary: Vocabulary
    shuffled: bool

    def split(self, name: SplitName) -> Split:
        """Return one of the three splits by name."""
        return {"training": self.training, "validation": self.validation, "test": self.test}[name]


@dataclass(frozen=True)
class Layout:
    """The layout of a store: `starts` (int64) of each split, then `unknown` (uint32), then the tokens."""

    documents: tuple[int, ...]  # of each split
    unknown: tuple[int, ...]
    characters: tuple[int, ...]
    dtype: np.dtype[np.unsignedinteger]  # of tokens

    def fields(self) -> Iterator[tuple[str, np.dtype[np.generic], int, int]]:
        """Yield the name, type, first byte and length of each array of the store, in order."""
        offset = 0
        for name, dtype, lengths in (
            ("starts", np.dtype("<i8"), self.documents),
            ("unknown", np.dtype("<u4"), self.unknown),
            ("tokens", self.dtype.newbyteorder("<"), self.characters),
        ):
            for split, length in zip(SPLITS, lengths, strict=True):
                yield f"{split}/{name}", dtype, offset, length
                offset += length * dtype.itemsize

    @property
    def size(self) -> int:
        """The bytes of the store."""
        *_, (_, dtype, offset, length) = self.fields()
        return offset + length * dtype.itemsize


@dataclass(frozen=True)
class SplitText:
    """A text with its splits and vocabulary, ready to be encoded.

    `characters_read` excludes what was appended to end the last document.
    """

    source: TextSpool
    plan: SplitPlan
    vocabulary: Vocabulary
    layout: Layout
    shuffled: bool
    characters_read: int

    def write(self, file: BinaryIO | mmap.mmap) -> dict[str, int]:
        """Write the store to a file at its current position, in one pass over the text. Return each array's CRC-32."""
        base = file.tell()
        positions = {name: base + offset for name, _, offset, _ in self.layout.fields()}
        checksums = dict.fromkeys(positions, 0)

        def put(name: str, array: npt.NDArray[np.generic]) -> None:
            file.seek(positions[name])
            raw = array.tobytes()
            file.write(raw)
            checksums[name] = zlib.crc32(raw, checksums[name])
            positions[name] += len(raw)

        for split, name in enumerate(SPLITS):
            for starts in self.plan.starts(split):
                put(f"{name}/starts", starts.astype("<i8", copy=False))
        dtype = self.layout.dtype.newbyteorder("<")
        for split, codes in self.plan.split_text(self.source):
            tokens = self.vocabulary.encode_codes(codes)
            put(f"{SPLITS[split]}/tokens", tokens.astype(dtype, copy=False))
            if self.layout.unknown[split]:
                put(f"{SPLITS[split]}/unknown", codes[tokens == self.vocabulary.escape].astype("<u4"))
        return checksums

    def in_memory(self) -> Corpus:
        """Return the corpus, encoded in memory."""
        memory = mmap.mmap(-1, self.layout.size)
        self.write(memory)
        return view(np.frombuffer(memory, dtype=np.uint8), self.layout, self.vocabulary, self.shuffled)


def view(store: npt.NDArray[np.uint8], layout: Layout, vocabulary: Vocabulary, shuffled: bool) -> Corpus:
    """Return the corpus in the bytes of a store, without copying them."""
    arrays = {
        name: store[offset : offset + length * dtype.itemsize].view(dtype)
        for name, dtype, offset, length in layout.fields()
    }
    training, validation, test = (
        Split(arrays[f"{name}/tokens"], arrays[f"{name}/starts"], arrays[f"{name}/unknown"], vocabulary)
        for name in SPLITS
    )
    return Corpus(training, validation, test, vocabulary, shuffled)


def read(data: DataConfig, seed: int, name: str) -> tuple[Corpus, str]:
    """Read the configured texts into memory. Return the corpus and the SHA-256 of the text."""
    with spool.read(data, name, silent) as source:
        return build(source, data, seed, name).in_memory(), source.digest


def build(
    source: TextSpool,
    data: DataConfig,
    seed: int,
    name: str,
    *,
    vocabulary: Vocabulary | None = None,
    inherited: str = "",
) -> SplitText:
    """Split a text and collect its vocabulary, with the `inherited` characters, unless a `vocabulary` is given.

    `name` stands for the text in messages. Raises CharRNNError for a text that is too short or a single character.
    """
    length = source.length
    if length < MIN_CHARACTERS:
        raise CharRNNError(f"{name} has {counted(length, 'character')}; training needs at least {MIN_CHARACTERS}.")
    only = next(source.pieces(0, 1))
    if all((codes == ord(only)).all() for codes in source.chunks()):
        raise CharRNNError(f"{name} is one character over and over ({only!r}); there is nothing to learn.")
    boundary = data.boundary if vocabulary is None else vocabulary.boundary
    plan = plan_split(source, data, boundary, seed)
    counts = [empty_counts() for _ in SPLITS]
    for split, codes in plan.split_text(source):
        add_counts(codes, counts[split])
    training, validation, test = (int(each.sum()) for each in counts)
    if data.documents == "separator" and len(plan.splits) == 1:
        example = "In double quotes \\n is a newline: -s 'data.separator=" + '"\\n%\\n"' + "'"
        raise CharRNNError(f"{name}: data.separator {data.separator!r} does not separate anything in it. {example}")
    if (not validation or training < 10) and data.documents != "none":
        raise CharRNNError(f"{name}: {_longest(plan, data)}. {_CUT_ANYWHERE}")
    if not training or not validation:
        raise CharRNNError(
            f"{name}: data.split {list(data.split)} leaves the {'validation' if training else 'training'} split"
            " empty. Give it a larger share."
        )
    if training < 10:
        raise CharRNNError(
            f"{name}: data.split {list(data.split)} leaves {counted(training, 'character')} to train on."
            " Give the training split a larger share."
        )
    if vocabulary is None:
        vocabulary = Vocabulary.from_counts(counts[0], data.min_count, inherited, boundary)
        _check_vocabulary(vocabulary, counts[0], data, name)
    unknown = vocabulary.encode_codes(np.arange(len(counts[0]), dtype=np.uint32)) == vocabulary.escape
    layout = Layout(
        tuple(int((plan.splits == split).sum()) for split in range(len(SPLITS))),
        tuple(int(each[unknown].sum()) for each in counts),
        (training, validation, test),
        np.dtype(vocabulary.dtype),
    )
    return SplitText(source, plan, vocabulary, layout, data.documents != "none", length)


def _check_vocabulary(vocabulary: Vocabulary, counts: Counts, data: DataConfig, name: str) -> None:
    """Raise CharRNNError if no character of the training split but those of its boundaries is known."""
    ends = {"\n", *vocabulary.boundary}
    if not set(vocabulary.characters[: len(vocabulary) - vocabulary.unseen]) <= ends:
        return
    most = int(np.delete(counts, [ord(character) for character in ends]).max())
    if not most:
        what = "newlines" if ends == {"\n"} else "ends of documents"
        raise CharRNNError(f"{name}: the training split is nothing but {what}; there is nothing to learn.")
    raise CharRNNError(
        f"{name}: data.min_count={data.min_count} leaves no character to learn: the most frequent occurs {most:,}"
        f" time{'s' * (most > 1)} in the training split. Set a smaller one; 1 keeps all."
    )


def warnings(text: SplitText, data: DataConfig) -> Iterator[str]:
    """Yield what is to be known of a new text before training: what may spoil its splits or its vocabulary."""
    training, total = text.layout.characters[0], sum(text.layout.characters)
    if text.shuffled and training < total * data.split[0] / 2:
        left = f"Only {training / total:.0%} of the text is left to train on"
        yield f"{left}: {_longest(text.plan, data)}. {_CUT_ANYWHERE}"
    unknown = text.layout.unknown[0] / training
    if unknown > _MANY_UNKNOWN:
        yield (
            f"data.min_count={data.min_count} leaves {unknown:.0%} of the training characters out of the vocabulary;"
            " they are never generated."
        )


def _longest(plan: SplitPlan, data: DataConfig) -> str:
    """Say how long the longest document is."""
    lengths, noun = np.diff(plan.bounds), NOUNS[data.documents]
    longest = int(lengths.argmax())
    share = float(lengths[longest]) / float(plan.bounds[-1])
    found = f"{noun} {longest + 1:,} of {len(lengths):,} is {share:.0%} of the text"
    found = found if len(lengths) > 1 else f"the text is a single {noun}"
    return f"data.documents={data.documents} keeps each {noun} whole, and {found}"


@dataclass(frozen=True)
class CorpusCard:
    """The identity of a training text: the SHA-256 of its UTF-8, and the characters of each split.

    `repeated` counts documents of held-out splits that also stand in the training split; None where there are no
    documents, and in files of earlier versions.
    """

    name: str
    sha256: str
    training: int
    validation: int
    test: int
    repeated: dict[str, Repeated] | None = field(default=None, kw_only=True)

    @property
    def characters(self) -> int:
        """The characters of all splits together."""
        return self.training + self.validation + self.test
