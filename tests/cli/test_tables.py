"""Claims about scores and models in text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from charrnn.checkpoints import model_file
from charrnn.cli import console, model_page, tables
from tests.conftest import Charrnn

ROW = {"characters": 1234, "bits_per_character": 2.0, "perplexity": 4.0, "accuracy": 0.5}


def test_columns_line_up_though_chinese_is_wide() -> None:
    lines = tables.table([{"model": "李白", "text": "a.txt"} | ROW, {"model": "long-name", "text": "a.txt"} | ROW])
    assert lines.splitlines() == [
        "a.txt, 1,234 characters",
        "model         bits/char  accuracy  perplexity",
        "李白             2.0000    50.00%       4.000",
        "long-name        2.0000    50.00%       4.000",
    ]


def test_each_text_has_a_block_and_baselines_stand_in_it_once() -> None:
    baselines = {"unigram": {"bits_per_character": 4.5}, "ngram": {"order": 7, "bits_per_character": 3.0}}
    other = baselines | {"unigram": {"bits_per_character": 4.25}}
    rows: list[dict[str, Any]] = [
        {"model": "one", "text": "a.txt", "baselines": baselines} | ROW,
        {"model": "two", "text": "a.txt", "baselines": other} | ROW,
        {"model": "one", "text": "b.txt"} | ROW,
    ]
    assert tables.table(rows).splitlines()[4:] == [
        "baselines",
        "  unigram           4.5000",
        "  7-gram            3.0000",
        "  unigram (two)     4.2500",
        "",
        "b.txt, 1,234 characters",
        "model         bits/char  accuracy  perplexity",
        "one              2.0000    50.00%       4.000",
    ]


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("name", ["one", "checkpoints/a-very-long-name-of-a-run-in-a-folder/best.safetensors"])
def test_a_table_fits_the_terminal(width: int, name: str) -> None:
    both = {"cloze_bits_per_character": 0.5, "cloze_accuracy": 0.75, "backward_bits_per_character": 2.25}
    for row in (ROW, ROW | both, ROW | {"mode": "dynamic", "dynamic_rate": 0.4}):
        made = tables.table([{"model": name, "text": "a/long/path/of/a/text/in/a/folder.txt" * 2} | row], width)
        assert all(console.columns(line) <= max(width, 62) for line in made.splitlines())
        assert "2.0000" in made


def test_held_out_splits_of_one_name_and_different_lengths_are_two_texts() -> None:
    rows = [
        {"model": name, "text": "a.txt (test split)"} | ROW | {"characters": count}
        for name, count in (("one", 100), ("two", 900))
    ]
    one, two = tables.table(rows).split("\n\n")
    assert (one.splitlines()[0], two.splitlines()[0]) == (
        "a.txt (test split), 100 characters",
        "a.txt (test split), 900 characters",
    )


def test_what_a_bidirectional_model_makes_of_both_sides_stands_beside_it() -> None:
    both = {"cloze_bits_per_character": 0.5, "cloze_accuracy": 0.75, "backward_bits_per_character": 2.25}
    rows = [{"model": "causal", "text": "a.txt"} | ROW, {"model": "李白", "text": "a.txt"} | ROW | both]
    assert tables.table(rows, 100).splitlines()[1:] == [
        "model         bits/char  accuracy  perplexity  given both sides   right  backwards",
        "causal           2.0000    50.00%       4.000",
        "李白             2.0000    50.00%       4.000            0.5000  75.00%     2.2500",
    ]


def test_a_damaged_run_is_listed_as_such(trained: Path) -> None:
    (trained / "best.safetensors").write_bytes(b"x" * 40)
    assert "not a charrnn model" in model_page.summary(trained)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_page_counts_parameters_and_draws_the_curve_over_the_width(trained: Path, width: int) -> None:
    path = trained / "last.safetensors"  # the best may have seen just one evaluation
    page = model_page.page(path, model_file.read_header(path), width)
    _, model = model_file.read_model(path)
    assert f"parameters    {sum(weights.numel() for weights in model.parameters()):,} weights" in page
    assert "seed 1" in page
    lines = page.splitlines()
    curve = lines[next(place for place, line in enumerate(lines) if line.startswith("bits/char by step")) + 1 :]
    assert sum(line.count("*") for line in curve) == 4  # evaluations, each in a column of its own
    assert curve[-2] == " " * 9 + "+" + "-" * (width - 11)
    assert curve[-1].split() == ["5", "10", "15", "20"]
    assert all(console.columns(line) <= width or " " not in line.strip() for line in lines[1:])


def test_info_as_json_says_what_the_page_says(trained: Path, charrnn: Charrnn) -> None:
    result = charrnn("info", "-m", "text", "--json")
    assert result.exit_code == 0, result.stderr
    (found,) = (json.loads(line) for line in result.stdout.splitlines())
    assert found["file"].endswith("best.safetensors")
    assert found["config"]["model"]["hidden_size"] == 5
    assert found["config"]["train"]["seed"] == 1
    assert found["characters_read"] == 3 * (found["history"][-1]["step"] * 284 // 41)
    assert found["flops"] > 0
    assert found["corpus"]["characters"] == sum(found["corpus"][split] for split in ("training", "validation", "test"))
    assert found["validation"]["bits_per_character"] == pytest.approx(found["history"][-1]["bits_per_character"])
    assert {"uniform", "unigram"} <= found["baselines"]["validation"].keys()


@pytest.mark.parametrize("kind", ["causal", "bidirectional", "ngram"])
def test_info_as_json_counts_the_characters_that_were_read(runs: dict[str, Path], charrnn: Charrnn, kind: str) -> None:
    """Of an n-gram model it once was a traceback."""
    result = charrnn("info", "-m", str(runs[kind]), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    once = found["corpus"]["training"]
    steps = found["history"][-1]["step"]
    assert found["characters_read"] == (once if kind == "ngram" else 3 * (steps // 41 * 284 + steps % 41 * 284 // 41))
    assert (found["flops"] == 0) == (kind == "ngram")


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_info_draws_the_curves_of_runs(runs: dict[str, Path], here: Path, charrnn: Charrnn, ending: str) -> None:
    pytest.importorskip("matplotlib")
    models = ["-m", str(runs["causal"]), "-m", str(runs["bidirectional"])]
    result = charrnn("info", *models, "--plot", f"曲线.{ending}")
    assert result.exit_code == 0, result.stderr
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[ending]
    assert (here / f"曲线.{ending}").read_bytes().startswith(start)
    assert charrnn("info", "-m", str(runs["ngram"]), "--plot", "counted.svg").exit_code == 0


def test_a_picture_that_cannot_be_is_a_sentence(
    trained: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file, code, words in (
        ("curve.gif", 2, "--plot writes .svg, .png or .pdf"),
        ("no/where.svg", 1, "no/where.svg"),
    ):
        result = charrnn("info", "-m", "text", "--plot", file)
        assert (result.exit_code, result.stdout) == (code, "")
        assert words in result.stderr
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = charrnn("info", "-m", "text", "--plot", "curve.svg")
    assert result.exit_code == 1
    assert "pip install 'charrnn[plots]'" in result.stderr
