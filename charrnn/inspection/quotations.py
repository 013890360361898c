"""Where a text is inside quotations, brackets and comments: from the opening mark on to the character before the
closing one. Shapes: N characters."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from charrnn.inspection.characters import Mask, mask
from charrnn.models.interface import Floats

_LONGEST = 2000  # characters of a quotation: a mark that is not closed within them is none
_ELIDED = "(?i:tis|twas|twere|twill|em|gainst|twixt|neath|tween|scape|cause)"  # begin with an apostrophe
_APOSTROPHE = r"(?<=\w)['’](?=\w)|(?<=\b[oOaAiI])['’](?=\s)|(?<=\b[tTwW][hHiI])['’](?=\s)|(?<=s)['’](?=\s[a-z])"
_TRIPLE = ('"""', "'''")  # of Python, which may be of any length
_MARKS = (  # opening, what may lie between, closing
    ("“", "[^”]", "”"),
    ("「", "[^」]", "」"),
    ("『", "[^』]", "』"),
    ("«", "[^»]", "»"),
    ("„", "[^“”]", "[“”]"),
    (r'(?:(?<![\w\\])|(?<=\b[bfruBFRU]))(?!(?<=[.,!?…])"\s)"', r'\\.|(?!\n[ \t]*\n)[^"\\]', '"'),
)
_APOSTROPHES = (  # the same; these must be closed, since they may be apostrophes
    (rf"(?:(?<![\w\\])|(?<=\b[bfruBFRU]))'(?!{_ELIDED}\b)", rf"{_APOSTROPHE}|\\.|(?!\n[ \t]*\n)[^'\\]", r"'(?!\w)"),
    (rf"(?<!\w)‘(?!{_ELIDED}\b)", rf"{_APOSTROPHE}|(?!\n[ \t]*\n)[^‘’]", r"’(?!\w)"),
)
_QUOTATION = re.compile(  # with a group if it is closed
    "|".join(
        [rf"{mark}(?:\\.|[^\\])*?(?:({mark})|\Z)" for mark in _TRIPLE]
        + [rf"(?:{first})(?:{between}){{0,{_LONGEST}}}?(?:({last})|\Z)" for first, between, last in _MARKS]
        + [f"(?:{first})(?:{between}){{0,{_LONGEST}}}?({last})" for first, between, last in _APOSTROPHES]
    ),
    re.DOTALL,
)
_OPENING = "([{（［｛《〈【〔"
_CLOSING = ")]}）］｝》〉】〕"

_CODE_LINE = re.compile(r"\w\(|\w\[|\s[-+*/|:]?=\s|[{};]\s*$|^\s*[)}\]]|\):\s*$|^\s*@\w")
_CODE_SHARE = 0.2  # of the lines that do not begin like a comment: headings of Markdown do
_STRING = "|".join(
    [rf"{mark}(?:\\.|[^\\])*?(?:{mark}|\Z)" for mark in _TRIPLE]
    + [rf"{mark}(?:\\.|[^{mark}\\\n])*{mark}" for mark in "\"'"]
)
_HASH = r"(?:^|(?<=\s))#(?!(?:include|define|undef|if|ifdef|ifndef|else|elif|endif|pragma)\b)[^\n]*"
_SLASHES = r"(?<!:)//[^\n]*|/\*.*?(?:\*/|\Z)"


def quoted(text: str) -> Mask:
    """Say after which characters a text is inside quotation marks (N), where these pair: apostrophes are none, nor is a
    mark that is not closed in its paragraph."""
    before = _begins_inside(text)
    inside = np.zeros(len(before) + len(text), dtype=bool)
    for found in _QUOTATION.finditer(before + text):
        inside[found.start() : found.end() - 1 if found.lastindex else None] = True
    return inside[len(before) :]


def _begins_inside(text: str) -> str:
    """Return the triple mark that a text begins inside of, as part of a file may; else an empty string. A closing mark
    ends its line more often than an opening one."""
    for mark in _TRIPLE:
        ends = [text[found.end() : found.end() + 1] in "\n)," for found in re.finditer(mark, text)]
        if sum(ends[::2]) > sum(ends[1::2]):
            return mark
    return ""


def depth(text: str) -> Floats:
    """Count the open brackets after each character (N). One that closes none, or another kind, is ignored."""
    depths, stack, opened = np.zeros(len(text)), list[int](), Counter[int]()
    for position, character in enumerate(text):
        if (kind := _OPENING.find(character)) >= 0:
            stack.append(kind)
            opened[kind] += 1
        elif (kind := _CLOSING.find(character)) >= 0 and opened[kind]:
            last = -1
            while last != kind:  # what was opened since then stays unclosed
                last = stack.pop()
                opened[last] -= 1
        depths[position] = len(stack)
    return depths


def commented(text: str) -> Mask:
    """Say after which characters a text is inside a comment (N): of # or of // and /* */, whichever begin more lines;
    nowhere in a text that does not look like code."""
    before, lines = _begins_inside(text), re.findall(r"(?m)^(?![ \t]*(?:#|//)).*\S.*$", text)
    inside = np.zeros(len(before) + len(text), dtype=bool)
    if sum(_CODE_LINE.search(line) is not None for line in lines) <= _CODE_SHARE * len(lines):
        return inside[len(before) :]
    hashes, slashes = (len(re.findall(rf"(?m)^[ \t]*(?:{start})", text)) for start in (_HASH, r"//|/\*"))
    either = slashes == hashes and re.search(r"(?m);[ \t]*$", text)  # as where comments only follow code
    comment = _SLASHES if slashes > hashes or either else _HASH
    for found in re.finditer(rf"(?ms){_STRING}|(?P<comment>{comment})", before + text):
        if found["comment"]:
            inside[found.start() : found.end() - found.group().endswith("*/")] = True
    return inside[len(before) :]


def indentation(text: str) -> Floats:
    """Count the white space at the beginning of the line, as far as it was read, after each character (N)."""
    blank, newline = mask(text, " \t\u3000".__contains__), mask(text, "\n".__contains__)
    index = np.arange(len(text))
    last = np.maximum.accumulate(np.where(newline, index, -1))  # newline before each character
    solid = np.where(blank | newline, -1, index)
    # characters that are blank and have nothing but blanks between the newline and them
    leading = blank & (np.maximum.accumulate(solid) <= last)
    total = np.concatenate(([0], np.cumsum(leading)))
    return np.asarray(total[1:] - total[last + 1], dtype=np.float64)
