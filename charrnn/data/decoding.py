"""Bytes to Unicode code points, strictly: no BOM, LF line ends, no lone surrogates; an error names file and byte."""

from __future__ import annotations

import codecs
import sys

from charrnn.errors import CharRNNError, MisuseError

_CHUNK = 1 << 24
# whose first bytes say in which order all others come
_MARKS = {
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
}


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
    decoder = _IncrementalDecoder(encoding, name, advice)
    text, _ = decoder.feed(raw, last=True)
    decoder.check()
    return text


class _IncrementalDecoder:
    """Decode one file in pieces. What is wrong is told at its end: of several faults always the same one counts."""

    def __init__(self, encoding: str, name: str, advice: str | None = None) -> None:
        self.encoding, self.name, self.advice = encoding, name, advice
        self.decoder = codecs.getincrementaldecoder(encoding)()
        self.codec = codecs.lookup(encoding).name
        self.job: bytes | None = b"" if self.codec in _MARKS else None  # until it is known whether a mark comes first
        self.taken, self.given = 0, 0  # bytes, characters
        self.held = ""  # carriage returns, until it is known what comes after them
        self.head, self.zero = b"", False  # the first bytes, and whether there is a zero among the first _CHUNK
        self.error: UnicodeDecodeError | None = None
        self.error_at = 0  # bytes
        self.nul: int | None = None  # characters
        self.surrogate: UnicodeEncodeError | None = None
        self.surrogate_at = 0

    def feed(self, raw: bytes, *, last: bool = False) -> tuple[str, bytes]:
        """Decode more bytes; gives the characters, also as UTF-8, and none any more once something was wrong."""
        if self.taken < _CHUNK:
            self.head += raw[: 2 - len(self.head)] if len(self.head) < 2 else b""
            self.zero = self.zero or b"\0" in raw[: _CHUNK - self.taken]
        self.taken += len(raw)
        if self.error is not None:
            return "", b""
        try:
            text, own = self._decoded(raw, last)
        except UnicodeDecodeError as error:
            # what it speaks of are the bytes that it kept from before, and these
            self.error, self.error_at = error, self.taken - len(error.object) + error.start
            return "", b""
        decoded = len(self.held) + len(text)
        # to the end, so that a text written down and read again is the same
        if self.given == 0 and not self.held:
            text = text.lstrip("\ufeff")
        text = self.held + text
        kept = text if last else text.rstrip("\r")
        self.held, text = text[len(kept) :], kept
        if "\r" in text:
            while "\r\n" in text:
                text = text.replace("\r\n", "\n")
        try:
            encoded = own if own is not None and len(text) == decoded else text.encode("utf-8")
        except UnicodeEncodeError as error:
            encoded = text.encode("utf-8", "replace")
            if self.surrogate is None:
                self.surrogate, self.surrogate_at = error, self.given + error.start
        if self.nul is None and b"\0" in encoded:
            self.nul = self.given + text.index("\0")
        self.given += len(text)
        return ("", b"") if self.nul is not None or self.surrogate is not None else (text, encoded)

    def check(self) -> None:
        """Raise CharRNNError where something was wrong."""
        utf16 = self.head.startswith(_MARKS["utf-16"])
        if self.error is not None:
            where = f"{self.name}: not {self.encoding.upper()} at byte {self.error_at}"
            odd = self.error.object[self.error.start : self.error.start + 1]
            found = f" (0x{odd[0]:02x})" if odd else ""
            if self.zero and not utf16:
                raise CharRNNError(f"{where}{found}; it looks like a binary file. Name a text.") from self.error
            likely = "utf-16" if utf16 else "gb18030" if self.encoding.lower() in {"utf-8", "utf8"} else "utf-8"
            advice = self.advice or f"Name its encoding, e.g. --encoding {likely}."
            raise CharRNNError(f"{where}{found}. {advice}") from self.error
        if self.nul is not None:
            raise CharRNNError(
                f"{self.name}: a NUL character at {self.nul}; it looks like a binary file"
                " or UTF-16. Name a text, or its encoding, e.g. --encoding utf-16."
            )
        if self.surrogate is not None:
            raise _lone(self.name, self.surrogate_at, self.surrogate) from self.surrogate

    def _decoded(self, raw: bytes, last: bool) -> tuple[str, bytes | None]:
        """Give characters, and the very bytes that they are where these are UTF-8."""
        if self.job is not None:
            self.job = raw = self.job + raw
            if len(raw) < len(_MARKS[self.codec][0]) and not last:
                return "", None
            if not raw.startswith(_MARKS[self.codec]):
                # in the machine's own order, as Python decodes it in one piece
                order = "le" if sys.byteorder == "little" else "be"
                self.decoder = codecs.getincrementaldecoder(f"{self.codec}-{order}")()
            self.job = None
        before = self.decoder.getstate()
        try:
            text = self.decoder.decode(raw, last)
        except UnicodeError as error:
            raise self._placed(before, raw, error) from error
        if self.codec != "utf-8" or self.held:
            return text, None
        kept, _ = self.decoder.getstate()
        return text, (before[0] + raw)[: len(before[0]) + len(raw) - len(kept)]

    def _placed(self, before: tuple[bytes, int], raw: bytes, error: UnicodeError) -> UnicodeDecodeError:
        """Find the byte of an error: some decoders name none, or the first, where they hold back too much for the next
        bytes, and name it if there are none."""
        again = type(self.decoder)()
        again.setstate(before)
        try:
            again.decode(raw, True)
        except UnicodeDecodeError as placed:
            return placed
        except UnicodeError:
            pass
        if isinstance(error, UnicodeDecodeError):
            return error
        return UnicodeDecodeError(self.encoding, before[0] + raw, 0, len(before[0] + raw), str(error))


def check_characters(text: str, name: str) -> None:
    """Raise CharRNNError for a lone surrogate: it is no character and cannot be written as UTF-8."""
    try:
        for start in range(0, len(text), _CHUNK):
            text[start : start + _CHUNK].encode("utf-8")
    except UnicodeEncodeError as error:
        raise _lone(name, start + error.start, error) from error


def _lone(name: str, place: int, error: UnicodeEncodeError) -> CharRNNError:
    code = ord(error.object[error.start])
    return CharRNNError(
        f"{name}: character {place} is a lone surrogate (U+{code:04X}), which is no character. Is it UTF-8?"
    )
