"""Bytes to Unicode code points, strictly: no BOM, LF line ends, no lone surrogates; an error names file and byte."""

from __future__ import annotations

import codecs
import sys

from charrnn.errors import CharRNNError, MisuseError

_CHUNK = 1 << 24
# encodings whose byte order mark says in which order the bytes come
_MARKS = {
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
}


def check_encoding(encoding: str) -> None:
    """Raise MisuseError for an encoding that Python does not support as a text encoding."""
    try:
        "".encode(encoding)
    except (LookupError, ValueError) as error:
        raise MisuseError(
            f"{encoding} is not a supported text encoding; common ones are utf-8, utf-16, gb18030, big5, latin-1."
        ) from error


def decode(raw: bytes, encoding: str, name: str, advice: str | None = None) -> str:
    """Decode bytes strictly, without BOM and with LF line ends. Raises CharRNNError that ends in `advice`, if given."""
    decoder = FileDecoder(encoding, name, advice)
    text, _ = decoder.feed(raw, last=True)
    decoder.check()
    return text


class FileDecoder:
    """Decode one file piece by piece. `check`, at its end, reports the same error wherever the pieces were cut."""

    def __init__(self, encoding: str, name: str, advice: str | None = None) -> None:
        self.encoding, self.name, self.advice = encoding, name, advice
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._codec = codecs.lookup(encoding).name
        # first bytes, until they are enough for a byte order mark; then None
        self._pending: bytes | None = b"" if self._codec in _MARKS else None
        self._bytes, self._characters = 0, 0  # decoded so far
        self._carriage_returns = ""  # at the end of the last piece: a newline may follow
        self._head, self._has_zero = b"", False  # first two bytes; whether there is a zero among the first _CHUNK
        self._error: UnicodeDecodeError | None = None
        self._error_at = 0  # byte
        self._nul_at: int | None = None  # character
        self._surrogate: UnicodeEncodeError | None = None
        self._surrogate_at = 0  # character

    def feed(self, raw: bytes, *, last: bool = False) -> tuple[str, bytes]:
        """Decode more bytes. Return the text, and the same as UTF-8; both are empty after an error."""
        if self._bytes < _CHUNK:
            self._head += raw[: 2 - len(self._head)] if len(self._head) < 2 else b""
            self._has_zero = self._has_zero or b"\0" in raw[: _CHUNK - self._bytes]
        self._bytes += len(raw)
        if self._error is not None:
            return "", b""
        try:
            decoded, utf8 = self._decode(raw, last)
        except UnicodeDecodeError as error:
            # its object is what the decoder held back, then `raw`
            self._error, self._error_at = error, self._bytes - len(error.object) + error.start
            return "", b""
        text = self._normalise(decoded, last)
        if utf8 is None or len(text) != len(decoded):
            utf8 = self._encode(text)
        if self._nul_at is None and b"\0" in utf8:
            self._nul_at = self._characters + text.index("\0")
        self._characters += len(text)
        return ("", b"") if self._nul_at is not None or self._surrogate is not None else (text, utf8)

    def check(self) -> None:
        """Raise CharRNNError if there was an error."""
        utf16 = self._head.startswith(_MARKS["utf-16"])
        if self._error is not None:
            where = f"{self.name}: not {self.encoding.upper()} at byte {self._error_at}"
            wrong = self._error.object[self._error.start : self._error.start + 1]
            found = f" (0x{wrong[0]:02x})" if wrong else ""
            if self._has_zero and not utf16:
                raise CharRNNError(f"{where}{found}; it looks like a binary file. Name a text.") from self._error
            likely = "utf-16" if utf16 else "gb18030" if self.encoding.lower() in {"utf-8", "utf8"} else "utf-8"
            advice = self.advice or f"Name its encoding, e.g. --encoding {likely}."
            raise CharRNNError(f"{where}{found}. {advice}") from self._error
        if self._nul_at is not None:
            raise CharRNNError(
                f"{self.name}: a NUL character at {self._nul_at}; it looks like a binary file"
                " or UTF-16. Name a text, or its encoding, e.g. --encoding utf-16."
            )
        if self._surrogate is not None:
            raise _lone_surrogate(self.name, self._surrogate_at, self._surrogate) from self._surrogate

    def _decode(self, raw: bytes, last: bool) -> tuple[str, bytes | None]:
        """Return the decoded text, and the bytes that it comes from if these are UTF-8."""
        if self._pending is not None:
            self._pending = raw = self._pending + raw
            if len(raw) < len(_MARKS[self._codec][0]) and not last:
                return "", None
            if not raw.startswith(_MARKS[self._codec]):
                # the machine's byte order, as Python does for bytes in one piece
                order = "le" if sys.byteorder == "little" else "be"
                self._decoder = codecs.getincrementaldecoder(f"{self._codec}-{order}")()
            self._pending = None
        before = self._decoder.getstate()
        try:
            text = self._decoder.decode(raw, last)
        except UnicodeError as error:
            raise self._locate(before, raw, error) from error
        if self._codec != "utf-8" or self._carriage_returns:
            return text, None
        held, _ = self._decoder.getstate()
        return text, (before[0] + raw)[: len(before[0]) + len(raw) - len(held)]

    def _locate(self, before: tuple[bytes, int], raw: bytes, error: UnicodeError) -> UnicodeDecodeError:
        """Find the byte of an error. Some decoders name none, or the first, if more bytes could follow; so decode as
        if none did."""
        decoder = type(self._decoder)()
        decoder.setstate(before)
        try:
            decoder.decode(raw, True)
        except UnicodeDecodeError as located:
            return located
        except UnicodeError:
            pass
        if isinstance(error, UnicodeDecodeError):
            return error
        return UnicodeDecodeError(self.encoding, before[0] + raw, 0, len(before[0] + raw), str(error))

    def _normalise(self, text: str, last: bool) -> str:
        """Drop leading byte order marks and turn CRLF into LF, until a text that is written and read again is the same.

        Trailing carriage returns wait for the next piece.
        """
        if self._characters == 0 and not self._carriage_returns:
            text = text.lstrip("\ufeff")
        text = self._carriage_returns + text
        complete = text if last else text.rstrip("\r")
        self._carriage_returns = text[len(complete) :]
        if "\r" in complete:  # a single character is found faster
            while "\r\n" in complete:
                complete = complete.replace("\r\n", "\n")
        return complete

    def _encode(self, text: str) -> bytes:
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError as error:
            if self._surrogate is None:
                self._surrogate, self._surrogate_at = error, self._characters + error.start
            return text.encode("utf-8", "replace")


def check_characters(text: str, name: str) -> None:
    """Raise CharRNNError for a lone surrogate: it is not a character and cannot be encoded as UTF-8."""
    try:
        for start in range(0, len(text), _CHUNK):
            text[start : start + _CHUNK].encode("utf-8")
    except UnicodeEncodeError as error:
        raise _lone_surrogate(name, start + error.start, error) from error


def _lone_surrogate(name: str, position: int, error: UnicodeEncodeError) -> CharRNNError:
    code = ord(error.object[error.start])
    return CharRNNError(
        f"{name}: character {position} is a lone surrogate (U+{code:04X}), which is not a character. Is it UTF-8?"
    )
