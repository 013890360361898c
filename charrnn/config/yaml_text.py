"""YAML for settings: sections of names and values, every value a string or a list of them.
Refuses what a settings file has no use for, and what is small to write and large to read: aliases, depth, size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from charrnn.errors import MisuseError
from charrnn.showable import shown

MAX_BYTES = 1 << 16  # of a file
MAX_DEPTH = 8


class _Loader(yaml.BaseLoader):
    """Leave every scalar a string: a setting's type decides what `1e-3` and `no` mean."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(None, None, "aliases (*name) are not read; write it out", mark)
        if self.depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"more than {MAX_DEPTH} levels deep", mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value in names[:place]:
                raise yaml.MarkedYAMLError(None, None, f"{shown(key.value)} stands there twice", key.start_mark)
        return super().construct_mapping(node, deep)


def parse(text: str) -> Any:
    """Parse a text. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def read(path: Path) -> dict[str, Any]:
    """Read the sections of a file. Raises MisuseError for a file that has none."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise MisuseError(f"{path}: no settings file; it has more than {MAX_BYTES:,} bytes.")
        tree = parse(raw.decode("utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise MisuseError(f"{path}: not valid YAML at line {line} ({error.problem}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MisuseError(f"{path}: not YAML in UTF-8.") from error
    except OSError as error:
        raise MisuseError(f"{path}: cannot be read ({error.strerror}).") from error
    if tree in (None, ""):
        return {}
    if not isinstance(tree, dict):
        raise MisuseError(f"{path}: expected sections (data:, model:, train:), not a list or a single value.")
    return tree
