"""A text as tokens, dealt to training, validation and test, and read in lanes.
Knows nothing of models, and of files only how to write to one. Shapes: N characters, D documents, B lanes, T steps."""

from __future__ import annotations

import bisect
import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from charrnn.config import DataConfig
from charrnn.errors import CharRNNError
from charrnn.source import Codes, Source
from charrnn.vocabulary import Counts, Vocabulary, count, no_counts

Tokens = npt.NDArray[np.unsignedinteger]
PartName = Literal["training", "validation", "test"]
PARTS: tuple[PartName, ...] = get_args(PartName)
MINIMUM = 100  # characters in all
_DEALING, _SHUFFLING, _OFFSET, _LOOKAHEAD = 1, 2, 3, 4  # independent random streams of one seed
_BLOCK = 1 << 20  # documents, or characters, at a time


@dataclass(frozen=True)
class Part:
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

    training: Part
    validation: Part
    test: Part
    vocabulary: Vocabulary
    shuffled: bool

    def part(self, name: PartName) -> Part:
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
            for part, length in zip(PARTS, lengths, strict=True):
                yield f"{part}/{name}", dtype, place, length
                place += length * dtype.itemsize

    @property
    def size(self) -> int:
        """Give the bytes that a store takes."""
        *_, (_, dtype, place, length) = self.fields()
        return place + length * dtype.itemsize


@dataclass(frozen=True)
class Deal:
    """Say which part each document belongs to: `owners` (D), 0 to 2, and `bounds` (D+1), where each begins and ends.

    A text that is cut in order is three documents.
    """

    owners: npt.NDArray[np.uint8]
    bounds: npt.NDArray[np.int64]

    def dealt(self, source: Source) -> Iterator[tuple[int, Codes]]:
        """Walk through a text, a chunk at a time; gives whose code points these are."""
        first = 0
        for codes in source.chunks():
            last = first + len(codes)
            begin = int(np.searchsorted(self.bounds, first, "right")) - 1
            end = int(np.searchsorted(self.bounds, last, "left"))
            owners = self.owners[begin:end]
            if (owners == owners[0]).all():
                yield int(owners[0]), codes
            else:
                bounds = np.clip(self.bounds[begin : end + 1], first, last)
                owned = np.repeat(owners, bounds[1:] - bounds[:-1])
                for part in range(len(PARTS)):
                    yield part, codes[owned == part]
            first = last

    def starts(self, part: int) -> Iterator[npt.NDArray[np.int64]]:
        """Give where documents begin in a part, block by block."""
        end = 0
        for first in range(0, len(self.owners), _BLOCK):
            lengths = np.diff(self.bounds[first : first + _BLOCK + 1])[self.owners[first : first + _BLOCK] == part]
            ends = end + np.cumsum(lengths)
            yield ends - lengths
            end = int(ends[-1]) if len(ends) else end


@dataclass(frozen=True)
class Dealt:
    """Hold a text that is dealt to its parts and whose vocabulary is known, ready to be encoded.

    `read` counts its characters without the newlines that were added to its last document.
    """

    source: Source
    deal: Deal
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

        for part, name in enumerate(PARTS):
            for starts in self.deal.starts(part):
                put(f"{name}/starts", starts.astype("<i8", copy=False))
        token = self.layout.dtype.newbyteorder("<")
        for part, codes in self.deal.dealt(self.source):
            tokens = self.vocabulary.tokens(codes)
            put(f"{PARTS[part]}/tokens", tokens.astype(token, copy=False))
            if self.layout.unknown[part]:
                put(f"{PARTS[part]}/unknown", codes[tokens == self.vocabulary.escape].astype("<u4"))
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
        Part(arrays[f"{part}/tokens"], arrays[f"{part}/starts"], arrays[f"{part}/unknown"], vocabulary)
        for part in PARTS
    )
    return Corpus(training, validation, test, vocabulary, shuffled)


def read(data: DataConfig, seed: int, name: str) -> tuple[Corpus, str]:
    """Read the texts that a configuration names into memory; gives the corpus and the text's SHA-256."""
    with Source.read(data.texts, data.encoding) as source:
        return build(source, data, seed, name).in_memory(), source.digest


