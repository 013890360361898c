"""Imports go down only: the house's floors, read from its imports; and what a bare command line must not load."""

from __future__ import annotations

import ast
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest

import charrnn

HOUSE = Path(charrnn.__file__).parent
# bottom up; on a floor a room may enter those named before it
FLOORS = (
    ("errors", "version", "allocator", "device", "metrics", "cells", "filters", "curve", "copying"),
    ("config", "text", "source", "vocabulary", "reader", "repetition"),
    (
        "corpus",
        "feed",
        "readback",
        "recurrence",
        "stack",
        "hmm",
        "model",
        "bidirectional",
        "captured",
        "tensorfile",
        "lines",
        "ngram",
        "backtracking",
    ),
    (
        "decoder",
        "ondevice",
        "objective",
        "baselines",
        "modelfile",
        "tokenfile",
        "evaluate",
        "cloze",
        "sample",
        "beam",
        "infill",
    ),
    ("dynamic", "checkpoint", "plan", "origin"),
    ("train", "counting", "tuning"),
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


@pytest.mark.parametrize(
    "room", ["reader", "decoder", "tensorfile", "lines", "ngram", "sample", "beam", "infill", "scribe", "api"]
)
def test_rooms_that_read_a_model_need_nothing_but_numpy(room: str) -> None:
    assert loaded_by(f"import charrnn.{room}") & HEAVY <= {"numpy"}


# what each command loads of what was installed for it


INSTALLED = frozenset(module.name for module in pkgutil.iter_modules()) - sys.stdlib_module_names - {"charrnn"}
# those that charrnn asks for; what they bring along themselves is their own business
HEAVY = frozenset({"torch", "numpy", "safetensors", "pydantic", "yaml", "tqdm", "click"})
LIGHT = {"click", "numpy"}


def loaded_by_command(arguments: Sequence[str], stdin: str = "", folder: Path = HOUSE.parent) -> tuple[str, set[str]]:
    """Run the command line in a fresh interpreter; gives what it printed, and what it had loaded of INSTALLED."""
    # a site's own start-up files may load what they like: only what the command adds counts
    code = """
import json, sys
before = set(sys.modules)
from charrnn.cli import cli
try:
    cli(json.loads(sys.argv[1]), prog_name="charrnn")
finally:
    print("\\nloaded:", *{name.partition(".")[0] for name in set(sys.modules) - before})
"""
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        input=stdin,
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(HOUSE.parent)},
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    printed, _, names = result.stdout.rpartition("\nloaded:")
    return printed, {name for name in names.split() if name in INSTALLED}


LINES = "the quick\nfox 鸟\n"
WRITING: dict[str, tuple[str, list[str], str]] = {
    "a sample": ("causal", ["sample", "-n", "9", "--seed", "1"], ""),
    "two samples": ("causal", ["sample", "-n", "9", "--seed", "1", "-k", "2", "-p", "the "], ""),
    "samples as JSON": ("causal", ["sample", "-n", "9", "--json", "--top-k", "3", "--until", "q"], ""),
    "a sample of each line": ("causal", ["sample", "-n", "9", "--each-line"], LINES),
    "a sample of a model of both sides": ("bidirectional", ["sample", "-n", "9", "--device", "cpu"], ""),
    "a sample without repeats": ("causal", ["sample", "-n", "9", "--no-repeat", "3"], ""),
    "a beam": ("causal", ["sample", "-n", "9", "--beam", "3"], ""),
    "a filling of one side": ("causal", ["sample", "--infill", "th_ quick __x"], ""),
    "a filling of both sides": ("bidirectional", ["sample", "--infill", "th_ quick __x"], ""),
    "fillings of each line": ("bidirectional", ["sample", "--infill", "--each-line", "-k", "2"], "th_\n__x\n"),
    "an end to write to": ("bidirectional", ["sample", "-p", "the ", "--suffix", "fox", "-n", "3"], ""),
    "a sample of an n-gram model": ("ngram", ["sample", "-n", "9", "--seed", "1"], ""),
    "a filling of an n-gram model": ("ngram", ["sample", "--infill", "th_ quick __x"], ""),
    "scores of lines by an n-gram model": ("ngram", ["evaluate", "--per-line", "-"], LINES),
    "scores of lines": ("causal", ["evaluate", "--per-line", "-"], LINES),
    "scores of lines, from both sides": ("bidirectional", ["evaluate", "--per-line", "-"], LINES),
}


@pytest.mark.parametrize("command", WRITING)
def test_what_writes_or_scores_lines_on_a_cpu_starts_without_torch_and_pydantic(
    command: str, runs: dict[str, Path]
) -> None:
    kind, arguments, stdin = WRITING[command]
    printed, loaded = loaded_by_command([*arguments, "-m", str(runs[kind])], stdin)
    assert len(printed) > 5
    assert loaded == LIGHT


def test_the_newest_run_is_found_without_pydantic(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "text").symlink_to(runs["causal"], target_is_directory=True)
    for arguments in (["sample", "-n", "9"], ["evaluate", "--per-line", "-"]):
        assert loaded_by_command(arguments, LINES, tmp_path)[1] == LIGHT


def test_a_loaded_model_writes_scores_and_fills_gaps_without_torch(runs: dict[str, Path]) -> None:
    asked = "model.sample('a', 9), model.score('a'), model.infill('a_'), model.search('a', 3)"
    loaded = loaded_by(f"import charrnn\nmodel = charrnn.load({str(runs['bidirectional'])!r})\n{asked}")
    assert loaded & HEAVY == {"numpy"}


COMMANDS: dict[str, tuple[list[str], str, AbstractSet[str]]] = {
    "help": (["--help"], "", {"click"}),
    "version": (["--version"], "", {"click"}),
    **{f"help of {name}": ([name, "--help"], "", {"click"}) for name in ("train", "sample", "evaluate", "info")},
    "sample": (["sample", "-n", "9"], "", LIGHT),
    "evaluate lines": (["evaluate", "--per-line", "-"], LINES, LIGHT),
    # what was learnt is found by the run's settings, which pydantic checks
    "sample without copies": (["sample", "-n", "9", "--no-copy", "9", "--report"], "", {*LIGHT, "pydantic", "yaml"}),
    # what a file says of its training is checked by pydantic, and the settings of a run are YAML
    "info": (["info"], "", {"click", "numpy", "pydantic", "yaml"}),
    "evaluate": (["evaluate", "-"], LINES, HEAVY),
    "evaluate characters": (["evaluate", "--per-char", "-"], LINES, HEAVY),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_loads_what_it_uses_and_nothing_else(command: str, runs: dict[str, Path]) -> None:
    arguments, stdin, expected = COMMANDS[command]
    model = [] if command.startswith(("help", "version")) else ["-m", str(runs["causal"])]
    printed, loaded = loaded_by_command([*arguments, *model], stdin)
    assert printed
    assert loaded & HEAVY == expected
    if expected <= LIGHT:
        assert loaded == expected  # and nothing of anyone else's
