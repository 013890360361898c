"""A text as it was read: its code points, written once and read in order any number of times.
A short text stays in memory, a long one is in an unnamed temporary file. Knows no tokens."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from charrnn.config.schema import DataConfig
from charrnn.data import text_files
from charrnn.data.text_files import Stamp, Stream, TextReader, stamp
from charrnn.errors import CharRNNError
from charrnn.messages import Say

_LARGE = 100_000_000  # bytes from which on reading takes so long that it is announced
MAX_IN_MEMORY = 1 << 26  # bytes
_CHUNK = 1 << 20  # bytes read at a time
_TYPES: dict[int, npt.DTypeLike] = {1: np.uint8, 2: "<u2", 4: "<u4"}


def read(
    data: DataConfig,
    name: str,
    say: Say,
    stdin: Stream | None = None,
    folder: Path | None = None,
    *,
    boundary: str | None = None,
    longest: int | None = None,
) -> TextSpool:
    """Read the configured texts, and announce them by `name` if they are large.

    Files are joined by the `boundary` of documents, by default the configured one.
    Raises LongerError as soon as there are more than `longest` characters.
    """
    files = text_files.find_files(data.texts, data.glob, say)
    for file, times in Counter(files).items():
        if times > 1:
            say(f"{file} is named {times} times, and read as often.")
    stamps = [stamp(file) for file in files]
    size = sum(each[1] for each in stamps if each is not None)
    if size >= _LARGE:
        say(f"Reading {name} ({size / 1e6:,.0f} MB) ...")
    expansion = data.max_expansion
    reader = TextReader(
        files,
        data.encoding,
        stdin,
        errors=data.encoding_errors,
        expansion=expansion,
        boundary=data.boundary if boundary is None else boundary,
        say=say,
    )
    return TextSpool.read(reader, folder, longest=longest)


class LongerError(CharRNNError):
    """A text that is longer than it was."""


Codes = npt.NDArray[np.unsignedinteger]


class TextSpool:
    """A text of `length` characters, with the files that it comes from, where they start in it, and its SHA-256.

    Each piece takes one, two or four bytes per character, as its largest code point needs. Close it after use.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Start empty. The temporary file of a long text is in `folder`, or in the system's temporary folder."""
        self.length = 0  # characters
        self.names: tuple[str, ...] = ()
        self.starts: tuple[int, ...] = ()
        self.stamps: tuple[Stamp | None, ...] = ()
        self.digest = ""
        self._folder = folder
        # closed by close()
        self._file = tempfile.SpooledTemporaryFile(MAX_IN_MEMORY, dir=None if folder is None else str(folder))  # noqa: SIM115
        self._runs: list[tuple[int, int]] = []  # bytes per character and number of characters, in order

    @classmethod
    def read(cls, reader: TextReader, folder: Path | None = None, *, longest: int | None = None) -> TextSpool:
        """Read files, folders and '-' as one text, in bounded memory."""
        source = cls(folder)
        # before they are read, so that a change in the meantime is noticed
        source.names, source.stamps = reader.names, tuple(stamp(name) for name in reader.names)
        try:
            for piece in reader.pieces():
                source.append(piece)
                if longest is not None and source.length > longest:
                    raise LongerError(f"{reader.names[0]}: more than {longest:,} characters.")
        except BaseException:
            source.close()
            raise
        source.starts, source.digest = tuple(reader.starts), reader.digest()
        return source

    def append(self, piece: str) -> None:
        """Append characters. Raises CharRNNError if the disk is full."""
        if not piece:
            return
        try:
            width, encoded = 1, piece.encode("latin-1")
        except UnicodeEncodeError:
            width, encoded = 2, piece.encode("utf-16-le")
            if len(encoded) > 2 * len(piece):
                width, encoded = 4, piece.encode("utf-32-le")
        try:
            self._file.seek(0, os.SEEK_END)  # chunks() leaves it anywhere
            self._file.write(encoded)
        except OSError as error:
            raise cannot_store(self._folder, error) from error
        if self._runs and self._runs[-1][0] == width:
            self._runs[-1] = width, self._runs[-1][1] + len(piece)
        else:
            self._runs.append((width, len(piece)))
        self.length += len(piece)

    def chunks(self) -> Iterator[Codes]:
        """Yield all code points in order; only one such iteration may run at a time."""
        try:
            self._file.seek(0)
        except OSError as error:  # seeking flushes what was written last
            raise cannot_store(self._folder, error) from error
        for width, count in self._runs:
            step = _CHUNK // width
            for first in range(0, count, step):
                raw = self._file.read(width * min(step, count - first))
                yield np.frombuffer(raw, dtype=_TYPES[width])

    def pieces(self, start: int, stop: int) -> Iterator[str]:
        """Yield the characters from `start` to before `stop`."""
        first = 0
        for codes in self.chunks():
            selected = codes[max(start - first, 0) : max(stop - first, 0)]
            yield selected.astype("<u4").tobytes().decode("utf-32-le")
            first += len(codes)

    def close(self) -> None:
        """Free the memory and the file."""
        with contextlib.suppress(OSError):  # a full disk was reported before
            self._file.close()

    def __enter__(self) -> TextSpool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class StreamCopy:
    """A stream, by default standard input, whose bytes are kept as they are read, to be written to a file as they are.
    Close it after use."""

    def __init__(self, stream: Stream | None, folder: Path | None = None) -> None:
        """Read nothing yet. Many bytes go to a temporary file in `folder`, or in the system's temporary folder."""
        self.size = 0  # bytes
        self._stream, self._folder = stream, folder
        # closed by close()
        self._file = tempfile.SpooledTemporaryFile(MAX_IN_MEMORY, dir=None if folder is None else str(folder))  # noqa: SIM115

    def read(self, size: int = -1, /) -> bytes:
        """Read from the stream. Raises CharRNNError if the disk is full."""
        raw = (self._stream or sys.stdin.buffer).read(size)
        try:
            self._file.write(raw)
        except OSError as error:
            raise cannot_store(self._folder, error) from error
        self.size += len(raw)
        return raw

    def write(self, file: BinaryIO) -> None:
        """Write all that was read."""
        try:
            self._file.seek(0)
        except OSError as error:  # seeking flushes what was written last
            raise cannot_store(self._folder, error) from error
        shutil.copyfileobj(self._file, file)

    def close(self) -> None:
        """Free the memory and the file."""
        with contextlib.suppress(OSError):  # a full disk was reported before
            self._file.close()

    def __enter__(self) -> StreamCopy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def cannot_store(folder: Path | None, error: OSError) -> CharRNNError:
    """Return the error for a long text that cannot be stored in a folder, by default the system's temporary one."""
    try:
        path = str(folder or tempfile.gettempdir())
    except OSError:  # there is none
        path = "The system's temporary folder"
    elsewhere = " Set TMPDIR to use another folder." if folder is None else ""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        # up to four bytes per code point, its tokens beside it, and up to four of what is kept of a stream
        needed = "Free up to six bytes per character there (ten of standard input), which it takes while it is read."
        return CharRNNError(f"{path}: the disk is full, and the text is long. {needed}{elsewhere}")
    advice = elsewhere or " Check the folder's permissions."
    return CharRNNError(
        f"{path}: cannot be written ({error.strerror or error}). A long text is stored there while it is read.{advice}"
    )
