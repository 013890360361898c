"""What kind of character each one of a text is. Shapes: N characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
NEWLINES = "\n\r\u2028\u2029"
_CJK = (  # scripts without spaces between words: Han, kana, and their iteration marks
    (0x3005, 0x3007),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)


def mask(text: str, test: Callable[[str], bool]) -> Mask:
    """Say which of N characters pass a test (N), which is made once for each different one."""
    table = {character: test(character) for character in set(text)}
    return np.fromiter(map(table.__getitem__, text), dtype=bool, count=len(text))


def is_cjk(character: str) -> bool:
    """Say whether a character is a Chinese or Japanese one: each is a word, or may be."""
    return any(first <= ord(character) <= last for first, last in _CJK)


def is_letter(character: str) -> bool:
    """Say whether a character is a letter of a word, or a mark on one; none of CJK is."""
    return unicodedata.category(character)[0] in "LM" and not is_cjk(character)


def is_punctuation(character: str) -> bool:
    """Say whether a character is a punctuation mark or a symbol."""
    return unicodedata.category(character)[0] in "PS"


def words(text: str) -> tuple[Mask, Mask]:
    """Say which characters are the first letters of words (N), and which are other letters of words (N).

    An apostrophe or low line after a letter or digit does not end a word, nor does a digit: the t of don't is inside.
    """
    letters = mask(text, is_letter)
    solid = letters | mask(text, str.isdigit)
    joined = solid | (mask(text, "'’_".__contains__) & previous(solid))
    inside = letters & previous(joined)
    return letters & ~inside, inside


def previous(values: Mask) -> Mask:
    """Return what holds of the character before each one (N); nothing before the first."""
    return np.concatenate((np.zeros(min(1, len(values)), dtype=bool), values[:-1]))
