"""Reading texts: files, folders, standard input, packed or not, whole or piece by piece. Knows nothing of tokens."""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from charrnn.data.decoding import _IncrementalDecoder, check_encoding
from charrnn.errors import CharRNNError, MisuseError

STDIN = "-"
RUN_MARK = ".lock"  # a folder with such a file is a run
_PIECE = 1 << 18  # bytes read at a time: what is made of them stays in a processor's cache
_WHOLE = {"idna", "punycode"}  # Python decodes these only in one piece
Stamp = tuple[str, int, int]  # a file's absolute path, its bytes, and when it was changed, in ns
_PACKED: dict[str, Callable[[str, Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class TextReader:
    """Read files, folders (every .txt below, packed ones too) and '-' as one text, joined by newlines, in pieces.

    `names` are the files; `starts`, `length` and `digest` speak of what was read so far.
    """

    def __init__(self, names: Sequence[str], encoding: str = "utf-8", stdin: BinaryIO | None = None) -> None:
        """Find the files. Raises CharRNNError where one is missing or has no name that can be kept."""
        check_encoding(encoding)
        self.names = tuple(files(names))
        if self.names.count(STDIN) > 1:
            raise MisuseError("Standard input (-) is named twice; it can be read once.")
        self.encoding, self.stdin = encoding, stdin
        self.starts: list[int] = []  # of each file, in characters
        self.length = 0
        self._sha = hashlib.sha256()

    def pieces(self) -> Iterator[str]:
        """Give the text. Raises CharRNNError, a file's at its end, where one is empty, unreadable, binary or not in
        that encoding."""
        empty = True
        for file in self.names:
            if self.starts:
                yield self._passed("\n", b"\n")
            self.starts.append(self.length)
            decoder = _IncrementalDecoder(self.encoding, "standard input" if file == STDIN else file)
            for raw in _raw(file, self.stdin, -1 if codecs.lookup(self.encoding).name in _WHOLE else _PIECE):
                piece = self._passed(*decoder.feed(raw))
                empty = empty and not piece.strip("\n")
                yield piece
            piece = self._passed(*decoder.feed(b"", last=True))
            decoder.check()
            empty = empty and not piece.strip("\n")
            yield piece
        if empty:
            raise CharRNNError(f"{_listed(self.names)} is empty; name a text with something in it.")

    def digest(self) -> str:
        """Give the SHA-256 of the text as UTF-8."""
        return self._sha.hexdigest()

    def _passed(self, piece: str, encoded: bytes) -> str:
        self._sha.update(encoded)
        self.length += len(piece)
        return piece


def read(names: Sequence[str], encoding: str = "utf-8", stdin: BinaryIO | None = None) -> str:
    """Read files, folders and '-' into memory as one text; see `Reader`."""
    return "".join(TextReader(names, encoding, stdin).pieces())


def files(names: Sequence[str]) -> list[str]:
    """Find the files that names stand for. Raises CharRNNError where one is missing or has no name that can be kept."""
    found = [file for name in names for file in _expand(name)]
    for file in found:
        try:
            file.encode("utf-8")
        except UnicodeEncodeError as error:
            raise CharRNNError(f"{os.fsencode(file)!r}: a name that is not UTF-8. Rename it.") from error
    return found


def stamp(name: str) -> Stamp | None:
    """Say which file this is, as far as can be seen without reading it; None for standard input or no file."""
    if name == STDIN:
        return None
    try:
        seen = os.stat(name)
    except OSError:
        return None
    return str(Path(name).absolute()), seen.st_size, seen.st_mtime_ns


def stem(name: str) -> str:
    """Give the name of a run for a text: the file's name without its endings; 'stdin' for '-'."""
    if name == STDIN:
        return "stdin"
    path = Path(name).absolute()
    return path.name.split(".")[0] or path.name.strip(".") or "text"


def _expand(name: str) -> list[str]:
    if name == STDIN:
        return [name]
    path = Path(name)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise CharRNNError(f"{name}: no such file or folder. Check the name.") from error
    except OSError as error:  # a name too long, a folder closed to us
        shown = name if len(name) <= 60 else f"{name[:60]}..."
        raise CharRNNError(f"{shown}: cannot be read ({error.strerror}). Check the name.") from error
    if path.is_dir():
        endings = (".txt", *(".txt" + ending for ending in _PACKED))
        # what models wrote into their run folders is no text of the user's
        found = sorted(
            str(file)
            for file in path.rglob("*")
            if file.name.endswith(endings) and file.is_file() and not (file.parent / RUN_MARK).exists()
        )
        if not found:
            raise CharRNNError(f"{name}: no .txt file in this folder or below. Name a file or another folder.")
        return found
    return [name]


def _raw(file: str, stdin: BinaryIO | None, size: int) -> Iterator[bytes]:
    """Give a file's bytes, unpacked, so many at a time."""
    if file == STDIN:
        stream = stdin or sys.stdin.buffer
        while raw := stream.read(size):
            yield raw
        return
    opened = _PACKED.get(Path(file).suffix.lower(), open)
    try:
        with opened(file, "rb") as stream:
            while raw := stream.read(size):
                yield raw
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise CharRNNError(f"{file}: damaged or not really packed ({error}). Unpack it by hand.") from error
    except OSError as error:
        if Path(file).suffix.lower() in _PACKED and error.errno is None:
            raise CharRNNError(f"{file}: damaged or not really packed ({error}). Unpack it by hand.") from error
        raise CharRNNError(f"{file}: cannot be read ({error.strerror}). Check its permissions.") from error


def _listed(files: Sequence[str]) -> str:
    names = ["standard input" if file == STDIN else file for file in files]
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
