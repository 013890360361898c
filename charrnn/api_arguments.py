"""Arguments of the Python interface, checked: what a shell's options are parsed to, Python passes as it likes.
Each function returns the argument, or raises MisuseError that says what it must be."""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable
from reprlib import repr as shortened

from charrnn.data.decoding import check_characters
from charrnn.errors import MisuseError


def whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """Check a whole number in a range; neither 2.5 nor True is one."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        found = int(value)
        if found >= least and (most is None or found <= most):
            return found
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise MisuseError(f"{name} is {shortened(value)}; it must be a whole number {limits}.")


def number(name: str, value: object) -> float:
    """Check a number of any size."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise MisuseError(f"{name} is {shortened(value)}; it must be a number.")
    return float(value)


def switch(name: str, value: object) -> bool:
    """Check a value that is True or False; "no" would count as true."""
    if not isinstance(value, bool):
        raise MisuseError(f"{name} is {shortened(value)}; it must be True or False.")
    return value


def text(name: str, value: object) -> str:
    """Check a text. Raises CharRNNError for a lone surrogate, which is not a character."""
    if not isinstance(value, str):
        raise MisuseError(f"{name} is {shortened(value)}; it must be a str.")
    check_characters(value, name)
    return value


def stop_texts(until: object) -> str | tuple[str, ...] | None:
    """Check a text to stop at, or several."""
    if until is None or isinstance(until, str):
        return None if until is None else text("until", until)
    if not isinstance(until, Iterable):
        raise MisuseError(f"until is {shortened(until)}; it must be a str, or several.")
    return tuple(text("until", one) for one in until)


def path(name: str, value: object) -> str:
    """Check a path: a str or a pathlib.Path."""
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str) or not found:
        raise MisuseError(f"{name} is {shortened(value)}; it must be a path, as a str or a pathlib.Path.")
    return found
