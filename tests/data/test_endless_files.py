"""Claims about files without an end, or nearly: no more is read than shows what is wrong."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pytest

from charrnn.data import text_files
from charrnn.data.text_files import TextReader
from charrnn.errors import CharRNNError


class Endless(io.RawIOBase):
    """A stream that begins with some bytes and repeats others for ever."""

    def __init__(self, start: bytes, rest: bytes) -> None:
        self.start, self.rest, self.given = start, rest, 0

    def read(self, size: int = -1, /) -> bytes:
        assert size > 0
        self.given += size
        assert self.given < 1 << 26, "it is read on and on"
        piece, self.start = self.start, b""
        return piece or self.rest * (size // len(self.rest))


@pytest.mark.parametrize(
    ("start", "rest", "message"),
    [
        (b"\0", b"\0", "a NUL character at 0; it looks like a binary file"),
        (b"abc\xff\n", b"text\n", r"not UTF-8 at byte 3 \(0xff\), line 1, the first of 1 or more such bytes"),
        (b"\xff", b"\xd0\xb4\xff", r"not UTF-8 at byte 0 \(0xff\), line 1, the first of 100,000 or more such bytes"),
    ],
    ids=["zeros", "one bad byte", "many"],
)
def test_of_an_endless_file_no_more_is_read_than_shows_the_fault(start: bytes, rest: bytes, message: str) -> None:
    endless: Any = Endless(start, rest)
    with pytest.raises(CharRNNError, match=message):
        text_files.read(["-"], stdin=endless)


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-7"])  # the last is decoded in one piece
def test_a_compressed_file_that_expands_without_end_is_told(tmp_path: Path, encoding: str) -> None:
    bomb = tmp_path / "bomb.txt.gz"
    bomb.write_bytes(gzip.compress(b"a" * 3_000_000))
    with pytest.raises(CharRNNError, match=r"expands to more than 500 times its size.*data\.max_expansion=5000"):
        "".join(TextReader([str(bomb)], encoding, expansion=500).pieces())
    enough = -(-3_000_000 // bomb.stat().st_size)
    assert len("".join(TextReader([str(bomb)], encoding, expansion=enough).pieces())) == 3_000_000
