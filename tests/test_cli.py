"""Claims about the command line: what goes where, exit codes, and a sentence for every mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

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


def test_a_drawn_seed_is_printed_and_written(here: Path, charrnn: Charrnn) -> None:
    result = charrnn("train", "text.txt", *settings("train.steps=2", "train.seed=null"))
    seed = re.search(r"Seed (\d+)\.", result.stderr)
    assert seed
    assert f"seed: {seed[1]}" in (here / "checkpoints/text/config.yaml").read_text()


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


def test_init_from_fine_tunes(trained: Path, charrnn: Charrnn) -> None:
    Path("new.txt").write_text("quizzical foxes 狐狸 jump\n" * 20, encoding="utf-8")
    result = charrnn("train", "new.txt", "--init-from", "text", "-s", "train.steps=2", "--seed", "1")
    assert result.exit_code == 0, result.output
    assert "characters are known to it" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train"], 2, ["No text to learn"]),
        (["train", "nowhere.txt"], 1, ["nowhere.txt: no such file or folder"]),
        (["train", "empty.txt"], 1, ["empty.txt is empty"]),
        (["train", "short.txt"], 1, ["short.txt has 14 characters; training needs at least 100."]),
        (["train", "same.txt"], 1, ["same.txt is one character over and over ('a')"]),
        (["train", "binary.bin"], 1, ["binary.bin", "binary"]),
        (["train", "gb.txt"], 1, ["gb.txt: not UTF-8 at byte 0 (0xce). Name its encoding, e.g. --encoding gb18030."]),
        (["train", "gb.txt", "--encoding", "klingon"], 2, ["klingon is no text encoding"]),
        (["train", "nothing"], 1, ["nothing: no .txt file in this folder or below"]),
        (["train", "text.txt", "-s", "train.learning_rte=1"], 2, ["train.learning_rte", "Did you mean learning_rate?"]),
        (["train", "text.txt", "-c", "smal"], 2, ["smal is no preset", "Did you mean small?", "tiny"]),
        (["train", "text.txt", "-c", "nowhere.yaml"], 2, ["nowhere.yaml: no such configuration file"]),
        (["train", "text.txt", "--time", "soon"], 2, ["train.time is 'soon'", "10m"]),
        (["train", "text.txt", "--device", "cuda:9"], 2, ["cuda:9"]),
        (["train", "text.txt", "--device", "toaster"], 2, ["toaster"]),
        (["train", "--resume"], 1, ["Nothing to resume", "charrnn train TEXT"]),
        (["train", "--resume", "-m", "nowhere"], 1, ["nowhere: no run to resume there"]),
        (["train", "--resume", "-c", "small"], 2, ["leave out -c"]),
        (["train", "text.txt", "-m", "x"], 2, ["-m names the run to --resume"]),
        (["train", "text.txt", "--init-from", "nowhere"], 1, ["nowhere: no such model"]),
        (["train", "text.txt", "-o", "taken"], 2, ["taken exists already", "-o"]),
        (["sample"], 1, ["No model here", "charrnn train TEXT"]),
        (["sample", "-m", "text.txt"], 1, ["text.txt is no charrnn model"]),
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
        "mine.yaml: train.epochs is 'many'; it takes a whole number from 1, or auto",
        "mine.yaml: modle is not a section. Did you mean model?",
        "model.cell is 'grue'; it takes lstm, gru or rnn",
    )


def test_a_hundred_characters_are_enough_and_what_shrank_is_said(here: Path, charrnn: Charrnn) -> None:
    (here / "least.txt").write_text(TEXT[:100])
    result = charrnn("train", "least.txt", "--seed", "1", "-s", "train.steps=3")
    assert result.exit_code == 0, result.output
    assert "windows of 45 characters instead of 128" in result.stderr
    assert "validation part has only 5 characters" in result.stderr


def test_a_damaged_file_names_the_other(trained: Path, charrnn: Charrnn) -> None:
    last = trained / "last.safetensors"
    last.write_bytes(last.read_bytes()[:913])
    assert_sentence(charrnn("train", "--resume"), 1, "is damaged (", "913", "Try best.safetensors.")


def test_a_locked_run_is_not_trained_twice(trained: Path, charrnn: Charrnn) -> None:
    from charrnn.checkpoint import Run

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
    assert charrnn("sample", "-n", "3").stderr == f"Model: {Path('checkpoints/text/best.safetensors')}\n"


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


def test_json_tells_all_of_a_sample(trained: Path, charrnn: Charrnn) -> None:
    result = charrnn("sample", "-m", "text", "-p", "狐", "-n", "12", "-k", "2", "--seed", "4", "--json")
    samples = [json.loads(line) for line in result.stdout.splitlines()]
    assert [sorted(sample) for sample in samples] == [["bits_per_character", "index", "prime", "seed", "text"]] * 2
    assert [(sample["prime"], sample["seed"], sample["index"], len(sample["text"])) for sample in samples] == [
        ("狐", 4, 0, 12),
        ("狐", 4, 1, 12),
    ]


def test_a_prime_from_stdin_loses_the_newline_that_echo_adds(trained: Path, charrnn: Charrnn) -> None:
    piped = charrnn("sample", "-m", "text", "-p", "-", "-n", "9", "--seed", "1", stdin="the fox\n")
    assert piped.stdout == charrnn("sample", "-m", "text", "-p", "the fox", "-n", "9", "--seed", "1").stdout


@pytest.mark.parametrize("prime", ["鸟🐦", "", "the quick brown fox " * 40, "a\0b"], ids=["new", "none", "long", "nul"])
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
        (["--greedy", "-t", "0.5"], ["--greedy takes the likeliest"]),
        (["--each-line", "-k", "3"], ["--each-line takes primes from stdin"]),
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


# evaluate


def test_the_table_scores_the_held_out_part_by_default(trained: Path, charrnn: Charrnn) -> None:
    result = charrnn("evaluate")
    assert result.exit_code == 0, result.output
    head, row = result.stdout.splitlines()
    assert head.split() == ["model", "text", "characters", "bits/char", "perplexity", "accuracy"]
    assert "48" in row.split()  # a twentieth of 948
    assert "Scoring the test part of text.txt (48 characters)" in result.stderr


def test_several_models_and_texts_make_one_table(trained: Path, charrnn: Charrnn) -> None:
    Path("其他.txt").write_text("另一篇文章", encoding="utf-8")
    result = charrnn("evaluate", "-m", "text", "-m", str(trained), "text.txt", "其他.txt")
    assert len(result.stdout.splitlines()) == 5


def test_json_carries_nats_and_counts(trained: Path, charrnn: Charrnn) -> None:
    score = json.loads(charrnn("evaluate", "text.txt", "--json").stdout)
    assert sorted(score) == ["accuracy", "bits_per_character", "characters", "model", "nats", "perplexity", "text"]
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


def test_characters_are_scored_as_tsv_and_add_up_to_the_text(trained: Path, charrnn: Charrnn) -> None:
    rows = [line.split("\t") for line in charrnn("evaluate", "text.txt", "--per-char").stdout.splitlines()]
    assert "".join(row[0] for row in rows) == TEXT.replace("\n", "\\n")
    exact = json.loads(charrnn("evaluate", "text.txt", "--json", "--exact").stdout)
    assert sum(float(row[1]) for row in rows) == pytest.approx(exact["nats"] / 0.6931471805599453, rel=1e-3)
    assert sum(row[2] == "1" for row in rows) == round(exact["accuracy"] * len(TEXT))


def test_two_outputs_at_once_are_refused(trained: Path, charrnn: Charrnn) -> None:
    assert_sentence(charrnn("evaluate", "--per-line", "--json"), 2, "name one")


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
        "bits/char at 4",
    ):
        assert word in result.stdout
    assert "runs under" not in charrnn("info", "-m", "text").stdout


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
    script = f"{sys.executable} -m charrnn sample -m text -n 100000 2>err | head -c 20; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=120)
    assert done.stdout[20:].split() == [b"0"]
    assert Path("err").read_text() == ""


@pytest.mark.parametrize("command", [[], ["train"], ["sample"], ["evaluate"], ["info"]], ids=str)
def test_help_comes_with_an_example_and_without_torch(command: list[str], tmp_path: Path) -> None:
    probe = (
        "import sys\nfrom charrnn.cli import cli\n"
        f"try:\n    cli({[*command, '-h']!r})\nexcept SystemExit as done:\n"
        "    print(sorted({'torch', 'pydantic', 'numpy', 'yaml', 'tqdm'} & set(sys.modules)), done.code)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "Example:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_the_version_is_told(charrnn: Charrnn) -> None:
    assert re.fullmatch(r"charrnn \d+\.\d+\.\d+\n", charrnn("--version").stdout)


@pytest.mark.gpu
def test_a_gpus_checkpoint_is_sampled_on_a_cpu(here: Path, charrnn: Charrnn) -> None:
    assert torch.cuda.is_available()
    assert charrnn("train", "text.txt", "--device", "cuda", "-q", *settings("train.steps=5")).exit_code == 0
    assert charrnn("sample", "-n", "5").exit_code == 0
    assert charrnn("train", "--resume", "--device", "cpu", "-s", "train.steps=8").exit_code == 0
