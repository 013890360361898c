"""Claims about streams that are closed or cannot be written: a sentence or silence, and the work is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import settings

pytestmark = pytest.mark.skipif(os.name == "nt", reason="redirections of a POSIX shell")
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
REDIRECTIONS = ("<&-", "2>&-", "<&- 2>&-", pytest.param("2>/dev/full", marks=FULL))


def shell(command: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run charrnn in a shell; `command` is its line, in which "$@" is charrnn and its arguments."""
    program = [sys.executable, "-m", "charrnn", *arguments]
    return subprocess.run(["sh", "-c", command, "sh", *program], capture_output=True, check=False, timeout=120)


@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_sampling_needs_neither_input_nor_a_terminal(redirection: str, runs: dict[str, Path]) -> None:
    done = shell(f'"$@" {redirection}', "sample", "-m", str(runs["causal"]), "-n", "5", "--seed", "1")
    whole = shell('"$@"', "sample", "-m", str(runs["causal"]), "-n", "5", "--seed", "1")
    assert (done.returncode, done.stdout) == (0, whole.stdout)


@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_training_goes_on_without_a_terminal(redirection: str, here: Path) -> None:
    done = shell(f'"$@" {redirection}', "train", "text.txt", "-o", "run", *settings("train.steps=6"))
    assert done.returncode == 0
    assert done.stdout.decode() == f"{Path('run', 'best.safetensors')}\n"


@pytest.mark.parametrize("command", ["sample", "info", "help", "version"])
@pytest.mark.parametrize("redirection", [">&-", pytest.param(">/dev/full", marks=FULL)])
def test_a_product_that_cannot_be_written_is_a_failure(redirection: str, command: str, runs: dict[str, Path]) -> None:
    model = str(runs["causal"])
    arguments = {
        "sample": ["sample", "-m", model, "-n", "5"],
        "info": ["info", "-m", model],
        "help": ["--help"],
        "version": ["--version"],
    }
    done = shell(f'"$@" {redirection}', *arguments[command])
    assert done.returncode == 1
    assert b"Error: The output cannot be written" in done.stderr
    assert b"Traceback" not in done.stderr


def test_messages_are_not_written_into_a_file_that_took_the_place_of_a_closed_stream(here: Path) -> None:
    done = shell('"$@" 2>&- <&-', "train", "text.txt", "-o", "run", *settings("train.steps=6"))
    assert done.returncode == 0
    for line in (here / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line)


def test_a_limit_on_the_size_of_files_is_told_and_leaves_no_folder_in_the_way(here: Path) -> None:
    arguments = ["train", "text.txt", "-o", "run", *settings("train.steps=6", "model.hidden_size=200")]
    done = shell('ulimit -f 20; "$@"', *arguments)
    assert done.returncode == 1
    assert b"A limit on the size of files is set; raise it (ulimit -f)." in done.stderr
    assert not (here / "run").exists()


def test_a_folder_that_was_removed_is_told(here: Path) -> None:
    (here / "gone").mkdir()
    done = shell('cd gone; rmdir ../gone; "$@"', "evaluate", str(here / "text.txt"))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"Error: The current folder is gone")


def test_a_pipe_that_does_not_block_loses_nothing(runs: dict[str, Path]) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    program = [sys.executable, "-m", "charrnn", "sample", "-m", str(runs["causal"]), "-n", "100000", "--seed", "1"]
    with subprocess.Popen(program, stdout=write, stderr=subprocess.DEVNULL) as process:
        os.close(write)
        written = 0
        while piece := os.read(read, 4_096):
            written += len(piece)
    os.close(read)
    assert process.returncode == 0
    assert written >= 100_000


def test_a_name_that_is_too_long_is_a_sentence(here: Path) -> None:
    for arguments in (["train", "text.txt", "-o", "n" * 300], ["train", "text.txt", "-c", "n" * 300]):
        done = shell('"$@"', *arguments)
        assert b"Traceback" not in done.stderr
        assert b"Error: " in done.stderr
        assert done.returncode in {1, 2}
