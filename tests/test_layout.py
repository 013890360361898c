"""Imports between packages go one way only, and a command loads no more libraries than it uses."""

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

PACKAGE = Path(charrnn.__file__).parent
# bottom up: a package may import those of the lines before, but no other of its own line
PACKAGES = (
    ("config",),
    ("data",),
    ("models",),
    ("generation", "checkpoints"),
    ("evaluation",),
    ("training", "inspection"),
    ("cli",),
)
# below all of them
GROUND = {"errors", "version", "scores", "messages", "paths", "showable", "strict_json", "atomic_files", "device"}
TOP = {"api", "api_arguments", "api_ensemble", "api_training", "__init__", "__main__"}  # above
LEVEL = {package: level for level, packages in enumerate(PACKAGES, 1) for package in packages}
FILES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in PACKAGE.rglob("*.py"))


def level(file: str) -> int:
    """Return the level of a file; ground files are level 0."""
    package = file.partition(".")[0]
    return LEVEL[package] if package in LEVEL else 0 if package in GROUND else len(PACKAGES) + 1


def imported(source: str) -> set[str]:
    """Return the files of charrnn that a source imports, also inside functions and for types only."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports must be absolute"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name.removeprefix("charrnn.") in FILES else str(node.module) for name in inside}
    names = {name.removeprefix("charrnn.") for name in found if name.partition(".")[0] == "charrnn"}
    return {"__init__" if name == "charrnn" else name for name in names}


def read(file: str) -> str:
    return PACKAGE.joinpath(*file.split(".")).with_suffix(".py").read_text(encoding="utf-8")


def test_every_file_has_a_level() -> None:
    packages = {file.partition(".")[0] for file in FILES}
    assert packages == {*LEVEL, *GROUND, *TOP}


def test_contributors_are_told_of_every_module() -> None:
    table = (PACKAGE.parent / "CONTRIBUTING.md").read_text("utf-8")
    for package in LEVEL.keys() - {"cli"}:  # whose row names the commands
        row = next(line for line in table.splitlines() if line.startswith(f"| [{package}]"))
        modules = {file.partition(".")[2] for file in FILES if file.startswith(f"{package}.")} - {"__init__"}
        assert {module for module in modules if f"`{module}`" not in row} == set(), package


@pytest.mark.parametrize("file", FILES)
def test_imports_go_down_only(file: str) -> None:
    own = file.partition(".")[0]
    above = {
        other for other in imported(read(file)) if other.partition(".")[0] != own and level(other) >= level(file) > 0
    }
    assert file in TOP or not above, f"{file} imports {sorted(above)}, which are not below it"


def test_there_are_no_import_cycles() -> None:
    left = {file: imported(read(file)) & set(FILES) - {file} for file in FILES}
    while free := [file for file, others in left.items() if not others & left.keys()]:
        for file in free:
            del left[file]
    assert not left


@pytest.mark.parametrize("package", LEVEL)
def test_the_docstring_of_a_package_says_what_it_owns_and_is_its_only_code(package: str) -> None:
    source = read(f"{package}.__init__")
    (docstring,) = ast.parse(source).body
    assert isinstance(docstring, ast.Expr)
    assert "\nOwns " in source
    assert package == "cli" or "Refuses to know" in source.replace("\n", " ")


def test_imports_are_found_wherever_they_are() -> None:
    source = """
import charrnn.models.cells
from charrnn.data import corpus as texts
from charrnn import load
from charrnn.generation.filters import Filters
import torch.nn
def later():
    from charrnn.training.loop import train
"""
    assert imported(source) == {
        "models.cells",
        "data.corpus",
        "__init__",
        "generation.filters",
        "training.loop",
    }


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after a statement."""
    printed = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"],
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        timeout=60,
    ).stdout
    return set(printed.split())


@pytest.mark.parametrize("statement", ["import charrnn", "import charrnn.cli.main", "from charrnn import load"])
def test_the_command_line_starts_without_torch_pydantic_or_numpy(statement: str) -> None:
    loaded = loaded_by(statement)
    assert "charrnn" in loaded
    assert not loaded & {"torch", "numpy", "pydantic", "yaml", "safetensors", "tqdm"}


@pytest.mark.parametrize("file", ["scores", "data.text_files", "data.decoding", "errors", "messages"])
def test_files_of_plain_python_load_no_library(file: str) -> None:
    assert not loaded_by(f"import charrnn.{file}") & {"torch", "numpy", "pydantic"}


def test_the_numpy_models_need_no_torch() -> None:
    assert "torch" not in loaded_by("import charrnn.models.cells, charrnn.generation.filters, charrnn.data.vocabulary")


@pytest.mark.parametrize(
    "file",
    [
        "models.interface",
        "models.numpy_model",
        "models.ngram",
        "models.mixture",
        "checkpoints.safetensors_file",
        "checkpoints.inference",
        "evaluation.short_texts",
        "evaluation.ensemble",
        "generation.sampling",
        "generation.beam_search",
        "generation.infill",
        "cli.sample_output",
        "api",
        "api_training",
        "api_ensemble",
    ],
)
def test_files_for_inference_need_nothing_but_numpy(file: str) -> None:
    assert loaded_by(f"import charrnn.{file}") & HEAVY <= ({"numpy", "click"} if file.startswith("cli.") else {"numpy"})


# Libraries that each command loads


INSTALLED = frozenset(module.name for module in pkgutil.iter_modules()) - sys.stdlib_module_names - {"charrnn"}
# direct dependencies of charrnn
HEAVY = frozenset({"torch", "numpy", "safetensors", "pydantic", "yaml", "tqdm", "click"})
LIGHT = {"click", "numpy"}


