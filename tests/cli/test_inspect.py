"""charrnn inspect: tables, pages, pictures and colours, and what it says of a model or a text that does not fit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from charrnn.checkpoints import inference
from charrnn.cli import inspect_colour
from charrnn.evaluation import short_texts
from charrnn.scores import NATS_PER_BIT
from tests.conftest import TEXT, Charrnn, settings

ROWS = {"reach": 6, "units": 8, "gates": 6, "errors": 5, "saliency": 5}  # columns


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, runs: dict[str, Path]) -> dict[str, str]:
    """Name a model of every kind; none of them is to be changed."""
    from click.testing import CliRunner

    from charrnn.cli.main import cli

    folder = tmp_path_factory.mktemp("inspected")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    named = {name: str(path) for name, path in runs.items()}
    kinds = {
        "rnn": settings("train.steps=20", "model.cell=rnn"),
        "gru": settings("train.steps=200", "model.cell=gru", "train.learning_rate=0.05"),
        "hmm": ["-s", "model.cell=hmm", "-s", "model.hidden_size=5", "-s", "train.steps=20"],
    }
    for name, given in kinds.items():
        result = CliRunner().invoke(cli, ["train", str(folder / "text.txt"), "-q", "-o", str(folder / name), *given])
        assert result.exit_code == 0, result.output
        named[name] = str(folder / name)
    return named


def rows(output: str) -> list[list[str]]:
    return [line.split("\t") for line in output.splitlines()]


@pytest.mark.parametrize("analysis", ROWS)
def test_an_analysis_is_printed_as_tsv_and_as_json(
    analysis: str, here: Path, charrnn: Charrnn, models: dict[str, str]
) -> None:
    words = ("inspect", f"--{analysis}", "text.txt", "--length", "400", "-m", models["gru"])
    table = charrnn(*words)
    assert table.exit_code == 0, table.output
    found = rows(table.stdout)
    columns = ROWS[analysis] - (analysis == "reach")  # without a second model no column names one
    assert found
    assert {len(row) for row in found} == {columns}
    again = charrnn(*words, "--json")
    (line,) = again.stdout.splitlines()
    fields = json.loads(line)
    assert fields["model"] == models["gru"]
    if analysis == "reach":
        assert [int(row[0]) for row in found] == fields["distances"]
        assert [float(row[1]) for row in found] == pytest.approx(fields["truncated"], abs=1e-4)
    if analysis == "errors":
        classes = [row for row in found if row[0] == "class"]
        assert sum(int(row[2]) for row in classes) == 400
        assert sum(float(row[3]) for row in classes) == pytest.approx(fields["bits"], abs=0.5)


def test_reach_compares_models_in_one_table(here: Path, charrnn: Charrnn, models: dict[str, str]) -> None:
    result = charrnn("inspect", "--reach", "text.txt", "-m", models["gru"], "-m", models["ngram"], "-m", models["rnn"])
    assert result.exit_code == 0, result.output
    found = rows(result.stdout)
    assert [row[0] for row in found[::9]] == [models["gru"], models["ngram"], models["rnn"]]
    assert {len(row) for row in found} == {6}
    assert all(row[4] for row in found if row[0] != models["ngram"])
    assert not any(row[4] for row in found if row[0] == models["ngram"])  # it has no gradient


@pytest.mark.parametrize("kind", ["causal", "bidirectional", "ngram", "gru", "rnn", "hmm"])
def test_every_kind_of_model_has_a_page(kind: str, here: Path, charrnn: Charrnn, models: dict[str, str]) -> None:
    result = charrnn("inspect", "text.txt", "-m", models[kind], "-o", "page.html", "--length", "300")
    assert result.exit_code == 0, result.output
    assert result.stdout == "page.html\n"
    page = (here / "page.html").read_text(encoding="utf-8")
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[0])
    assert data["text"] == TEXT[:300]
    expected = {"reach", "errors"}
    expected |= {"surprise"} if kind == "ngram" else {"units"}
    expected |= {"gates"} if kind in {"causal", "bidirectional", "gru"} else set()
    expected |= {"saliency"} if kind not in {"ngram", "hmm"} else set()
    assert set(data["tables"]) == expected
    assert str(here) not in page
    assert str(Path(models[kind]).parent) not in page  # a page is sent to others


def test_without_a_text_the_held_out_split_is_inspected(trained: Path, charrnn: Charrnn) -> None:
    result = charrnn("inspect", "--errors", "-m", str(trained), "--json")
    assert result.exit_code == 0, result.output
    assert "Text: the first 48 characters of the test split of text.txt" in result.stderr
    assert json.loads(result.stdout)["characters"] == 48


def test_a_page_is_named_after_its_model_and_spares_other_files(trained: Path, charrnn: Charrnn) -> None:
    first = charrnn("inspect", "text.txt", "-m", str(trained))
    assert first.stdout == "text.html\n"
    assert charrnn("inspect", "text.txt", "-m", str(trained)).exit_code == 0  # its own page may be written again
    Path("text.html").write_text("<p>my own</p>", encoding="utf-8")
    refused = charrnn("inspect", "text.txt", "-m", str(trained))
    assert refused.exit_code == 2
    assert "text.html is here, and is no page of a model. Name another file" in refused.stderr
    assert Path("text.html").read_text(encoding="utf-8") == "<p>my own</p>"


def test_a_long_text_is_cut_and_says_so(here: Path, charrnn: Charrnn, models: dict[str, str]) -> None:
    result = charrnn("inspect", "--errors", "-", "--length", "120", "-m", models["gru"], "--json", stdin=TEXT)
    assert json.loads(result.stdout)["characters"] == 120
    assert "The first 120 characters of the text are inspected; --length sets another number." in result.stderr


@pytest.mark.parametrize("analysis", ROWS)
def test_an_analysis_is_drawn(analysis: str, here: Path, charrnn: Charrnn, models: dict[str, str]) -> None:
    pytest.importorskip("matplotlib")
    words = ["inspect", f"--{analysis}", "text.txt", "--length", "300", "-m", models["causal"]]
    if analysis == "reach":
        words += ["-m", models["ngram"]]
    result = charrnn(*words, "--plot", "drawn.svg")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert (here / "drawn.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--units -m {ngram} text.txt", "is an n-gram model, which has no units"),
        ("--gates -m {rnn} text.txt", "is an rnn, which has no gates"),
        ("--saliency -m {hmm} text.txt", "is a hidden Markov model, which has no input vectors"),
        ("--reach --units text.txt -m {gru}", "--reach and --units are two outputs; name one."),
        ("--units text.txt -m {gru} -m {rnn}", "--units is about one model"),
        ("--json text.txt -m {gru}", "--json prints an analysis; name one"),
        ("--reach --plot drawn.gif text.txt -m {gru}", "--plot writes .svg, .png or .pdf"),
        ("text.txt -o page.txt -m {gru}", "-o writes a page; name a .html file."),
        ("--errors none.txt -m {gru}", "none.txt"),
        ("--units text.txt --length 60 -m {gru}", "--units needs 100 characters of text; this one has 60."),
        ("--errors text.txt --length 0 -m {gru}", "must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_sentence(
    words: str, said: str, here: Path, charrnn: Charrnn, models: dict[str, str]
) -> None:
    result = charrnn("inspect", *words.format(**models).split())
    assert result.exit_code in {1, 2}
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_colours_show_what_surprises(here: Path, charrnn: Charrnn, models: dict[str, str]) -> None:
    result = charrnn("inspect", "--colour", "-", "-m", models["causal"], stdin="the quick brown fox Zumps\n")
    assert result.exit_code == 0, result.output
    plain = re.sub(r"\x1b\[[0-9;]*[mK]", "", result.stdout)
    assert plain.replace("⏎", "") == "the quick brown fox Zumps\n"
    assert re.search(r"\x1b\[48;[0-9;]*mZ", result.stdout)
    model, vocabulary = inference.load(Path(models["causal"]) / "best.safetensors")
    tokens = vocabulary.encode("the quick brown fox Zumps\n")
    bits = short_texts.character_nats(model, vocabulary, tokens).sum() / NATS_PER_BIT / 26
    assert f"{bits:.4f} bits/char" in result.stderr


def test_no_control_character_of_a_text_reaches_the_terminal() -> None:
    hostile = "a\x1b[31mb\x9b2Jc\u202ed\u0301\x00"
    shown = "".join(inspect_colour.painted(hostile, [9.0] * len(hostile), {}))
    for code in ("\x1b[31m", "\x9b", "\u202e", "\x00"):
        assert code not in shown
    assert "d\u0301" in shown  # a mark stays on its letter


@pytest.mark.parametrize("given", [{}, {"COLORTERM": "truecolor"}])
def test_colours_are_those_that_the_terminal_has(given: dict[str, str]) -> None:
    shown = "".join(inspect_colour.painted("ab", [0.0, 12.0], given))
    assert shown.startswith("a\x1b[48;2;" if given else "a\x1b[48;5;")
    assert shown.endswith("b\x1b[0m")


def test_units_gates_and_errors_load_no_torch(here: Path, models: dict[str, str]) -> None:
    for analysis in ("--units", "--gates", "--errors", "--colour"):
        program = (
            "import sys; from charrnn.cli.main import cli;"
            f"cli(['inspect', {analysis!r}, 'text.txt', '-m', {models['gru']!r}], standalone_mode=False);"
            "assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
