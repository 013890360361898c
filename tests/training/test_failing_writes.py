"""The claim that a disk may fill up at any write: what was saved before stays whole, and training goes on from it."""

from __future__ import annotations

import contextlib
import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from charrnn.checkpoints import model_file
from charrnn.checkpoints.run_dir import Run
from charrnn.errors import CharRNNError
from charrnn.training import resume
from tests.training.test_training_step import CPU, run_until, started

KNOWN = 6  # steps done when training is stopped and saves, one after an evaluation


class FullDisk:
    """Let files be written until a number of writes, the last of which fails in its middle."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, opened = 0, Path.open

        def opening(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            file = opened(path, mode, *arguments, **options)
            return _Limited(file, self) if mode in {"wb", "ab"} and self.left and path.name != ".lock" else file

        monkeypatch.setattr(Path, "open", opening)

    def allow(self, writes: int) -> None:
        self.left = writes + 1


class _Limited:
    """A file on that disk."""

    def __init__(self, file: Any, disk: FullDisk) -> None:
        self._file, self._disk = file, disk

    def __enter__(self) -> _Limited:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: Any) -> int:
        self._disk.left -= 1
        if self._disk.left == 0:
            self._disk.left = 1  # and every later one
            self._file.write(bytes(content)[: len(bytes(content)) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._file.write(content))


def weights(folder: str) -> dict[str, Any]:
    return {name: array.tolist() for name, array in model_file.read(Run(Path(folder)).last, training=True)[1].items()}


def test_a_disk_that_fills_up_at_any_write_costs_no_more_than_the_steps_since_the_last_save(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("model.num_layers=1", "model.cell=rnn", "train.steps=10")
    run_until(started("whole", *small))
    run_until(started("begun", *small), KNOWN)
    expected, disk, failures, finished = weights("whole"), FullDisk(monkeypatch), 0, False
    while not finished:
        folder = Path(f"run{failures}")
        shutil.copytree("begun", folder)
        saved = {name: (folder / name).read_bytes() for name in ("best.safetensors", "last.safetensors")}
        job = resume.resume(Run(folder), CPU)
        disk.allow(failures)
        with contextlib.suppress(CharRNNError) if failures else pytest.raises(CharRNNError, match="the disk is full"):
            run_until(job)
            finished = True
        disk.left = 0
        job.run.release()
        failures += not finished
        for name, before in saved.items():
            now = (folder / name).read_bytes()
            assert now == before or model_file.read_header(folder / name).history[-1].step > KNOWN  # whole, old or new
        assert not list(folder.glob("*.tmp"))
        run_until(resume.resume(Run(folder), CPU))
        assert weights(str(folder)) == expected
    assert failures > 30
