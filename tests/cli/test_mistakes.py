"""What is mistyped is told at once, before anything slow, and by the name that would be right."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import assert_sentence
from tests.conftest import Charrnn, settings

# before anything slow


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["train", "nowhere.txt"], 1),
        (["train", "text.txt", "nowhere.txt"], 1),
        (["train", "text.txt", "--encoding", "klingon"], 2),
        (["train", "text.txt", "--device", "toaster"], 2),
        (["train", "text.txt", "-o", "."], 2),
        (["train", "text.txt", "--init-from", "nowhere"], 1),
        (["train", "--resume", "-m", "nowhere"], 1),
        (["sample", "--device", "toaster"], 2),
        (["sample", "--adapt", "nowhere.txt"], 1),
        (["sample", "--adapt", "text.txt", "--encoding", "klingon"], 2),
        (["evaluate", "text.txt", "nowhere.txt"], 1),
        (["evaluate", "text.txt", "-m", "nowhere"], 1),
        (["evaluate", "text.txt", "--device", "toaster"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_what_is_missing_is_told_before_torch_is_loaded(here: Path, arguments: list[str], code: int) -> None:
    probe = (
        "import sys\nfrom charrnn.cli.main import cli\n"
        f"try:\n    cli({arguments!r})\nexcept SystemExit as done:\n    print(done.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=here)
    assert done.stdout.split() == [str(code), "False"]
    assert re.search("nowhere|klingon|toaster|exists already", done.stderr)
    assert "Seed" not in done.stderr
    assert "Traceback" not in done.stderr


def test_no_seed_is_drawn_for_a_text_that_cannot_be_learnt(here: Path, charrnn: Charrnn) -> None:
    Path("short.txt").write_text("fourteen chars")
    assert charrnn("train", "short.txt").stderr == (
        "Error: short.txt has 14 characters; training needs at least 100.\n"
    )


@pytest.mark.parametrize(
    ("options", "stdin"),
    [
        (["--infill", "no gap"], ""),
        (["--infill"], "no gap"),
        (["-p", "a\udc80"], ""),
        (["--until", "a\udc80"], ""),
        (["--until", "a", "-e", "--until", "\\ud800"], ""),
        (["-p", "-"], b"\xff"),
        (["--suffix", "-", "-n", "2"], b"\xff"),
        (["-t", "0"], ""),
        (["--no-copy", "9"], ""),
    ],
    ids=str,
)
def test_nothing_is_adapted_to_before_the_other_options_are_checked(
    trained: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch, options: list[str], stdin: Any
) -> None:
    Path("text.txt").rename("gone.txt")  # which --no-copy needs

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("adapted")

    monkeypatch.setattr("charrnn.evaluation.dynamic.adapt", never)
    result = charrnn("sample", "-m", "text", "--adapt", "gone.txt", *options, stdin=stdin)
    assert_sentence(result, result.exit_code)
    assert "adapted" not in str(result.exception)


def test_every_model_is_found_before_the_first_scores(trained: Path, charrnn: Charrnn) -> None:
    result = charrnn("evaluate", "-m", "text", "-m", "nowhere", "text.txt", "--per-char")
    assert_sentence(result, 1, "nowhere: no such model")


def test_every_text_is_found_before_the_first_is_scored(trained: Path, charrnn: Charrnn) -> None:
    Path("other.txt").write_text(Path("text.txt").read_text().upper())
    assert charrnn("train", "other.txt", "-q", *settings("train.steps=2")).exit_code == 0
    Path("other.txt").unlink()
    result = charrnn("evaluate", "-m", "text", "-m", "other")
    assert_sentence(result, 1, "other.txt: the text that", "is gone", "charrnn evaluate TEXT")
    assert "Scoring" not in result.stderr


# by the name that would be right


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "text.txt", "--lr", "0.1"], ["--lr is a setting, and no option: -s train.learning_rate=0.1"]),
        (["train", "text.txt", "--epochs=3"], ["-s train.epochs=3"]),
        (["train", "text.txt", "--hidden", "512"], ["-s model.hidden_size=512"]),
        (["train", "text.txt", "--num-layers"], ["-s model.num_layers=VALUE"]),
        (["train", "text.txt", "-s", "lr=1"], ["e.g. -s train.learning_rate=1"]),
        (["train", "text.txt", "-s", "train.lr=1"], ["train.lr is not a setting. Did you mean train.learning_rate?"]),
        (["sample", "我爱", "北京"], ["A text to continue follows -p", "charrnn sample -p '我爱 北京'"]),
        (["info", "text"], ["charrnn info -m text"]),
        (["text.txt"], ["text.txt is no command. To learn from it: charrnn train text.txt"]),
        (["train", "https://example.org/a.txt"], ["curl -O https://example.org/a.txt"]),
        (["sample", "-k", "0"], ["-k/--num is 0; it must be at least 1."]),
        (["sample", "-n", "0"], ["-n/--length is 0; it must be at least 1."]),
        (["sample", "-t", "-1"], ["-t/--temperature is -1; it must be above 0.", "use --greedy."]),
        (["sample", "--top-k", "0"], ["--top-k is 0; it must be at least 1."]),
        (["sample", "--top-p", "2"], ["--top-p is 2; it must be above 0"]),
        (["sample", "--min-p", "2"], ["--min-p is 2; it must lie between 0 and 1."]),
        (["sample", "--encoding", "gbk"], ["--encoding is that of --adapt's text"]),
        (["evaluate", "--encoding", "gbk"], ["--encoding is that of TEXT"]),
        (["evaluate", "-", "-"], ["Standard input (-) is named twice"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_mistyped_command_is_told_how_it_is_typed(
    here: Path, charrnn: Charrnn, arguments: list[str], words: list[str]
) -> None:
    result = charrnn(*arguments)
    assert_sentence(result, result.exit_code, *words)


def test_an_option_that_is_no_setting_either_is_clicks_to_explain(here: Path, charrnn: Charrnn) -> None:
    result = charrnn("train", "text.txt", "--foo", "3")
    assert result.exit_code == 2
    assert "--foo" in result.stderr
    assert "-s" not in result.stderr.split()


def test_one_character_is_not_characters(here: Path, charrnn: Charrnn) -> None:
    Path("1.txt").write_text("a")
    assert_sentence(charrnn("train", "1.txt"), 1, "1.txt has 1 character; training needs at least 100.")


def test_a_file_of_newlines_is_short_but_not_empty(here: Path, charrnn: Charrnn) -> None:
    Path("lines.txt").write_text("\n" * 3)
    assert_sentence(charrnn("train", "lines.txt"), 1, "lines.txt has 3 characters")
    Path("lines.txt").write_text("\n" * 300)
    assert_sentence(charrnn("train", "lines.txt"), 1, "one character over and over ('\\n')")


def test_what_was_read_is_what_info_counts(here: Path, charrnn: Charrnn) -> None:
    """The last line lacks its newline, which documents need."""
    Path("lines.txt").write_text("the quick brown fox\n" * 20 + "jumps")
    result = charrnn("train", "lines.txt", *settings("train.steps=2", "data.documents=line"))
    assert "Read 405 characters, and added 1 newline to end the last document." in result.stderr
    assert "406 characters: " in charrnn("info", "-m", "lines").stdout
    Path("lines.txt").write_text("the quick brown fox\n" * 20)
    result = charrnn("train", "lines.txt", *settings("train.steps=2", "data.documents=line"))
    assert "Read 400 characters.\n" in result.stderr


# standard input, and texts that begin with a dash


def test_a_text_that_begins_with_a_dash_is_filled(trained: Path, charrnn: Charrnn) -> None:
    result = charrnn("sample", "-m", "text", "--infill=-_-")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"-(?s:.)-\n", result.stdout)
    assert charrnn("sample", "-m", "text", "--infill=-", stdin="-_-\n").stdout == result.stdout
    assert charrnn("sample", "-m", "text", "--infill", "--json", stdin="-_-\n").stdout.startswith("{")


def test_a_dash_that_is_an_escape_is_a_dash(trained: Path, charrnn: Charrnn) -> None:
    """It was once standard input."""
    common = ["sample", "-m", "text", "-e"]
    assert charrnn(*common, "-p", r"\u002d", "-n", "3", stdin="the").stdout.startswith("-")
    assert charrnn(*common, "--suffix", r"\u002d", "-n", "3", stdin="the").stdout.endswith("-\n")
    assert charrnn(*common, "-p", r"\u002d", "--suffix", r"\u002d", "-n", "3").stdout.startswith("-")
    assert charrnn(*common, "-p", "-", "-n", "3", stdin=r"a\tb").stdout.startswith(r"a\tb")  # and has no escapes


@pytest.mark.parametrize("short", [50_000, 0], ids=["without torch", "with torch"])
@pytest.mark.parametrize(("stdin", "rows"), [("", 0), ("\n", 1), ("\n\n", 2)], ids=["nothing", "a line", "two"])
def test_no_line_or_an_empty_one_is_scored_without_complaint(
    trained: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch, short: int, stdin: str, rows: int
) -> None:
    """As `grep ... | charrnn evaluate --per-line -` may have it."""
    monkeypatch.setattr("charrnn.cli.evaluate._SHORT", short - 1)
    for output in ("--per-line", "--per-char"):
        result = charrnn("evaluate", "-m", "text", output, "-", stdin=stdin)
        assert (result.exit_code, result.stderr, result.stdout.count("\n")) == (0, "", rows)
    assert charrnn("evaluate", "-m", "text", "-", stdin=stdin).exit_code == (0 if rows else 1)


# the seed


def test_a_drawn_seed_brings_a_sample_back(trained: Path, charrnn: Charrnn) -> None:
    first = charrnn("sample", "-m", "text", "-n", "30")
    seed = re.fullmatch(r"Seed: (\d+)\n", first.stderr)
    assert seed
    again = charrnn("sample", "-m", "text", "-n", "30", "--seed", seed[1])
    assert (again.stdout, again.stderr) == (first.stdout, "")
    made = charrnn("sample", "-m", "text", "-n", "3", "--json")
    assert made.stderr == f"Seed: {json.loads(made.stdout)['seed']}\n"


@pytest.mark.parametrize("how", [["--greedy"], ["--beam", "2"], ["--infill", "a_"]], ids=lambda value: value[0])
def test_where_nothing_is_drawn_there_is_no_seed(trained: Path, charrnn: Charrnn, how: list[str]) -> None:
    length = [] if "--infill" in how else ["-n", "3"]
    assert charrnn("sample", "-m", "text", *length, *how).stderr == ""


# settings of a run


def test_all_that_cannot_be_changed_on_resume_is_told_together(trained: Path, charrnn: Charrnn) -> None:
    given = ["model.hidden_size=9", "train.learning_rate=auto", "train.seed=5"]
    result = charrnn("train", "--resume", *(word for setting in given for word in ("-s", setting)))
    assert_sentence(
        result,
        2,
        "model.hidden_size=9 cannot be changed on resume (it is 5)",
        "train.seed=5 cannot be changed on resume (it is 1)",
        "train.learning_rate=auto was resolved when the run started",
    )