def loaded_by_command(arguments: Sequence[str], stdin: str = "", folder: Path = PACKAGE.parent) -> tuple[str, set[str]]:
    """Run the command line in a fresh interpreter; return its output and the modules of INSTALLED that it loaded."""
    # start-up files of the site may load anything; only what the command adds counts
    code = """
import json, sys
before = set(sys.modules)
from charrnn.cli.main import cli
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
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
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
    "a sample of a bidirectional model": ("bidirectional", ["sample", "-n", "9", "--device", "cpu"], ""),
    "a sample under a held unit": ("causal", ["sample", "-n", "9", "--hold", "0:1=2"], ""),
    "a sample without repeats": ("causal", ["sample", "-n", "9", "--no-repeat", "3"], ""),
    "a beam": ("causal", ["sample", "-n", "9", "--beam", "3"], ""),
    "an infill by a causal model": ("causal", ["sample", "--infill", "th_ quick __x"], ""),
    "an infill by a bidirectional model": ("bidirectional", ["sample", "--infill", "th_ quick __x"], ""),
    "an infill of each line": ("bidirectional", ["sample", "--infill", "--each-line", "-k", "2"], "th_\n__x\n"),
    "a suffix": ("bidirectional", ["sample", "-p", "the ", "--suffix", "fox", "-n", "3"], ""),
    "a sample of an n-gram model": ("ngram", ["sample", "-n", "9", "--seed", "1"], ""),
    "an infill by an n-gram model": ("ngram", ["sample", "--infill", "th_ quick __x"], ""),
    "scores of lines by an n-gram model": ("ngram", ["evaluate", "--per-line", "-"], LINES),
    "scores of lines": ("causal", ["evaluate", "--per-line", "-"], LINES),
    "scores of lines by a bidirectional model": ("bidirectional", ["evaluate", "--per-line", "-"], LINES),
}


@pytest.mark.parametrize("command", WRITING)
def test_sampling_and_scoring_lines_on_a_cpu_load_neither_torch_nor_pydantic(
    command: str, runs: dict[str, Path]
) -> None:
    kind, arguments, stdin = WRITING[command]
    printed, loaded = loaded_by_command([*arguments, "-m", str(runs[kind])], stdin)
    assert len(printed) > 5
    assert loaded == LIGHT


def test_a_mixture_of_given_weights_samples_without_torch_or_pydantic(runs: dict[str, Path]) -> None:
    """Only to choose weights the training text is looked for, through settings that pydantic validates."""
    models = ("--ensemble", "-m", str(runs["causal"]), "-m", str(runs["ngram"]), "-n", "9")
    assert loaded_by_command(["sample", *models, "--weights", "1,1"])[1] == LIGHT
    assert "torch" not in loaded_by_command(["sample", *models])[1]


def test_the_newest_run_is_found_without_pydantic(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "text").symlink_to(runs["causal"], target_is_directory=True)
    for arguments in (["sample", "-n", "9"], ["evaluate", "--per-line", "-"]):
        assert loaded_by_command(arguments, LINES, tmp_path)[1] == LIGHT


def test_a_loaded_model_samples_scores_and_infills_without_torch(runs: dict[str, Path]) -> None:
    calls = (
        "model.sample('a', 9, num=2), model.score('a'), model.infill('a_'), model.search('a', 3), model.bits('a')",
        "model.states('a'), model.encode('a'), repr(model)",
    )
    lines = ["import charrnn", f"model = charrnn.load({str(runs['bidirectional'])!r})", *calls]
    assert loaded_by("\n".join(lines)) & HEAVY == {"numpy"}


def test_the_names_of_the_python_interface_load_nothing_but_numpy() -> None:
    names = "TextModel, TrainedRun, train, Sample, Filling, States, Score"
    assert loaded_by(f"from charrnn import {names}") & HEAVY == {"numpy"}


COMMANDS: dict[str, tuple[list[str], str, AbstractSet[str]]] = {
    "help": (["--help"], "", {"click"}),
    "version": (["--version"], "", {"click"}),
    **{
        f"help of {name}": ([name, "--help"], "", {"click"})
        for name in ("train", "sample", "evaluate", "info", "export")
    },
    "sample": (["sample", "-n", "9"], "", LIGHT),
    "evaluate lines": (["evaluate", "--per-line", "-"], LINES, LIGHT),
    # the training text is found through the run's settings, which pydantic validates
    "sample without copies": (["sample", "-n", "9", "--no-copy", "9", "--report"], "", {*LIGHT, "pydantic", "yaml"}),
    # pydantic validates the header of a model file, and the settings of a run are YAML
    "info": (["info"], "", {"click", "numpy", "pydantic", "yaml"}),
    "evaluate": (["evaluate", "-"], LINES, HEAVY - {"safetensors"}),
    "evaluate characters": (["evaluate", "--per-char", "-"], LINES, HEAVY - {"safetensors"}),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_loads_only_what_it_uses(command: str, runs: dict[str, Path]) -> None:
    arguments, stdin, expected = COMMANDS[command]
    model = [] if command.startswith(("help", "version")) else ["-m", str(runs["causal"])]
    printed, loaded = loaded_by_command([*arguments, *model], stdin)
    assert printed
    assert loaded & HEAVY == expected
    if expected <= LIGHT:
        assert loaded == expected  # and no indirect dependencies


def test_a_model_is_exported_without_torch(runs: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["export", "--half", "x.safetensors", "--html", "x.html", "-m", str(runs["bidirectional"])]
    _, loaded = loaded_by_command(arguments, folder=tmp_path)
    assert loaded & HEAVY == {"click", "numpy", "pydantic", "yaml"}
    assert {path.name for path in tmp_path.iterdir()} == {"x.safetensors", "x.html"}
