"""Claims about scores and models in text."""

from __future__ import annotations

from pathlib import Path

from charrnn.checkpoints import model_file
from charrnn.cli import model_page, tables


def test_columns_line_up_though_chinese_is_wide() -> None:
    row = {"characters": 1234, "bits_per_character": 2.0, "perplexity": 4.0, "accuracy": 0.5}
    lines = tables.table(
        [{"model": "李白", "text": "a.txt"} | row, {"model": "long-name", "text": "b"} | row]
    ).splitlines()
    assert lines[1] == "李白       a.txt       1,234     2.0000       4.000    50.00%"
    assert lines[2] == "long-name  b           1,234     2.0000       4.000    50.00%"


def test_the_table_of_both_sides_leaves_out_what_reads_forwards_alone() -> None:
    row = {"text": "a.txt", "characters": 1234, "bits_per_character": 2.0}
    both = {"cloze_bits_per_character": 0.5, "cloze_accuracy": 0.75, "backward_bits_per_character": 2.25}
    lines = tables.two_sided_table([{"model": "causal"} | row, {"model": "李白"} | row | both]).splitlines()
    assert lines == [
        "given both sides (cloze)  text   characters  cloze bits/char  accuracy  backward bits/char",
        "李白                      a.txt       1,234           0.5000    75.00%              2.2500",
    ]


def test_a_damaged_run_is_listed_as_such(trained: Path) -> None:
    (trained / "best.safetensors").write_bytes(b"x" * 40)
    assert "no charrnn model" in model_page.summary(trained)


def test_a_page_counts_parameters_and_draws_the_curve(trained: Path) -> None:
    path = trained / "last.safetensors"  # the best may have seen just one evaluation
    page = model_page.page(path, model_file.read_header(path))
    _, model = model_file.read_model(path)
    assert f"parameters    {sum(weights.numel() for weights in model.parameters()):,}" in page
    assert "seed 1" in page
    assert page.count("*") >= 2
