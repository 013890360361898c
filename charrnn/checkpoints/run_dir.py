"""The run folder: best and last model, configuration, metrics, samples, and a lock while it is being trained.
Knows where the files are and in what order they are written, not what is in them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from charrnn.atomic_files import cannot_write, write_atomically
from charrnn.data.folders import RUN_MARK
from charrnn.errors import CharRNNError, MisuseError
from charrnn.paths import NO_SUCH, is_file, is_folder, status
from charrnn.showable import shown
from charrnn.strict_json import to_json

if TYPE_CHECKING:
    from charrnn.config.schema import Config


RUNS = Path("checkpoints")
SUFFIX = ".safetensors"
BEST, LAST, LOCK = "best" + SUFFIX, "last" + SUFFIX, RUN_MARK
TOKENS, COPY = "corpus.safetensors", "corpus.txt"
# a folder with a lock and no other files than these is free: a killed process left them before training started
_LEFTOVERS = {LOCK, TOKENS, TOKENS + ".tmp", COPY + ".tmp"}
_BEFORE_FIRST_SAVE = _LEFTOVERS | {COPY, "config.yaml", "config.yaml.tmp", "metrics.jsonl", "samples.txt"}


class BusyError(CharRNNError):
    """A run folder that another process trains."""


class Run:
    """One run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best, self.last = folder / BEST, folder / LAST
        self.tokens = folder / TOKENS  # of a long text; rebuilt if it is missing
        self.copy = folder / COPY  # of standard input
        self.metrics, self.samples = folder / "metrics.jsonl", folder / "samples.txt"
        self._lock: IO[bytes] | None = None

    def check_free(self) -> None:
        """Raise MisuseError if the folder contains anything: nothing of the user's is ever overwritten."""
        try:
            taken = _taken(self.folder)
        except OSError as error:
            raise cannot_write(self.folder, error, 0) from error
        if taken:
            advice = f"Continue it with --resume -m {self.folder}, or" if is_file(self.last) else "Move it, or"
            raise MisuseError(f"{self.folder} exists already. {advice} name another folder with -o.")

    def create(self) -> None:
        """Create the folder. Raises MisuseError if it contains anything, CharRNNError if it cannot be created."""
        self.check_free()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error, 0) from error

    def lock(self) -> None:
        """Hold the lock until `release`. Raises BusyError if another process holds it, CharRNNError if none can."""
        try:
            self._lock = (self.folder / LOCK).open("ab")
        except OSError as error:
            raise cannot_write(self.folder / LOCK, error, 0) from error
        try:
            _lock(self._lock)
        except (BlockingIOError, PermissionError) as error:
            self.release()
            raise BusyError(
                f"{self.folder} is being trained by another process. Wait for it, or name another folder with -o."
            ) from error
        except OSError:
            pass  # a file system without locks

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def sweep(self) -> None:
        """Remove what a killed process left behind; the lock must be held."""
        self._remove(_LEFTOVERS - {LOCK})

    def discard(self) -> None:
        """Release the lock and, unless a model was saved, remove the folder with all that a run writes before that."""
        saved = is_file(self.best) or is_file(self.last)
        if not saved:
            self._remove(_BEFORE_FIRST_SAVE - {LOCK})
        # the lock is removed last: while it is there, the other files count as leftovers
        self.release()
        if not saved:
            self._remove({LOCK})
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()

    def write_config(self, config: Config) -> None:
        """Write config.yaml."""
        from charrnn.config import loading  # slow to import, and not needed to find a model

        write_atomically(self.folder / "config.yaml", loading.dump(config).encode())

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Append one line of JSON to metrics.jsonl."""
        self._append(self.metrics, to_json(line) + "\n")

    def append_sample(self, heading: str, text: str) -> None:
        """Append a sample to samples.txt."""
        self._append(self.samples, f"--- {heading} ---\n{text}\n\n")

    def lengths(self) -> dict[str, int]:
        """Return the size in bytes of each growing file, to truncate it to on resume."""
        return {path.name: path.stat().st_size if path.exists() else 0 for path in (self.metrics, self.samples)}

    def truncate(self, lengths: Mapping[str, int]) -> None:
        """Truncate the growing files to their sizes when the checkpoint was saved."""
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
    """Create and lock checkpoints/<stem>, or <stem>-2, -3 ... if that is taken or another process is claiming it.

    Raises CharRNNError if none can be created.
    """
    folder, number = RUNS / stem, 2
    while True:
        run = Run(folder)
        try:
            if not _taken(folder):
                run.create()
                with contextlib.suppress(BusyError):
                    run.lock()
                    if not _taken(folder):
                        return run
                    run.release()
        except OSError as error:
            raise cannot_write(folder, error, 0) from error
        folder, number = RUNS / f"{stem}-{number}", number + 1


def _taken(folder: Path) -> bool:
    """Return whether a path exists, unless it is a folder that is empty or has a lock and leftovers alone."""
    found = status(folder)
    if isinstance(found, OSError):
        if found.errno in NO_SUCH and found.errno != errno.ENAMETOOLONG:
            return False
        raise found
    if not stat.S_ISDIR(found.st_mode):
        return True
    try:
        names = {file.name for file in folder.iterdir()}
    except PermissionError:  # it may be anything
        return True
    return bool(names - _LEFTOVERS) or (bool(names) and LOCK not in names)


def find_runs() -> list[Path]:
    """Return the run folders under ./checkpoints that have a model, newest first; those that one may not look at are
    left out. Raises CharRNNError where ./checkpoints itself cannot be read."""
    if not is_folder(RUNS):
        return []
    try:
        folders = list(RUNS.iterdir())
    except OSError as error:
        raise CharRNNError(f"./{RUNS} cannot be read ({error.strerror}). Name a model with -m.") from error
    times = {folder: [_modified(model) for model in models] for folder in folders if (models := _models(folder))}
    return sorted(times, key=lambda folder: max(times[folder]), reverse=True)


def _modified(path: Path) -> float:
    found = status(path)
    return 0.0 if isinstance(found, OSError) else found.st_mtime  # removed since it was listed


def find_model(name: str | None) -> Path:
    """Return the path of a model file, given that file, a run folder, its name under ./checkpoints, or None for the
    newest run. Of a run folder that is the best model, or the last if there is no best.

    Raises CharRNNError where there is none; the message says how to make one.
    """
    if name is None:
        runs = find_runs()[:1]
        if not runs:
            raise CharRNNError("No model here: ./checkpoints has no run. Make one with: charrnn train TEXT")
        return _models(runs[0])[0]
    path = Path(name)
    folders = [folder for folder in (path, RUNS / path) if is_folder(folder)]
    # a text, or a folder of texts, may have the same name as its run: the one that has a model is meant
    models = [model for folder in folders for model in _models(folder)]
    if is_file(path) and (path.suffix == SUFFIX or not models):
        return path
    if models:
        return models[0]
    if folders:
        raise CharRNNError(f"{folders[0]} holds no model ({BEST}). Make one with: charrnn train TEXT -o {folders[0]}")
    refused = status(path)
    if isinstance(refused, OSError) and refused.errno not in NO_SUCH:
        raise CharRNNError(f"{path}: cannot be read ({refused.strerror}).")
    names = ", ".join(run.name for run in _runs_to_name())
    there = f"Runs here: {names}." if names else "Make one with: charrnn train TEXT"
    raise CharRNNError(f"{shown(name)}: no such model, run folder or name under ./checkpoints. {there}")


def _runs_to_name() -> list[Path]:
    with contextlib.suppress(CharRNNError):
        return find_runs()[:8]
    return []


def model_name(path: Path) -> str:
    """Return what to call a model file: its run, or its own name where that says more."""
    return path.absolute().parent.name if path.name in {BEST, LAST} else path.stem


def find_run(name: str | None) -> Run:
    """Return the run to resume. Raises CharRNNError where there is none."""
    if name is None:
        runs = [run for run in find_runs() if is_file(run / LAST)]
        if not runs:
            raise CharRNNError("Nothing to resume: ./checkpoints has no run. Start one with: charrnn train TEXT")
        return Run(runs[0])
    path = Path(name)
    folders = [path.parent] if path.suffix == SUFFIX and is_file(path) else [path, RUNS / path]
    folder = next((one for one in folders if is_file(one / LAST)), None)
    if folder is not None:
        return Run(folder)
    for folder in folders:
        if is_file(folder / BEST):
            raise CharRNNError(
                f"{folder} has a finished model and no {LAST} to resume from: an n-gram model is counted in a single"
                f" pass. Another kind is fine-tuned with --init-from {folder}"
            )
    raise CharRNNError(f"{shown(name)}: no run to resume there (no {LAST}). charrnn info lists the runs here.")


def _models(folder: Path) -> list[Path]:
    return [folder / name for name in (BEST, LAST) if is_file(folder / name)]


if os.name == "nt":  # pragma: no cover

    def _lock(file: IO[bytes]) -> None:
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
else:

    def _lock(file: IO[bytes]) -> None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
