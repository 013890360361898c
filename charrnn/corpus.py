"""A text as tokens, dealt to training, validation and test, and read in lanes.
Knows nothing of models or files. Shapes: N characters, B lanes, T steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from charrnn.config import DataConfig
from charrnn.errors import CharRNNError
from charrnn.text import Text
from charrnn.text import read as read_text
from charrnn.vocabulary import Vocabulary

Tokens = npt.NDArray[np.unsignedinteger]
PartName = Literal["training", "validation", "test"]
MINIMUM = 100  # characters in all
_DEALING, _SHUFFLING, _OFFSET, _LOOKAHEAD = 1, 2, 3, 4  # independent random streams of one seed


@dataclass(frozen=True)
class Part:
    """Hold one part of a corpus: its text, and where its documents begin (offsets in characters)."""

    text: str
    starts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Hold a text's three parts; the vocabulary is the training part's."""

    training: Part
    validation: Part
    test: Part
    vocabulary: Vocabulary
    shuffled: bool

    def part(self, name: PartName) -> Part:
        """Give one of the three parts by name."""
        return {"training": self.training, "validation": self.validation, "test": self.test}[name]


def read(data: DataConfig, seed: int, name: str) -> tuple[Corpus, str]:
    """Read the texts that a configuration names; gives the corpus and the text's SHA-256."""
    text = read_text(data.texts, data.encoding)
    return build(text, data, seed, name), text.digest()


def build(text: Text, data: DataConfig, seed: int, name: str) -> Corpus:
    """Split a text and collect its vocabulary. Raises CharRNNError for a text too short or too plain."""
    if len(text.content) < MINIMUM:
        raise CharRNNError(f"{name} has {len(text.content)} characters; training needs at least {MINIMUM}.")
    if len(set(text.content[:MINIMUM])) == 1 and len(set(text.content)) == 1:
        raise CharRNNError(f"{name} is one character over and over ({text.content[0]!r}); there is nothing to learn.")
    training, validation, test = split(text, data, seed)
    if not training.text or not validation.text:
        raise CharRNNError(
            f"{name}: data.split {list(data.split)} leaves the {'validation' if training.text else 'training'} part"
            " without a character. Give it a larger share, or set data.documents=none."
        )
    if len(training.text) < 10:
        raise CharRNNError(
            f"{name}: data.split {list(data.split)} leaves {len(training.text)} characters to learn."
            " Give the training part a larger share."
        )
    vocabulary = Vocabulary.of(training.text, data.min_count)
    return Corpus(training, validation, test, vocabulary, data.documents != "none")


def split(text: Text, data: DataConfig, seed: int) -> tuple[Part, Part, Part]:
    """Deal a text to its three parts: cut in order, or by documents at random, as `data` says."""
    train, validation, test = data.split
    if data.documents == "none":
        length = len(text.content)
        first = int(length * train + 1e-6)
        second = length if test == 0.0 else int(length * (train + validation) + 1e-6)
        pieces = (text.content[:first], text.content[first:second], text.content[second:])
        nowhere = np.zeros(1, dtype=np.int64)
        return Part(pieces[0], nowhere), Part(pieces[1], nowhere), Part(pieces[2], nowhere)

    content, starts = documents(text, data.documents)
    ends = np.append(starts[1:], len(content))
    order = np.random.default_rng([seed, _DEALING]).permutation(len(starts))
    # dealt by number of characters: long documents must not starve a part
    dealt = np.cumsum((ends - starts)[order]) / len(content)
    # 1e-9: a document that ends exactly at a border lies before it, whatever a share's last bit says
    first, second = (int(cut) for cut in np.searchsorted(dealt, np.array([train, train + validation]) + 1e-9, "right"))
    # few and long documents: each part that has a share gets one, where there are enough
    tested = 0 if test == 0.0 else 1 if len(order) > 2 else 0
    first = min(max(first, 1), max(len(order) - 1 - tested, 1))
    second = len(order) if test == 0.0 else min(max(second, first + 1), len(order) - tested)
    groups = (order[:first], order[first:second], order[second:])
    return (
        _gather(content, starts, ends, groups[0]),
        _gather(content, starts, ends, groups[1]),
        _gather(content, starts, ends, groups[2]),
    )


def documents(text: Text, kind: str) -> tuple[str, npt.NDArray[np.int64]]:
    """Find where documents begin; each keeps the newlines that end it.

    The last one may lack them in the file; it gets them, so that shuffling never joins two documents.
    """
    content = text.content
    if kind == "file":
        return content + "\n", np.array(text.starts, dtype=np.int64)
    if kind == "line":
        content = content if content.endswith("\n") else content + "\n"
        ends = [match.end() for match in re.finditer("\n", content)]
    else:
        content += "\n" * max(0, 2 - (len(content) - len(content.rstrip("\n"))))
        ends = [match.end() for match in re.finditer("\n\n+", content)]
    return content, np.array([0, *ends[:-1]], dtype=np.int64)


def _gather(
    content: str,
    starts: Sequence[int] | npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.int64],
) -> Part:
    chosen = np.sort(chosen)
    pieces = [content[starts[i] : ends[i]] for i in chosen]
    lengths = np.array([0, *(len(piece) for piece in pieces)], dtype=np.int64)
    return Part("".join(pieces), np.cumsum(lengths)[:-1] if pieces else np.zeros(0, dtype=np.int64))


class Window(NamedTuple):
    """Hold one window of every lane, as tokens: each target's own place, the one before (`inputs`), and the one after
    (`following`), which goes on beyond the window; None where no lookahead was asked for."""

    inputs: npt.NDArray[np.int64]  # (B, T)
    targets: npt.NDArray[np.int64]  # (B, T)
    following: npt.NDArray[np.int64] | None = None  # (B, T + 0 to lookahead)


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
        if epoch != self._epoch:
            self._begin(epoch)
        first = index * self.lane_length // self.windows
        last = (index + 1) * self.lane_length // self.windows
        lanes = self._offset + self.lane_length * np.arange(self.batch_size)
        places = (lanes[:, None] + np.arange(first, last)[None, :]) % len(self._stream)  # (B, T)
        targets = self._stream[places].astype(np.int64)
        inputs = np.where(places == 0, self.newline, self._stream[places - 1].astype(np.int64))
        if self.lookahead == 0:
            return Window(inputs, targets)
        size, draw = len(self._stream), np.random.default_rng([self.seed, _LOOKAHEAD, epoch, index])
        # in a text so short that the ring would come round to the window, there is less of it
        end = last + min(int(draw.integers(self.lookahead + 1)), max(0, size - 1 - (last - first)))
        later = (lanes[:, None] + np.arange(first, end)[None, :] + 1) % size  # (B, T + lookahead)
        return Window(inputs, targets, np.where(later == 0, self.newline, self._stream[later].astype(np.int64)))

    def _begin(self, epoch: int) -> None:
        self._stream = self.tokens
        if self.shuffled:
            order = np.random.default_rng([self.seed, _SHUFFLING, epoch]).permutation(len(self.starts))
            ends = np.append(self.starts[1:], len(self.tokens))
            self._stream = np.concatenate([self.tokens[self.starts[i] : ends[i]] for i in order])
        self._offset = int(np.random.default_rng([self.seed, _OFFSET, epoch]).integers(len(self.tokens)))
        self._epoch = epoch
