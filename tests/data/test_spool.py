"""A text that is written down piece by piece is the text, wherever its pieces and chunks end."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.data import spool, text_files
from charrnn.data.spool import TextSpool
from charrnn.errors import CharRNNError

WIDE = "ab\né月亮\n😀c"  # of one, two and four bytes


def whole(written: TextSpool) -> str:
    return "".join(written.pieces(0, written.length))


@given(
    st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from("ab\né月😀"), max_size=9)),
    st.sampled_from([4, 8, 1 << 20]),
    st.sampled_from([1, 5, 1 << 26]),
)
def test_a_text_is_what_was_written_down_in_memory_or_in_a_file(pieces: list[str], chunk: int, room: int) -> None:
    content = "".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "_CHUNK", chunk)
        patch.setattr(spool, "_IN_MEMORY", room)
        with TextSpool() as written:
            for piece in pieces:
                written.append(piece)
            assert whole(written) == content
            assert (written.length, written.tail) == (len(content), content[-2:])
            assert "".join(written.pieces(2, 5)) == content[2:5]


def test_characters_may_follow_after_a_walk_that_stopped_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were once written over those that the walk had not come to."""
    monkeypatch.setattr(spool, "_CHUNK", 4)
    with TextSpool() as written:
        written.append(WIDE)
        next(written.chunks())
        written.append("\n")
        assert whole(written) == WIDE + "\n"


def test_each_piece_takes_as_many_bytes_a_character_as_it_needs() -> None:
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
    with TextSpool.read(names) as read:
        assert whole(read) == WIDE + "\nx\ny"
        assert read.digest == hashlib.sha256((WIDE + "\nx\ny").encode()).hexdigest()
        assert (read.names, read.starts) == (tuple(names), (0, len(WIDE) + 1))
        assert read.stamps == tuple(text_files.stamp(name) for name in names)


def test_a_stamp_is_another_when_the_file_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abc")
    before = text_files.stamp(str(path))
    assert before is not None
    assert before[:2] == (str(path), 3)
    os.utime(path, ns=(0, before[2] + 1))
    assert text_files.stamp(str(path)) not in {before, None}
    assert text_files.stamp("-") is text_files.stamp(str(tmp_path / "none")) is None


FULL = "the disk is full, and the text is a long one. It takes up to six bytes a character there while it is read. Free"
CLOSED = "cannot be written (Permission denied). A long text is kept there while it is read."


@pytest.mark.parametrize(
    ("number", "own", "sentence"),
    [
        (errno.ENOSPC, True, f"{{}}: {FULL} them."),
        (errno.EDQUOT, False, f"{{}}: {FULL} them. TMPDIR names another place."),
        (errno.EACCES, True, f"{{}}: {CLOSED} Check the folder's permissions."),
        (errno.EACCES, False, f"{{}}: {CLOSED} TMPDIR names another place."),
    ],
)
def test_a_disk_that_takes_no_more_is_a_sentence_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, own: bool, sentence: str
) -> None:
    """It once advised to free some room where there was nothing but a folder closed to the user."""

    class Full(tempfile.SpooledTemporaryFile):  # type: ignore[type-arg]
        def write(self, content: Any) -> int:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", Full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "a.txt").write_text(WIDE, encoding="utf-8")
    with pytest.raises(CharRNNError) as caught:
        TextSpool.read([str(tmp_path / "a.txt")], folder=tmp_path if own else None)
    assert str(caught.value) == sentence.format(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_system_without_a_temporary_folder_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    said = str(spool.no_room(None, FileNotFoundError(errno.ENOENT, "No usable temporary directory found")))
    assert said.startswith("The system's temporary folder: cannot be written (No usable temporary directory found).")
    assert said.endswith("TMPDIR names another place.")
