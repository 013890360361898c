"""The claim that a training interrupted at random moments, plainly killed among them, ends as if never stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from charrnn.checkpoints import model_file
from charrnn.checkpoints.model_file import read_header
from tests.conftest import settings

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start a training and wait until it is at it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "charrnn", "train", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    process.stderr.readline()  # what it says before the first step
    return process


def end(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=1_200)
    return process.returncode


def interrupt(folder: str, first: list[str], times: int, seed: int, longest: float) -> int:
    """Train into a folder, interrupting at random moments; gives how many interruptions met a running training."""
    dice = random.Random(seed)
    met, arguments = 0, [*first, "-o", folder]
    while met < times:
        process = start(*arguments)
        time.sleep(dice.uniform(0.0, longest))
        number = signal.SIGKILL if met % 2 == 0 else dice.choice(list(CODES))
        process.send_signal(number)
        code = end(process)
        if code == 0:
            break  # it was faster
        assert code in {CODES[number], -number}  # before the first step there is nothing to save: it just ends
        met += 1
        if (Path(folder) / "last.safetensors").exists():
            arguments = ["--resume", "-m", folder]
        else:  # killed before the first save: nothing to resume, begin again
            for file in Path(folder).glob("*"):
                file.unlink()
    assert end(start(*arguments)) == 0
    return met


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["reading", "encoding"])
def test_a_start_that_is_stopped_leaves_nothing(here: Path, number: signal.Signals, moment: str) -> None:
    """SIGTERM once ended it on the spot: a temporary file stayed, of gigabytes for a long text."""
    code = """
import os, sys
from charrnn.cli import main as cli
from charrnn.data import corpus, spool, token_cache
token_cache.MIN_FILE_BYTES = 1
room, name = {"reading": (spool.TextSpool, "append"), "encoding": (corpus.SplitText, "write")}[sys.argv[1]]
work = getattr(room, name)

def interrupted(*arguments):
    if name == "write":
        assert os.path.exists("checkpoints/text/corpus.safetensors.tmp")
    os.kill(os.getpid(), int(sys.argv[2]))
    return work(*arguments)

setattr(room, name, interrupted)
cli.cli(["train", "text.txt", "-q", *sys.argv[3:]])
"""
    process = subprocess.run(
        [sys.executable, "-c", code, moment, str(int(number)), *settings("train.steps=5")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == CODES[number], process.stderr
    assert "Traceback" not in process.stderr
    assert [path.name for path in here.rglob("*") if path.name != "checkpoints"] == ["text.txt"]


def compare(folder: str, other: str) -> None:
    for name in ("last.safetensors", "best.safetensors"):
        one, two = (model_file.read(Path(path) / name, training=True)[1] for path in (folder, other))
        assert one.keys() == two.keys()
        for key in one:
            assert torch.equal(one[key], two[key]), key
    histories = [
        [(entry.step, entry.nats, entry.training_bits_per_character) for entry in read_header(path).history]
        for path in (Path(folder) / "last.safetensors", Path(other) / "last.safetensors")
    ]
    assert histories[0] == histories[1]
    assert (Path(folder) / "samples.txt").read_bytes() == (Path(other) / "samples.txt").read_bytes()


def test_killed_and_stopped_once_each_it_ends_the_same(here: Path) -> None:
    options = ["text.txt", *settings("train.steps=300", "train.eval_every=30")]
    assert end(start(*options, "-o", "whole")) == 0
    interrupt("parts", options, times=2, seed=1, longest=1.0)
    compare("whole", "parts")


@pytest.mark.slow
def test_interrupted_twenty_times_it_ends_the_same(here: Path) -> None:
    options = ["text.txt", *settings("train.steps=12000", "train.eval_every=250", "model.cell=gru")]
    assert end(start(*options, "-o", "whole")) == 0
    met = interrupt("parts", options, times=20, seed=2, longest=2.0)
    assert met == 20
    compare("whole", "parts")
