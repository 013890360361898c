"""What a group of settings is: how each is declared, and how conflicts between them are found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from charrnn.config.conflicts import Conflict, Conflicts


def setting(default: Any, *, allowed: str, description: str) -> Any:
    """Declare a setting: its default, its allowed values in words, and a sentence on what it does."""
    return Field(default, description=description, json_schema_extra={"allowed": allowed})


class Section(BaseModel):
    """A group of settings; unknown names are rejected."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        coerce_numbers_to_str=True,
        validate_default=True,
        protected_namespaces=(),
    )

    def conflicts(self) -> Iterator[Conflict]:
        """Yield the conflicts between settings."""
        yield from ()

    @model_validator(mode="after")
    def _check_conflicts(self) -> Section:
        if found := tuple(self.conflicts()):
            raise Conflicts(found)
        return self
