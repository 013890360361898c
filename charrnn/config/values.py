"""The types of settings: what values they take, and how a user may write them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from charrnn.config.limits import LARGEST, MAX_GLOB, MAX_NAME, MAX_RATE, MAX_SECONDS, MAX_SEPARATOR, MAX_TIME_SKIP

Auto = Literal["auto"]
NULLS = {"null", "none", "~", ""}
_NUMBER = r"(\d+(?:\.\d+)?)"
_TIME = re.compile(rf"(?:{_NUMBER}\s*h)?\s*(?:{_NUMBER}\s*m)?\s*(?:{_NUMBER}\s*s)?")


def number(value: Any) -> Any:
    """Refuse true and false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    return value


def optional(value: Any) -> Any:
    """Read the words for null."""
    return None if isinstance(value, str) and value.lower() in NULLS else value


def listed(value: Any) -> Any:
    """Take one string for a list of one."""
    return [value] if isinstance(value, str) else value


def seconds(value: Any) -> Any:
    """Parse 90, 90s, 10m, 1.5h or 1h30m as seconds."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if re.fullmatch(_NUMBER, text):
        return float(text)
    parts = _TIME.fullmatch(text)
    if parts is None:  # 1h30, too: its 30 may be minutes or seconds
        raise ValueError("expected a time such as 90s, 10m or 1h30m")
    return sum(float(number) * unit for number, unit in zip(parts.groups("0"), (3600.0, 60.0, 1.0), strict=True))


def without_nul(value: str) -> str:
    """Refuse a NUL, which no name has."""
    if "\0" in value:
        raise ValueError("expected a name without a NUL")
    return value


def separator(value: str) -> str:
    """Refuse what no text has, and newlines alone, which end lines and pieces."""
    if "\0" in value or not value.strip("\n") or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("expected a text that can stand between two documents")
    return value


def pattern(value: str) -> str:
    """Refuse a pattern of no name, such as "" or "."."""
    if not PurePosixPath(value).parts:
        raise ValueError("expected a pattern such as *.py")
    return value


def kernel_name(value: Any) -> Any:
    """Accept the name that the custom kernel has in files of earlier versions."""
    return "custom" if value == "own" else value


Positive = Annotated[int, BeforeValidator(number), Field(ge=1, le=LARGEST)]
Share = Annotated[float, BeforeValidator(number), Field(ge=0.0, lt=1.0)]
Amount = Annotated[float, BeforeValidator(number), Field(ge=0.0, le=MAX_RATE)]
SplitShare = Annotated[float, BeforeValidator(number), Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(without_nul)]
Glob = Annotated[str, Field(max_length=MAX_GLOB), AfterValidator(without_nul), AfterValidator(pattern)]
Separator = Annotated[str, Field(min_length=1, max_length=MAX_SEPARATOR), AfterValidator(separator)]
TimeSkip = Annotated[int, BeforeValidator(number), Field(ge=2, le=MAX_TIME_SKIP)]
Rate = Annotated[float, BeforeValidator(number), Field(gt=0.0, le=MAX_RATE)]
Seconds = Annotated[
    Annotated[float, BeforeValidator(number), Field(gt=0.0, le=MAX_SECONDS)] | None,
    BeforeValidator(seconds),
    BeforeValidator(optional),
]
