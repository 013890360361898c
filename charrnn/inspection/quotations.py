"""Where a text is inside quotations, brackets and comments: from the opening mark on to the character before the
closing one. Shapes: N characters."""

from __future__ import annotations

import re

import numpy as np

from charrnn.inspection.characters import Mask, mask
from charrnn.models.interface import Floats

_LONGEST = 2000  # characters of a quotation: a mark that is not closed within them is none
_ELIDED = "(?i:tis|twas|twere|twill|em|gainst|twixt|neath|tween|scape|cause)"  # begin with an apostrophe
_APOSTROPHE = r"(?<=\w)['’](?=\w)|(?<=\b[oOaAiI])['’](?=\s)|(?<=\b[tTwW][hHiI])['’](?=\s)|(?<=s)['’](?=\s[a-z])"
_MARKS = (  # opening, what may lie between, closing; a text may end before that, but where it could be an apostrophe
    ('"""', r"\\.|[^\\]", r'"""|\Z'),
    ("'''", r"\\.|[^\\]", r"\'\'\'|\Z"),
    ("“", "[^”]", r"”|\Z"),
    ("「", "[^」]", r"」|\Z"),
    ("『", "[^』]", r"』|\Z"),
    ("«", "[^»]", r"»|\Z"),
    ("„", "[^“”]", r"[“”]|\Z"),
    (r'(?<![\w\\])"|(?<=\b[bfruBFRU])"', r'\\.|(?!\n\s*\n)[^"\\]', r'"|\Z'),
    (rf"(?:(?<![\w\\])|(?<=\b[bfruBFRU]))'(?!{_ELIDED}\b)", rf"{_APOSTROPHE}|\\.|(?!\n\s*\n)[^'\\]", r"'(?!\w)"),
    (rf"(?<!\w)‘(?!{_ELIDED}\b)", rf"{_APOSTROPHE}|(?!\n\s*\n)[^’]", r"’(?!\w)"),
)
_QUOTATION = re.compile(
    "|".join(f"(?:{first})(?:{between}){{0,{_LONGEST}}}?(?:{last})" for first, between, last in _MARKS), re.DOTALL
)
_OPENING = "([{（［｛《〈【〔"
_CLOSING = ")]}）］｝》〉】〕"

_CODE_LINE = re.compile(r"\w\(|\w\[|\s[-+*/|:]?=\s|[{};]\s*$|^\s*[)}\]]|\):\s*$|^\s*(?:#|//)\s*\S|^\s*@\w")
_CODE_SHARE = 0.2  # of the lines
_STRING = r'"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
_HASH = r"(?:^|(?<=\s))#(?!(?:include|define|undef|if|ifdef|ifndef|else|elif|endif|pragma)\b)[^\n]*"
_SLASHES = r"(?<!:)//[^\n]*|/\*.*?(?:\*/|\Z)"


def quoted(text: str) -> Mask:
    """Say after which characters a text is inside quotation marks (N), where these pair: apostrophes are none, nor is a
    mark that is not closed in its paragraph."""
    inside = np.zeros(len(text), dtype=bool)
    for found in _QUOTATION.finditer(text):
        inside[found.start() : _end(found, text)] = True
    return inside


def _end(found: re.Match[str], text: str) -> int:
    """Return the place of a closing mark, of several characters that of the last; the end of a text if that cut it."""
    opened = found.group()
    return found.end() - 1 if len(opened) > 1 and opened[-1] in "\"'”」』»“’" else len(text)


def depth(text: str) -> Floats:
    """Count the open brackets after each character (N). One that closes none, or another kind, is ignored."""
    depths, stack = np.zeros(len(text)), list[int]()
    for position, character in enumerate(text):
        if (kind := _OPENING.find(character)) >= 0:
            stack.append(kind)
        elif (kind := _CLOSING.find(character)) >= 0 and kind in stack:
            while stack.pop() != kind:  # what was opened since then stays unclosed
                pass
        depths[position] = len(stack)
    return depths


def commented(text: str) -> Mask:
    """Say after which characters a text is inside a comment (N): of # or of // and /* */, whichever begin more lines;
    nowhere in a text that does not look like code."""
    inside = np.zeros(len(text), dtype=bool)
    lines = [line for line in text.splitlines() if line.strip()]
    if sum(_CODE_LINE.search(line) is not None for line in lines) < _CODE_SHARE * len(lines):
        return inside
    hashes, slashes = (len(re.findall(rf"(?m)^\s*(?:{start})", text)) for start in (_HASH, r"//|/\*"))
    comment = _HASH if hashes >= slashes else _SLASHES
    for found in re.finditer(rf"(?ms){_STRING}|(?P<comment>{comment})", text):
        if found["comment"]:
            inside[found.start() : found.end() - found.group().endswith("*/")] = True
    return inside


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
