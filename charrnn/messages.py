"""Callbacks for messages and progress, and numbers in messages."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int], object]  # called with the number of characters just read


def no_progress(_: int) -> None:
    """Ignore progress."""


Say = Callable[[str], object]  # called with a message


def silent(_: str) -> None:
    """Ignore messages."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 character, 2,000 characters."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
