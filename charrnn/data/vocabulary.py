"""The characters a model knows, and the price of those it does not.
One character is one token, always: V known characters are tokens 0 to V-1, every other is token V, the escape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

SCALARS = 0x110000 - 0x800  # all Unicode code points less the surrogates
_Tokens = npt.NDArray[np.unsignedinteger]
Counts = npt.NDArray[np.int64]  # by code point
_CHUNK = 1 << 22
_BLOCK = 1 << 16  # characters whose places in a table stay in a processor's cache
_PAIRED = 1 << 18  # characters from which on it pays to count them in pairs


@dataclass(frozen=True)
class Vocabulary:
    """Map characters to tokens and back.

    `characters` are the V known ones, most frequent first; `seen` is N, the characters of the training part; `novel`
    is how many of those were seen once or left out, the Good-Turing count of novelty. The last `unseen` characters are
    not in the training part: the model began as another one, which knows them.
    """

    characters: str
    seen: int
    novel: int
    unseen: int = 0
    _table: _Tokens = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        codes = _codes(self.characters)
        # one entry a code point up to the highest known, and one for all above it
        table = np.full(int(codes.max()) + 2, self.escape, dtype=self.dtype)
        table[codes] = np.arange(len(codes), dtype=self.dtype)
        object.__setattr__(self, "_table", table)

    @classmethod
    def of(cls, text: str, min_count: int = 1) -> Vocabulary:
        """Collect the characters of a training text seen at least min_count times, and always the newline."""
        counts = empty_counts()
        for start in range(0, len(text), _CHUNK):
            count(_codes(text[start : start + _CHUNK]), counts)
        return cls.counted(counts, min_count)

    @classmethod
    def counted(cls, counts: Counts, min_count: int = 1, known: str = "") -> Vocabulary:
        """Do the same for a training text whose characters were counted.

        Characters `known` from before are kept, however seldom they are, and are no news when they are seen once.
        """
        kept = counts >= min_count
        kept[_codes(known)] = True
        kept &= counts > 0
        kept[ord("\n")] = True
        novel = counts == 1
        novel |= ~kept
        novel[_codes(known)] = False
        codes = np.flatnonzero(kept)
        order = np.lexsort((codes, -counts[codes]))
        characters = codes[order].astype("<u4").tobytes().decode("utf-32-le")
        have = set(characters)
        before = "".join(character for character in known if character not in have)
        return cls(characters + before, int(counts.sum()), int(counts[novel].sum()), len(before))

    def alone(self, counts: Sequence[int]) -> Vocabulary:
        """Give the vocabulary of the training part, where characters come so often (V), without those that only an
        earlier model knew. Token t is min(t, V') there, since all that is unseen becomes the escape."""
        own = self.characters[: len(self) - self.unseen]
        return Vocabulary(own, self.seen, self.seen - sum(times for times in counts[: len(own)] if times > 1))

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def escape(self) -> int:
        """Give the token of every unknown character, V."""
        return len(self.characters)

    @property
    def newline(self) -> int:
        """Give the token of the newline, which comes before the first character of every text."""
        return int(self._table[ord("\n")])

    @property
    def escape_probability(self) -> float:
        """Estimate the probability that the next character is an unknown one (Good 1953, Turing): (novel+1)/(N+1).

        Where every character was new that would be 1 and leave the known ones nothing: N/(N+1) is the most.
        """
        return min(self.novel + 1, max(self.seen, 1)) / (self.seen + 1)

    @property
    def escape_nats(self) -> float:
        """Give the price of one unknown character: the escape, then one of all other Unicode scalar values."""
        return -math.log(self.escape_probability) + math.log(SCALARS - len(self))

    @property
    def known_nats(self) -> float:
        """Give what every known character pays on top of the softmax: that it was not the escape."""
        return -math.log1p(-self.escape_probability)

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """Give the smallest type that holds every token, the escape included."""
        return np.uint8 if self.escape <= 0xFF else np.uint16 if self.escape <= 0xFFFF else np.uint32

    def encode(self, text: str) -> _Tokens:
        """Turn a text of N characters into N tokens; unknown characters become the escape."""
        chunks = [self.tokens(_codes(text[start : start + _CHUNK])) for start in range(0, len(text), _CHUNK)]
        return np.concatenate(chunks) if chunks else np.empty(0, dtype=self.dtype)

    def tokens(self, codes: _Tokens) -> _Tokens:
        """Turn N code points into N tokens."""
        tokens = np.empty(len(codes), dtype=self.dtype)
        for start in range(0, len(codes), _BLOCK):
            self._table.take(codes[start : start + _BLOCK], mode="clip", out=tokens[start : start + _BLOCK])
        return tokens

    def decode(self, tokens: npt.ArrayLike, unknown: npt.ArrayLike = 0xFFFD) -> str:
        """Turn tokens (N) back into a text; an escape shows as U+FFFD, the replacement character, or as what it stood
        for, if `unknown` has the code points of all that there are, in order."""
        tokens = np.asarray(tokens, dtype=np.int64)
        codes: npt.NDArray[np.uint32] = np.append(_codes(self.characters), np.uint32(0)).astype("<u4")[tokens]
        codes[tokens == self.escape] = unknown
        return codes.tobytes().decode("utf-32-le")


def empty_counts() -> Counts:
    """Give a count of 0 for every code point."""
    return np.zeros(0x110000, dtype=np.int64)


def count(codes: _Tokens, counts: Counts) -> None:
    """Add to `counts` how often each code point comes."""
    if codes.itemsize == 1 and len(codes) >= _PAIRED:
        # two at a time: half as many steps, and seldom the same counter twice in a row, which must wait for itself
        even = len(codes) // 2 * 2
        pairs = np.bincount(codes[:even].view(np.uint16), minlength=1 << 16).reshape(256, 256)
        counts[:256] += pairs.sum(0) + pairs.sum(1)
        codes = codes[even:]
    found = np.bincount(codes)
    counts[: len(found)] += found


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