def build(
    source: Source, data: DataConfig, seed: int, name: str, *, vocabulary: Vocabulary | None = None, known: str = ""
) -> Dealt:
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
        tuple(int((deal.owners == part).sum()) for part in range(len(PARTS))),
        tuple(int(each[unknown].sum()) for each in counts),
        (training, validation, test),
        np.dtype(vocabulary.dtype),
    )
    return Dealt(source, deal, vocabulary, layout, data.documents != "none", length)


def _counts(source: Source, deal: Deal) -> list[Counts]:
    counts = [no_counts() for _ in PARTS]
    for part, codes in deal.dealt(source):
        count(codes, counts[part])
    return counts


def split(source: Source, data: DataConfig, seed: int) -> Deal:
    """Deal a text to its three parts: cut in order, or by documents at random, as `data` says."""
    train, validation, test = data.split
    if data.documents == "none":
        first = int(source.length * train + 1e-6)
        second = source.length if test == 0.0 else int(source.length * (train + validation) + 1e-6)
        return Deal(np.arange(3, dtype=np.uint8), np.array([0, first, second, source.length], dtype=np.int64))

    bounds = documents(source, data.documents)
    order = np.random.default_rng([seed, _DEALING]).permutation(len(bounds) - 1)
    # dealt by number of characters: long documents must not starve a part
    dealt = _ends(bounds[:-1], source.length, order)

    def count_to(share: float) -> int:
        # 1e-9: a document that ends exactly at a border lies before it, whatever a share's last bit says
        return bisect.bisect_right(dealt, share + 1e-9, key=lambda end: float(end) / source.length)

    first, second = count_to(train), count_to(train + validation)
    # few and long documents: each part that has a share gets one, where there are enough
    tested = 0 if test == 0.0 else 1 if len(order) > 2 else 0
    first = min(max(first, 1), max(len(order) - 1 - tested, 1))
    second = len(order) if test == 0.0 else min(max(second, first + 1), len(order) - tested)
    owners = np.full(len(order), 2, dtype=np.uint8)
    owners[order[:first]] = 0
    owners[order[first:second]] = 1
    return Deal(owners, bounds)


def documents(source: Source, kind: str) -> npt.NDArray[np.int64]:
    """Find where documents begin, and where the last one ends (D+1); each keeps the newlines that end it.

    The last one may lack them in the file; it gets them, so that shuffling never joins two documents.
    """
    if kind == "file":
        source.append("\n")
        return np.array([*source.starts, source.length], dtype=np.int64)
    wanted = 1 if kind == "line" else 2
    source.append("\n" * (wanted - (len(source.tail) - len(source.tail.rstrip("\n")))))
    newlines = sum(int(np.count_nonzero(codes == ord("\n"))) for codes in source.chunks())
    bounds, found, first = np.zeros(newlines + 1, dtype=np.int64), 1, 0  # there are no more documents than newlines
    before = np.zeros(2, dtype=bool)  # whether the last two characters were newlines
    for codes in source.chunks():
        newline = np.concatenate((before, codes == ord("\n")))
        begins = newline[1:-1] if kind == "line" else newline[1:-1] & newline[:-2] & ~newline[2:]
        starts = np.flatnonzero(begins)
        bounds[found : found + len(starts)] = starts + first
        found, first, before = found + len(starts), first + len(codes), newline[-2:]
    bounds[found] = source.length
    return bounds[: found + 1]


