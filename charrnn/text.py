"""Reading texts: files, folders, standard input, packed or not, in any encoding, as one string.
Knows nothing of tokens. A text is Unicode code points: no BOM, LF line ends, no lone surrogates."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from charrnn.errors import CharRNNError, MisuseError

STDIN = "-"
RUN_MARK = ".lock"  # a folder with such a file is a run
_CHUNK = 1 << 24
_PACKED: dict[str, Callable[[str, Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@dataclass(frozen=True)
class Text:
    """Hold one text and where each of its files begins: `starts` are offsets in characters."""

    content: str
    names: tuple[str, ...]
    starts: tuple[int, ...]

    def digest(self) -> str:
        """Give the SHA-256 of the text as UTF-8, in bounded memory."""
        sha = hashlib.sha256()
        for start in range(0, len(self.content), _CHUNK):
            sha.update(self.content[start : start + _CHUNK].encode())
        return sha.hexdigest()


def read(names: Sequence[str], encoding: str = "utf-8", stdin: BinaryIO | None = None) -> Text:
    """Read files, folders (every .txt below, packed ones too) and '-' into one text, joined by newlines.

    Raises CharRNNError where one is missing, empty, unreadable, binary or not in that encoding.
    """
    check_encoding(encoding)
    parts: list[str] = []
    files = [file for name in names for file in _expand(name)]
    for file in files:
        try:
            file.encode("utf-8")
        except UnicodeEncodeError as error:
            raise CharRNNError(f"{os.fsencode(file)!r}: a name that is not UTF-8. Rename it.") from error
    if files.count(STDIN) > 1:
        raise MisuseError("Standard input (-) is named twice; it can be read once.")
    for file in files:
        parts.append(decode(_bytes(file, stdin), encoding, "standard input" if file == STDIN else file))
    starts, position = [], 0
    for part in parts:
        starts.append(position)
        position += len(part) + 1
    content = parts[0] if len(parts) == 1 else "\n".join(parts)
    if not content.strip("\n"):
        raise CharRNNError(f"{_listed(files)} is empty; name a text with something in it.")
    return Text(content, tuple(files), tuple(starts))


def check_encoding(encoding: str) -> None:
    """Raise MisuseError for an encoding that Python does not know as a text encoding."""
    try:
        "".encode(encoding)
    except (LookupError, ValueError) as error:
        raise MisuseError(
            f"{encoding} is no text encoding known here; common ones are utf-8, utf-16, gb18030, big5, latin-1."
        ) from error


def decode(raw: bytes, encoding: str, name: str, advice: str | None = None) -> str:
    """Decode bytes strictly: BOM dropped, CRLF to LF; an error names the file and the byte, and gives advice."""
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        where = f"{name}: not {encoding.upper()} at byte {error.start}"
        found = f" (0x{raw[error.start]:02x})" if error.start < len(raw) else ""
        if b"\0" in raw[:_CHUNK] and not raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise CharRNNError(f"{where}{found}; it looks like a binary file. Name a text.") from error
        utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        likely = "utf-16" if utf16 else "gb18030" if encoding.lower() in {"utf-8", "utf8"} else "utf-8"
        raise CharRNNError(f"{where}{found}. {advice or f'Name its encoding, e.g. --encoding {likely}.'}") from error
    # to the end, so that a text written down and read again is the same
    text = text.lstrip("\ufeff")
    while "\r\n" in text:
        text = text.replace("\r\n", "\n")
    if "\0" in text:
        raise CharRNNError(
            f"{name}: a NUL character at {text.index(chr(0))}; it looks like a binary file"
            " or UTF-16. Name a text, or its encoding, e.g. --encoding utf-16."
        )
    check_characters(text, name)
    return text


def check_characters(text: str, name: str) -> None:
    """Raise CharRNNError for a lone surrogate: it is no character and cannot be written as UTF-8."""
    try:
        for start in range(0, len(text), _CHUNK):
            text[start : start + _CHUNK].encode("utf-8")
    except UnicodeEncodeError as error:
        raise CharRNNError(
            f"{name}: character {start + error.start} is a lone surrogate"
            f" (U+{ord(text[start + error.start]):04X}), which is no character. Is it UTF-8?"
        ) from error


def lines(text: str) -> Iterator[str]:
    """Give the lines of a text without their newlines; only LF ends a line, and the last needs none."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def escaped(text: str) -> str:
    """Write a text on one line: \\n, \\t and \\\\ for newline, tab and backslash."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


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


def _bytes(file: str, stdin: BinaryIO | None) -> bytes:
    if file == STDIN:
        return (stdin or sys.stdin.buffer).read()
    opened = _PACKED.get(Path(file).suffix.lower(), open)
    try:
        with opened(file, "rb") as stream:
            return bytes(stream.read())
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise CharRNNError(f"{file}: damaged or not really packed ({error}). Unpack it by hand.") from error
    except OSError as error:
        if Path(file).suffix.lower() in _PACKED and error.errno is None:
            raise CharRNNError(f"{file}: damaged or not really packed ({error}). Unpack it by hand.") from error
        raise CharRNNError(f"{file}: cannot be read ({error.strerror}). Check its permissions.") from error


def _listed(files: Sequence[str]) -> str:
    names = ["standard input" if file == STDIN else file for file in files]
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
