"""Imports go down only: the house's floors, read from its imports; and what a bare command line must not load."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import charrnn

HOUSE = Path(charrnn.__file__).parent
# bottom up; on a floor a room may enter those named before it
FLOORS = (
    ("errors", "version", "metrics", "cells", "filters", "curve"),
    ("config", "text", "source", "vocabulary"),
    ("corpus", "stack", "model", "bidirectional"),
    ("objective", "modelfile", "tokenfile", "evaluate", "cloze", "sample", "beam", "infill"),
    ("checkpoint", "plan"),
    ("train",),
    ("begin",),
    ("api", "display", "tables", "scribe"),
    ("__init__", "cli", "__main__"),
)
ORDER = [room for floor in FLOORS for room in floor]
ROOMS = sorted(path.stem for path in HOUSE.glob("*.py"))


def entered(source: str) -> set[str]:
    """Give the rooms that a source imports, wherever in the file: also in functions and for types only."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            modules = [node.module or ""]
            if node.module == "charrnn":
                modules = [f"charrnn.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            package, _, room = module.partition(".")
            if package == "charrnn":
                # `from charrnn import load` enters by the front door
                found.add(room.partition(".")[0] if room.partition(".")[0] in ORDER else "__init__")
    return found


def test_every_room_has_its_floor_and_every_floor_its_rooms() -> None:
    assert sorted(ORDER) == ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_only(room: str) -> None:
    source = (HOUSE / f"{room}.py").read_text(encoding="utf-8")
    above = {other for other in entered(source) if ORDER.index(other) >= ORDER.index(room)}
    assert not above, f"{room} enters {sorted(above)}, which is not below it"


def test_an_import_is_seen_wherever_it_stands() -> None:
    source = """
import charrnn.cells
from charrnn import corpus as texts, load
from charrnn.filters import Filters
import torch.nn
def later():
    from charrnn.train import train
"""
    assert entered(source) == {"cells", "corpus", "__init__", "filters", "train"}


def loaded_by(statement: str) -> set[str]:
    """Give the top-level modules that a fresh interpreter has loaded after a statement."""
    printed = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"],
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(HOUSE.parent)},
        timeout=60,
    ).stdout
    return set(printed.split())


@pytest.mark.parametrize("statement", ["import charrnn", "import charrnn.cli", "from charrnn import load"])
def test_the_command_line_is_there_before_torch_pydantic_or_numpy(statement: str) -> None:
    loaded = loaded_by(statement)
    assert "charrnn" in loaded
    assert not loaded & {"torch", "numpy", "pydantic", "yaml", "safetensors", "tqdm"}


@pytest.mark.parametrize("room", ["metrics", "text", "errors", "curve"])
def test_rooms_of_plain_python_stay_so(room: str) -> None:
    assert not loaded_by(f"import charrnn.{room}") & {"torch", "numpy", "pydantic"}


def test_numpys_equations_need_no_torch() -> None:
    assert "torch" not in loaded_by("import charrnn.cells, charrnn.filters, charrnn.vocabulary")
