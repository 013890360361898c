"""A text as it was read: its code points, written down once and gone through in order as often as needed.
They are in memory while they are few, and beyond that in a temporary file without a name. Knows nothing of tokens."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from charrnn.callbacks import Say
from charrnn.data import text_files
from charrnn.data.text_files import Stamp, TextReader, stamp
from charrnn.errors import CharRNNError

_LARGE = 100_000_000  # bytes whose reading takes so long that it is announced
_IN_MEMORY = 1 << 26  # bytes
_CHUNK = 1 << 20  # bytes gone through at a time
_TYPES: dict[int, npt.DTypeLike] = {1: np.uint8, 2: "<u2", 4: "<u4"}


def read(
    names: Sequence[str], encoding: str, shown: str, say: Say, stdin: BinaryIO | None = None, folder: Path | None = None
) -> TextSpool:
    """Read a text; of a large one say so first."""
    stamps = [text_files.stamp(name) for name in text_files.files(names)]
    size = sum(stamp[1] for stamp in stamps if stamp is not None)
    if size >= _LARGE:
        say(f"Reading {shown} ({size / 1e6:,.0f} MB) ...")
    return TextSpool.read(names, encoding, stdin, folder)


Codes = npt.NDArray[np.unsignedinteger]


class TextSpool:
    """Hold one text of `length` characters, the files that it came from and where they begin, and its SHA-256.

    Each piece takes one, two or four bytes a character, as its largest code point needs. To be closed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Begin with nothing; the temporary file of a long text will lie in `folder`, or in the system's."""
        self.length, self.tail = 0, ""  # the tail is the last two characters
        self.names: tuple[str, ...] = ()
        self.starts: tuple[int, ...] = ()
        self.stamps: tuple[Stamp | None, ...] = ()
        self.digest = ""
        self._folder = folder
        # closed by close()
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=None if folder is None else str(folder))  # noqa: SIM115
        self._runs: list[tuple[int, int]] = []  # bytes a character, and how many characters, in order

    @classmethod
    def read(
        cls,
        names: Sequence[str],
        encoding: str = "utf-8",
        stdin: BinaryIO | None = None,
        folder: Path | None = None,
    ) -> TextSpool:
        """Read files, folders and '-' as one text, in bounded memory; see `text.Reader`."""
        reader, source = TextReader(names, encoding, stdin), cls(folder)
        # before they are read: what changes meanwhile is seen to have changed
        source.names, source.stamps = reader.names, tuple(stamp(name) for name in reader.names)
        try:
            for piece in reader.pieces():
                source.append(piece)
        except BaseException:
            source.close()
            raise
        source.starts, source.digest = tuple(reader.starts), reader.digest()
        return source

    def append(self, piece: str) -> None:
        """Write down more characters. Raises CharRNNError where the disk is full."""
        if not piece:
            return
        try:
            width, encoded = 1, piece.encode("latin-1")
        except UnicodeEncodeError:
            width, encoded = 2, piece.encode("utf-16-le")
            if len(encoded) > 2 * len(piece):
                width, encoded = 4, piece.encode("utf-32-le")
        try:
            self._file.seek(0, os.SEEK_END)  # a walk may have left it anywhere
            self._file.write(encoded)
        except OSError as error:
            raise no_room(self._folder, error) from error
        if self._runs and self._runs[-1][0] == width:
            self._runs[-1] = width, self._runs[-1][1] + len(piece)
        else:
            self._runs.append((width, len(piece)))
        self.length += len(piece)
        self.tail = (self.tail + piece[-2:])[-2:]

    def chunks(self) -> Iterator[Codes]:
        """Give the code points from first to last; one walk at a time."""
        try:
            self._file.seek(0)
        except OSError as error:  # what was written last may reach the disk only now
            raise no_room(self._folder, error) from error
        for width, count in self._runs:
            step = _CHUNK // width
            for first in range(0, count, step):
                raw = self._file.read(width * min(step, count - first))
                yield np.frombuffer(raw, dtype=_TYPES[width])

    def pieces(self, start: int, stop: int) -> Iterator[str]:
        """Give the characters from `start` to before `stop`."""
        first = 0
        for codes in self.chunks():
            chosen = codes[max(start - first, 0) : max(stop - first, 0)]
            yield chosen.astype("<u4").tobytes().decode("utf-32-le")
            first += len(codes)

    def close(self) -> None:
        """Let go of memory and file."""
        with contextlib.suppress(OSError):  # a full disk was told of already
            self._file.close()

    def __enter__(self) -> TextSpool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def no_room(folder: Path | None, error: OSError) -> CharRNNError:
    """Say why a long text cannot be kept in a folder, or if None in the system's temporary one, and what to do."""
    try:
        place = str(folder or tempfile.gettempdir())
    except OSError:  # there is none
        place = "The system's temporary folder"
    elsewhere = " TMPDIR names another place." if folder is None else ""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        # its code points, up to four bytes each, and beside them its tokens
        needs = "It takes up to six bytes a character there while it is read."
        return CharRNNError(f"{place}: the disk is full, and the text is a long one. {needs} Free them.{elsewhere}")
    advice = elsewhere or " Check the folder's permissions."
    return CharRNNError(
        f"{place}: cannot be written ({error.strerror or error}). A long text is kept there while it is read.{advice}"
    )
