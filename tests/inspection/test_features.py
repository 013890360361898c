"""A feature of a text says what holds after each character: under each text stand its values."""

from __future__ import annotations

import numpy as np
import pytest

from charrnn.inspection import features
from charrnn.inspection.features import FEATURES

NAMED = {feature.name: feature for feature in FEATURES}
PYTHON = "def one(x):  # first, isn't it\n    return f(x) + '#'\n"
C = "int f(int x) { return x; }  /* it's\nlong */ g(x); // http://a.b\n#include <a.h>\nint y = 2;\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('He said "Yes." Then', ['"Yes.']),
        ("“Oh,” he “so", ["“Oh,", "“so"]),  # the text is cut off
        ("『甲「乙」丙』丁「戊", ["『甲「乙」丙", "「戊"]),
        ("don't 'tis 'so' the lords' o' it", ["'so"]),
        ("'it's so' ’tis ‘it’s so’", ["'it's so", "‘it’s so"]),
        ("""x = '"' + "it's" + ' '""", ["'\"", "\"it's", "' "]),
        ('a 5" inch', []),
        ('so "open\n\n"shut" it', ['"shut']),  # the first is not closed in its paragraph
        ('said." He went. "Yes," she said.', ['"Yes,']),
        ('f("""a "b"\n\n\'c""", 1)', ['"""a "b"\n\n\'c""']),
        ('end\n    """\n    x = 1\n    """One."""\n', ['end\n    ""', '"""One.""']),  # begins inside
    ],
)
def test_quotation_marks_pair_and_apostrophes_are_none(text: str, expected: list[str]) -> None:
    assert inside("inside quotes", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f(a[1]{})", "011221210"),
        ("（《甲》乙）", "122110"),
        ("1) (a] :)", "000111100"[:4] + "11110"),  # what closes none, or another kind, is ignored
    ],
)
def test_brackets_nest(text: str, expected: str) -> None:
    assert digits("bracket depth", text) == expected


def test_comments_are_those_of_the_language_and_outside_of_strings() -> None:
    assert inside("comment", PYTHON) == ["# first, isn't it"]
    assert inside("comment", C) == ["/* it's\nlong *", "// http://a.b"]


@pytest.mark.parametrize(
    "prose",
    ["We are # 1 again, he wrote,\nand # 2 came last.\n", "# Title\n\nSome text (a note).\n\n# More\n\nText.\n"],
)
def test_prose_has_no_comments(prose: str) -> None:
    assert inside("comment", prose) == []


def test_code_that_begins_inside_a_docstring_has_its_comments_outside() -> None:
    text = 'it\'s # no comment\n    """\n    x = f(1)  # yes\n\ndef g():\n    """Do # no."""\n    return x\n'
    assert inside("comment", text) == ["# yes"]


def test_positions_count_from_the_last_mark() -> None:
    assert digits("position in line", "ab\n\nc") == "12001"
    assert digits("position in paragraph", "ab\n\ncd\ne") == "12301234"
    assert digits("position in word", "it's so 大x") == "123401200" + "1"
    assert digits("indentation", "  a b\n\n\t c ") == "12222" + "00" + "1222"


def test_verses_end_at_their_marks_and_only_where_these_divide_the_text() -> None:
    assert digits("position in verse", "青青，子衿。\n悠悠") == "120120012"
    assert not NAMED["position in verse"].values("Plain English, 青，" + "and so on" * 9).any()


def test_words_begin_after_what_is_none() -> None:
    assert inside("word start", "It's x2y, don't; 大b É") == ["I", "x", "d", "b", "É"]


def test_single_characters() -> None:
    text = "Aé b1\n。"
    assert digits("capital", text) == "1000000"
    assert digits("vowel", text) == "1100000"
    assert digits("digit", text) == "0000100"
    assert digits("space", text) == "0010000"
    assert digits("newline", text) == "0000010"
    assert digits("punctuation", text) == "0000001"


def test_what_hardly_varies_is_left_out() -> None:
    often = np.tile([0.0, 1.0], 50)
    assert features.varies(often)
    assert not features.varies(np.ones(100))
    assert not features.varies(np.repeat([0.0, 1.0], 50))  # follows any slow unit
    assert not features.varies(np.concatenate((often[:10], np.zeros(900))))


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("text", ["a", "\n", "'", '"""', "(", "#", "\u0301"])
def test_every_feature_has_one_value_a_character(name: str, text: str) -> None:
    assert NAMED[name].values(text).shape == (1 if text != '"""' else 3,)


def digits(name: str, text: str) -> str:
    return "".join(str(int(value)) for value in NAMED[name].values(text))


def inside(name: str, text: str) -> list[str]:
    """Return the pieces of a text where a binary feature is 1."""
    ones = "".join(c if value else "\0" for c, value in zip(text, NAMED[name].values(text), strict=True))
    return [piece for piece in ones.split("\0") if piece]
