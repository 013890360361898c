"""Atomic file writes: a temporary file beside the target, synced, then renamed.
Knows bytes, not what they mean."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from charrnn.errors import CharRNNError
from charrnn.paths import is_file

_ADVICE = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), " Check the folder's permissions."),
    errno.EROFS: " Name a folder on another file system.",
    errno.EFBIG: " A limit on the size of files is set; raise it (ulimit -f).",
    errno.EMFILE: " Close other files and programs.",
    errno.ENAMETOOLONG: " Name a shorter one.",
}


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file completely or not at all. Raises CharRNNError if it cannot be written."""
    with atomic_writer(path, len(content)) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_writer(path: Path, needed: int) -> Iterator[BinaryIO]:
    """Open a file that is written completely or not at all; `needed` is its approximate size in bytes.

    Raises CharRNNError if it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error, needed) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def cannot_write(path: Path, error: OSError, needed: int) -> CharRNNError:
    """Return the error for a file that could not be written."""
    previous = f" {path.name} is still the one saved before." if is_file(path) else ""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        saved = is_file(path.parent / "last.safetensors")
        action = f"resume with: charrnn train --resume -m {path.parent}" if saved else "start again."
        megabytes = max(needed / 1e6, 1)
        return CharRNNError(
            f"{path}: the disk is full.{previous} Free at least {megabytes:.0f} MB there, then {action}"
        )
    advice = _ADVICE.get(error.errno or 0, "")
    return CharRNNError(f"{path}: cannot be written ({error.strerror or error}).{previous}{advice}")


def _replace(temporary: Path, path: Path) -> None:
    for _ in range(50 if os.name == "nt" else 0):  # Windows: while another process reads the old file, wait
        with contextlib.suppress(PermissionError):
            os.replace(temporary, path)
            return
        time.sleep(0.1)
    os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
