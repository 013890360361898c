"""The run folder: best and last model, configuration, metrics and samples, and a lock while it trains.
Knows where files lie and in what order they are written, not what is in them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from charrnn.atomic_files import cannot_write, write_atomically
from charrnn.data.text_files import RUN_MARK
from charrnn.errors import CharRNNError, MisuseError

if TYPE_CHECKING:
    from charrnn.config.schema import Config


RUNS = Path("checkpoints")
BEST, LAST, LOCK = "best.safetensors", "last.safetensors", RUN_MARK
TOKENS, COPY = "corpus.safetensors", "corpus.txt"
# what an attempt that died before it began may leave behind, and what else it may have made
_NOTHING = {LOCK, TOKENS, TOKENS + ".tmp", COPY + ".tmp"}
_MADE = _NOTHING | {COPY, "config.yaml", "config.yaml.tmp", "metrics.jsonl", "samples.txt"}


class Run:
    """Own one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best, self.last = folder / BEST, folder / LAST
        self.tokens = folder / TOKENS  # of a long text; made anew where it is missing
        self.copy = folder / COPY  # of standard input
        self.metrics, self.samples = folder / "metrics.jsonl", folder / "samples.txt"
        self._lock: IO[bytes] | None = None

    def check_free(self) -> None:
        """Raise MisuseError if the folder holds anything already: nothing of the user's is ever overwritten."""
        try:
            taken = _taken(self.folder)
        except OSError as error:
            raise cannot_write(self.folder, error, 0) from error
        if taken:
            go_on = f" Go on with it by --resume -m {self.folder}, or" if self.last.exists() else " Move it, or"
            raise MisuseError(f"{self.folder} exists already.{go_on} name another folder with -o.")

    def create(self) -> None:
        """Make the folder. Raises MisuseError if it holds anything, CharRNNError if it cannot be made."""
        self.check_free()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error, 0) from error

    def lock(self) -> None:
        """Take the lock until `release`. Raises CharRNNError where another training holds it."""
        try:
            self._lock = (self.folder / LOCK).open("ab")
        except OSError as error:
            raise cannot_write(self.folder / LOCK, error, 0) from error
        try:
            _lock(self._lock)
        except (BlockingIOError, PermissionError) as error:
            self.release()
            raise CharRNNError(
                f"{self.folder} is being trained by another process. Wait for it, or name another folder with -o."
            ) from error
        except OSError:
            pass  # a file system that has no locks

    def release(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def sweep(self) -> None:
        """Remove what a start that was killed has left; the lock must be held."""
        self._remove(_NOTHING - {LOCK})

    def discard(self) -> None:
        """Release the lock and remove what a start that failed has made, unless there is a model already."""
        job = self.best.exists() or self.last.exists()
        if not job:
            self._remove(_MADE - {LOCK})
        # the lock goes last: as long as it is there, what is left is known for what it is
        self.release()
        if not job:
            self._remove({LOCK})
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()

    def write_config(self, config: Config) -> None:
        """Write config.yaml."""
        from charrnn.config import loading  # whoever only looks for a model does without

        write_atomically(self.folder / "config.yaml", loading.dump(config).encode())

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line of JSON to metrics.jsonl."""
        self._append(self.metrics, json.dumps(line, ensure_ascii=False) + "\n")

    def append_sample(self, heading: str, text: str) -> None:
        """Add what the model wrote to samples.txt."""
        self._append(self.samples, f"--- {heading} ---\n{text}\n\n")

    def lengths(self) -> dict[str, int]:
        """Give the bytes in each growing file, to cut it back to on resume."""
        return {path.name: path.stat().st_size if path.exists() else 0 for path in (self.metrics, self.samples)}

    def cut_back(self, lengths: Mapping[str, int]) -> None:
        """Cut the growing files back to what they held when the checkpoint was saved."""
        for path in (self.metrics, self.samples):
            length = lengths.get(path.name, 0)
            if path.exists() and path.stat().st_size > length:
                os.truncate(path, length)

    def _append(self, path: Path, text: str) -> None:
        try:
            with path.open("ab") as file:
                file.write(text.encode())
        except OSError as error:
            raise cannot_write(path, error, len(text)) from error


def claim(stem: str) -> Run:
    """Make and lock checkpoints/<stem>, or -2, -3 ... if taken or just being claimed by another process."""
    folder, number = RUNS / stem, 2
    while True:
        run = Run(folder)
        if not _taken(folder):
            run.create()
            try:
                run.lock()
            except CharRNNError:
                pass
            else:
                if not _taken(folder):
                    return run
                run.release()
        folder, number = RUNS / f"{stem}-{number}", number + 1


def _taken(folder: Path) -> bool:
    """Say whether anything is there; the lock that an attempt left behind, and tokens beside it, are nothing."""
    if not folder.is_dir():
        return folder.exists()
    names = {file.name for file in folder.iterdir()}
    return bool(names - _NOTHING) or (bool(names) and LOCK not in names)


def find_runs() -> list[Path]:
    """List the runs under ./checkpoints that hold a model, newest first."""
    if not RUNS.is_dir():
        return []
    runs = [folder for folder in RUNS.iterdir() if any((folder / name).is_file() for name in (BEST, LAST))]
    return sorted(runs, key=_age, reverse=True)


def find_model(name: str | None) -> Path:
    """Find a model file: a run folder's best (else last), a file, a NAME under checkpoints, or the newest run's.

    Raises CharRNNError where there is none, saying how to make one.
    """
    if name is None:
        runs = find_runs()
        if not runs:
            raise CharRNNError("No model here: ./checkpoints has no run. Make one with: charrnn train TEXT")
        return _in_folder(runs[0])
    path = Path(name[:200])  # longer than any file's name
    if path.is_file():
        return path
    # a folder of texts may have the name of the run that learnt them: whichever holds a model is meant
    folders = [folder for folder in (path, RUNS / path) if folder.is_dir()]
    for folder in folders:
        if any((folder / model).is_file() for model in (BEST, LAST)):
            return _in_folder(folder)
    if folders:
        return _in_folder(folders[0])
    names = ", ".join(run.name for run in find_runs()[:8])
    there = f"Runs here: {names}." if names else "Make one with: charrnn train TEXT"
    raise CharRNNError(f"{path}: no such model, run folder or name under ./checkpoints. {there}")


def find_run(name: str | None) -> Run:
    """Find the run to resume. Raises CharRNNError where there is none to go on with."""
    if name is None:
        runs = [run for run in find_runs() if (run / LAST).is_file()]
        if not runs:
            raise CharRNNError("Nothing to resume: ./checkpoints has no run. Begin one with: charrnn train TEXT")
        return Run(runs[0])
    path = Path(name[:200])
    folder = path.parent if path.is_file() else path if (path / LAST).is_file() else RUNS / path
    if not (folder / LAST).is_file() and (folder / BEST).is_file():
        raise CharRNNError(
            f"{folder} has a finished model and no {LAST} to go on with: an n-gram model is counted once, and done."
            f" Another kind is fine-tuned with --init-from {folder}"
        )
    if not (folder / LAST).is_file():
        raise CharRNNError(f"{path}: no run to resume there (no {LAST}). charrnn info lists the runs here.")
    return Run(folder)


def _in_folder(folder: Path) -> Path:
    for name in (BEST, LAST):
        if (folder / name).is_file():
            return folder / name
    raise CharRNNError(f"{folder} holds no model ({BEST}). Make one with: charrnn train TEXT -o {folder}")


def _age(folder: Path) -> float:
    return max((folder / name).stat().st_mtime for name in (BEST, LAST) if (folder / name).is_file())


if os.name == "nt":  # pragma: no cover

    def _lock(file: IO[bytes]) -> None:
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
else:

    def _lock(file: IO[bytes]) -> None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
