"""Arguments of the Python interface, checked: what a shell's options are parsed to, Python passes as it likes.
Each function returns the argument, or raises MisuseError that says what it must be."""

from __future__ import annotations

import numbers
import os
import reprlib
from collections.abc import Iterable, Mapping

from charrnn.data.decoding import check_characters
from charrnn.errors import MisuseError


def shortened(value: object) -> str:
    """Write a value on a short line."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return f"<{type(value).__name__} of thousands of digits>"


def whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """Check a whole number in a range; neither 2.5 nor True is one."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        found = int(value)
        if found >= least and (most is None or found <= most):
            return found
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise MisuseError(f"{name} is {shortened(value)}; it must be a whole number {limits}.")


def number(name: str, value: object) -> float:
    """Check a number that a float can hold."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise MisuseError(f"{name} is {shortened(value)}; it must be a number.")
    try:
        return float(value)
    except OverflowError as error:
        raise MisuseError(f"{name} is {shortened(value)}; it must be a number that a float can hold.") from error


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


def sequence(name: str, value: object) -> list[object]:
    """Check several values; a text, though it can be taken apart, is one."""
    if isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable):
        raise MisuseError(f"{name} is {shortened(value)}; it must be a list.")
    return list(value)


def path(name: str, value: object) -> str:
    """Check a path: a str or a pathlib.Path."""
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str) or not found:
        raise MisuseError(f"{name} is {shortened(value)}; it must be a path, as a str or a pathlib.Path.")
    return found


def function(name: str, value: object) -> None:
    """Check a function."""
    if not callable(value):
        raise MisuseError(f"{name} is {shortened(value)}; it must be a function.")


def mapping(name: str, value: object) -> dict[str, object]:
    """Check a mapping from names, empty where it is None."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise MisuseError(f"{name} is {shortened(value)}; it must be a dict of names and values.")
    return dict(value)
