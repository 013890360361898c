"""Claims about the Python interface."""

from __future__ import annotations

from pathlib import Path

import pytest

import charrnn as package
from charrnn.errors import CharRNNError, MisuseError
from tests.conftest import TEXT, Charrnn


def test_a_loaded_model_writes_what_the_command_writes(trained: Path, charrnn: Charrnn) -> None:
    model = package.load(trained)
    said = charrnn("sample", "-m", "text", "-p", "the fox", "-n", "30", "--seed", "5", "--no-prime").stdout
    text = model.sample("the fox", 30, seed=5)
    assert said.removesuffix("\n") == text.removesuffix("\n")
    assert "".join(model.stream("the fox", 30, seed=5)) == text


def test_a_loaded_model_scores_what_the_command_scores(trained: Path, charrnn: Charrnn) -> None:
    score = package.load(str(trained / "best.safetensors")).score(TEXT)
    assert f"{score.bits_per_character:.4f}" in charrnn("evaluate", "text.txt", "--exact").stdout


def test_the_newest_run_is_loaded_by_default(trained: Path) -> None:
    model = package.load()
    assert model.path == Path("checkpoints/text/best.safetensors")
    assert "\n" in model.characters


def test_mistakes_are_charrnn_errors(trained: Path) -> None:
    with pytest.raises(CharRNNError, match="no such model"):
        package.load("nowhere")
    with pytest.raises(MisuseError, match="temperature"):
        package.load().sample(temperature=0.0)
    with pytest.raises(CharRNNError, match="lone surrogate"):
        package.load().score("a\ud800")
