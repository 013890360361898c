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


def minutes(seconds: float) -> str:
    """Return a time in words, e.g. "90 seconds"; from two minutes on in minutes."""
    if seconds < 120:
        return counted(round(seconds), "second")
    return f"{seconds / 60:.0f} minutes" if seconds >= 600 else f"{seconds / 60:.2g} minutes"
