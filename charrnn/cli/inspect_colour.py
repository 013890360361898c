"""A text in the terminal, each character on a background that shows how much it surprised a model."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from charrnn.showable import showable

MOST = 10  # bits, and more, have the darkest background
_SHADES = 6  # fewer runs of a colour, and no finer difference can be seen
# from pale yellow to dark red; each with the text that is read on it, whatever the terminal's own colours are
_ENDS = ((255, 244, 200), (250, 170, 60), (170, 0, 20))
_RESET, _CLEAR = "\x1b[0m", "\x1b[K"  # what follows a line that the terminal wrapped would be coloured to its end


def painted(text: str, bits: Sequence[float], environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield the text (N) in pieces, with the colours of the bits (N) of its characters; none below a bit or so.

    In 24-bit colours where COLORTERM says that the terminal has them, else in its 256. What a terminal would obey is
    escaped, and a mark is coloured with the character that it stands on.
    """
    fine = environment.get("COLORTERM", "").lower() in {"truecolor", "24bit"}
    styles = ["", *(_style(shade / (_SHADES - 1), fine) for shade in range(_SHADES))]
    before = 0
    for character, shade in _cells(text, bits):
        if shade != before:
            yield _RESET * (before > 0) + styles[shade]
            before = shade
        if character == "\n":
            yield "⏎" * (shade > 0) + _RESET * (shade > 0) + _CLEAR + "\n"
            before = 0
        else:
            yield {"\t": "⇥"}.get(character) or showable(character)
    yield _RESET * (before > 0)


def legend(environment: Mapping[str, str] = os.environ) -> str:
    """Return what the colours mean."""
    values = range(0, MOST + 1, 2)
    return "".join("".join(painted(f" {value} ", [float(value)] * 9, environment)) for value in values)


def _cells(text: str, bits: Sequence[float]) -> Iterator[tuple[str, int]]:
    """Yield what stands in one place, a character and its marks, and its shade, of the most surprising of them."""
    cell, most = "", 0.0
    for character, one in zip(text, bits, strict=False):
        if cell and cell != "\n" and unicodedata.category(character).startswith("M"):
            cell, most = cell + character, max(most, one)
            continue
        if cell:
            yield cell, _shade(most)
        cell, most = character, one
    if cell:
        yield cell, _shade(most)


def _shade(bits: float) -> int:
    return min(_SHADES, int(bits / MOST * _SHADES + 0.5))


def _style(share: float, fine: bool) -> str:
    """Return the colours, background and text, of a share of the scale (0 to 1)."""
    place = share * (len(_ENDS) - 1)
    low, high = _ENDS[int(place)], _ENDS[min(int(place) + 1, len(_ENDS) - 1)]
    red, green, blue = (round(a + (b - a) * (place - int(place))) for a, b in zip(low, high, strict=True))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 128
    if fine:
        return f"\x1b[48;2;{red};{green};{blue};38;2;" + ("255;255;255m" if dark else "0;0;0m")
    cube = 16 + 36 * _sixth(red) + 6 * _sixth(green) + _sixth(blue)
    return f"\x1b[48;5;{cube};38;5;{231 if dark else 16}m"


def _sixth(level: int) -> int:
    """Return the nearest of the six levels 0, 95, 135, 175, 215, 255 of the 256 colours."""
    return min(range(6), key=lambda index: abs(level - (0 if index == 0 else 55 + 40 * index)))
