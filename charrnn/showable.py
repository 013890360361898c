"""Text made fit to be shown: names and texts that came from files or arguments, in messages and tables."""

from __future__ import annotations

import re

_LONGEST_NAME = 200  # characters
_LONGEST_LINE = 2_000
_MOST_LINES = 60
# C0, DEL, C1, the controls of writing direction, the separators of lines and paragraphs, and lone surrogates
_OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def showable(text: str) -> str:
    """Escape what a terminal would obey, or what would change the order of characters; newlines stay."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def shown(name: object) -> str:
    """Return a name as it may stand in a sentence or a table: on one line, without the middle where it is long."""
    text, half = str(name), _LONGEST_NAME // 2
    text = text if len(text) <= _LONGEST_NAME else f"{text[:half]}...{text[-half:]}"
    return showable(text.replace("\n", "\\n"))


def showable_message(text: str) -> str:
    """Make a message showable: neither lines nor their number are endless."""
    lines = text.split("\n", _MOST_LINES)
    if len(lines) > _MOST_LINES:
        left = lines.pop().count("\n") + 1
        lines.append(f"... and {left:,} more lines.")
    return showable("\n".join(f"{one[:_LONGEST_LINE]}..." if len(one) > _LONGEST_LINE else one for one in lines))
