"""The streams of a command: a text on stdin, the product on stdout, the conversation on stderr, and how wide and
colourful they are. Knows no models."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
import unicodedata
from typing import IO, Any

import click

from charrnn.errors import CharRNNError
from charrnn.showable import showable, showable_message

_LOG_WIDTH = 80  # columns where there is no terminal to ask
_POLL = 0.02  # seconds


def note(text: str, *, wrap: bool = True, **style: Any) -> None:
    """Write a message to stderr, wrapped at the terminal's width; a command to copy is left to the terminal."""
    text = showable_message(text)
    with contextlib.suppress(OSError):  # nobody reads any more, or nothing can be written: no reason to stop
        click.echo(styled(wrapped(text) if wrap else text, sys.stderr, **style), err=True)


def put(text: str) -> None:
    """Write to stdout at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def put_line(line: str) -> None:
    """Write a line to stdout when the buffer is full."""
    sys.stdout.write(line + "\n")


def put_page(text: str) -> None:
    """Write a table or a page to stdout: nothing in it is a command to the terminal, whatever a file's names are."""
    put_line(showable(text))


class _StandardInput(io.RawIOBase):
    """Standard input, waited for also where another program made it non-blocking. What cannot be read is a sentence."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def readable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return bool(self._raw.isatty())

    def readinto(self, buffer: Any, /) -> int:
        try:
            while (count := self._raw.readinto(buffer)) is None:  # nothing has come yet
                time.sleep(_POLL)
        except OSError as error:
            raise CharRNNError(f"standard input: cannot be read ({error.strerror}).") from error
        return int(count)


def stdin() -> io.BufferedReader:
    """Return standard input as bytes. Reading raises CharRNNError where it cannot be read."""
    return io.BufferedReader(_StandardInput(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)))


def stdin_text(what: str) -> str:
    """Read standard input as one text, without the newline that `echo` adds, as the shell's own $(...) does."""
    from charrnn.data.decoding import decode

    return decode(stdin().read(), "utf-8", "standard input", f"The {what} are read as UTF-8.").removesuffix("\n")


def bar(total: int | None) -> Any:
    """Make a progress bar that counts characters; it appears on a terminal if the work takes more than two seconds."""
    from tqdm import tqdm

    hidden = not is_live(sys.stderr)
    return tqdm(total=total, unit=" char", unit_scale=True, leave=False, delay=2.0, disable=hidden, dynamic_ncols=True)


# Terminals


def is_live(stream: IO[str]) -> bool:
    """Say whether a stream is a terminal on which a line can be drawn again."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def width(stream: IO[str]) -> int:
    """Return the columns of a terminal; 80 where the stream is none. COLUMNS overrides what the terminal says."""
    if not stream.isatty():
        return _LOG_WIDTH
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _LOG_WIDTH
    except (OSError, ValueError):
        return _LOG_WIDTH


def styled(text: str, stream: IO[str], **style: Any) -> str:
    """Colour a text by click's styles where the stream is a terminal that shows them; NO_COLOR switches them off."""
    shows = is_live(stream) and not os.environ.get("NO_COLOR")
    return click.style(text, **style) if style and shows else text


def wrapped(text: str) -> str:
    """Break lines at spaces where stderr is a terminal that is too narrow for them."""
    if not sys.stderr.isatty():
        return text
    return "\n".join(part for line in text.split("\n") for part in broken(line, width(sys.stderr)))


def broken(line: str, limit: int, indent: str = "") -> list[str]:
    """Break a line at spaces into lines of so many columns; all but the first are indented as the line is, or more."""
    indent += line[: len(line) - len(line.lstrip(" "))]
    first, *words = line[len(line) - len(line.lstrip(" ")) :].split(" ")
    lines = [indent.removeprefix(indent[: len(indent) - (len(line) - len(line.lstrip(" ")))]) + first]
    for word in words:
        if columns(lines[-1]) + 1 + columns(word) > limit:
            lines.append(indent + word)
        else:
            lines[-1] += f" {word}"
    return lines


# Text in columns


def columns(text: str) -> int:
    """Count terminal columns: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def padded(text: str, size: int) -> str:
    """Fill a text up with spaces to so many columns; a negative size aligns it to the right."""
    space = " " * (abs(size) - columns(text))
    return space + text if size < 0 else text + space


def clipped(text: str, size: int, *, start: bool = False) -> str:
    """Cut a text to so many columns, the cut marked by three dots; of a path the start, since its end says more."""
    if columns(text) <= size:
        return text
    if start:
        return clipped(text[::-1], size)[::-1]
    kept = ""
    for character in text:
        if columns(kept) + columns(character) > size - 3:
            break
        kept += character
    return (kept + "...")[: max(size, 0)]


def escaped(text: str) -> str:
    """Write a text on one line: \\n, \\t and \\\\ for newline, tab and backslash, \\0 for the end of a file."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\0", "\\0")
