"""Texts are decoded to Unicode code points, or rejected in one sentence that says what is wrong and where."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.cli import console
from charrnn.data import decoding, text_files
from charrnn.data.decoding import Errors
from charrnn.data.documents import split_documents
from charrnn.data.text_files import TextReader
from charrnn.errors import CharRNNError, MisuseError

POEM = "床前明月光，\n疑是地上霜。\n"


@pytest.fixture(autouse=True, params=[1, 3, 1 << 18])
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files in pieces of this many bytes: every claim must hold wherever pieces end."""
    monkeypatch.setattr(text_files, "_PIECE", request.param)


def written(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return str(path)


def rejection(names: list[str], encoding: str = "utf-8", stdin: bytes | None = None, errors: Errors = "strict") -> str:
    with pytest.raises(CharRNNError) as caught:
        text_files.read(names, encoding, None if stdin is None else io.BytesIO(stdin), errors=errors)
    message = str(caught.value)
    assert "\n" not in message
    return message


def read_through(names: list[str], stdin: BinaryIO | None = None) -> tuple[str, TextReader]:
    """Read a text to its end; return it and its reader."""
    reader = TextReader(names, stdin=stdin)
    return "".join(reader.pieces()), reader


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    name = written(tmp_path / "poem.txt", POEM)
    content, reader = read_through([name])
    assert (content, reader.names, reader.starts, reader.length) == (POEM, (name,), [0], len(POEM))


def test_only_a_leading_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    name = written(tmp_path / "a.txt", b"\xef\xbb\xbfa\xef\xbb\xbfb\n")
    assert text_files.read([name]) == "a\ufeffb\n"


def test_the_byte_order_mark_of_each_file_is_dropped(tmp_path: Path) -> None:
    names = [written(tmp_path / f"{i}.txt", b"\xef\xbb\xbfa") for i in range(2)]
    assert text_files.read(names) == "a\na"


def test_crlf_becomes_lf_and_a_lone_cr_stays(tmp_path: Path) -> None:
    assert text_files.read([written(tmp_path / "a.txt", b"a\r\nb\rc\n\r\n")]) == "a\nb\rc\n\n"


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".GZ", gzip.compress)],
)
def test_compressed_files_are_decompressed(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    name = written(tmp_path / f"poem.txt{suffix}", compress(POEM.encode()))
    assert text_files.read([name]) == POEM


def test_a_folder_is_every_txt_below_it_in_order(tmp_path: Path) -> None:
    written(tmp_path / "b.txt", "B")
    written(tmp_path / "a" / "z.txt", "Z")
    written(tmp_path / "a" / "deep" / "c.txt.gz", gzip.compress(b"C"))
    written(tmp_path / "notes.md", "not read")
    written(tmp_path / "data.gz", gzip.compress(b"not read"))
    (tmp_path / "folder.txt").mkdir()
    content, reader = read_through([str(tmp_path)])
    assert content == "C\nZ\nB"
    assert [Path(name).relative_to(tmp_path).as_posix() for name in reader.names] == [
        "a/deep/c.txt.gz",
        "a/z.txt",
        "b.txt",
    ]
    assert reader.starts == [0, 2, 4]


def test_several_files_are_joined_by_a_newline_in_the_order_named(tmp_path: Path) -> None:
    names = [written(tmp_path / f"{name}.txt", content) for name, content in (("b", "bb\n"), ("a", ""), ("c", "月"))]
    content, reader = read_through(names)
    assert content == "bb\n\n\n月"
    assert reader.starts == [0, 4, 5]
    assert [content[start:] for start in reader.starts] == ["bb\n\n\n月", "\n月", "月"]


@pytest.mark.parametrize(
    ("boundary", "expected"),
    [
        ("\n", "a\n\nb\n\n\n\nc"),
        ("\n\n", "a\n\nb\n\nc"),
        ("\n\n\n", "a\n\n\nb\n\n\nc"),
        ("\0", "a\n\0b\n\n\0\0c"),
        ("\n%\n", "a\n%\nb\n\n%\nc"),
        ("\f", "a\n\fb\n\n\fc"),
    ],
)
def test_files_of_documents_are_joined_by_what_the_first_lacks_of_their_boundary(
    boundary: str, expected: str, tmp_path: Path
) -> None:
    files = [written(tmp_path / f"{index}", content) for index, content in enumerate(["a\n", "b\n\n", "", "c"])]
    assert text_files.read(files, boundary=boundary) == expected


def test_a_dash_is_standard_input(tmp_path: Path) -> None:
    name = written(tmp_path / "a.txt", "a")
    content, reader = read_through([name, "-"], io.BytesIO(POEM.encode()))
    assert content == "a\n" + POEM
    assert reader.names == (name, "-")


def test_standard_input_cannot_be_read_twice() -> None:
    with pytest.raises(MisuseError, match=r"Standard input \(-\) is named twice; it can be read once\."):
        text_files.read(["-", "-"], stdin=io.BytesIO(b"a"))


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-16-le", "utf-8-sig", "utf-32", "big5"])
def test_the_named_encoding_is_used_and_its_byte_order_mark_dropped(tmp_path: Path, encoding: str) -> None:
    poem = POEM.replace("床", "\ufeff床") if encoding == "utf-16-le" else POEM
    name = written(tmp_path / "poem.txt", poem.encode(encoding))
    assert text_files.read([name], encoding) == POEM


def test_a_decoding_error_names_file_byte_line_and_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(Path("corpus.txt"), b"x" * 10480 + b"\n\n" + "阿房宫，三百里\n".encode("gb18030"))
    assert rejection(["corpus.txt"]) == (
        "corpus.txt: not UTF-8 at byte 10482 (0xb0), line 3, the first of 14 such bytes."
        " It looks like gb18030, which reads '阿房宫，三百里' there: add --encoding gb18030."
    )


def test_the_byte_of_a_decoding_error_counts_the_byte_order_mark(tmp_path: Path) -> None:
    assert "at byte 4 (0xff)" in rejection([written(tmp_path / "a.txt", b"\xef\xbb\xbfa\xff")])


def test_a_text_cut_inside_a_character_is_rejected(tmp_path: Path) -> None:
    assert "not UTF-8 at byte 1 (0xe6)" in rejection([written(tmp_path / "a.txt", b"a" + "月".encode()[:2])])
    assert "not UTF-16 at byte 4 (0x61)" in rejection([written(tmp_path / "b.txt", b"\xff\xfeb\0a")], "utf-16")


ENCODINGS = (
    *("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030", "big5", "shift_jis", "euc_jp", "latin-1"),
    *("utf-7", "iso2022_jp", "iso2022_kr", "punycode"),
)


@given(
    st.binary(max_size=40)
    | st.text(st.sampled_from("ab\n\r月é😀\ufeff\0")).map(str.encode)
    | st.text(st.sampled_from("ab\n\r月é😀\ufeff\0")).map(lambda content: content.encode("utf-16")),
    st.sampled_from(ENCODINGS),
    st.integers(1, 9),
    st.sampled_from(["strict", "replace", "skip"]),
)
def test_a_file_in_pieces_is_read_or_rejected_as_in_one(raw: bytes, encoding: str, size: int, errors: Errors) -> None:
    outcomes = []
    for pieces in (size, 1 << 18):
        said: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_files, "_PIECE", pieces)
            try:
                said.append(text_files.read(["-"], encoding, io.BytesIO(raw), errors=errors, say=said.append))
            except CharRNNError as error:
                said.append(str(error))
        outcomes.append(said)
    assert outcomes[0] == outcomes[1]


