"""The characters of a model, and the probability of all others.
One character is always one token: the V characters are tokens 0 to V-1, every other one is token V, the escape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

SCALARS = 0x110000 - 0x800  # all Unicode code points except surrogates
_Tokens = npt.NDArray[np.unsignedinteger]
Counts = npt.NDArray[np.int64]  # by code point
_CHUNK = 1 << 22
_BLOCK = 1 << 16  # characters looked up at a time, to stay in a CPU's cache
_PAIRED = 1 << 18  # characters from which on counting in pairs is faster


@dataclass(frozen=True)
class Vocabulary:
    """Map characters to tokens and back.

    `characters` are the V known ones, most frequent first. `seen` is N, the characters of the training split, and
    `novel` how many of them occur once or are left out (the Good-Turing count). The last `unseen` characters do not
    occur in the training split: they are inherited from the model that training started from. The `boundary` ends
    each document; models read it before a text, to predict the first character from.
    """

    characters: str
    seen: int
    novel: int
    unseen: int = 0
    boundary: str = "\n"
    _table: _Tokens = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        codes = _codes(self.characters)
        # one entry per code point up to the highest known one, and one for all above it
        table = np.full(int(codes.max()) + 2, self.escape, dtype=self.dtype)
        table[codes] = np.arange(len(codes), dtype=self.dtype)
        object.__setattr__(self, "_table", table)

    @classmethod
    def from_text(cls, text: str, min_count: int = 1, boundary: str = "\n") -> Vocabulary:
        """Collect the characters that occur at least min_count times in a training text, and always the newline and
        those of the boundary."""
        counts = empty_counts()
        for start in range(0, len(text), _CHUNK):
            add_counts(_codes(text[start : start + _CHUNK]), counts)
        return cls.from_counts(counts, min_count, boundary=boundary)

    @classmethod
    def from_counts(cls, counts: Counts, min_count: int = 1, inherited: str = "", boundary: str = "\n") -> Vocabulary:
        """Collect the characters of a training text from their counts by code point.

        `inherited` characters are included however rare they are, and are not novel if they occur once.
        """
        included = counts >= min_count
        included[_codes(inherited)] = True
        included &= counts > 0
        included[_codes("\n" + boundary)] = True
        novel = counts == 1
        novel |= ~included
        novel[_codes(inherited)] = False
        codes = np.flatnonzero(included)
        order = np.lexsort((codes, -counts[codes]))
        characters = codes[order].astype("<u4").tobytes().decode("utf-32-le")
        occurring = set(characters)
        unseen = "".join(character for character in inherited if character not in occurring)
        return cls(characters + unseen, int(counts.sum()), int(counts[novel].sum()), len(unseen), boundary)

    def without_inherited(self, counts: Sequence[int]) -> Vocabulary:
        """Return the vocabulary without inherited characters; `counts` are those of the training split (V).

        Token t becomes min(t, V'), since unseen characters become the escape.
        """
        own = self.characters[: len(self) - self.unseen]
        novel = self.seen - sum(times for times in counts[: len(own)] if times > 1)
        return Vocabulary(own, self.seen, novel, boundary=self.boundary)

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def escape(self) -> int:
        """The token of every unknown character, V."""
        return len(self.characters)

    @property
    def boundary_tokens(self) -> npt.NDArray[np.int64]:
        """The tokens of the boundary (K), which stand before the first character of every text and after its last."""
        return self.encode(self.boundary).astype(np.int64)

    @property
    def escape_probability(self) -> float:
        """The Good-Turing estimate (Good 1953) of the probability that the next character is unknown: (novel+1)/(N+1).

        At most N/(N+1): if every character was novel, it would be 1 and leave nothing to the known ones.
        """
        return min(self.novel + 1, max(self.seen, 1)) / (self.seen + 1)

    @property
    def escape_nats(self) -> float:
        """The nats of an unknown character: those of the escape, then of one of all other Unicode scalar values."""
        return -math.log(self.escape_probability) + math.log(SCALARS - len(self))

    @property
    def known_nats(self) -> float:
        """The nats to add to the softmax for a known character: that it is not the escape."""
        return -math.log1p(-self.escape_probability)

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The smallest type that holds every token, including the escape."""
        return np.uint8 if self.escape <= 0xFF else np.uint16 if self.escape <= 0xFFFF else np.uint32

    def encode(self, text: str) -> _Tokens:
        """Return the N tokens of a text of N characters; unknown characters become the escape."""
        chunks = [self.encode_codes(_codes(text[start : start + _CHUNK])) for start in range(0, len(text), _CHUNK)]
        return np.concatenate(chunks) if chunks else np.empty(0, dtype=self.dtype)

    def encode_codes(self, codes: _Tokens) -> _Tokens:
        """Return the tokens of N code points."""
        tokens = np.empty(len(codes), dtype=self.dtype)
        for start in range(0, len(codes), _BLOCK):
            self._table.take(codes[start : start + _BLOCK], mode="clip", out=tokens[start : start + _BLOCK])
        return tokens

    def decode(self, tokens: npt.ArrayLike, unknown: npt.ArrayLike = 0xFFFD) -> str:
        """Return the text of tokens (N). Escapes become U+FFFD, the replacement character, or `unknown`, their code
        points in order."""
        tokens = np.asarray(tokens, dtype=np.int64)
        codes: npt.NDArray[np.uint32] = np.append(_codes(self.characters), np.uint32(0)).astype("<u4")[tokens]
        codes[tokens == self.escape] = unknown
        return codes.tobytes().decode("utf-32-le")


def empty_counts() -> Counts:
    """Return a count of 0 for every code point."""
    return np.zeros(0x110000, dtype=np.int64)


def add_counts(codes: _Tokens, counts: Counts) -> None:
    """Add the number of occurrences of each code point to `counts`."""
    if codes.itemsize == 1 and len(codes) >= _PAIRED:
        # two at a time: half as many steps, and fewer stalls on the same counter twice in a row
        even = len(codes) // 2 * 2
        pairs = np.bincount(codes[:even].view(np.uint16), minlength=1 << 16).reshape(256, 256)
        counts[:256] += pairs.sum(0) + pairs.sum(1)
        codes = codes[even:]
    found = np.bincount(codes)
    counts[: len(found)] += found


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
