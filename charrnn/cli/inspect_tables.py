"""The tables of inspect as rows of cells, from what the analyses say in JSON. Prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

from charrnn.cli.console import escaped

Fields = dict[str, Any]  # of an analysis
Cells = Iterator[list[str]]


def rows(analysis: str, fields: Fields, text: str) -> Cells:
    """Yield the rows of an analysis of a text, whose cells --help names."""
    yield from _ROWS[analysis](fields, text)


def _reach(fields: Fields, _: str) -> Cells:
    gradient = fields["gradient"] or {}
    norms = [gradient.get(state) or repeat(None) for state in ("hidden", "cell")]
    for distance, truncated, shuffled, *both in zip(
        fields["distances"], fields["truncated"], fields["shuffled"], *norms, strict=False
    ):
        yield [
            f"{distance}",
            f"{truncated:.4f}",
            f"{shuffled:.4f}",
            *("" if one is None else f"{one:.4g}" for one in both),
        ]


def _units(fields: Fields, _: str) -> Cells:
    first = fields["highlights"]
    for one in (*first, *(one for one in fields["units"] if one not in first)):
        where = [one["direction"], f"{one['layer']}", one["state"], f"{one['unit']}"]
        yield [*where, one["feature"], one["statistic"], f"{one['found']:.4f}", f"{one['confirmed']:.4f}"]


def _gates(fields: Fields, _: str) -> Cells:
    for one in fields["layers"]:
        for unit, (low, high) in enumerate(zip(one["low"], one["high"], strict=True)):
            yield [one["direction"], f"{one['layer']}", one["gate"], f"{unit}", f"{low:.4f}", f"{high:.4f}"]


def _errors(fields: Fields, _: str) -> Cells:
    for kind, several in (("class", fields["classes"]), ("oracle", fields["oracles"])):
        for one in several:
            yield [kind, one[kind], f"{one['characters']}", f"{one['bits']:.1f}", f"{one['share']:.4f}"]


def _saliency(fields: Fields, text: str) -> Cells:
    for one in fields["rows"]:
        for position, norm in enumerate(one["values"], one["first"]):
            character, earlier = escaped(one["character"]), escaped(text[position])
            yield [f"{one['position']}", character, f"{position}", earlier, f"{norm:.4g}"]


_ROWS: dict[str, Callable[[Fields, str], Cells]] = {
    "reach": _reach,
    "units": _units,
    "gates": _gates,
    "errors": _errors,
    "saliency": _saliency,
}
