"""A text that is stored piece by piece is read back unchanged, wherever pieces and chunks end."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config.schema import DataConfig
from charrnn.data import spool, text_files
from charrnn.data.spool import TextSpool
from charrnn.data.text_files import TextReader
from charrnn.errors import CharRNNError

WIDE = "ab\né月亮\n😀c"  # of one, two and four bytes


def content_of(written: TextSpool) -> str:
    return "".join(written.pieces(0, written.length))


@given(
    st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from("ab\né月😀"), max_size=9)),
    st.sampled_from([4, 8, 1 << 20]),
    st.sampled_from([1, 5, 1 << 26]),
)
def test_a_text_is_read_back_from_memory_or_a_file(pieces: list[str], chunk: int, in_memory: int) -> None:
    content = "".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "_CHUNK", chunk)
        patch.setattr(spool, "MAX_IN_MEMORY", in_memory)
        with TextSpool() as written:
            for piece in pieces:
                written.append(piece)
            assert content_of(written) == content
            assert written.length == len(content)
            assert "".join(written.pieces(2, 5)) == content[2:5]


def test_characters_may_be_appended_after_an_iteration_that_stopped_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """They once overwrote those that the iteration had not reached."""
    monkeypatch.setattr(spool, "_CHUNK", 4)
    with TextSpool() as written:
        written.append(WIDE)
        next(written.chunks())
        written.append("\n")
        assert content_of(written) == WIDE + "\n"


def test_each_piece_takes_as_few_bytes_per_character_as_possible() -> None:
    with TextSpool() as written:
        for piece in ("ab\n", "é", "月亮", "a", "😀a"):
            written.append(piece)
        assert [(codes.itemsize, len(codes)) for codes in written.chunks()] == [(1, 4), (2, 2), (1, 1), (4, 2)]


@pytest.mark.parametrize("size", [1, 2, 5, 1 << 18])
def test_files_are_read_as_one_text_with_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(text_files, "_PIECE", size)
    for name, content in (("a.txt", WIDE), ("b.txt", "\ufeffx\r\ny")):
        (tmp_path / name).write_bytes(content.encode())
    names = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    with TextSpool.read(TextReader(names)) as read:
        assert content_of(read) == WIDE + "\nx\ny"
        assert read.digest == hashlib.sha256((WIDE + "\nx\ny").encode()).hexdigest()
        assert (read.names, read.starts) == (tuple(names), (0, len(WIDE) + 1))
        assert read.stamps == tuple(text_files.stamp(name) for name in names)


def test_the_stamp_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abc")
    before = text_files.stamp(str(path))
    assert before is not None
    assert before[:2] == (str(path), 3)
    os.utime(path, ns=(0, before[2] + 1))
    assert text_files.stamp(str(path)) not in {before, None}
    assert text_files.stamp("-") is text_files.stamp(str(tmp_path / "none")) is None


FULL = (
    "the disk is full, and the text is long. Free up to six bytes per character there (ten of standard input), which it"
    " takes while it is read."
)
CLOSED = "cannot be written (Permission denied). A long text is stored there while it is read."


@pytest.mark.parametrize(
    ("number", "own", "sentence"),
    [
        (errno.ENOSPC, True, f"{{}}: {FULL}"),
        (errno.EDQUOT, False, f"{{}}: {FULL} Set TMPDIR to use another folder."),
        (errno.EACCES, True, f"{{}}: {CLOSED} Check the folder's permissions."),
        (errno.EACCES, False, f"{{}}: {CLOSED} Set TMPDIR to use another folder."),
    ],
)
def test_a_write_error_is_one_sentence_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, own: bool, sentence: str
) -> None:
    """It once advised freeing disk space where the folder was merely not writable."""

    class Full(tempfile.SpooledTemporaryFile):  # type: ignore[type-arg]
        def write(self, content: Any) -> int:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", Full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "a.txt").write_text(WIDE, encoding="utf-8")
    with pytest.raises(CharRNNError) as caught:
        TextSpool.read(TextReader([str(tmp_path / "a.txt")]), folder=tmp_path if own else None)
    assert str(caught.value) == sentence.format(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_copy_of_a_stream_is_its_bytes_or_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(spool, "MAX_IN_MEMORY", 4)
    with spool.StreamCopy(io.BytesIO(b"ab\xff\r\n\x1b"), tmp_path) as copy:
        assert [copy.read(4), copy.read(4), copy.read(4)] == [b"ab\xff\r", b"\n\x1b", b""]
        copy.write(written)
    assert (written.getvalue(), copy.size) == (b"ab\xff\r\n\x1b", 6)

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", full)
    with spool.StreamCopy(io.BytesIO(b"ab"), tmp_path) as copy, pytest.raises(CharRNNError) as caught:
        copy.read()
    assert str(caught.value) == f"{tmp_path}: {FULL}"
    assert list(tmp_path.iterdir()) == []


def test_a_system_without_a_temporary_folder_is_reported_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    message = str(spool.cannot_store(None, FileNotFoundError(errno.ENOENT, "No usable temporary directory found")))
    assert message.startswith("The system's temporary folder: cannot be written (No usable temporary directory found).")
    assert message.endswith("Set TMPDIR to use another folder.")


def test_a_text_that_is_named_twice_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    said: list[str] = []
    name = str(tmp_path / "a.txt")
    with spool.read(DataConfig(texts=[name, name]), "a.txt", said.append) as text:
        assert text.length == 7
    assert said == [f"{name} is named 2 times, and read as often."]
