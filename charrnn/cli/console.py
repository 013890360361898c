"""stdout and stderr: lines out, notes, bars, standard input."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click

from charrnn.data.decoding import decode

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _note(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # no one listens any more: no reason to stop
        click.echo(text, err=True)


def _bar(total: int | None) -> Any:
    """Make a bar that counts characters, on a terminal, of what takes more than a moment."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty()
    return tqdm(total=total, unit=" char", unit_scale=True, leave=False, delay=2.0, disable=hidden)


def _put(line: str) -> None:
    sys.stdout.write(line + "\n")


def _stdin() -> Any:
    return sys.stdin.buffer


def _stdin_text(what: str) -> str:
    """Read a text; the one newline that `echo` adds is no part of it, as in the shell's own $(...)."""

    return decode(_stdin().read(), "utf-8", "standard input", f"The {what} are read as UTF-8.").removesuffix("\n")


def put(text: str) -> None:
    """Write to stdout at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def lines(text: str) -> Iterator[str]:
    """Give the lines of a text without their newlines; only LF ends a line, and the last needs none."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def escaped(text: str) -> str:
    """Write a text on one line: \\n, \\t and \\\\ for newline, tab and backslash."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