@given(st.lists(st.sampled_from(["ab", "月", "é", "\n"])).map("".join), st.binary(min_size=1, max_size=2))
def test_replaced_bytes_are_those_that_python_replaces(content: str, wrong: bytes) -> None:
    for encoding in ("utf-8", "gb18030", "big5"):
        raw = content.encode(encoding, "ignore") + wrong + content.encode(encoding, "ignore") + b"."
        for errors, python in (("replace", "replace"), ("skip", "ignore")):
            expected = raw.replace(b"\r\n", b"\n").decode(encoding, python)
            if "\0" not in expected and expected.strip("\n\ufeff"):
                found = text_files.read(["-"], encoding, io.BytesIO(raw), errors=errors)  # type: ignore[arg-type]
                assert found == expected.lstrip("\ufeff")


@pytest.mark.parametrize(
    ("errors", "expected", "note"),
    [
        ("replace", "ni\ufffdo\ncaf\ufffd\nok", "3 bytes not UTF-8: replaced by U+FFFD."),
        ("skip", "nio\ncaf\nok", "3 bytes not UTF-8: left out."),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_undecodable_bytes_are_replaced_or_left_out_and_counted(
    tmp_path: Path, errors: Errors, expected: str, note: str, suffix: str
) -> None:
    raw, said = b"ni\xf1o\ncaf\xe6\x9c", list[str]()
    names = [
        written(tmp_path / f"a{suffix}", gzip.compress(raw) if suffix else raw),
        written(tmp_path / "b", "ok"),
    ]
    assert text_files.read(names, errors=errors, say=said.append) == expected
    assert said == [note]


def test_replacing_does_not_make_a_text_of_a_binary_file() -> None:
    assert "it looks like a binary file" in rejection(["-"], stdin=b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", errors="replace")


@pytest.mark.parametrize("variant", ["jp", "jp_1", "jp_2", "jp_3", "jp_2004", "jp_ext", "kr"])
def test_an_escape_sequence_of_no_encoding_is_one_wrong_byte_wherever_pieces_end(variant: str) -> None:
    """Python's decoders hold back eight bytes, fewer than it takes to know one: pieces ended in another message."""
    encoding = f"iso2022_{variant}"
    raw = b"a\x1b(01234567890123456789\n\x1b\x1b\x1b(.,-0123456789"
    assert text_files.read(["-"], encoding, io.BytesIO(raw), errors="replace") == raw.decode(encoding, "replace")
    assert text_files.read(["-"], encoding, io.BytesIO(raw), errors="skip") == raw.decode(encoding, "ignore")
    assert "at byte 1 (0x1b), line 1, the only such byte." in rejection(["-"], encoding, raw)


@pytest.mark.parametrize("encoding", ["utf-16", "U16", "utf_32"])
def test_a_text_without_a_byte_order_mark_is_in_the_machines_byte_order(tmp_path: Path, encoding: str) -> None:
    order = "le" if sys.byteorder == "little" else "be"
    name = written(tmp_path / "a.txt", POEM.encode(f"{'utf-32' if '32' in encoding else 'utf-16'}-{order}"))
    assert text_files.read([name], encoding) == POEM


def test_the_byte_of_an_error_is_found_where_the_decoder_names_none(tmp_path: Path) -> None:
    """Its error was once taken for that of UTF-16 without a byte order mark, and ended in a traceback."""
    raw = b"a" * (2**18 - 9) + b"\x1b(\x8b~u\x00b\x1b$B!]!]\x1b(B"
    assert "a.txt: not ISO2022_JP_EXT at byte 262135 (0x1b)" in rejection(
        [written(tmp_path / "a.txt", raw)], "iso2022_jp_ext"
    )


def test_of_several_errors_the_same_one_is_reported_wherever_pieces_end(tmp_path: Path) -> None:
    """Undecodable bytes come first, then a NUL, then a lone surrogate."""
    escaped = rb"a\ud800b\x00c"
    assert "a NUL character at 3" in rejection([written(tmp_path / "a.txt", escaped)], "unicode_escape")
    assert "not UNICODE_ESCAPE at byte 13" in rejection(
        [written(tmp_path / "b.txt", escaped + b"\\x")], "unicode_escape"
    )
    assert "not UTF-8 at byte 6 (0xff)" in rejection([written(tmp_path / "c.txt", b"a\0bcde\xff")])


def test_bytes_are_counted_from_the_byte_order_mark(tmp_path: Path) -> None:
    """In this encoding only, Python counts from behind it."""
    assert "at byte 4 (0xff)" in rejection([written(tmp_path / "a.txt", b"\xef\xbb\xbfa\xff")], "utf-8-sig")


def test_an_indivisible_encoding_is_decoded_in_one_piece(tmp_path: Path) -> None:
    name = written(tmp_path / "a.txt", "Bücher und Äpfel".encode("punycode"))
    assert text_files.read([name], "punycode") == "Bücher und Äpfel"


def test_standard_input_is_spelt_out_in_messages() -> None:
    assert rejection(["-"], stdin=b"\xb0").startswith("standard input: not UTF-8 at byte 0 (0xb0), line 1,")
    assert rejection(["-"], stdin=b"").startswith("standard input is empty;")


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_text_is_rejected(tmp_path: Path, content: bytes) -> None:
    name = written(tmp_path / "a.txt", content)
    assert rejection([name]) == f"{name} is empty; name a text with characters in it."


@pytest.mark.parametrize("content", [b"\n\n", b"\r\n"])
def test_a_text_of_newlines_is_not_empty(tmp_path: Path, content: bytes) -> None:
    assert text_files.read([written(tmp_path / "a.txt", content)]) == content.decode().replace("\r", "")


def test_an_address_is_to_be_downloaded_first() -> None:
    told = rejection(["https://example.org/a.txt"])
    assert told.endswith("Download it first, e.g. curl -O https://example.org/a.txt")


def test_several_empty_texts_are_counted(tmp_path: Path) -> None:
    names = [written(tmp_path / f"{i}.txt", "") for i in range(3)]
    assert rejection(names).startswith(f"{names[0]} (and 2 more) is empty;")


@pytest.mark.parametrize("name", ["missing.txt", "a\0b"])
def test_a_missing_file_is_named(name: str) -> None:
    assert rejection([name]) == f"{name}: no such file or folder. Check the name."


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    name = written(tmp_path / "a.txt", "a") + "/b.txt"
    assert rejection([name]) == f"{name}: no such file or folder. Check the name."


@pytest.mark.skipif(os.name == "nt", reason="Windows says it in other words")
def test_a_text_in_place_of_a_file_name_is_rejected_in_one_line() -> None:
    """A name longer than the system allows was once a traceback."""
    message = rejection(["to be or not to be, " * 300])
    assert message.endswith("...: cannot be read (File name too long). Check the name.")
    assert len(message) < 150


def test_a_folder_without_a_text_is_rejected(tmp_path: Path) -> None:
    assert rejection([str(tmp_path)]) == (
        f"{tmp_path}: no .txt file in this folder or below. Name a file or another folder."
    )


def test_a_binary_file_is_recognised(tmp_path: Path) -> None:
    image = written(tmp_path / "image.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    assert rejection([image]) == f"{image}: not UTF-8 at byte 0 (0x89); it looks like a binary file. Name a text."


def test_utf_16_read_as_utf_8_is_recognised(tmp_path: Path) -> None:
    name = written(tmp_path / "a.txt", "ab".encode("utf-16-le"))
    assert rejection([name]) == f"{name}: a NUL character at 1; it looks like UTF-16: add --encoding utf-16-le."
    marked = written(tmp_path / "b.txt", "ab".encode("utf-16"))
    assert rejection([marked]).endswith("Name its encoding, e.g. --encoding utf-16.")


def test_a_lone_surrogate_is_rejected(tmp_path: Path) -> None:
    assert "not UTF-8 at byte 1 (0xed)" in rejection([written(tmp_path / "a.txt", b"a\xed\xa0\x80")])
    assert rejection(["-"], "unicode_escape", b"ab\\ud800") == (
        "standard input: character 2 is a lone surrogate (U+D800), which is not a character. Is it UTF-8?"
    )


def test_a_surrogate_after_the_first_chunk_is_counted_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_CHUNK", 4)
    with pytest.raises(CharRNNError, match=r"the prime: character 9 is a lone surrogate \(U\+DFFF\)"):
        decoding.check_characters("月" * 9 + "\udfff", "the prime")


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".gz", gzip.compress(POEM.encode(), mtime=0)[:-9]),
        (".gz", gzip.compress(POEM.encode(), mtime=0)[:12] + b"\xff" * 30),
        (".gz", b"not compressed"),
        (".bz2", bz2.compress(POEM.encode())[:-9]),
        (".bz2", b"not compressed"),
        (".xz", lzma.compress(POEM.encode())[:-9]),
        (".xz", b"not compressed"),
    ],
    ids=str,
)
def test_a_damaged_compressed_file_is_rejected(tmp_path: Path, suffix: str, content: bytes) -> None:
    name = written(tmp_path / f"a.txt{suffix}", content)
    message = rejection([name])
    assert message.startswith(f"{name}: damaged or not really compressed (")
    assert message.endswith("). Decompress it by hand.")


@pytest.mark.parametrize("encoding", ["klingon", "rot13", "hex", "", "utf\0"])
def test_an_unknown_encoding_is_rejected_before_any_file_is_read(encoding: str) -> None:
    with pytest.raises(MisuseError, match="is not a supported text encoding; common ones are utf-8, utf-16, gb18030"):
        text_files.read(["missing.txt"], encoding)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_rejected(tmp_path: Path) -> None:
    name = written(tmp_path / "a.txt", "a")
    Path(name).chmod(0)
    assert rejection([name]) == f"{name}: cannot be read (Permission denied). Check its permissions."


def test_paths_may_have_spaces_and_chinese(tmp_path: Path) -> None:
    name = written(tmp_path / "唐 诗" / "静夜思 1.txt", POEM)
    assert text_files.read([name]) == POEM
    assert text_files.find_files([str(Path(name).parent)]) == [name]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a\n\nb\n", ["a", "", "b"]),
        ("a\nb", ["a", "b"]),
        ("", []),
        ("\n", [""]),
        ("a\rb\u2028c\x0c\n", ["a\rb\u2028c\x0c"]),
    ],
)
def test_only_a_newline_ends_a_line(content: str, expected: list[str]) -> None:
    assert list(split_documents(content, "\n")) == expected


