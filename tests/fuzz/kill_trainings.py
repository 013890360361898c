"""Kill trainings again and again, compare the end with that of one that was not killed, and print the kills, as JSON.

    python -m tests.fuzz.kill_trainings FOLDER --kills N --seed N [SETTING...]

Each training is a process of its own, which kills itself (SIGKILL) in the middle of a write, before or after a file
takes its name, at a step, or at a random moment. FOLDER is a scratch folder with text.txt in it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from charrnn.checkpoints import model_file
from charrnn.checkpoints.run_dir import Run
from charrnn.config import loading
from charrnn.training import evaluation_samples, new_run, resume, training_step
from charrnn.training.optimizer import load_torch
from tests.conftest import TINY

CPU = torch.device("cpu")
MOMENTS = ("write", "replace", "replaced", "step", "time")
STEPS, LONGEST = 60, 0.3  # seconds


def die() -> None:
    """End this process on the spot."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, draw: random.Random) -> None:
    """Let this process die at a moment."""
    left = draw.randrange(120 if moment == "write" else 12 if moment.startswith("replace") else STEPS)

    def counted(work: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0 and not after:
                die()
            result = work(*arguments, **options)
            if left < 0:
                die()
            return result

        return call

    if moment == "time":
        signal.signal(signal.SIGALRM, lambda *_: die())
        signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.001, LONGEST))
    elif moment == "step":
        training_step.Training.step = counted(training_step.Training.step)  # type: ignore[method-assign]
    elif moment == "write":
        opened = Path.open

        def opening(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            file = opened(path, mode, *arguments, **options)
            if mode in {"wb", "ab"} and path.name != ".lock":
                return _Torn(file, counted)
            return file

        Path.open = opening  # type: ignore[method-assign,assignment]
    else:
        os.replace = counted(os.replace, after=moment == "replaced")


class _Torn:
    """A file whose last write is written by half."""

    def __init__(self, file: Any, counted: Callable[..., Any]) -> None:
        self._file = file
        self._counted = counted(lambda: None)

    def __enter__(self) -> _Torn:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: Any) -> int:
        half = len(bytes(content)) // 2
        self._file.write(bytes(content)[:half])
        self._file.flush()
        self._counted()
        return half + int(self._file.write(bytes(content)[half:]))


def train(folder: str, settings: list[str]) -> None:
    """Start a training, or go on with it, to its end."""
    run = Run(Path(folder))
    if run.last.exists():
        job = resume.resume(run, CPU)
    else:
        chosen = loading.load(None, [*TINY, f"train.steps={STEPS}", "train.eval_every=7", *settings])
        job = new_run.start(chosen.with_values(data={"texts": ["text.txt"]}), Path(folder), CPU)
    for _ in job.learn(lambda: False):
        pass
    run.release()


def in_child(work: Callable[[], None]) -> int:
    """Do something in a process of its own; return its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Train once as a whole and once in parts, and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    load_torch()  # once for all children
    evaluation_samples.SAMPLE_LENGTH = 20
    os.chdir(options.folder)
    assert in_child(lambda: train("whole", options.settings)) == 0
    draw, kills, rounds = random.Random(options.seed), Counter[str](), 0
    while kills.total() < options.kills:
        folder = f"parts{rounds}"
        while True:
            moment, seed = draw.choice(MOMENTS), draw.random()

            def work(moment: str = moment, seed: float = seed, folder: str = folder) -> None:
                arm(moment, random.Random(seed))
                train(folder, options.settings)

            code = in_child(work)
            if code == 0:
                break
            assert code == -signal.SIGKILL, code
            kills[moment] += 1
            check(Path(folder))
        compare(Path("whole"), Path(folder))
        rounds += 1
    print(json.dumps({"kills": dict(kills), "trainings": rounds}))


def check(folder: Path) -> None:
    """What was saved is whole; before the first save, nothing is in the way of another start."""
    saved = [folder / name for name in ("best.safetensors", "last.safetensors") if (folder / name).exists()]
    for file in saved:
        model_file.read(file, training=True)
    if not (folder / "last.safetensors").exists():
        for file in folder.glob("*"):
            file.unlink()


def compare(whole: Path, parts: Path) -> None:
    """Both are the same to the last bit."""
    for name in ("last.safetensors", "best.safetensors"):
        (one, first), (two, second) = (model_file.read(folder / name, training=True) for folder in (whole, parts))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
        assert [(each.step, each.nats) for each in one.history] == [(each.step, each.nats) for each in two.history]
    assert (whole / "samples.txt").read_bytes() == (parts / "samples.txt").read_bytes()


if __name__ == "__main__":
    main()
