"""Settings that are valid one by one, but do not fit together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Conflict(NamedTuple):
    """A sentence on settings that do not fit together: one of `names` must change, given those that it depends on."""

    sentence: str
    names: tuple[str, ...]
    given: tuple[str, ...] = ()


class Conflicts(ValueError):
    """All conflicts between the settings of a section, whose values are valid one by one."""

    def __init__(self, found: Sequence[Conflict]) -> None:
        super().__init__("; ".join(conflict.sentence for conflict in found))
        self.found = found
