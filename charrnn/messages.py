"""Callbacks for messages and progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int], object]  # called with the number of characters just read


def no_progress(_: int) -> None:
    """Ignore progress."""


Say = Callable[[str], object]  # called with a message


def silent(_: str) -> None:
    """Ignore messages."""
