"""Functions that the caller hands in: to be told something, or how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int], object]  # called with the number of characters just read


def no_progress(_: int) -> None:
    """Tell no one."""


Say = Callable[[str], object]


def silent(_: str) -> None:
    """Tell no one."""
