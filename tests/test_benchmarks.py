"""Every benchmark runs, in its smallest form: the figures there say nothing, but a change that breaks one is seen."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from charrnn.device import bf16_on
from charrnn.generation import infill
from tests.conftest import TEXT, settings

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"

# name: its smallest form, where {both}, {causal} and {text} stand for runs and a text; and a row that it has to print
SMALLEST = {
    "contexts": ("{causal} --windows 32,8", r"windows of 8 +\d\.\d{4}"),
    "evaluation": (
        "--cells gru --sizes 1x8 --batch 2 --characters 4000 --distinct 9 --rounds 1",
        r"evaluation +[\d,]+ +[\d.]+",
    ),
    "forms": ("{causal} --count 3", r"model +regular +[\d.]+%"),
    "gaps": ("{both} {causal} --count 4 --widths 1,2", r"lead, exact: [+-][\d.]+%"),
    "inspection": ("--hidden 8 --layers 1 --characters 200", r"saliency +[\d.]+ s"),
    "long_samples": ("--characters 200 --until 3", r"200 +[\d.]+ +[\d.]+"),
    "losses": ("{text} --hidden 8 --layers 1 --steps 20 --seeds 2", r"bf16 custom: [+-][\d.]+"),
    "repeats": ("{text}", r"text\.txt +[\d,]+ +[\d.]+%"),
    "samples": (
        "{causal} --characters 1000 --temperatures 0.8 --min-p 0 --order 3 --copied 8 --grams 2",
        r"t 0\.8, min-p 0 +[\d.]+ +[\d.]+ +[\d.]+",
    ),
}
# those that change how the process they are in works get one of their own
APART = {
    "reading": ("--size 200KB --rounds 1", r"chinese +charrnn, in a file +\d+"),
    "training": (
        "--cells gru --sizes 1x8 --batch 2 --length 4 --rounds 1",
        rf"charrnn {'bf16' if bf16_on(torch.device('cpu')).fast else 'fp32'} custom +[\d,]+ +[\d.]+",
    ),
    "sampling": ("--hidden 128 --layers 1 --vocabulary 9 --rounds 1", r"charrnn, 1 sample +[\d,]+ +[\d.]+"),
    "memory": ("--hidden 8 --layers 1 --batch 2 --length 4", r"save the last +peak +[\d.]+ +after +[\d.]+"),
    "presets": (
        "{text} --sizes 1000 --rest 500 --time 1s --presets tiny --to made",
        r"default compared with tiny: [+-][\d.]+%",
    ),
    "mixture": ("{text} --sizes 1000 --test 500 --to made -s train.steps=5", r"mean [+-][\d.]+%, worst"),
    "startup": ("--rounds 1", r"charrnn --help +[\d,]+"),
}
# what a benchmark measures memory by
LACKS = {
    "long_samples": pytest.mark.skipif(sys.platform == "win32", reason="Windows has no module resource"),
    "memory": pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets a peak"),
}


def marked(names: Iterable[str]) -> list[Any]:
    """Mark what is slow, and what a system lacks."""
    slow = dict.fromkeys(("mixture", "presets", "startup"), pytest.mark.slow)
    return [pytest.param(name, marks=[each[name] for each in (slow, LACKS) if name in each]) for name in names]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Make a text and models of data/beijing.txt, which have seen a few steps."""
    from charrnn.cli.main import cli

    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "text.txt").write_text(TEXT * 3, encoding="utf-8")
    found = {"{text}": str(folder / "text.txt")}
    for kind, both in (("causal", "false"), ("both", "true")):
        given = settings("train.steps=5", "train.sequence_length=32", f"model.bidirectional={both}")
        text = str(ROOT / "data" / "beijing.txt")
        result = CliRunner().invoke(cli, ["train", text, "-q", "-o", str(folder / kind), *given])
        assert result.exit_code == 0, result.output
        found[f"{{{kind}}}"] = str(folder / kind)
    return found


def test_every_benchmark_is_tried() -> None:
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if "click.command" in path.read_text(encoding="utf-8")}
    assert scripts == {*SMALLEST, *APART}


def test_a_module_that_windows_lacks_is_loaded_only_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    main = runpy.run_path(str(BENCHMARKS / "long_samples.py"))["main"]
    assert CliRunner().invoke(main, ["--help"]).exit_code == 0


@pytest.mark.parametrize("name", marked(SMALLEST))
def test_it_runs(name: str, places: dict[str, str], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, row = SMALLEST[name]
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(infill, "IMPLAUSIBLE", infill.IMPLAUSIBLE)  # which one of them sets
    main = runpy.run_path(str(BENCHMARKS / f"{name}.py"))["main"]
    ran = CliRunner().invoke(main, [places.get(word, word) for word in arguments.split()], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert re.search(row, ran.output), ran.output


@pytest.mark.parametrize("name", marked(APART))
def test_it_runs_apart(name: str, places: dict[str, str], here: Path) -> None:
    arguments, row = APART[name]
    ran = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", *(places.get(word, word) for word in arguments.split())],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=300,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search(row, ran.stdout), ran.stdout
