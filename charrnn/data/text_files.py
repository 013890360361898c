"""Reading texts: files, folders and standard input, compressed or not, in one piece or many. Knows no tokens."""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import lzma
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from charrnn.data.decoding import FileDecoder, check_encoding
from charrnn.errors import CharRNNError, MisuseError

STDIN = "-"
RUN_MARK = ".lock"  # marks a run folder
_PIECE = 1 << 18  # bytes read at a time; these and the text decoded from them fit in a CPU's cache
_INDIVISIBLE = {"idna", "punycode"}  # encodings that Python decodes only in one piece
Stamp = tuple[str, int, int]  # absolute path, size in bytes, modification time in ns
_COMPRESSED: dict[str, Callable[[str, Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class TextReader:
    """Read files, folders (every .txt below, also compressed) and '-' as one text, joined by newlines, in pieces.

    `names` are the files; `starts`, `length` and `digest` are those of the text read so far.
    """

    def __init__(self, names: Sequence[str], encoding: str = "utf-8", stdin: BinaryIO | None = None) -> None:
        """Find the files. Raises CharRNNError if one is missing or its name is not UTF-8."""
        check_encoding(encoding)
        self.names = tuple(find_files(names))
        if self.names.count(STDIN) > 1:
            raise MisuseError("Standard input (-) is named twice; it can be read once.")
        self.encoding, self.stdin = encoding, stdin
        self.starts: list[int] = []  # of each file, in characters
        self.length = 0
        self._sha = hashlib.sha256()

    def pieces(self, *, may_be_empty: bool = False) -> Iterator[str]:
        """Yield the text. Raises CharRNNError for a file that is unreadable, binary or not in the encoding, and at the
        end for an empty text, unless it may be empty."""
        empty = True
        for file in self.names:
            if self.starts:
                yield self._count("\n", b"\n")
            self.starts.append(self.length)
            decoder = FileDecoder(self.encoding, "standard input" if file == STDIN else file)
            size = -1 if codecs.lookup(self.encoding).name in _INDIVISIBLE else _PIECE
            for raw in _read_bytes(file, self.stdin, size):
                piece = self._count(*decoder.feed(raw))
                empty = empty and not piece
                yield piece
            piece = self._count(*decoder.feed(b"", last=True))
            decoder.check()
            empty = empty and not piece
            yield piece
        if empty and not may_be_empty:
            raise CharRNNError(f"{_describe(self.names)} is empty; name a text with characters in it.")

    def digest(self) -> str:
        """Return the SHA-256 of the text as UTF-8."""
        return self._sha.hexdigest()

    def _count(self, piece: str, encoded: bytes) -> str:
        self._sha.update(encoded)
        self.length += len(piece)
        return piece


def read(names: Sequence[str], encoding: str = "utf-8", stdin: BinaryIO | None = None) -> str:
    """Read files, folders and '-' into memory as one text; see `TextReader`."""
    return "".join(TextReader(names, encoding, stdin).pieces())


def find_files(names: Sequence[str]) -> list[str]:
    """List the files that names stand for. Raises CharRNNError if one is missing or its name is not UTF-8."""
    found = [file for name in names for file in _expand(name)]
    for file in found:
        try:
            file.encode("utf-8")
        except UnicodeEncodeError as error:
            raise CharRNNError(f"{os.fsencode(file)!r}: the file name is not UTF-8. Rename it.") from error
    return found


def stamp(name: str) -> Stamp | None:
    """Identify a file without reading it; None for standard input or a missing file."""
    if name == STDIN:
        return None
    try:
        status = os.stat(name)
    except OSError:
        return None
    return str(Path(name).absolute()), status.st_size, status.st_mtime_ns


def run_name(name: str) -> str:
    """Return the name of the run of a text: its file name without extensions; 'stdin' for '-'."""
    if name == STDIN:
        return "stdin"
    path = Path(name).absolute()
    return path.name.split(".")[0] or path.name.strip(".") or "text"


def _expand(name: str) -> list[str]:
    if name == STDIN:
        return [name]
    if re.match(r"\w+://", name):
        raise CharRNNError(f"{name}: charrnn reads files, not addresses. Download it first, e.g. curl -O {name}")
    path = Path(name)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise CharRNNError(f"{name}: no such file or folder. Check the name.") from error
    except OSError as error:  # the name is too long, or the folder not accessible
        shortened = name if len(name) <= 60 else f"{name[:60]}..."
        raise CharRNNError(f"{shortened}: cannot be read ({error.strerror}). Check the name.") from error
    if path.is_dir():
        suffixes = (".txt", *(".txt" + suffix for suffix in _COMPRESSED))
        # run folders hold samples of models
        found = sorted(
            str(file)
            for file in path.rglob("*")
            if file.name.endswith(suffixes) and file.is_file() and not (file.parent / RUN_MARK).exists()
        )
        if not found:
            raise CharRNNError(f"{name}: no .txt file in this folder or below. Name a file or another folder.")
        return found
    return [name]


def _read_bytes(file: str, stdin: BinaryIO | None, size: int) -> Iterator[bytes]:
    """Yield a file's bytes, decompressed, `size` at a time."""
    if file == STDIN:
        stream = stdin or sys.stdin.buffer
        while raw := stream.read(size):
            yield raw
        return
    decompress = _COMPRESSED.get(Path(file).suffix.lower(), open)
    try:
        with decompress(file, "rb") as stream:
            while raw := stream.read(size):
                yield raw
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        # decompressors raise OSError without a number
        if isinstance(error, OSError) and (error.errno is not None or decompress is open):
            raise CharRNNError(f"{file}: cannot be read ({error.strerror}). Check its permissions.") from error
        raise CharRNNError(f"{file}: damaged or not really compressed ({error}). Decompress it by hand.") from error


def _describe(files: Sequence[str]) -> str:
    names = ["standard input" if file == STDIN else file for file in files]
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