def _ends(starts: npt.NDArray[np.int64], size: int, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Give where documents end (D) when they are put one after another in another order."""
    ends, end = np.empty(len(order), dtype=np.int64), 0
    for first in range(0, len(order), _BLOCK):
        chosen = order[first : first + _BLOCK]
        block = end + np.cumsum(_end(starts, size, chosen) - starts[chosen])
        ends[first : first + _BLOCK], end = block, int(block[-1])
    return ends


def _end(starts: npt.NDArray[np.int64], size: int, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Give where the chosen documents end in the text: where the next one begins."""
    last = len(starts) - 1
    return np.where(chosen < last, starts[np.minimum(chosen + 1, last)], size)


class Window(NamedTuple):
    """Hold one window of every lane, as tokens: each target's own place, the one before (`inputs`), and the one after
    (`following`), which goes on beyond the window; None where no lookahead was asked for."""

    inputs: npt.NDArray[np.int64]  # (B, T)
    targets: npt.NDArray[np.int64]  # (B, T)
    following: npt.NDArray[np.int64] | None = None  # (B, T + 0 to lookahead)


class Span(NamedTuple):
    """Say which characters of each lane a window has, from `first` to before `last`, and where its lookahead ends."""

    first: int
    last: int
    end: int | None = None  # None where no lookahead was asked for


@dataclass
class Lanes:
    """Read a training part as B contiguous lanes, about T characters a window, in another way each epoch.

    The part is a ring: an epoch begins at an offset of its own, so that lanes and windows are cut elsewhere
    each time, and covers every character once but for fewer than B. Windows share the lane evenly (none is a stub).
    """

    tokens: Tokens
    starts: npt.NDArray[np.int64]
    newline: int
    batch_size: int
    sequence_length: int
    seed: int
    shuffled: bool = False
    lookahead: int = 0  # characters after a window that are shown as well, at most
    _epoch: int = -1

    def __post_init__(self) -> None:
        assert self.batch_size <= len(self.tokens)
        self.lane_length = len(self.tokens) // self.batch_size
        self.windows = -(-self.lane_length // self.sequence_length)

    def window(self, epoch: int, index: int) -> Window:
        """Give one window; a newline stands before the part's first character and after its last.

        How much lookahead it has is drawn for each window, from none to all, so that whoever reads backwards learns
        to begin anywhere, and to speak after few characters as after many.
        """
        first, last, end = self.span(epoch, index)
        lanes, size = self.offset + self.lane_length * np.arange(self.batch_size), len(self.tokens)
        places = (lanes[:, None] + np.arange(first - 1, last)[None, :]) % size  # (B, 1 + T)
        read = self._read(places)
        targets = np.ascontiguousarray(read[:, 1:])
        inputs = np.where(places[:, 1:] == 0, self.newline, read[:, :-1])
        if end is None:
            return Window(inputs, targets)
        later = (lanes[:, None] + np.arange(first, end)[None, :] + 1) % size  # (B, T + lookahead)
        return Window(inputs, targets, np.where(later == 0, self.newline, self._read(later)))

    def span(self, epoch: int, index: int) -> Span:
        """Give where a window lies in each lane, and put the lanes in that epoch's order."""
        if epoch != self._epoch:
            self._begin(epoch)
        first = index * self.lane_length // self.windows
        last = (index + 1) * self.lane_length // self.windows
        if self.lookahead == 0:
            return Span(first, last)
        draw = np.random.default_rng([self.seed, _LOOKAHEAD, epoch, index])
        # in a text so short that the ring would come round to the window, there is less of it
        most = max(0, len(self.tokens) - 1 - (last - first))
        return Span(first, last, last + min(int(draw.integers(self.lookahead + 1)), most))

    def arrangement(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Give where documents end in this epoch's order (D), and how far each lies in the text from there (D)."""
        return self._ends, _end(self.starts, len(self.tokens), self._order) - self._ends

    def _read(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Give the tokens at places of the ring: of the text, or of its documents in this epoch's order."""
        if self.shuffled:
            # looked up and not put together anew: a text may be larger than memory
            document = np.searchsorted(self._ends, places, "right")
            places = places - self._ends[document] + _end(self.starts, len(self.tokens), self._order[document])
        return self.tokens[places].astype(np.int64)

    def _begin(self, epoch: int) -> None:
        if self.shuffled:
            self._order = np.random.default_rng([self.seed, _SHUFFLING, epoch]).permutation(len(self.starts))
            self._ends = _ends(self.starts, len(self.tokens), self._order)
        self.offset = int(np.random.default_rng([self.seed, _OFFSET, epoch]).integers(len(self.tokens)))
        self._epoch = epoch
