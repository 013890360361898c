"""Claims about the command line: what goes where, exit codes, and a sentence for every mistake."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from charrnn import TextModel
from charrnn.checkpoints.model_file import read_header
from charrnn.errors import CharRNNError
from charrnn.evaluation import scoring
from charrnn.training import new_run, resume
from tests.conftest import TEXT, Charrnn, settings


def assert_sentence(result: Any, code: int, *words: str) -> None:
    """Check exit code, an empty stdout, one `Error:` and no traceback."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert len(re.findall("Error:", result.stderr)) == 1
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


# train


def test_train_prints_the_best_models_path_and_nothing_else(here: Path, charrnn: Charrnn) -> None:
    result = charrnn("train", "text.txt", *settings("train.steps=6"))
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{Path('checkpoints/text/best.safetensors')}\n"
    assert Path(result.stdout.strip()).is_file()
    assert "validation" in result.stderr
    assert "best validation score" in result.stderr
    names = {path.name for path in (here / "checkpoints" / "text").iterdir()}
    expected = {"best.safetensors", "last.safetensors", "config.yaml", "metrics.jsonl", "samples.txt"}
    assert names - {".lock"} == expected


def test_quiet_is_quiet(here: Path, charrnn: Charrnn) -> None:
    result = charrnn("train", "text.txt", "-q", *settings("train.steps=6"))
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("both", [True, False])
def test_the_log_tells_what_both_sides_give_of_a_bidirectional_model(here: Path, charrnn: Charrnn, both: bool) -> None:
    result = charrnn("train", "text.txt", *settings("train.steps=6", f"model.bidirectional={both}"))
    assert result.exit_code == 0, result.output
    row = r"^ +\d  +\d\.\d\d  +\d\.\d{4}  +\d\.\d{4}  +(\d\.\d{4})  +(\d+\.\d%)  +\*?  +0:0\d"
    assert len(re.findall(row, result.stderr, re.MULTILINE)) == (2 if both else 0)
    assert (" both sides     right  best " in result.stderr) == both
    assert ("bidirectional" in charrnn("info").stdout) == both


def test_a_drawn_seed_is_printed_and_written(here: Path, charrnn: Charrnn) -> None:
    result = charrnn("train", "text.txt", *settings("train.steps=2", "train.seed=null"))
    seed = re.search(r"Seed (\d+)\.", result.stderr)
    assert seed
    assert f"seed: {seed[1]}" in (here / "checkpoints/text/config.yaml").read_text()


@pytest.mark.parametrize(
    "seed", ["-1", "1.5", "x", str(2**63), "9" * 5000], ids=["negative", "half", "word", "large", "long"]
)
def test_a_seed_that_is_none_is_a_sentence(here: Path, charrnn: Charrnn, seed: str) -> None:
    result = charrnn("train", "text.txt", f"--seed={seed}")
    assert result.exit_code == 2
    assert re.search("is not a whole number of 0 or more|this number is too large; 18 digits fit", result.stderr)
    assert str(2**63 - 1) not in result.stderr


def test_an_empty_prime_is_none(trained: Path, charrnn: Charrnn) -> None:
    assert charrnn("sample", "-m", "text", "-n", "3", "--each-line", "-p", "", stdin="the\n").exit_code == 0
    assert charrnn("sample", "-m", "text", "--infill", "th_", "-p", "").exit_code == 0


def test_seed_zero_is_a_seed(here: Path, charrnn: Charrnn) -> None:
    assert charrnn("train", "text.txt", "--seed", "0", *settings("train.steps=2", "train.seed=null")).exit_code == 0
    assert "seed: 0" in (here / "checkpoints/text/config.yaml").read_text()


def test_a_second_training_takes_the_next_folder(trained: Path, charrnn: Charrnn) -> None:
    result = charrnn("train", "text.txt", "-q", *settings("train.steps=2"))
    assert result.stdout == f"{Path('checkpoints/text-2/best.safetensors')}\n"


def test_text_from_standard_input(here: Path, charrnn: Charrnn) -> None:
    result = charrnn("train", "-", "-q", *settings("train.steps=2"), stdin="我爱北京天安门\n" * 30)
    assert result.stdout == f"{Path('checkpoints/stdin/best.safetensors')}\n"
    assert (here / "checkpoints/stdin/corpus.txt").read_text(encoding="utf-8") == "我爱北京天安门\n" * 30


def test_resume_extends_a_finished_run(trained: Path, charrnn: Charrnn) -> None:
    again = charrnn("train", "--resume")
    assert (again.exit_code, again.stdout) == (0, f"{Path('checkpoints/text/best.safetensors')}\n")
    longer = charrnn("train", "--resume", "-m", "text", "-s", "train.steps=25")
    assert longer.exit_code == 0, longer.output
    assert "Resuming" in longer.stderr
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 25


