"""A file in another encoding is told which, and a guess is only made if all of the file decodes in it."""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path

import pytest

from charrnn.data import encoding_guess, text_files
from charrnn.errors import CharRNNError

FRENCH = "Les élèves français étaient fâchés à l’école où l’on étudiait l’œuvre de Molière.\n"
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n"
CHINESE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"


@pytest.fixture(autouse=True, params=[7, 1 << 18])
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_PIECE", request.param)


def advice(raw: bytes, encoding: str = "utf-8") -> str:
    with pytest.raises(CharRNNError) as caught:
        text_files.read(["-"], encoding, io.BytesIO(raw))
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "encoding", "expected"),
    [
        (FRENCH, "cp1252", "cp1252"),
        ("El niño pequeño soñó con la piñata mañana.\n", "latin-1", "cp1252"),
        ("“Don’t,” he said — ‘it’s what it’s.’\n", "cp1252", "cp1252"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy.\n", "cp1250", "cp1250"),
        ("Árvíztűrő tükörfúrógép, hűvös erdő.\n", "iso8859-2", "cp1250"),
        ("Şehirdeki çocuklar güneşli günlerde ağaçların altında.\n", "cp1254", "cp1254"),
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8-r", "koi8-r"),
        (RUSSIAN, "cp866", "cp866"),
        (CHINESE, "gb18030", "gb18030"),
        ("床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。\n", "big5", "big5"),
        (JAPANESE, "shift_jis", "cp932"),
        (JAPANESE, "euc_jp", "euc-jp"),
        ("모든 인간은 태어날 때부터 자유로우며 동등하다.\n", "euc_kr", "cp949"),
        (CHINESE, "utf-16-le", "utf-16-le"),
        (CHINESE + FRENCH, "utf-16-be", "utf-16-be"),
    ],
)
def test_the_encoding_is_guessed_by_what_the_bytes_are(content: str, encoding: str, expected: str) -> None:
    """English with curly apostrophes was once sent to gb18030, which read 抯 for each ’s."""
    raw = (content * 20).encode(encoding)
    assert advice(raw).endswith(f": add --encoding {expected}.")
    assert text_files.read(["-"], expected, io.BytesIO(raw)) == content * 20


def test_a_last_byte_of_no_character_is_not_decoded_to_compare_languages() -> None:
    """The guess was made without it, the last letter may be cut, and then the whole was decoded: a traceback."""
    raw = b"\xaar\x8c5NR\xe63\xd97\x80\xd8\xfb\xf8\x9d"
    assert "the first of 9 such bytes. Name its encoding with --encoding, or" in advice(raw)


def test_the_advice_shows_how_the_guess_reads_the_text() -> None:
    assert advice(FRENCH.encode("cp1252") * 9) == (
        "standard input: not UTF-8 at byte 4 (0xe9), line 1, the first of 135 such bytes."
        " It looks like cp1252, which reads 'Les élèves franç' there: add --encoding cp1252."
    )


def test_a_utf_8_text_read_in_another_encoding_is_told() -> None:
    assert advice((CHINESE * 9).encode(), "gb18030").endswith("there: add --encoding utf-8.")


def test_of_a_text_that_is_utf_8_but_for_some_bytes_no_other_encoding_is_guessed() -> None:
    """A list of names of many origins, as people collect them."""
    raw = "niño\nlove\n".encode() * 9 + b"ni\xf1o\n" + "niño\n".encode()
    assert advice(raw) == (
        "standard input: not UTF-8 at byte 101 (0xf1), line 19, the only such byte."
        " The rest is UTF-8: add --encoding-errors replace (by U+FFFD) or skip."
    )
    assert "The rest is UTF-8" in advice(b"\xef\xbb\xbfplain\n" * 9 + b"ni\xf1o\n" * 30)  # by its byte order mark
    assert "The rest is UTF-16" in advice("plain\n".encode("utf-16") * 9 + b"a", "utf-16")
    # as latin-1 all of it would decode, to niÃ±o
    assert "The rest is UTF-8" in advice("niño\n".encode() * 9 + b"ni\xf1o\n" * 30)


def test_a_guess_from_few_bytes_comes_with_another_way_out() -> None:
    assert advice(b"plain\n" * 9 + b"caf\xe9\n").endswith(
        "It may be cp1252, which reads 'café' there: add --encoding cp1252, or --encoding-errors replace (by U+FFFD)"
        " or skip."
    )


def test_what_is_no_text_gets_no_guess() -> None:
    noise = random.Random(1).randbytes(3000)
    for raw in (noise, noise.replace(b"\0", b""), b"\xff\xd8\xff\xe0\0\x10JFIF\0" + noise):
        assert advice(raw).endswith("it looks like a binary file. Name a text.")


@pytest.mark.parametrize("sample", [50, 400, 1 << 20])
def test_a_guess_in_which_a_later_byte_does_not_decode_is_dropped(monkeypatch: pytest.MonkeyPatch, sample: int) -> None:
    """Only the first part of a long text is examined; the rest is decoded."""
    monkeypatch.setattr(encoding_guess, "_SAMPLE", sample)
    monkeypatch.setattr(encoding_guess, "_BLOCK", 16)
    raw = b"plain text\n" * 40 + (CHINESE * 20).encode("gb18030")
    assert advice(raw).endswith("--encoding gb18030.")
    assert "--encoding gb18030" not in advice(raw + b"\xff\xff\n")


def test_counting_ends_where_it_would_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn.data.decoding._MANY", 20)
    assert "the first of 20 or more such bytes" in advice((CHINESE * 20).encode("gb18030"))


def test_a_text_that_decodes_loads_no_library_to_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "charset_normalizer", None)
    assert text_files.read(["-"], stdin=io.BytesIO(CHINESE.encode())) == CHINESE
    with pytest.raises(ImportError):
        advice((CHINESE * 20).encode("gb18030"))


@pytest.mark.parametrize("named", ["gb18030", "big5", "shift_jis", "euc_kr"])
def test_an_east_asian_encoding_named_for_english_is_told_to_be_wrong(tmp_path: Path, named: str) -> None:
    """Most pairs of a curly apostrophe and a letter are characters there, and the rest was to be replaced."""
    path = tmp_path / "letters.txt"
    lines = "It’s what we’d say: “don’t ask”, they’ll know – we’re sure.\n" * 40
    path.write_bytes(lines.encode("cp1252"))
    with pytest.raises(CharRNNError, match="add --encoding cp1252"):
        text_files.read([str(path)], named)
