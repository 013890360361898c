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
from typing import Any, Protocol

from charrnn.config.limits import FILE_BOUNDARY
from charrnn.data import folders
from charrnn.data.decoding import INDIVISIBLE, Errors, FileDecoder, check_encoding
from charrnn.errors import CharRNNError, MisuseError
from charrnn.messages import Say, counted, silent
from charrnn.paths import is_folder, status

STDIN = "-"
_PIECE = 1 << 18  # bytes read at a time; these and the text decoded from them fit in a CPU's cache
Stamp = tuple[str, int, int]  # absolute path, size in bytes, modification time in ns
_COMPRESSED: dict[str, Callable[[str, Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# what else follows a dot is part of the name, as in my.notes
_ENDINGS = re.compile(
    r"(\.(txt|text|utf8|log|md|rst|tex|bib|html?|xml|csv|tsv|jsonl?|ya?ml|srt|abc|smi|fasta|fa"
    r"|py|c|h|cc|cpp|rs|go|java|js|ts|rb|sh|sql|pl|r|lua|hs|ml|css))?(\.(gz|bz2|xz))?$",
    re.IGNORECASE,
)


MAX_EXPANSION = 1_000  # of a compressed file


class Stream(Protocol):
    """Standard input, or what stands for it."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes, all where that is negative, and none at the end."""


class TextReader:
    """Read files, folders (every .txt below, also compressed) and '-' as one text, in pieces.

    Between two files stands the `boundary` of documents, or as much of it as the first file lacks at its end: a newline
    by default, even after a file that ends with one. `errors` says what becomes of bytes that are not in the encoding.
    `names` are the files; `starts`, `length` and `digest` are those of the text read so far.
    """

    def __init__(
        self,
        names: Sequence[str],
        encoding: str = "utf-8",
        stdin: Stream | None = None,
        *,
        errors: Errors = "strict",
        globs: Sequence[str] | None = None,
        expansion: int = MAX_EXPANSION,
        boundary: str = "\n",
        say: Say = silent,
    ) -> None:
        """Find the files. Raises CharRNNError if one is missing or its name is not UTF-8."""
        check_encoding(encoding)
        self.names = tuple(find_files(names, globs, say))
        if self.names.count(STDIN) > 1:
            raise MisuseError("Standard input (-) is named twice; it can be read once.")
        self.encoding, self.stdin, self.errors, self.say = encoding, stdin, errors, say
        self.expansion, self.boundary, self._tail = expansion, boundary, ""  # the last characters
        self.starts: list[int] = []  # of each file, in characters
        self.length = 0
        self._sha = hashlib.sha256()

    def pieces(self, *, may_be_empty: bool = False) -> Iterator[str]:
        """Yield the text. Raises CharRNNError for a file that is unreadable, binary or not in the encoding, and at the
        end for an empty text, unless it may be empty."""
        empty, invalid = True, 0
        for file in self.names:
            if self.starts:
                end = joint(self._tail, self.boundary)
                yield self._count(end, end.encode())
            self.starts.append(self.length)
            decoder = FileDecoder(self.encoding, "standard input" if file == STDIN else file, errors=self.errors)
            size = -1 if codecs.lookup(self.encoding).name in INDIVISIBLE else _PIECE
            for raw in _read_bytes(file, self.stdin, size, self.expansion):
                piece = self._count(*decoder.feed(raw))
                empty = empty and not piece
                yield piece
            piece = self._count(*decoder.feed(b"", last=True))
            decoder.check()
            invalid += decoder.invalid
            empty = empty and not piece
            yield piece
        if invalid:
            fate = "replaced by U+FFFD" if self.errors == "replace" else "left out"
            self.say(f"{counted(invalid, 'byte')} not {self.encoding.upper()}: {fate}.")
        if empty and not may_be_empty:
            raise CharRNNError(f"{_describe(self.names)} is empty; name a text with characters in it.")

    def digest(self) -> str:
        """Return the SHA-256 of the text as UTF-8."""
        return self._sha.hexdigest()

    def _count(self, piece: str, encoded: bytes) -> str:
        self._sha.update(encoded)
        self.length += len(piece)
        self._tail = (self._tail + piece[-len(self.boundary) :])[-len(self.boundary) :]
        return piece


def joint(text: str, boundary: str) -> str:
    """Return what stands between a text and that of the next file: what it lacks of the boundary; a newline and the NUL
    that ends a file always."""
    return boundary if boundary in {"\n", FILE_BOUNDARY} else missing_end(text, boundary)


def missing_end(text: str, end: str) -> str:
    """Return what a text lacks to end with `end`."""
    return next(end[have:] for have in range(len(end), -1, -1) if text.endswith(end[:have]))


def read(
    names: Sequence[str],
    encoding: str = "utf-8",
    stdin: Stream | None = None,
    *,
    errors: Errors = "strict",
    boundary: str = "\n",
    say: Say = silent,
) -> str:
    """Read files, folders and '-' into memory as one text; see `TextReader`."""
    return "".join(TextReader(names, encoding, stdin, errors=errors, boundary=boundary, say=say).pieces())


def find_files(names: Sequence[str], globs: Sequence[str] | None = None, say: Say = silent) -> list[str]:
    """List the files that names stand for: of a folder those that match `globs`, by default every .txt.

    Tells what was left out of a folder. Raises CharRNNError if a file is missing or its name is not UTF-8.
    """
    found = [file for name in names for file in _expand(name, globs, say)]
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
    found = status(Path(name))
    return None if isinstance(found, OSError) else (str(Path(name).absolute()), found.st_size, found.st_mtime_ns)


def run_name(name: str) -> str:
    """Return the name of the run of a text: its file name without an ending that says how it is compressed and one that
    says what kind of text it is; 'stdin' for '-'."""
    if name == STDIN:
        return "stdin"
    stem = os.path.basename(os.path.abspath(name)).strip(". ")
    return (stem[:1] + _ENDINGS.sub("", stem[1:], count=1)).rstrip(". ") or "text"


def _expand(name: str, globs: Sequence[str] | None, say: Say) -> list[str]:
    if name == STDIN:
        return [name]
    if re.match(r"\w+://", name):
        raise CharRNNError(f"{name}: charrnn reads files, not addresses. Download it first, e.g. curl -O {name}")
    path = Path(name)
    error = status(path)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        raise CharRNNError(f"{name}: no such file or folder. Check the name.") from error
    if isinstance(error, OSError):  # the name is too long, or the folder not accessible
        shortened = name if len(name) <= 60 else f"{name[:60]}..."
        raise CharRNNError(f"{shortened}: cannot be read ({error.strerror}). Check the name.") from error
    if is_folder(path):
        chosen = folders.GLOB if globs is None else globs
        found = folders.find(path, chosen)
        if not found.files:
            raise CharRNNError(found.nothing(name, chosen, globs_can_change=globs is not None))
        if note := found.note(name, globs_can_change=globs is not None):
            say(note)
        return found.files
    return [name]


def _read_bytes(file: str, stdin: Stream | None, size: int, expansion: int) -> Iterator[bytes]:
    """Yield a file's bytes, `size` at a time; of a compressed one at most `expansion` times as many as it has."""
    if file == STDIN:
        stream = stdin or sys.stdin.buffer
        while raw := stream.read(size):
            yield raw
        return
    decompress = _COMPRESSED.get(Path(file).suffix.lower(), open)
    try:
        most = None if decompress is open else os.stat(file).st_size * expansion
        with decompress(file, "rb") as stream:
            while raw := stream.read(size if size > 0 or most is None else most + 1):
                most = None if most is None else most - len(raw)
                if most is not None and most < 0:
                    raise CharRNNError(
                        f"{file}: expands to more than {expansion:,} times its size, which no text does. To read it all"
                        f" the same, decompress it by hand, or train with -s data.max_expansion={10 * expansion}"
                    )
                yield raw
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        # decompressors raise OSError without a number
        if isinstance(error, OSError) and (error.errno is not None or decompress is open):
            raise CharRNNError(f"{file}: cannot be read ({error.strerror}). Check its permissions.") from error
        raise CharRNNError(f"{file}: damaged or not really compressed ({error}). Decompress it by hand.") from error


def _describe(files: Sequence[str]) -> str:
    names = ["standard input" if file == STDIN else file for file in files]
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
