"""Features of a text that a unit might follow: one value a character, which says what holds after reading it.
Shapes: N characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from charrnn.inspection import characters, quotations
from charrnn.inspection.characters import Mask, mask, previous
from charrnn.models.interface import Floats

FALLS = 5  # times that a feature must go down in a text: what hardly changes follows anything slow
SHARE = 0.02  # of the text that its most common value must leave to others
_VOWELS = frozenset("aeiouyаеёиоуыэюяαεηιουω")
_VERSE_ENDS = "，。！？；：、"
_VERSE_SHARE = 0.05  # of the characters, from which on these marks divide a text


@dataclass(frozen=True)
class Feature:
    """A feature: `values` computes it from a text, 0 or 1 if it is binary (N)."""

    name: str
    kind: Literal["binary", "number"]
    description: str
    values: Callable[[str], Mask | Floats]


def varies(values: Floats) -> bool:
    """Say whether a feature (N) varies enough to be compared: it falls FALLS times, and its most common value leaves
    SHARE to others."""
    _, counts = np.unique(values, return_counts=True)
    return bool((np.diff(values) < 0).sum() >= FALLS and counts.max() <= (1 - SHARE) * len(values))


def _since(marks: Mask) -> Floats:
    """Count the characters since the last mark (N), 0 at a mark itself; a text begins after one."""
    index = np.arange(1, len(marks) + 1)
    return (index - np.maximum.accumulate(np.where(marks, index, 0))).astype(np.float64)


def _newline(text: str) -> Mask:
    return mask(text, characters.NEWLINES.__contains__)


def _in_line(text: str) -> Floats:
    return _since(_newline(text))


def _in_paragraph(text: str) -> Floats:
    newline = _newline(text)
    return _since(newline & previous(newline))


def _in_verse(text: str) -> Floats:
    ends = mask(text, _VERSE_ENDS.__contains__)
    return _since(ends | _newline(text)) if ends.sum() >= _VERSE_SHARE * len(text) else np.zeros(len(text))


def _in_word(text: str) -> Floats:
    start, inside = characters.words(text)
    return _since(~(start | inside | (mask(text, "'’".__contains__) & previous(start | inside))))


def _vowel(character: str) -> bool:
    return unicodedata.normalize("NFD", character)[0].lower() in _VOWELS


FEATURES = (  # what must be remembered first, what the last character shows last
    Feature("inside quotes", "binary", "Between quotation marks that pair.", quotations.quoted),
    Feature("bracket depth", "number", "How many brackets are open.", quotations.depth),
    Feature(
        "comment", "binary", "In a comment of code: after #, after //, or between /* and */.", quotations.commented
    ),
    Feature(
        "position in verse",
        "number",
        f"Characters since the last newline or one of {_VERSE_ENDS} in a text that these divide.",
        _in_verse,
    ),
    Feature("position in line", "number", "Characters since the last newline.", _in_line),
    Feature("indentation", "number", "White space at the beginning of the line, so far.", quotations.indentation),
    Feature("position in paragraph", "number", "Characters since the last blank line.", _in_paragraph),
    Feature("position in word", "number", "Letters of the word so far; 0 between words.", _in_word),
    Feature("word start", "binary", "The first letter of a word.", lambda text: characters.words(text)[0]),
    Feature("newline", "binary", "A newline: the next character begins a line.", _newline),
    Feature("space", "binary", "White space within a line.", lambda text: mask(text, str.isspace) & ~_newline(text)),
    Feature("capital", "binary", "A capital letter.", lambda text: mask(text, str.isupper)),
    Feature("digit", "binary", "A digit.", lambda text: mask(text, str.isdigit)),
    Feature("vowel", "binary", "A vowel, in Latin, Greek or Cyrillic letters.", lambda text: mask(text, _vowel)),
    Feature(
        "punctuation", "binary", "A punctuation mark or symbol.", lambda text: mask(text, characters.is_punctuation)
    ),
)
