"""Model files and run folders of an earlier version still load, score, sample the same text and resume.

tests/fixtures/VERSION has what that version made with the make.sh there, and its output in expected.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Charrnn

FIXTURES = Path(__file__).parent / "fixtures" / "0.1.0"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text(encoding="utf-8"))
kinds = pytest.mark.parametrize("kind", EXPECTED)


@kinds
def test_it_samples_the_same_text(kind: str, charrnn: Charrnn) -> None:
    for file in ("best.safetensors", "last.safetensors"):
        if not (FIXTURES / kind / file).exists():
            assert (kind, file) == ("ngram", "last.safetensors")
            continue
        result = charrnn("sample", "-m", str(FIXTURES / kind / file), "-p", "我", "-n", "60", "--seed", "1")
        assert result.exit_code == 0, result.stderr
        expected = EXPECTED[kind]["sample"]
        assert result.stdout == (
            expected["prime"] + expected["text"] + "\n" if file.startswith("best") else EXPECTED[kind]["sample_last"]
        )


@kinds
def test_it_scores_the_same(kind: str, charrnn: Charrnn) -> None:
    result = charrnn("evaluate", str(FIXTURES / "other.txt"), "-m", str(FIXTURES / kind), "--json")
    assert result.exit_code == 0, result.stderr
    found, expected = json.loads(result.stdout.splitlines()[0]), EXPECTED[kind]["evaluate"]
    assert found["characters"] == expected["characters"]
    assert found["nats"] == pytest.approx(expected["nats"], rel=1e-5)
    assert found["accuracy"] == pytest.approx(expected["accuracy"])


@pytest.mark.parametrize("kind", [kind for kind, made in EXPECTED.items() if "infill" in made])
def test_it_fills_the_same_gap(kind: str, charrnn: Charrnn) -> None:
    result = charrnn("sample", "-m", str(FIXTURES / kind), "--infill", "我爱＿＿天安门。")
    assert (result.exit_code, result.stdout) == (0, EXPECTED[kind]["infill"])


@pytest.mark.parametrize("kind", [kind for kind, made in EXPECTED.items() if "resumed" in made])
def test_it_resumes(kind: str, here: Path, charrnn: Charrnn) -> None:
    shutil.copytree(FIXTURES / kind, here / "run")
    text = str(FIXTURES / EXPECTED[kind]["text"])
    result = charrnn("train", text, "--resume", "-m", "run", "-q", "-s", "train.steps=80")
    assert result.exit_code == 0, result.stderr
    lines = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "validation" in line][-1]
    expected = EXPECTED[kind]["resumed"]
    assert last["step"] == expected["step"]
    assert last["validation"]["bits_per_character"] == pytest.approx(expected["bits_per_character"], abs=1e-3)


def test_every_kind_of_model_has_a_fixture() -> None:
    assert {path.name for path in FIXTURES.iterdir() if path.is_dir()} == EXPECTED.keys()