@pytest.mark.parametrize("options", [("text.txt",), ("--resume",)], ids=str)
def test_time_counts_from_typing(
    trained: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """While torch is loaded, too; of a resumed run it did not."""
    given: list[float] = []

    def stop(*_: object, began: float, **__: object) -> NoReturn:
        given.append(began)
        raise CharRNNError("enough")

    monkeypatch.setattr(new_run, "start", stop)
    monkeypatch.setattr(resume, "resume", stop)
    clock = itertools.count(123.0)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert charrnn("train", *options, "--time", "10s").exit_code == 1
    assert given == [123.0]


def test_init_from_fine_tunes(trained: Path, charrnn: Charrnn) -> None:
    Path("new.txt").write_text("quizzical foxes 狐狸 jump\n" * 20, encoding="utf-8")
    result = charrnn("train", "new.txt", "--init-from", "text", "-s", "train.steps=2", "--seed", "1")
    assert result.exit_code == 0, result.output
    assert re.search(r"Starting from .* and its \d+ characters; [1-9]\d* more are new\.", result.stderr)
    assert re.search(
        r"^kept +\d+ of them, which the new training split lacks$", charrnn("info", "-m", "new").stdout, re.MULTILINE
    )
    assert "kept  " not in charrnn("info", "-m", "text").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train"], 2, ["No text to learn"]),
        (["train", "nowhere.txt"], 1, ["nowhere.txt: no such file or folder"]),
        (["train", "empty.txt"], 1, ["empty.txt is empty"]),
        (["train", "short.txt"], 1, ["short.txt has 14 characters; training needs at least 100."]),
        (["train", "same.txt"], 1, ["same.txt is one character over and over ('a')"]),
        (["train", "binary.bin"], 1, ["binary.bin", "binary"]),
        (["train", "gb.txt"], 1, ["gb.txt: not UTF-8 at byte 0 (0xce), line 1,", "--encoding gb18030"]),
        (["train", "gb.txt", "--encoding", "klingon"], 2, ["klingon is not a supported text encoding"]),
        (["train", "nothing"], 1, ["nothing: no .txt file in this folder or below"]),
        (["train", "nothing", "--glob", "*.py"], 1, ["nothing: no file like *.py in this folder or below"]),
        (["train", "text.txt", "--glob", "*.py"], 2, ["--glob chooses the files of a folder"]),
        (["train", "--glob", "*.py"], 2, ["No text to learn"]),
        (["train", "text.txt", "--glob", ""], 2, ["data.glob is ''", "a pattern such as *.py"]),
        (["train", "nothing", "--glob", "."], 2, ["data.glob is '.'", "a pattern such as *.py"]),
        (["train", "nothing", "--glob", "./"], 2, ["data.glob is './'", "a pattern such as *.py"]),
        (["train", "text.txt", "-s", "data.glob="], 2, ["data.glob is ''", "a pattern such as *.py"]),
        (["train", "text.txt", "-s", "data.encoding_errors=drop"], 2, ["it must be strict, replace or skip"]),
        (["train", "giant.txt", "-c", "names"], 1, ["keeps each line whole, and the text is a single line"]),
        (["train", "text.txt", "-s", "data.min_count=9999"], 1, ["data.min_count=9999 leaves no character to learn"]),
        (["train", "text.txt", "-s", "train.learning_rte=1"], 2, ["train.learning_rte", "Did you mean learning_rate?"]),
        (["train", "text.txt", "-c", "smal"], 2, ["smal is neither a preset", "Did you mean small?", "tiny"]),
        (["train", "text.txt", "-c", "nowhere.yaml"], 2, ["nowhere.yaml: no such configuration file"]),
        (["train", "text.txt", "--time", "soon"], 2, ["train.time is 'soon'", "10m"]),
        (["train", "text.txt", "--device", "cuda:9"], 2, ["cuda:9"]),
        (["train", "text.txt", "--device", "toaster"], 2, ["toaster"]),
        (["train", "--resume"], 1, ["Nothing to resume", "charrnn train TEXT"]),
        (["train", "--resume", "-m", "nowhere"], 1, ["nowhere: no run to resume there"]),
        (["train", "--resume", "-c", "small"], 2, ["leave out --config"]),
        (["train", "text.txt", "-m", "x"], 2, ["-m names the run to --resume"]),
        (["train", "text.txt", "--init-from", "nowhere"], 1, ["nowhere: no such model"]),
        (["train", "text.txt", "-o", "taken"], 2, ["taken exists already", "-o"]),
        (["sample"], 1, ["No model here", "charrnn train TEXT"]),
        (["sample", "-m", "text.txt"], 1, ["text.txt is not a charrnn model"]),
        (["evaluate", "text.txt"], 1, ["No model here"]),
        (["info"], 1, ["No model here"]),
        (["info", "-m", "nothing"], 1, ["nothing holds no model"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_mistake_is_one_sentence(
    here: Path, charrnn: Charrnn, arguments: list[str], code: int, words: list[str]
) -> None:
    (here / "empty.txt").write_text("")
    (here / "short.txt").write_text("fourteen chars")
    (here / "same.txt").write_text("a" * 500)
    (here / "binary.bin").write_bytes(bytes(range(256)) * 20)
    (here / "gb.txt").write_bytes(("我爱北京" * 100).encode("gb18030"))
    (here / "giant.txt").write_text("a b " * 100)
    (here / "nothing").mkdir()
    (here / "taken").mkdir()
    (here / "taken" / "mine.txt").write_text("keep")
    assert_sentence(charrnn(*arguments), code, *words)
    assert (here / "taken" / "mine.txt").read_text() == "keep"


def test_all_mistakes_in_settings_come_at_once(here: Path, charrnn: Charrnn) -> None:
    (here / "mine.yaml").write_text("train:\n  learning_rte: 1\n  epochs: many\nmodle:\n  cell: gru\n")
    result = charrnn("train", "text.txt", "-c", "mine.yaml", "-s", "model.cell=grue")
    assert_sentence(
        result,
        2,
        "mine.yaml: train.learning_rte is not a setting. Did you mean learning_rate?",
        "mine.yaml: train.epochs is 'many'; it must be a positive integer, auto or null",
        "mine.yaml: modle is not a section. Did you mean model?",
        "model.cell is 'grue'; it must be lstm, gru, rnn, ngram or hmm",
    )


def test_a_hundred_characters_are_enough_and_what_shrank_is_said(here: Path, charrnn: Charrnn) -> None:
    (here / "least.txt").write_text(TEXT[:100])
    result = charrnn("train", "least.txt", "--seed", "1", "-s", "train.steps=3")
    assert result.exit_code == 0, result.output
    assert "windows of 45 characters instead of 128" in result.stderr
    assert "validation split has only 5 characters" in result.stderr


def test_a_damaged_file_names_the_other(trained: Path, charrnn: Charrnn) -> None:
    last = trained / "last.safetensors"
    last.write_bytes(last.read_bytes()[:913])
    assert_sentence(charrnn("train", "--resume"), 1, "is damaged (", "913", "Try best.safetensors.")


def test_a_locked_run_is_not_trained_twice(trained: Path, charrnn: Charrnn) -> None:
    from charrnn.checkpoints.run_dir import Run

    run = Run(trained)
    run.lock()
    assert_sentence(charrnn("train", "--resume"), 1, "is being trained by another process")
    run.release()


def test_a_changed_text_is_not_resumed(trained: Path, charrnn: Charrnn) -> None:
    Path("text.txt").write_text(TEXT + "!")
    assert_sentence(charrnn("train", "--resume", "-s", "train.steps=30"), 1, "has changed since", "--init-from")
    Path("text.txt").unlink()
    assert_sentence(charrnn("train", "--resume", "-s", "train.steps=30"), 1, "is gone", "Name where it is now")


def test_disk_full_says_what_to_free_and_keeps_the_previous(
    trained: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (trained / "last.safetensors").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = charrnn("train", "--resume", "-s", "train.steps=25", "-q")
    assert_sentence(result, 1, "the disk is full", "Free at least", "--resume")
    assert (trained / "last.safetensors").read_bytes() == before


# sample


def test_a_sample_is_the_prime_the_continuation_and_one_newline(trained: Path, charrnn: Charrnn) -> None:
    result = charrnn("sample", "-m", "text", "-p", "the fox", "-n", "30", "--seed", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("the fox")
    assert result.stdout.endswith("\n")
    assert len(result.stdout.removesuffix("\n")) in {36, 37}
    alone = charrnn("sample", "-m", "text", "-p", "the fox", "-n", "30", "--seed", "1", "--no-prime")
    assert "the fox" + alone.stdout == result.stdout
    assert result.stderr == ""


def test_the_newest_model_is_named_on_stderr(trained: Path, charrnn: Charrnn) -> None:
    assert charrnn("sample", "-n", "3", "--seed", "1").stderr == (
        f"Model: {Path('checkpoints/text/best.safetensors')}\n"
    )


def test_many_samples_are_parted_by_an_empty_line_and_start_with_the_few(trained: Path, charrnn: Charrnn) -> None:
    common = ["sample", "-m", "text", "-n", "20", "--seed", "0", "--until", "\n"]
    three, five = charrnn(*common, "-k", "3").stdout, charrnn(*common, "-k", "5").stdout
    assert five.startswith(three)
    assert len(five.split("\n\n")) == 5
    assert charrnn(*common).stdout == three.split("\n\n")[0] + "\n"


def test_each_line_gives_one_line_in_order(trained: Path, charrnn: Charrnn) -> None:
    primes = ["the", "", "鸟", *("five dozen" for _ in range(70))]
    result = charrnn("sample", "-m", "text", "--each-line", "-n", "9", "--seed", "3", stdin="\n".join(primes) + "\n")
    lines = result.stdout.removesuffix("\n").split("\n")
    assert len(lines) == len(primes)
    assert all(line.startswith(prime) for line, prime in zip(lines, primes, strict=True))


def test_the_samples_of_a_line_follow_one_another_and_the_first_is_that_without_k(
    trained: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charrnn.cli.sample_output._BATCH", 5)
    primes = ["the", "", "the"]
    common = ["sample", "-m", "text", "--each-line", "-n", "9", "--seed", "3"]
    one, three = (charrnn(*common, "-k", num, stdin="\n".join(primes)).stdout for num in ("1", "3"))
    assert one.splitlines() == three.splitlines()[::3]
    assert len(set(three.splitlines())) == 9
    samples = [
        json.loads(line) for line in charrnn(*common, "-k", "3", "--json", stdin="\n".join(primes)).stdout.splitlines()
    ]
    assert [sample["prime"] + sample["text"] for sample in samples] == three.splitlines()
    assert [(sample["line"], sample["index"]) for sample in samples] == [
        (row, at) for row in range(3) for at in range(3)
    ]


@pytest.mark.parametrize("how", [[], ["--beam", "2"], ["--infill"]], ids=["drawn", "beam", "infill"])
@pytest.mark.parametrize("bad", [b"\xff", b"a\0b"], ids=["not UTF-8", "NUL"])
def test_a_bad_line_keeps_the_good_answers_before_it(
    trained: Path, charrnn: Charrnn, how: list[str], bad: bytes
) -> None:
    """All answers of its block of 64 lines once went with it."""
    arguments = ["sample", "-m", "text", "--each-line", *([] if "--infill" in how else ["-n", "5"]), *how]
    result = charrnn(*arguments, stdin=b"fo_\n_ox\n" + bad + b"\nth_\n")
    assert (result.exit_code, result.stdout.count("\n")) == (1, 2)
    assert "\nError: standard input, line 3: " in f"\n{result.stderr}"


SAMPLE_FIELDS = ["bits_per_character", "ended_by", "index", "line", "prime", "seed", "text"]


def test_json_tells_all_of_a_sample(trained: Path, charrnn: Charrnn) -> None:
    result = charrnn("sample", "-m", "text", "-p", "狐", "-n", "12", "-k", "2", "--seed", "4", "--json")
    samples = [json.loads(line) for line in result.stdout.splitlines()]
    assert [sorted(sample) for sample in samples] == [SAMPLE_FIELDS] * 2
    assert [(sample["prime"], sample["seed"], sample["index"], len(sample["text"])) for sample in samples] == [
        ("狐", 4, 0, 12),
        ("狐", 4, 1, 12),
    ]


def test_a_prime_from_stdin_loses_the_newline_that_echo_adds(trained: Path, charrnn: Charrnn) -> None:
    piped = charrnn("sample", "-m", "text", "-p", "-", "-n", "9", "--seed", "1", stdin="the fox\n")
    assert piped.stdout == charrnn("sample", "-m", "text", "-p", "the fox", "-n", "9", "--seed", "1").stdout


def test_no_text_has_a_nul(trained: Path, charrnn: Charrnn) -> None:
    """It ends files where these are documents."""
    for given in (["-p", "a\0b"], ["-e", "-p", r"a\u0000b"], ["--until", "\0"], ["--infill", "a_\0"]):
        result = charrnn("sample", "-m", "text", *given)
        assert result.exit_code == 1, given
        assert "which cannot stand in a text" in result.stderr
    model = TextModel("text")
    for call in (model.sample, model.score, model.bits, model.encode, model.search, model.infill):
        with pytest.raises(CharRNNError, match="a NUL at character 1, which cannot stand in a text"):
            call("a\0_")


@pytest.mark.parametrize("prime", ["鸟🐦", "", "the quick brown fox " * 40], ids=["new", "none", "long"])
def test_any_prime_works(trained: Path, charrnn: Charrnn, prime: str) -> None:
    result = charrnn("sample", "-m", "text", "-p", prime, "-n", "5", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["prime"] == prime


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-t", "0"], ["temperature is 0; it must be above 0"]),
        (["-t", "nan"], ["temperature is nan"]),
        (["--top-p", "1.5"], ["top-p is 1.5"]),
        (["--top-p", "0"], ["top-p is 0; it must be above 0"]),
        (["--min-p", "2"], ["min-p is 2"]),
        (["--top-k", "0"], ["top-k is 0; it must be at least 1"]),
        (["-n", "0"], ["length is 0"]),
        (["-n", "-5"], ["length is -5"]),
        (["-k", "0"], ["num is 0"]),
        (["--until", ""], ["until is empty"]),
        (["--until", "a", "--until", ""], ["until is empty"]),
        (["--keep-until"], ["--keep-until keeps the text of --until; name one"]),
        (["-e", "--until", "a\\q"], ["--until has \\q, which is no escape; -e knows \\n, \\t, \\\\ and \\uXXXX."]),
        (["-e", "-p", "\\u12"], ["--prime has \\u, which is no escape"]),
        (["-e", "-p", "a\\"], ["--prime has \\, which is no escape"]),
        (["-e", "-p", "\\ud83d"], ["lone surrogate"]),
        (["-e", "--until", "\\ud83d"], ["until: character 0 is a lone surrogate"]),
        (["--greedy", "-t", "0.5"], ["--greedy takes the likeliest"]),
        (["-p", "a\udc80"], ["lone surrogate"]),
        (["--device", "cuda:9"], ["cuda:9"]),
    ],
    ids=lambda value: " ".join(value).encode("ascii", "replace").decode(),
)
def test_a_sample_that_cannot_be_is_a_sentence(
    trained: Path, charrnn: Charrnn, options: list[str], words: list[str]
) -> None:
    result = charrnn("sample", "-m", "text", *options)
    assert result.exit_code in {1, 2}
    assert_sentence(result, result.exit_code, *words)


# sample: until


def test_the_first_of_several_stop_texts_ends_a_sample_and_json_says_so(trained: Path, charrnn: Charrnn) -> None:
    """Only the last --until once counted, without a word."""
    common = ["sample", "-m", "text", "-p", "the", "-n", "40", "--seed", "2", "--json"]
    full = json.loads(charrnn(*common).stdout)
    assert full["ended_by"] == "length"
    text = full["text"]
    late, early = text[30:32], text[12:14]
    for stops in ([early, late], [late, early]):
        until = [word for stop in stops for word in ("--until", stop)]
        found = json.loads(charrnn(*common, *until).stdout)
        end = min(text.index(stop) for stop in stops)
        assert (found["text"], found["ended_by"]) == (text[:end], "until")
        kept = json.loads(charrnn(*common, *until, "--keep-until").stdout)
        assert kept["text"] == text[: end + 2]
        shown = charrnn(*common[:-1], *until, "--keep-until").stdout
        assert shown == "the" + kept["text"] + "\n" * (not kept["text"].endswith("\n"))


def test_a_stop_text_that_begins_in_the_prime_leaves_nothing(either: str, charrnn: Charrnn) -> None:
    for how in (["--greedy"], ["--beam", "1"]):
        common = ["sample", "-m", either, "-p", "the q", "-n", "9", *how]
        after = charrnn(*common, "--no-prime").stdout
        assert charrnn(*common, "--until", "q" + after[0]).stdout == "the q\n"
        found = json.loads(charrnn(*common, "--until", "q" + after[0], "--json").stdout)
        assert (found["text"], found["ended_by"], found["bits_per_character"]) == ("", "until", None)
        found = json.loads(charrnn(*common, "--until", "q" + after[0], "--json", "--keep-until").stdout)
        assert found["text"] == after[0]


def test_escapes_are_read_where_a_shell_has_none(either: str, charrnn: Charrnn) -> None:
    common = ["sample", "-m", either, "-n", "9", "--seed", "1"]
    for typed, text in (("a\\nb", "a\nb"), ("\\t\\\\n", "\t\\n"), ("\\u9e1f\\ud83d\\ude00", "鸟😀")):
        found = charrnn(*common, "-e", "-p", typed, "--until", typed)
        assert (found.exit_code, found.stderr) == (0, "")
        assert found.stdout == charrnn(*common, "-p", text, "--until", text).stdout
    assert charrnn(*common, "-e", "-p", "-", stdin="a\\n").stdout == charrnn(*common, "-p", "a\\n").stdout
    filled = charrnn("sample", "-m", either, "-e", "--infill", "th_\\n_").stdout
    assert filled == charrnn("sample", "-m", either, "--infill", "th_\n_").stdout
    between = charrnn("sample", "-m", either, "-e", "-p", "a", "--suffix", "\\n", "-n", "2").stdout
    assert between == charrnn("sample", "-m", either, "-p", "a", "--suffix", "\n", "-n", "2").stdout


@pytest.mark.parametrize("option", ["--prime", "--until", "--suffix", "--infill"])
def test_a_backslash_and_an_n_get_a_hint(trained: Path, charrnn: Charrnn, option: str) -> None:
    length = [] if option == "--infill" else ["-n", "2"]
    result = charrnn("sample", "-m", "text", option, "_\\n", *length)
    assert result.exit_code == 0
    assert result.stderr.startswith(f"{option} has a backslash and an n. With -e, \\n is a newline.\n")


# sample: neither copied nor repeated


def grams(text: str, size: int) -> set[str]:
    return {text[at : at + size] for at in range(len(text) - size + 1)}


@pytest.mark.parametrize("how", [[], ["--greedy"], ["--top-k", "2"], ["-k", "3", "--json"], ["--until", "q"]])
def test_nothing_is_copied_and_the_report_says_so(either: str, charrnn: Charrnn, how: list[str]) -> None:
    common = ["sample", "-m", either, "-p", "the quick", "-n", "60", "--no-prime", *how]
    result = charrnn(*common, "--no-copy", "4", "--report", "--seed", "1")
    assert result.exit_code == 0, result.output
    whole = result.stdout.removesuffix("\n")
    texts = [json.loads(line)["text"] for line in whole.splitlines()] if "--json" in how else [whole]
    assert not set.union(*(grams(text, 4) for text in texts)) & grams(TEXT[: int(len(TEXT) * 0.9 + 1e-6)], 4)
    copied = re.search(
        r"^Longest run copied from the training text: (?:(\d) characters?: .+|none)$", result.stderr, re.M
    )
    assert copied
    assert int(copied[1] or 0) < 4
    assert re.search(r"^Longest run repeated within a sample: ", result.stderr, re.M)


def test_nothing_is_repeated_also_line_by_line(either: str, charrnn: Charrnn) -> None:
    common = ["sample", "-m", either, "-n", "90", "--greedy", "--no-repeat", "5"]
    written = charrnn(*common).stdout.removesuffix("\n")
    assert len(written) == 90
    assert len(grams(written, 5)) == 86
    result = charrnn(*common, "--each-line", "--report", stdin="the\n\nquick\n")
    assert result.stdout.count("\n") == 3
    assert all(len(grams(line, 5)) == max(0, len(line) - 4) for line in result.stdout.splitlines())
    assert "repeated within a sample: 5" not in result.stderr


def test_a_sample_that_cannot_go_on_ends_with_a_sentence(either: str, charrnn: Charrnn) -> None:
    result = charrnn("sample", "-m", either, "-n", "5000", "--no-copy", "2", "--no-repeat", "2", "--seed", "1")
    assert result.exit_code == 0
    assert 0 < len(result.stdout) < 5000
    assert re.search(
        r"Sample 1 ended early, after \d[\d,]* characters?: every continuation is excluded",
        result.stderr,
    )


def test_what_was_learnt_must_be_there_and_the_same(trained: Path, charrnn: Charrnn) -> None:
    common = ["sample", "-m", "text", "-n", "9"]
    Path("text.txt").write_text(TEXT + "more\n", encoding="utf-8")
    assert_sentence(charrnn(*common, "--no-copy", "8"), 1, "text.txt: the text has changed", "leave out --no-copy")
    Path("text.txt").unlink()
    assert_sentence(charrnn(*common, "--no-copy", "8"), 1, "was trained on is gone", "leave out --no-copy")
    result = charrnn(*common, "--report", "--seed", "1")
    assert (result.exit_code, result.stdout) == (0, charrnn(*common, "--seed", "1").stdout)
    assert "nothing can be said of what was copied" in result.stderr
    assert "repeated" in result.stderr
    assert charrnn(*common, "--no-repeat", "8").exit_code == 0


def test_a_beam_can_be_reported_too(either: str, charrnn: Charrnn) -> None:
    result = charrnn("sample", "-m", either, "-n", "9", "--beam", "2", "--report")
    assert "Longest run copied from the training text: " in result.stderr


# sample: the likeliest text


def test_a_beam_shows_the_best_texts_in_order(either: str, charrnn: Charrnn) -> None:
    common = ["sample", "-m", either, "--beam", "6", "-p", "the ", "-n", "5"]
    whole = charrnn(*common, "-k", "4")
    assert (whole.exit_code, whole.stderr) == (0, "")
    texts = whole.stdout.removesuffix("\n").split("\n\n")
    assert len(set(texts)) == 4
    assert all(text.startswith("the ") and len(text) == 9 for text in texts)
    assert charrnn(*common).stdout == texts[0] + "\n"
    assert charrnn(*common, "--no-prime").stdout == texts[0].removeprefix("the ") + "\n"


def test_json_of_a_beam_has_no_seed_and_ascends(either: str, charrnn: Charrnn) -> None:
    result = charrnn("sample", "-m", either, "--beam", "5", "-k", "5", "-p", "狐", "-n", "6", "--json")
    samples = [json.loads(line) for line in result.stdout.splitlines()]
    assert [sorted(sample) for sample in samples] == [SAMPLE_FIELDS] * 5
    assert [(s["prime"], s["seed"], s["index"], len(s["text"])) for s in samples] == [
        ("狐", None, index, 6) for index in range(5)
    ]
    bits = [sample["bits_per_character"] for sample in samples]
    assert bits == sorted(bits)


def test_a_beam_stops_before_until(either: str, charrnn: Charrnn) -> None:
    common = ["sample", "-m", either, "--json", "--beam", "30", "-k", "30", "-n"]
    texts = [json.loads(line)["text"] for line in charrnn(*common, "1", "--until", "o").stdout.splitlines()]
    assert sorted(texts) == ["", *sorted(set(TEXT) - {"o"})]
    objects = [json.loads(line) for line in charrnn(*common, "6", "--until", " ").stdout.splitlines()]
    assert len(objects) == 30
    assert not any(" " in made["text"] for made in objects)
    assert all((made["bits_per_character"] is None) == (made["text"] == "") for made in objects)


def test_a_beam_answers_each_line_by_one_line(either: str, charrnn: Charrnn) -> None:
    primes = ["the", "", "鸟"]
    common = ["sample", "-m", either, "--beam", "3", "--each-line", "-n", "9"]
    lines = charrnn(*common, stdin="\n".join(primes)).stdout.removesuffix("\n").split("\n")
    samples = [json.loads(line) for line in charrnn(*common, "--json", stdin="\n".join(primes)).stdout.splitlines()]
    assert [sample["prime"] + sample["text"] for sample in samples] == lines
    assert [(sample["prime"], sample["line"]) for sample in samples] == list(zip(primes, range(3), strict=True))
    two = [
        json.loads(line) for line in charrnn(*common, "--json", "-k", "2", stdin="\n".join(primes)).stdout.splitlines()
    ]
    assert [(sample["line"], sample["index"]) for sample in two] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert two[::2] == samples


def test_a_beam_of_one_writes_what_greedy_writes(either: str, charrnn: Charrnn) -> None:
    common = ["sample", "-m", either, "-p", "the quick", "-n", "30"]
    assert charrnn(*common, "--beam", "1").stdout == charrnn(*common, "--greedy").stdout


# sample: what fills gaps


def test_a_filled_text_is_printed_whole_with_one_newline(either: str, charrnn: Charrnn) -> None:
    text = "the q__ck 狐 ＿ox\n\tjumps"
    result = charrnn("sample", "-m", either, "--infill", text)
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch("the q(?s:..)ck 狐 (?s:.)ox\n\tjumps\n", result.stdout)
    for arguments in (["--infill"], ["--infill", "-"], ["--infill", "--beam", "32"]):
        assert charrnn("sample", "-m", either, *arguments, stdin=text + "\n").stdout == result.stdout


def test_several_fillings_come_with_their_bits_one_a_line(either: str, charrnn: Charrnn) -> None:
    common = ["sample", "-m", either, "--infill", "a\\_\tb\n_"]
    result = charrnn(*common, "-k", "3")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert all(re.fullmatch(r"\d+\.\d{4}", row[0]) for row in rows)
    assert all(re.fullmatch(r"a\\\\(.|\\n)\\tb\\n(.|\\n)", row[1]) for row in rows)
    assert len({text for _, text in rows}) == 3
    assert result.stdout.startswith(charrnn(*common, "-k", "2").stdout)


def test_the_filling_of_fewest_bits_comes_first(either: str, charrnn: Charrnn) -> None:
    result = charrnn("sample", "-m", either, "--infill", "the q___k fo_", "-k", "30")
    bits = [float(line.split("\t")[0]) for line in result.stdout.splitlines()]
    assert len(bits) == 30
    # a bidirectional model's halves together may doubt none, one or two of the gaps: each group is in order
    groups = 1 + sum(second < first for first, second in itertools.pairwise(bits))
    assert groups <= (1 if either.endswith("causal") else 3)
    assert bits[0] < bits[-1]


def test_json_tells_all_of_a_filling(either: str, charrnn: Charrnn) -> None:
    common = ["sample", "-m", either, "--infill", "th_ 狐 __x", "-k", "4"]
    fillings = [json.loads(line) for line in charrnn(*common, "--json").stdout.splitlines()]
    fields = ["bits_per_character", "characters", "gaps", "index", "line", "nats", "text"]
    assert [sorted(filling) for filling in fillings] == [fields] * 4
    assert {(filling["line"], filling["characters"]) for filling in fillings} == {(0, 7)}
    assert [filling["index"] for filling in fillings] == [0, 1, 2, 3]
    for filling, row in zip(fillings, charrnn(*common).stdout.splitlines(), strict=True):
        first, second = filling["gaps"]
        assert filling["text"] == f"th{first} 狐 {second}x"
        assert row == f"{filling['bits_per_character']:.4f}\t{filling['text']}"


def test_each_line_is_filled_and_one_without_gaps_passes_through(either: str, charrnn: Charrnn) -> None:
    lines = ["th_ fox", "no gap", "", "鸟＿", "__", "last_"]
    common = ["sample", "-m", either, "--infill", "--each-line"]
    result = charrnn(*common, stdin="\n".join(lines))
    assert result.exit_code == 0, result.output
    out = result.stdout.removesuffix("\n").split("\n")
    assert len(out) == len(lines)
    for line, filled in zip(lines, out, strict=True):
        assert re.fullmatch(re.sub("[_＿]", ".", line), filled)
    objects = [json.loads(line) for line in charrnn(*common, "--json", stdin="\n".join(lines)).stdout.splitlines()]
    assert [filling["text"] for filling in objects] == out
    assert [len(filling["gaps"]) for filling in objects] == [1, 0, 0, 1, 1, 1]
    assert [filling["line"] for filling in objects] == [0, 1, 2, 3, 4, 5]
    nothing: dict[str, object] = {"gaps": [], "bits_per_character": None, "nats": 0.0, "characters": 0, "index": 0}
    assert objects[1] == {"text": "no gap", "line": 1, **nothing}


def test_each_line_of_several_fillings_is_a_table(either: str, charrnn: Charrnn) -> None:
    result = charrnn("sample", "-m", either, "--infill", "--each-line", "-k", "2", stdin="th_\nno\tgap\n\n")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[1][:2] for row in rows] == ["th", "th", "no", ""]
    assert rows[2:] == [["", "no\\tgap"], ["", ""]]


def test_another_blank_marks_the_gaps(either: str, charrnn: Charrnn) -> None:
    common = ["sample", "-m", either, "--infill"]
    assert re.fullmatch("a_b.＿\n", charrnn(*common, "a_b?＿", "--blank", "?").stdout)
    out = charrnn(*common, "--each-line", "--blank", "?", stdin="a_b?\n_\n").stdout
    assert re.fullmatch("a_b.\n_\n", out)


def test_between_a_prime_and_a_suffix_come_exactly_n_characters(either: str, charrnn: Charrnn) -> None:
    common = ["sample", "-m", either, "--suffix", " fox_", "-n", "5"]
    result = charrnn(*common, "-p", "the＿")
    assert re.fullmatch("the＿(?s:.{5}) fox_\n", result.stdout)
    assert charrnn(*common, "-p", "-", stdin="the＿\n").stdout == result.stdout
    (alone,) = charrnn(*common, "-p", "the＿", "--no-prime", "--json").stdout.splitlines()
    assert f"the＿{json.loads(alone)['text']} fox_\n" == result.stdout
    assert len(charrnn(*common, "-p", "the＿", "-k", "3").stdout.splitlines()) == 3
    assert charrnn("sample", "-m", either, "--suffix", "-", "-n", "5", "-p", "the＿", stdin=" fox_\n").stdout == (
        result.stdout
    )


def test_gaps_are_filled_as_between_a_prime_and_a_suffix(either: str, charrnn: Charrnn) -> None:
    between = charrnn("sample", "-m", either, "-p", "the\n", "--suffix", " fox", "-n", "3", "-k", "4")
    assert charrnn("sample", "-m", either, "--infill", "the\n___ fox", "-k", "4").stdout == between.stdout


def test_the_beam_is_the_width_of_the_search_for_gaps(
    runs: dict[str, Path], charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from charrnn.generation import infill

    widths, fill = [], infill.fill

    def watched(model: Any, vocabulary: Any, gapped: Any, count: int, width: int) -> list[infill.Filling]:
        widths.append(width)
        return fill(model, vocabulary, gapped, count, width)

    monkeypatch.setattr(infill, "fill", watched)
    for options in (["--infill", "a_"], ["--suffix", "b", "-n", "1"], ["--infill", "--each-line"]):
        for beam in ([], ["--beam", "7"]):
            result = charrnn("sample", "-m", str(runs["causal"]), *options, *beam, stdin="a_\n")
            assert result.exit_code == 0, result.output
    assert widths == [infill.WIDTH, 7] * 3


SEARCHES = (["--beam", "3"], ["--infill", "a_b"], ["--suffix", "b", "-n", "3"])
DRAWING = (["-t", "1"], ["--top-k", "2"], ["--top-p", "0.5"], ["--min-p", "0.1"], ["--greedy"], ["--seed", "0"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *(([*search, *drawing], ["draws nothing; leave out"]) for search in SEARCHES for drawing in DRAWING),
        (["--beam", "3", "-t", "1", "--top-k", "2", "--seed", "1"], ["leave out --temperature, --top-k, --seed."]),
        (["--beam", "0"], ["beam is 0; it must be at least 1"]),
        (["--infill", "a_", "--beam", "-1"], ["beam is -1; it must be at least 1"]),
        (["--beam", "3", "-k", "4"], ["--beam 3 keeps 3 texts and cannot show 4"]),
        (["--beam", "3", "--until", "a", "--each-line"], ["--each-line takes primes from stdin"]),
        (["--beam", "3", "--until", ""], ["until is empty"]),
        (["--infill", "no gap"], ["The text has no gap. Write ＿ or _ once"]),
        (["--infill", ""], ["The text has no gap"]),
        (["--infill", "a_", "--blank", "?"], ["The text has no gap. Write ? once"]),
        (["--infill", "a??", "--blank", "??"], ["--blank is '??'; it must be one character"]),
        (["--infill", "a_", "--blank", ""], ["--blank is ''; it must be one character"]),
        (["--blank", "?"], ["--blank marks the gaps of --infill"]),
        (["--suffix", "a", "-n", "3", "--blank", "?"], ["--blank marks the gaps of --infill"]),
        (["--infill", "a_", "-k", "0"], ["num is 0"]),
        (["--infill", "a_", "-p", "x"], ["leave out --prime."]),
        (["--infill", "a_", "--no-prime"], ["leave out --no-prime."]),
        (["--infill", "a_", "-n", "3"], ["leave out --length."]),
        (["--infill", "a_", "--until", "x"], ["leave out --until."]),
        (["--infill", "a_", "--suffix", "x"], ["leave out --suffix."]),
        (["--infill", "a_", "-p", "x", "-n", "3"], ["leave out --prime, --length."]),
        (["--infill", "a_", "--each-line"], ["--each-line reads the texts from stdin"]),
        (["--suffix", "x"], ["--suffix needs -n"]),
        (["--suffix", "x", "-n", "0"], ["length is 0"]),
        (["--suffix", "x", "-n", "3", "--until", "y"], ["--suffix ends the text; leave out --until."]),
        (["--suffix", "x", "-n", "3", "--each-line"], ["--suffix ends the text; leave out --each-line."]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_search_that_cannot_be_is_a_sentence(
    runs: dict[str, Path], charrnn: Charrnn, options: list[str], words: list[str]
) -> None:
    assert_sentence(charrnn("sample", "-m", str(runs["causal"]), *options, stdin="a_\n"), 2, *words)


@pytest.mark.parametrize(
    "options", [["--infill", "a\udc80_"], ["--suffix", "b\udc80", "-n", "2"], ["--infill"]], ids=str
)
def test_gaps_in_what_is_no_text_are_a_sentence(runs: dict[str, Path], charrnn: Charrnn, options: list[str]) -> None:
    result = charrnn("sample", "-m", str(runs["causal"]), *options, stdin=b"\xff_\n")
    assert_sentence(result, 1, "UTF-8")


# evaluate


BASELINES = {"uniform", "unigram", "xz", "ngram"}


def test_the_table_scores_the_held_out_part_by_default(trained: Path, charrnn: Charrnn) -> None:
    result = charrnn("evaluate")
    assert result.exit_code == 0, result.output
    text, head, row, between, *baselines = result.stdout.splitlines()
    assert text == "text.txt (test split), 48 characters"  # a twentieth of 948
    assert head.split() == ["model", "bits/char", "accuracy", "perplexity"]
    assert len(row.split()) == 4
    assert between == "baselines"
    assert len(baselines) == len(BASELINES)
    assert "Scoring the test split of text.txt (48 characters)" in result.stderr


def test_several_models_and_texts_make_one_table(trained: Path, charrnn: Charrnn) -> None:
    Path("其他.txt").write_text("另一篇文章", encoding="utf-8")
    result = charrnn("evaluate", "-m", "text", "-m", str(trained), "text.txt", "其他.txt", "--baselines")
    one, other = result.stdout.split("\n\n")
    for block, title in ((one, "text.txt, 948 characters"), (other, "其他.txt, 5 characters")):
        assert block.splitlines()[0] == title
        assert len(block.splitlines()) == 5 + len(BASELINES)
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_json_carries_nats_and_counts(trained: Path, charrnn: Charrnn) -> None:
    score = json.loads(charrnn("evaluate", "text.txt", "--json", "--baselines").stdout)
    fields = ["accuracy", "baselines", "bits_per_character", "characters", "mode"]
    assert sorted(score) == [*fields, "model", "nats", "perplexity", "text"]
    assert set(score["baselines"]) == BASELINES
    assert score["characters"] == len(TEXT)
    assert score["bits_per_character"] == pytest.approx(score["nats"] / score["characters"] / 0.6931471805599453)


def test_lines_are_scored_as_tsv_and_add_up(trained: Path, charrnn: Charrnn) -> None:
    result = charrnn("evaluate", "-m", "text", "--per-line", "-", stdin="the fox\n\na\tb\\c\n鸟")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[3] for row in rows] == ["the fox", "", "a\\tb\\\\c", "鸟"]
    assert [int(row[2]) for row in rows] == [8, 1, 6, 2]
    for row in rows:
        assert float(row[0]) == pytest.approx(float(row[1]) / int(row[2]), abs=1e-3)
    both = charrnn("evaluate", "-m", "text", "-m", str(trained), "--per-line", "-", stdin="the fox\n")
    assert [line.split("\t")[0] for line in both.stdout.splitlines()] == ["text", str(trained)]


def test_lines_of_short_and_of_long_texts_are_scored_alike(
    runs: dict[str, Path], charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [word for folder in runs.values() for word in ("-m", str(folder))]
    printed = []
    for short in (50_000, 0):  # of a long text torch scores the lines
        monkeypatch.setattr("charrnn.cli.evaluate._SHORT", short)
        result = charrnn("evaluate", *models, "--per-line", "-", stdin="the fox\n\na\tb\\c\n鸟")
        printed.append([line.split("\t") for line in result.stdout.splitlines()])
    for left, right in zip(*printed, strict=True):
        assert (left[0], left[3:]) == (right[0], right[3:])
        assert [float(bits) for bits in left[1:3]] == pytest.approx([float(bits) for bits in right[1:3]], abs=2e-4)
    assert len(printed[0]) == 4 * len(runs)


def test_characters_are_scored_as_tsv_and_add_up_to_the_text(trained: Path, charrnn: Charrnn) -> None:
    rows = [line.split("\t") for line in charrnn("evaluate", "text.txt", "--per-char").stdout.splitlines()]
    assert "".join(row[0] for row in rows) == TEXT.replace("\n", "\\n")
    exact = json.loads(charrnn("evaluate", "text.txt", "--json", "--exact").stdout)
    assert sum(float(row[1]) for row in rows) == pytest.approx(exact["nats"] / 0.6931471805599453, rel=1e-3)
    assert sum(row[2] == "1" for row in rows) == round(exact["accuracy"] * len(TEXT))


def test_two_outputs_at_once_are_refused(trained: Path, charrnn: Charrnn) -> None:
    assert_sentence(charrnn("evaluate", "--per-line", "--per-char"), 2, "name one")


@pytest.mark.parametrize("short", [50_000, 0], ids=["without torch", "with torch"])
def test_json_has_lines_as_they_are(
    trained: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    """Molecules have backslashes, which TSV doubles: `cut -f 4` changed 114 of 2,300."""
    monkeypatch.setattr("charrnn.cli.evaluate._SHORT", short)
    given = ["C/C=C\\C", "a\tb\\tc", "", '{"a": "\\n"}', " 鸟\u2028", "\\"]
    common = ["evaluate", "-m", "text", "--per-line", "-"]
    objects = [json.loads(row) for row in charrnn(*common, "--json", stdin="\n".join(given)).stdout.split("\n")[:-1]]
    assert [made["line"] for made in objects] == given
    rows = [row.split("\t") for row in charrnn(*common, stdin="\n".join(given)).stdout.split("\n")[:-1]]
    for made, row in zip(objects, rows, strict=True):
        assert (made["model"], made["text"], str(made["characters"])) == ("text", "-", row[2])
        assert f"{made['bits_per_character']:.4f}" == row[0]


def test_json_has_characters_as_they_are(trained: Path, charrnn: Charrnn) -> None:
    common, text = ["evaluate", "-m", "text", "--per-char", "-"], "fox\t\\\n鸟"
    objects = [json.loads(row) for row in charrnn(*common, "--json", stdin=text).stdout.splitlines()]
    assert [sorted(made) for made in objects] == [["bits", "character", "model", "nats", "rank", "text"]] * len(text)
    assert "".join(made["character"] for made in objects) == text
    rows = [row.split("\t") for row in charrnn(*common, stdin=text).stdout.splitlines()]
    assert [[f"{made['bits']:.4f}", str(made["rank"])] for made in objects] == [row[1:] for row in rows]


CLOZE = {"cloze_bits_per_character", "cloze_accuracy", "backward_bits_per_character"}


def test_a_bidirectional_models_other_scores_stand_beside_the_first(runs: dict[str, Path], charrnn: Charrnn) -> None:
    causal, both = str(runs["causal"]), str(runs["bidirectional"])
    assert "both sides" not in charrnn("evaluate", "-m", causal, "-", stdin="the fox").stdout
    table = charrnn("evaluate", "-m", causal, "-m", both, "-", stdin="the fox").stdout
    title, head, first, second, *_ = table.splitlines()
    assert title == "-, 7 characters"
    assert re.split("  +", head)[-3:] == ["given both sides", "right", "backwards"]
    assert first.split()[0].endswith("causal")
    score = json.loads(charrnn("evaluate", "-m", both, "-", "--json", stdin="the fox").stdout)
    assert second.split()[-3:] == [
        f"{score['cloze_bits_per_character']:.4f}",
        f"{score['cloze_accuracy']:.2%}",
        f"{score['backward_bits_per_character']:.4f}",
    ]


def test_json_has_the_scores_of_both_sides_where_a_model_has_them(runs: dict[str, Path], charrnn: Charrnn) -> None:
    result = charrnn("evaluate", "-m", str(runs["causal"]), "-m", str(runs["bidirectional"]), "--json")
    causal, both = (json.loads(line) for line in result.stdout.splitlines())
    assert not CLOZE & set(causal)
    assert set(both) == CLOZE | set(causal)
    assert all(isinstance(both[key], float) for key in CLOZE)


def test_lines_and_characters_of_a_bidirectional_model_are_scored_forwards(
    runs: dict[str, Path], charrnn: Charrnn
) -> None:
    both = str(runs["bidirectional"])
    ((score, *_, line),) = (
        row.split("\t")
        for row in charrnn("evaluate", "-m", both, "--per-line", "-", stdin="the fox\n").stdout.splitlines()
    )
    whole = json.loads(charrnn("evaluate", "-m", both, "-", "--json", "--exact", stdin="the fox\n").stdout)
    assert (score, line) == (f"{whole['bits_per_character']:.4f}", "the fox")


# texts with invalid bytes, and folders


def test_invalid_bytes_are_replaced_or_left_out_where_a_text_is_named(trained: Path, charrnn: Charrnn) -> None:
    Path("bad.txt").write_bytes(b"the quick caf\xe9\n")
    for command in (["evaluate", "bad.txt"], ["sample", "-n", "3", "--adapt", "bad.txt"]):
        assert_sentence(
            charrnn(*command), 1, "bad.txt: not UTF-8 at byte 13 (0xe9), line 1", "--encoding-errors replace"
        )
        for errors, fate in (("replace", "replaced by U+FFFD"), ("skip", "left out")):
            result = charrnn(*command, "--encoding-errors", errors)
            assert result.exit_code == 0, result.output
            assert f"1 byte not UTF-8: {fate}." in result.stderr
    for command in (["evaluate"], ["sample"]):
        assert_sentence(charrnn(*command, "--encoding-errors", "skip"), 2, "--encoding-errors is about")


def test_a_folder_is_read_by_its_globs_and_what_is_left_out_is_told(here: Path, charrnn: Charrnn) -> None:
    (here / "src").mkdir()
    (here / "text.txt").rename(here / "src" / "a.py")
    (here / "src" / "b.MD").write_text("not read")
    (here / "src" / "c.pyi").write_text("read, too\n" * 9)
    result = charrnn("train", "src", "--glob", "*.py", "--glob", "*.pyi", *settings("train.steps=2"))
    assert result.exit_code == 0, result.output
    left_out = "src: 2 files to read. Left out: 1 with other names (1 .md). --glob '*.md' would take others."
    assert left_out in result.stderr
    assert "glob: ['*.py', '*.pyi']" in (here / "checkpoints" / "src" / "config.yaml").read_text()


def test_a_run_folder_of_too_long_a_name_is_a_sentence(here: Path, charrnn: Charrnn) -> None:
    assert_sentence(charrnn("train", "text.txt", "-o", "x" * 300), 1, "xxx: cannot be written (")
    assert [path.name for path in here.iterdir()] == ["text.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows says it in other words")
@pytest.mark.parametrize("options", [[], ["--glob", "*.py"]], ids=str)
def test_a_text_in_place_of_a_name_is_no_file(here: Path, charrnn: Charrnn, options: list[str]) -> None:
    for length in (300, 70_000):
        assert_sentence(charrnn("train", "x" * length, *options), 1, "xxx...: ", "Check the name.")


def test_globs_may_be_for_a_folder_that_a_configuration_names(here: Path, charrnn: Charrnn) -> None:
    """It was once said that no folder is named."""
    (here / "src").mkdir()
    (here / "text.txt").rename(here / "src" / "a.py")
    (here / "mine.yaml").write_text("data: {texts: [src]}\n")
    result = charrnn("train", "-c", "mine.yaml", "--glob", "*.py", *settings("train.steps=2"))
    assert result.exit_code == 0, result.output


def test_evaluate_tells_that_held_out_lines_also_stand_in_the_training_split(here: Path, charrnn: Charrnn) -> None:
    (here / "text.txt").write_text("".join(f"line {number % 40}\n" for number in range(120)))
    charrnn("train", "text.txt", "-q", *settings("train.steps=2", "data.documents=line"))
    assert re.search(r"\d of \d test lines \(\d+\.\d%\) also stand in the training split\.", charrnn("evaluate").stderr)


# info


def test_info_says_what_a_model_is_and_lists_the_runs(trained: Path, charrnn: Charrnn) -> None:
    result = charrnn("info")
    assert result.exit_code == 0, result.output
    for word in (
        "runs under ./checkpoints",
        "2 x 5 lstm",
        "parameters",
        "vocabulary",
        "948 characters",
    ):
        assert word in result.stdout
    last = trained / "last.safetensors"  # the best may be of another step
    page, header = charrnn("info", "-m", str(last)).stdout, read_header(last)
    train, vocabulary = header.config.train, len(header.vocabulary)
    read = int(train.batch_size) * (20 * 284 // 41)  # of each row of 284 characters, cut into 41 windows
    # LSTM 2 x 5 on an embedding of 4: four gates of both inputs and states, and the head; forwards and twice back
    flops = 6 * read * (4 * 5 * (4 + 5 + 10) + 5 * vocabulary)
    assert f"{read:,} characters read, {flops:.2g} floating-point operations" in page
    assert "bits/char by step" in page
    assert "runs under" not in charrnn("info", "-m", "text").stdout


def test_info_says_what_reads_both_ways(runs: dict[str, Path], charrnn: Charrnn) -> None:
    causal, both = (
        " ".join(charrnn("info", "-m", str(runs[kind])).stdout.split()) for kind in ("causal", "bidirectional")
    )
    assert re.search(r" architecture 2 x 5 lstm, [^(]* \(bidirectional\) ", both)
    line = r" both sides \d\.\d{4} bits/char given both sides \(cloze\), \d+\.\d\d% right; \d\.\d{4} backwards "
    assert re.search(line, both)
    assert "bidirectional" not in causal.partition("architecture")[2]
    assert "both sides" not in causal


# the program as a process


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    return subprocess.run(
        [sys.executable, "-m", "charrnn", *arguments], capture_output=True, env=environment, timeout=120, **options
    )


def test_output_is_utf8_whatever_the_locale(trained: Path) -> None:
    done = program("sample", "-p", "-", "-n", "3", input="我爱北京\n".encode())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("我爱北京".encode())


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell's pipe")
def test_a_closed_pipe_ends_quietly(trained: Path) -> None:
    script = (
        f"{sys.executable} -m charrnn sample -m text -n 100000 --seed 1 2>err | head -c 20; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=120)
    assert done.stdout[20:].split() == [b"0"]
    assert Path("err").read_text() == ""


@pytest.mark.parametrize("command", [[], ["train"], ["sample"], ["evaluate"], ["info"]], ids=str)
def test_help_comes_with_an_example_and_without_torch(command: list[str], tmp_path: Path) -> None:
    probe = (
        "import sys\nfrom charrnn.cli.main import cli\n"
        f"try:\n    cli({[*command, '-h']!r})\nexcept SystemExit as done:\n"
        "    print(sorted({'torch', 'pydantic', 'numpy', 'yaml', 'tqdm'} & set(sys.modules)), done.code)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "Example:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_the_version_is_told(charrnn: Charrnn) -> None:
    assert re.fullmatch(r"charrnn \d+\.\d+\.\d+\n", charrnn("--version").stdout)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError("2.00 GiB")],
    ids=["torch", "NumPy"],
)
def test_memory_that_others_have_filled_is_a_sentence(
    trained: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(scoring, "evaluate", full)
    result = charrnn("evaluate", "-m", str(trained), "text.txt")
    told = "There is not enough memory. Close other programs, ask for less, or name another --device."
    assert_sentence(result, 1, told)


def test_escapes_need_a_text_to_read_them_in(trained: Path, charrnn: Charrnn) -> None:
    assert_sentence(charrnn("sample", "-m", "text", "-e", "-n", "3"), 2, "-e reads escapes of --prime, --until")