@given(st.text(alphabet="ab\n\r\u2028"))
def test_lines_lose_nothing_but_the_newlines(content: str) -> None:
    lines = list(split_documents(content, "\n"))
    assert "".join(line + "\n" for line in lines) == content + ("\n" if content and content[-1] != "\n" else "")


def test_escapes_keep_a_line_on_one_line() -> None:
    assert console.escaped("a\tb\\n\n") == "a\\tb\\\\n\\n"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("-", "stdin"),
        ("a/tang.txt", "tang"),
        ("tang.txt.gz", "tang"),
        ("唐 诗.txt", "唐 诗"),
        ("folder/", "folder"),
        (".hidden", "hidden"),
        (".hidden.txt", "hidden"),
        ("my.book.txt", "my.book"),
        ("my.notes.TXT.XZ", "my.notes"),
        ("my.book", "my.book"),
        ("my.book.gz", "my.book"),
        ("poems v1.2", "poems v1.2"),
        ("texts.v2/", "texts.v2"),
        ("molecules.smi", "molecules"),
        ("a.txt.txt", "a.txt"),
        (".txt", "txt"),
        (".txt.gz", "txt"),
        ("txt", "txt"),
        ("end. .txt", "end"),
        ("...", "text"),
        ("/", "text"),
    ],
)
def test_a_run_is_named_after_its_text(name: str, expected: str) -> None:
    assert text_files.run_name(name) == expected


def test_the_current_folder_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "poems").mkdir()
    monkeypatch.chdir(tmp_path / "poems")
    assert text_files.run_name(".") == "poems"
    assert text_files.run_name("..") == tmp_path.name


def test_the_digest_is_the_texts_sha_256_wherever_pieces_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [written(tmp_path / f"{number}.txt", POEM) for number in range(2)]
    for size in (1, 5, 1 << 18):
        monkeypatch.setattr(text_files, "_PIECE", size)
        content, reader = read_through(names)
        assert reader.digest() == hashlib.sha256(content.encode()).hexdigest()


def test_a_decoded_text_that_is_written_and_decoded_again_is_the_same() -> None:
    for raw in (b"a\r\r\nb\r\n", b"\xef\xbb\xbf\xef\xbb\xbfa\n"):
        once = decoding.decode(raw, "utf-8", "it")
        assert decoding.decode(once.encode(), "utf-8", "it") == once
