"""Bytes to Unicode code points, strictly: no BOM, LF line ends, no lone surrogates; an error names file and byte."""

from __future__ import annotations

import codecs
import math
import sys
import threading
from typing import Literal

from charrnn.data.encoding_guess import FEW, EncodingGuess
from charrnn.errors import CharRNNError, MisuseError

Errors = Literal["strict", "replace", "skip"]
_CHUNK = 1 << 24
_LOOK_ON = 1 << 24  # bytes after an error, which show what is wrong
_MANY = 100_000  # bytes that do not decode, of which no more are counted in an error
INDIVISIBLE = {"idna", "punycode"}  # encodings that Python decodes only in one piece, and only strictly
_BINARY = "it looks like a binary file. Name a text."
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
    """Decode one file piece by piece. `check`, at its end, reports the same error wherever the pieces were cut.

    `errors` says what becomes of bytes that do not decode: an error, U+FFFD, or nothing. `invalid` counts them.
    """

    def __init__(self, encoding: str, name: str, advice: str | None = None, errors: Errors = "strict") -> None:
        self.encoding, self.name, self.advice, self.errors = encoding, name, advice, errors
        self.invalid = 0  # bytes
        self._codec = codecs.lookup(encoding).name
        handler = "strict" if self._codec in INDIVISIBLE else _HANDLERS["skip" if errors == "skip" else "replace"]
        self._decoder = codecs.getincrementaldecoder(encoding)(handler)
        # first bytes, until they are enough for a byte order mark; then None
        self._pending: bytes | None = b"" if self._codec in _MARKS else None
        # Python's decoders hold back 8 bytes, and an unknown escape sequence is known as such after 16
        self._holds_back = self._codec.startswith("iso2022")
        self._held, self._last = b"", False
        self._bytes, self._characters = 0, 0  # decoded so far
        self._carriage_returns = ""  # at the end of the last piece: a newline may follow
        self._head, self._has_zero = b"", False  # first three bytes; whether there is a zero among the first _CHUNK
        self._error: UnicodeDecodeError | None = None
        self._error_at = 0  # byte
        self._stuck = False  # whether no more is decoded: the decoder cannot go on, or the error is clear
        self._after, self._cut = 0, False  # bytes looked at since an error, and whether there were more
        self._lines = 0  # newlines before the error
        self._beyond_ascii = 0  # bytes that the text takes as UTF-8 beyond one a character
        self._replaced = 0  # characters U+FFFD that stand for bytes
        self._nul_at: int | None = None  # character
        self._surrogate: UnicodeEncodeError | None = None
        self._surrogate_at = 0  # character
        self._guess = EncodingGuess() if advice is None and errors == "strict" else None

    def feed(self, raw: bytes, *, last: bool = False) -> tuple[str, bytes]:
        """Decode more bytes. Return the text, and the same as UTF-8; both are empty after an error.

        Raises the error of `check` once enough bytes were looked at after it: the file may have no end.
        """
        if self._bytes < _CHUNK:
            self._head += raw[: 3 - len(self._head)] if len(self._head) < 3 else b""
            self._has_zero = self._has_zero or b"\0" in raw[: _CHUNK - self._bytes]
        self._bytes += len(raw)
        text, utf8 = ("", b"") if self._stuck else self._decoded(raw, last)
        self._stuck = self._stuck or (self._error is not None and self.invalid > _MANY)
        if self._guess is not None:
            self._guess.feed(raw, wrong=self._error is not None or self._nul_at is not None)
        failed = self._error is not None or self._nul_at is not None or self._surrogate is not None
        self._after += len(raw) if failed else 0
        if self._after > _LOOK_ON:
            self._cut = not last
            self.check()
        return ("", b"") if failed else (text, utf8)

    def _decoded(self, raw: bytes, last: bool) -> tuple[str, bytes]:
        decoded, utf8 = self._decode(raw, last)
        text = self._normalise(decoded, last)
        if utf8 is None or len(text) != len(decoded):
            utf8 = self._encode(text)
        if self._nul_at is None and self._error is None and b"\0" in utf8:
            self._nul_at = self._characters + text.index("\0")
        self._characters += len(text)
        self._beyond_ascii += len(utf8) - len(text)
        return text, utf8

    def check(self) -> None:
        """Raise CharRNNError if there was an error."""
        if self._error is not None:
            raise CharRNNError(self._sentence(self._error)) from self._error
        if self._nul_at is not None:
            raise CharRNNError(f"{self.name}: a NUL character at {self._nul_at}; {self._wide() or _BINARY}")
        if self._surrogate is not None:
            raise _lone_surrogate(self.name, self._surrogate_at, self._surrogate) from self._surrogate

    def _sentence(self, error: UnicodeDecodeError) -> str:
        """Say which bytes do not decode, and what to do."""
        name = self.encoding.upper()
        wrong = error.object[error.start : error.start + 1]
        where = f"{self.name}: not {name} at byte {self._error_at}" + (f" (0x{wrong[0]:02x})" if wrong else "")
        wide = self._codec.startswith(("utf-16", "utf-32"))  # with zeros in every text
        if self._head.startswith(_MARKS["utf-16"]) and not wide:
            return f"{where}. {self.advice or 'Name its encoding, e.g. --encoding utf-16.'}"
        if self._has_zero and not wide:
            return f"{where}; {self._wide() or _BINARY}"
        if self._guess is None:  # as strict as it is, the decoder cannot replace or skip
            return f"{where}. {self.advice or 'Name its encoding with --encoding.'}"
        where += f", line {self._lines + 1}"
        if self._stuck and self.invalid <= _MANY:
            return f"{where}. Name its encoding with --encoding."
        count = f"{min(self.invalid, _MANY):,}{' or more' * (self.invalid > _MANY or self._cut)}"
        only = self.invalid == 1 and not self._cut
        where += ", the only such byte" if only else f", the first of {count} such bytes"
        others = "--encoding-errors replace (by U+FFFD) or skip"
        if self._guess.binary and not wide:
            return f"{where}; {_BINARY}"
        # sequences of UTF-8 stand in another encoding by chance: rarely, or in some scripts often; those of an East
        # Asian encoding in any text
        unicode = self._codec.startswith("utf")
        valid = (self._characters if wide else self._beyond_ascii - 2 * self._replaced) / self.invalid
        valid = math.inf if self._head.startswith(codecs.BOM_UTF8) else valid
        guess = None if valid > (1 if unicode else 50) else self._guess.finish()
        if guess is None or (unicode and guess.western and valid > 0.05):
            rest = (
                f"The rest is {name}:" if valid > (0.05 if unicode else 50) else "Name its encoding with --encoding, or"
            )
            return f"{where}. {rest} add {others}."
        few = self.invalid < FEW
        advice = f"{guess.name}, which reads {guess.excerpt!r} there: add --encoding {guess.name}"
        return f"{where}. It may be {advice}, or {others}." if few else f"{where}. It looks like {advice}."

    def _wide(self) -> str | None:
        """Advise UTF-16 where a text with NUL bytes is in it."""
        guess = None if self._guess is None else self._guess.finish()
        return guess and f"it looks like UTF-16: add --encoding {guess.name}."

    def _decode(self, raw: bytes, last: bool) -> tuple[str, bytes | None]:
        """Return the decoded text, and the bytes that it comes from if these are UTF-8."""
        if self._pending is not None:
            self._pending = raw = self._pending + raw
            if len(raw) < len(_MARKS[self._codec][0]) and not last:
                return "", None
            if not raw.startswith(_MARKS[self._codec]):
                # the machine's byte order, as Python does for bytes in one piece
                order = "le" if sys.byteorder == "little" else "be"
                self._decoder = codecs.getincrementaldecoder(f"{self._codec}-{order}")(self._decoder.errors)
            self._pending = None
        raw, self._held, self._last = self._held + raw, b"", last
        before, invalid, failed = self._decoder.getstate(), self.invalid, self._error is not None
        _decoding.file = self
        try:
            text = self._decoder.decode(raw, last or self._holds_back)
        except UnicodeError as error:
            text, located, self._stuck = "", self._locate(before, raw, error), True
            self._count(located)
            self._error = self._error or located
        if self._error is None:
            self._lines += text.count("\n")
        elif not failed:
            self._lines += self._newlines_before(before, raw)
        if self._codec != "utf-8" or self._carriage_returns or self.invalid != invalid:
            return text, None
        held, _ = self._decoder.getstate()
        return text, (before[0] + raw)[: len(before[0]) + len(raw) - len(held)]

    def _hold_back(self, error: UnicodeDecodeError) -> bool:
        """Keep what may be the beginning of a sequence for the next piece; return whether it is."""
        may_go_on = self._holds_back and not self._last and error.reason.startswith("incomplete")
        if may_go_on:
            self._held = error.object[error.start :]
        return may_go_on

    def _count(self, error: UnicodeDecodeError) -> None:
        """Count bytes that do not decode, and note where the first of them are."""
        self.invalid += max(error.end - error.start, 1)
        self._replaced += 1
        if self._error is None:
            # its object is what the decoder held back, then the piece
            self._error_at = self._bytes - len(error.object) + error.start
            if self.errors == "strict":  # a copy: codecs change it for the next
                self._error = UnicodeDecodeError(self.encoding, error.object, error.start, error.end, error.reason)

    def _newlines_before(self, before: tuple[bytes, int], raw: bytes) -> int:
        """Count the newlines of a piece before its first error."""
        correct = raw[: max(self._error_at - self._bytes + len(raw), 0)]
        if self._stuck:  # such a decoder may not decode the rest either
            return correct.count(b"\n")
        decoder = type(self._decoder)()
        decoder.setstate(before)
        return decoder.decode(correct).count("\n")

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
    """Raise CharRNNError for a lone surrogate, which is not a character and cannot be encoded as UTF-8, and for a NUL,
    which cannot stand in a text: it ends files where these are documents."""
    if "\0" in text:
        raise CharRNNError(
            f"{name}: a NUL at character {text.index(chr(0))}, which cannot stand in a text. Leave it out."
        )
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


# a codec's error handlers are global, and are told neither the file nor the decoder
_decoding = threading.local()
_HANDLERS: dict[str, str] = {"replace": "charrnn.replace", "skip": "charrnn.skip"}


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    if _decoding.file._hold_back(error):
        return "", error.end
    _decoding.file._count(error)
    return "\ufffd", error.end


def _skip(error: UnicodeError) -> tuple[str, int]:
    return "", _replace(error)[1]


codecs.register_error(_HANDLERS["replace"], _replace)
codecs.register_error(_HANDLERS["skip"], _skip)
