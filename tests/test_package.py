"""An installation is complete: it includes presets, types and the version."""

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import charrnn
from charrnn.cli.main import cli
from charrnn.config import loading
from charrnn.version import VERSION

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    tree: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return tree


def test_presets_are_found_in_a_checkout() -> None:
    assert ROOT / "configs" == loading.PRESETS
    assert "small" in loading.presets()


def test_presets_ship_as_package_data(project: dict[str, Any]) -> None:
    setuptools = project["tool"]["setuptools"]
    assert "charrnn.configs" in setuptools["packages"]
    assert setuptools["package-dir"]["charrnn.configs"] == "configs"
    assert "*.yaml" in setuptools["package-data"]["charrnn.configs"]
    others = [path.name for path in (ROOT / "configs").iterdir() if path.suffix != ".yaml"]
    assert [name for name in others if name != "__pycache__"] == []


def test_every_package_of_the_program_ships(project: dict[str, Any]) -> None:
    folders = {path.parent for path in (ROOT / "charrnn").rglob("*.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert packages <= set(project["tool"]["setuptools"]["packages"])


def test_types_ship(project: dict[str, Any]) -> None:
    assert (ROOT / "charrnn" / "py.typed").is_file()
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["charrnn"]


def test_version_is_the_same_everywhere(project: dict[str, Any]) -> None:
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "charrnn.version.VERSION"
    assert CliRunner().invoke(cli, ["--version"]).stdout == f"charrnn {VERSION}\n"
    assert f"\n## {VERSION}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert getattr(charrnn, "__version__", VERSION) == VERSION


def test_constraints_pin_every_dependency(project: dict[str, Any]) -> None:
    """An unpinned torch on a new machine is another program, and gigabytes of it."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    extras = project["project"]["optional-dependencies"]
    wanted = project["project"]["dependencies"] + extras["dev"] + extras["browser"]
    names = [re.split(r"[<>=!~ ;\[]", requirement.lower())[0] for requirement in wanted]
    assert [name for name in names if name not in pins] == []
    assert pins["torch"] == "2.13.0"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in makefile.splitlines() if line.startswith("\t") and " install " in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)


@pytest.mark.slow
def test_an_installed_charrnn_has_its_presets(tmp_path: Path) -> None:
    """Install without dependencies into a new environment: finding the presets needs none of them."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    source = tmp_path / "source"
    source.mkdir()
    for folder in ("charrnn", "configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", str(source)], check=True, cwd=tmp_path)
    code = (
        "import importlib.util, pathlib;"
        "home = pathlib.Path(importlib.util.find_spec('charrnn').origin).parent;"
        "print(home / 'py.typed', (home / 'py.typed').is_file());"
        "print(*sorted(path.stem for path in (home / 'configs').glob('*.yaml')))"
    )
    printed = subprocess.run([python, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True).stdout
    typed, presets = printed.splitlines()
    assert typed.endswith("True")
    assert presets.split() == loading.presets()
