"""The Python interface gives the same results as the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import charrnn as package
from charrnn.errors import CharRNNError, MisuseError
from tests.conftest import TEXT, Charrnn


def test_a_loaded_model_generates_the_text_of_the_command(trained: Path, charrnn: Charrnn) -> None:
    model = package.load(trained)
    printed = charrnn("sample", "-m", "text", "-p", "the fox", "-n", "30", "--seed", "5", "--no-prime").stdout
    text = model.sample("the fox", 30, seed=5)
    assert printed.removesuffix("\n") == text.removesuffix("\n")
    assert "".join(model.stream("the fox", 30, seed=5)) == text


def test_a_loaded_model_stops_at_the_first_of_several_texts(trained: Path) -> None:
    model = package.load(trained)
    text = model.sample("the fox", 30, seed=5)
    stops = [text[20:22], text[9:11]]
    end = min(text.index(stop) for stop in stops)
    assert model.sample("the fox", 30, seed=5, until=stops) == text[:end]
    assert model.sample("the fox", 30, seed=5, until=stops, keep_until=True) == text[: end + 2]
    best = model.search("the fox", 9, width=2)[0].text
    kept = model.search("the fox", 9, width=1, until=[best[4:6], "鸟"], keep_until=True)[0]
    assert kept.ended_by == "until"
    assert kept.text.endswith(best[4:6])


def test_a_loaded_model_avoids_copies_and_repeats_as_the_command_does(trained: Path, charrnn: Charrnn) -> None:
    model = package.load(trained)
    for option, size in (("no_copy", 3), ("no_repeat", 2)):
        arguments = ["-n", "60", "--seed", "5", f"--{option.replace('_', '-')}", str(size), "--no-prime"]
        printed = charrnn("sample", "-m", "text", "-p", "the fox", *arguments).stdout
        constraint: dict[str, Any] = {option: size}
        text = model.sample("the fox", 60, seed=5, **constraint)
        assert printed.removesuffix("\n") == text.removesuffix("\n")
        assert "".join(model.stream("the fox", 60, seed=5, **constraint)) == text != model.sample("the fox", 60, seed=5)
    text = "the fox" + model.sample("the fox", 60, seed=5, no_copy=3)
    assert not any(text[start : start + 3] in TEXT for start in range(5, len(text) - 2))
    Path("text.txt").unlink()
    with pytest.raises(MisuseError, match="no-copy is 1"):
        package.load(trained).sample(no_copy=1)
    with pytest.raises(CharRNNError, match=r"text.txt: .* gone\. Put it back, or leave out no_copy"):
        package.load(trained).sample(no_copy=3)


def test_a_loaded_model_scores_as_the_command_does(trained: Path, charrnn: Charrnn) -> None:
    score = package.load(str(trained / "best.safetensors")).score(TEXT)
    assert f"{score.bits_per_character:.4f}" in charrnn("evaluate", "text.txt", "--exact").stdout


def test_the_newest_run_is_loaded_by_default(trained: Path) -> None:
    model = package.load()
    assert model.path == Path("checkpoints/text/best.safetensors")
    assert "\n" in model.characters


def test_a_loaded_model_searches_as_the_command_does(either: str, charrnn: Charrnn) -> None:
    found = package.load(either).search("the ", 1, width=30, until="o")
    common = ["sample", "-m", either, "-p", "the ", "-n", "1", "--until", "o", "--json"]
    printed = [json.loads(line) for line in charrnn(*common, "--beam", "30", "-k", "30").stdout.splitlines()]
    assert [(sample.prime, sample.text, sample.bits_per_character, sample.seed, sample.index) for sample in found] == [
        (line["prime"], line["text"], line["bits_per_character"], None, line["index"]) for line in printed
    ]
    assert sum(sample.text == "" for sample in found) == 1  # o at once


def test_the_score_of_a_search_result_equals_that_of_score(either: str) -> None:
    model = package.load(either)
    (best,) = model.search("the ", 20, width=1)
    assert best.nats == pytest.approx(model.score("the " + best.text).nats - model.score("the ").nats, rel=1e-4)


def test_a_loaded_model_fills_gaps_as_the_command_does(either: str, charrnn: Charrnn) -> None:
    found = package.load(either).infill("th? ??x_", 3, blanks="?", width=9)
    result = charrnn("sample", "-m", either, "--infill", "th? ??x_", "-k", "3", "--blank", "?", "--beam", "9", "--json")
    printed = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(filling.text, list(filling.gaps), filling.bits_per_character, filling.index) for filling in found] == [
        (line["text"], line["gaps"], line["bits_per_character"], line["index"]) for line in printed
    ]
    assert len(package.load(either).infill("我爱＿_，")) == 1


def test_mistakes_are_charrnn_errors(trained: Path) -> None:
    with pytest.raises(CharRNNError, match="no such model"):
        package.load("nowhere")
    with pytest.raises(MisuseError, match="temperature"):
        package.load().sample(temperature=0.0)
    with pytest.raises(CharRNNError, match="lone surrogate"):
        package.load().score("a\ud800")
    with pytest.raises(MisuseError, match="no gap"):
        package.load().infill("no gap")
    with pytest.raises(MisuseError, match="num is 0"):
        package.load().infill("a_", 0)
    with pytest.raises(MisuseError, match="beam is 0"):
        package.load().infill("a_", width=0)
    with pytest.raises(MisuseError, match="beam is 0"):
        package.load().search(width=0)
    with pytest.raises(MisuseError, match="length is 0"):
        package.load().search(length=0)
