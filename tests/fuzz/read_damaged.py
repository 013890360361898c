"""Read damaged model files with every command, within a limit of memory and time; print what broke the rules, as JSON.

    python -m tests.fuzz.read_damaged FOLDER FILES... --seed N --count N

A reader may only succeed or end with one sentence. FOLDER is a scratch folder with text.txt in it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from click.testing import CliRunner

from charrnn.cli.main import cli
from tests.fuzz.mutations import File, mutate

SECONDS = 10.0  # for one command on one file
MEGABYTES = 700  # of address space beyond what is used at the start
TEXTS = {"taught": "other.txt"}  # of fixtures
LONGEST_MESSAGE = 1_000  # characters


class TooSlow(BaseException):
    """A command that ran past its time."""


def _expire(signum: int, frame: FrameType | None) -> None:
    raise TooSlow


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the block after so many seconds, where the system has timers."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGALRM, _expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def limit_memory(megabytes: int) -> None:
    """Let this process take only so much more address space, where the system can limit it."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def readings(model: str, resumable: bool, draw: random.Random) -> Iterator[tuple[str, list[str], str]]:
    """Yield the commands that read a model: a name, the arguments, what stands on standard input."""
    yield "sample", ["sample", "-m", model, "-n", "5", "--seed", "1", "-p", "字x"], ""
    yield "lines", ["evaluate", "-m", model, "--per-line", "-"], "爱x\n\n"
    yield "info", ["info", "-m", model], ""
    yield "info as JSON", ["info", "-m", model, "--json"], ""
    if draw.random() < 0.25:  # the slower ones
        yield "held out", ["evaluate", "-m", model], ""
    yield "evaluate", ["evaluate", "-m", model, "-"], "爱北京天安门\nabc\n"
    if resumable:
        yield "resume", ["train", "--resume", "-m", str(Path(model).parent), "-q", "-s", "train.steps=61"], ""
    if draw.random() < 0.25:
        # the sizes are the model's own
        given = ["train.steps=1", "train.batch_size=2", "train.sequence_length=8", "train.precision=fp32"]
        settings = [word for setting in (*given, "train.kernel=torch", "train.seed=1") for word in ("-s", setting)]
        yield "init-from", ["train", "text.txt", "--init-from", model, "-q", "-o", "tuned", *settings], ""


def judge(name: str, arguments: list[str], stdin: str) -> tuple[str, str]:
    """Run a command; return "fine", "sentence" or what is wrong with it, and what it said."""
    runner = CliRunner()
    try:
        with time_limit(SECONDS):
            result = runner.invoke(cli, arguments, input=stdin, prog_name="charrnn")
    except TooSlow:
        return f"longer than {SECONDS:g} s", ""
    if isinstance(result.exception, TooSlow):
        return f"longer than {SECONDS:g} s", ""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "traceback", "".join(traceback.format_exception(result.exception)[-6:])
    said = result.stderr
    if result.exit_code == 0:
        if name == "sample" and not result.stdout.startswith("字x"):
            return "no text", result.stdout
        bad = any(word in result.stdout.split() for word in ("nan", "inf", "-inf", "NaN", "Infinity"))
        return ("not a number", result.stdout) if bad else ("fine", "")
    if "memory" in said:
        return "too much memory", said
    if len(said) > LONGEST_MESSAGE or not said.strip() or any(ord(one) < 32 and one != "\n" for one in said):
        return "no sentence", said
    return "sentence", said


def main() -> None:
    """Damage files and read them, as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = [(path, _at_home(path, options.folder)) for path in options.files]
    os.chdir(options.folder)
    broken, outcomes = _read_all(files, options.seed, options.count)
    print(json.dumps({"outcomes": outcomes, "broken": broken}, ensure_ascii=True))


def _at_home(path: Path, folder: Path) -> bytes:
    """Return the bytes of a file whose text is in a folder."""
    file = File(path.read_bytes())
    file.content["config"]["data"]["texts"] = [str(folder.absolute() / TEXTS.get(path.parent.name, "text.txt"))]
    return file.to_bytes()


def _read_all(files: list[tuple[Path, bytes]], seed: int, count: int) -> tuple[list[dict[str, Any]], dict[str, int]]:
    broken, outcomes, limited = [], Counter[str](), False
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        path, raw = files[number % len(files)]
        shutil.rmtree("tuned", ignore_errors=True)
        shutil.rmtree("run", ignore_errors=True)
        Path("run").mkdir()
        model = Path("run") / path.name
        kind, damaged = (
            mutate(raw, draw) if limited else ("whole", raw)
        )  # the whole files first, to load all that is used
        model.write_bytes(damaged)
        for name, arguments, stdin in readings(str(model), path.name == "last.safetensors", draw):
            outcome, said = judge(name, arguments, stdin)
            outcomes[outcome] += 1
            if outcome not in {"fine", "sentence"} or (kind == "whole" and outcome != "fine" and "n-gram" not in said):
                broken.append(
                    {
                        "number": number,
                        "file": str(path),
                        "kind": kind,
                        "reader": name,
                        "outcome": outcome,
                        "said": said[-3_000:],
                    }
                )
            if model.read_bytes() != damaged:
                model.write_bytes(damaged)  # resuming saved it anew
        if number == len(files) - 1:
            limit_memory(MEGABYTES)
            limited = True
    return broken, dict(outcomes)


if __name__ == "__main__":
    main()
