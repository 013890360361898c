"""One character is one token, and the probabilities of all that may come next add up to 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn import vocabulary
from charrnn.vocabulary import SCALARS, Vocabulary

texts = st.text(st.characters(codec="utf-8") | st.sampled_from("ab\n月𠮷😀"), min_size=1)


def test_characters_come_most_frequent_first_and_ties_by_code_point() -> None:
    known = Vocabulary.of("月ba😀ab\ncc月c")
    assert known.characters == "cab月\n😀"
    assert known.encode("c月😀\n").tolist() == [0, 3, 5, 4]
    assert known.decode([0, 3, 5, 4]) == "c月😀\n"
    assert (len(known), known.escape, known.newline) == (6, 6, 4)


def test_the_newline_is_known_even_where_there_is_none() -> None:
    known = Vocabulary.of("aab")
    assert known.characters == "ab\n"
    assert (known.seen, known.novel) == (3, 1)


def test_min_count_leaves_out_the_rare_but_never_the_newline() -> None:
    known = Vocabulary.of("aaabbc\n", min_count=2)
    assert known.characters == "ab\n"
    assert known.encode("abc\nd").tolist() == [0, 1, 3, 2, 3]


def test_unknown_characters_are_the_escape_and_show_as_the_replacement_character() -> None:
    known = Vocabulary.of("aab\n")
    tokens = known.encode("a月\U0010ffff\x00b")
    assert tokens.tolist() == [0, known.escape, known.escape, known.escape, 2]
    assert known.decode(tokens) == "a\ufffd\ufffd\ufffdb"


def test_a_character_one_above_the_highest_known_is_unknown() -> None:
    known = Vocabulary.of("ab")
    assert known.encode("bc").tolist() == [1, known.escape]


@pytest.mark.parametrize(
    ("text", "min_count", "expected"),
    [
        ("aabbcd\n", 1, 4 / 8),  # c, d and the newline were seen once
        ("aabbcc\n\n", 1, 1 / 9),  # nothing was
        ("aaaabbbccd\n\n", 3, 4 / 13),  # c twice and d once left out, the newline seen twice
        ("aaaabbbccd\n", 3, 5 / 12),  # the newline, always in, was seen once
        ("aab", 1, 2 / 4),  # a newline never seen is not novel
        ("ab\n", 1, 3 / 4),  # all novel: (3+1)/(3+1) would leave the known ones nothing
        ("a", 1, 1 / 2),
    ],
)
def test_the_escape_is_the_good_turing_estimate(text: str, min_count: int, expected: float) -> None:
    known = Vocabulary.of(text, min_count)
    assert known.seen == len(text)
    assert known.escape_probability == expected


def test_an_unknown_character_pays_the_escape_and_one_of_all_others() -> None:
    known = Vocabulary.of("aabbcd\n")
    assert SCALARS == 1_112_064
    assert known.escape_nats == pytest.approx(math.log(2 * (1_112_064 - 5)), rel=1e-15)
    assert known.known_nats == pytest.approx(math.log(2), rel=1e-15)


@given(texts, st.integers(1, 4))
def test_all_next_characters_have_probability_1_together(text: str, min_count: int) -> None:
    known = Vocabulary.of(text, min_count)
    unknown = SCALARS - len(known)
    # the softmax's shares add up to 1, whatever they are
    total = math.exp(-known.known_nats) + unknown * math.exp(-known.escape_nats)
    assert total == pytest.approx(1.0, abs=1e-12)
    assert 0.0 < known.escape_probability < 1.0


@given(texts)
def test_decoding_undoes_encoding(text: str) -> None:
    known = Vocabulary.of(text)
    assert known.decode(known.encode(text)) == text
    assert set(known.characters) == set(text) | {"\n"}
    assert len(set(known.characters)) == len(known)


@given(texts, texts)
def test_one_character_is_one_token_whatever_the_text(training: str, other: str) -> None:
    known = Vocabulary.of(training)
    tokens = known.encode(other)
    assert tokens.shape == (len(other),)
    for character, token in zip(other, tokens, strict=True):
        assert token == (known.characters.index(character) if character in known.characters else known.escape)


@given(texts, st.integers(1, 5))
def test_text_longer_than_a_chunk_is_counted_and_encoded_the_same(text: str, chunk: int) -> None:
    whole = Vocabulary.of(text)
    tokens = whole.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "_CHUNK", chunk)
        assert Vocabulary.of(text) == whole
        np.testing.assert_array_equal(whole.encode(text), tokens)


@pytest.mark.parametrize(
    ("size", "dtype"), [(2, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)]
)
def test_tokens_take_the_smallest_type_that_holds_the_escape_too(size: int, dtype: type) -> None:
    characters = "\n" + "".join(chr(0x10000 + i) for i in range(size - 1))
    known = Vocabulary(characters, size, 0)
    tokens = known.encode(characters[-1] + "unknown")
    assert tokens.dtype == dtype
    assert tokens.tolist() == [size - 1] + [size] * 7


def test_two_million_characters_are_encoded_exactly() -> None:
    known = Vocabulary.of("aab\n")
    tokens = known.encode("ab月\n" * 500_000)
    np.testing.assert_array_equal(tokens.reshape(-1, 4), [[0, 2, 3, 1]] * 500_000)


def test_an_empty_text_has_no_tokens() -> None:
    known = Vocabulary.of("ab")
    assert known.encode("").shape == (0,)
    assert known.decode([]) == ""
