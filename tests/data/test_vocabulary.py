"""One character is one token, and the probabilities of all possible next characters add up to 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.data import vocabulary
from charrnn.data.vocabulary import SCALARS, Vocabulary, add_counts, empty_counts
from charrnn.models import likelihood
from charrnn.models.losses import target_nats

texts = st.text(st.characters(codec="utf-8") | st.sampled_from("ab\n月𠮷😀"), min_size=1)


def test_characters_are_sorted_by_frequency_then_code_point() -> None:
    vocabulary = Vocabulary.from_text("月ba😀ab\ncc月c")
    assert vocabulary.characters == "cab月\n😀"
    assert vocabulary.encode("c月😀\n").tolist() == [0, 3, 5, 4]
    assert vocabulary.decode([0, 3, 5, 4]) == "c月😀\n"
    assert (len(vocabulary), vocabulary.escape, vocabulary.boundary_tokens[0]) == (6, 6, 4)


def test_the_newline_is_in_every_vocabulary() -> None:
    vocabulary = Vocabulary.from_text("aab")
    assert vocabulary.characters == "ab\n"
    assert (vocabulary.seen, vocabulary.novel) == (3, 1)


def test_min_count_leaves_out_rare_characters_but_never_the_newline() -> None:
    vocabulary = Vocabulary.from_text("aaabbc\n", min_count=2)
    assert vocabulary.characters == "ab\n"
    assert vocabulary.encode("abc\nd").tolist() == [0, 1, 3, 2, 3]


def test_inherited_characters_are_included_and_not_novel() -> None:
    """b, c and z occur once; of them only c is not inherited. y is inherited and does not occur."""
    counts = empty_counts()
    add_counts(np.array([ord(character) for character in "aabcz"], dtype=np.uint32), counts)
    vocabulary = Vocabulary.from_counts(counts, inherited="yzb")
    assert vocabulary.characters == "abcz\ny"
    assert (vocabulary.seen, vocabulary.novel) == (5, 1)
    assert vocabulary.unseen == 1
    assert Vocabulary.from_counts(counts, min_count=2, inherited="yzb") == Vocabulary(
        "abz\ny", seen=5, novel=1, unseen=1
    )
    assert Vocabulary.from_counts(counts, min_count=2).novel == 3


def test_unknown_characters_are_the_escape_and_decode_to_the_replacement_character() -> None:
    vocabulary = Vocabulary.from_text("aab\n")
    tokens = vocabulary.encode("a月\U0010ffff\x00b")
    assert tokens.tolist() == [0, vocabulary.escape, vocabulary.escape, vocabulary.escape, 2]
    assert vocabulary.decode(tokens) == "a\ufffd\ufffd\ufffdb"


def test_a_character_one_above_the_highest_known_is_unknown() -> None:
    vocabulary = Vocabulary.from_text("ab")
    assert vocabulary.encode("bc").tolist() == [1, vocabulary.escape]


@pytest.mark.parametrize(
    ("text", "min_count", "expected"),
    [
        ("aabbcd\n", 1, 4 / 8),  # c, d and the newline occur once
        ("aabbcc\n\n", 1, 1 / 9),  # nothing does
        ("aaaabbbccd\n\n", 3, 4 / 13),  # c twice and d once left out, the newline occurs twice
        ("aaaabbbccd\n", 3, 5 / 12),  # the newline, always included, occurs once
        ("aab", 1, 2 / 4),  # a newline that never occurs is not novel
        ("ab\n", 1, 3 / 4),  # all novel: (3+1)/(3+1) would leave nothing to the known ones
        ("a", 1, 1 / 2),
    ],
)
def test_the_escape_is_the_good_turing_estimate(text: str, min_count: int, expected: float) -> None:
    vocabulary = Vocabulary.from_text(text, min_count)
    assert vocabulary.seen == len(text)
    assert vocabulary.escape_probability == expected


def test_an_unknown_character_costs_the_escape_and_one_of_all_others() -> None:
    vocabulary = Vocabulary.from_text("aabbcd\n")
    assert SCALARS == 1_112_064
    assert vocabulary.escape_nats == pytest.approx(math.log(2 * (1_112_064 - 5)), rel=1e-15)
    assert vocabulary.known_nats == pytest.approx(math.log(2), rel=1e-15)


@given(texts, st.integers(1, 4))
def test_the_probabilities_of_all_next_characters_add_up_to_1(text: str, min_count: int) -> None:
    vocabulary = Vocabulary.from_text(text, min_count)
    unknown = SCALARS - len(vocabulary)
    # the softmax adds up to 1
    total = math.exp(-vocabulary.known_nats) + unknown * math.exp(-vocabulary.escape_nats)
    assert total == pytest.approx(1.0, abs=1e-12)
    assert 0.0 < vocabulary.escape_probability < 1.0


@given(texts)
def test_decoding_undoes_encoding(text: str) -> None:
    vocabulary = Vocabulary.from_text(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert set(vocabulary.characters) == set(text) | {"\n"}
    assert len(set(vocabulary.characters)) == len(vocabulary)


@given(texts, texts)
def test_one_character_is_one_token_whatever_the_text(training: str, other: str) -> None:
    vocabulary = Vocabulary.from_text(training)
    tokens = vocabulary.encode(other)
    assert tokens.shape == (len(other),)
    for character, token in zip(other, tokens, strict=True):
        assert token == (
            vocabulary.characters.index(character) if character in vocabulary.characters else vocabulary.escape
        )


@given(texts, st.integers(1, 5))
def test_text_longer_than_a_chunk_is_counted_and_encoded_the_same(text: str, chunk: int) -> None:
    expected = Vocabulary.from_text(text)
    tokens = expected.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "_CHUNK", chunk)
        assert Vocabulary.from_text(text) == expected
        np.testing.assert_array_equal(expected.encode(text), tokens)


@pytest.mark.parametrize(
    ("size", "dtype"), [(2, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)]
)
def test_tokens_take_the_smallest_type_that_holds_the_escape_too(size: int, dtype: type) -> None:
    characters = "\n" + "".join(chr(0x10000 + i) for i in range(size - 1))
    vocabulary = Vocabulary(characters, size, 0)
    tokens = vocabulary.encode(characters[-1] + "unknown")
    assert tokens.dtype == dtype
    assert tokens.tolist() == [size - 1] + [size] * 7


def test_two_million_characters_are_encoded_exactly() -> None:
    vocabulary = Vocabulary.from_text("aab\n")
    tokens = vocabulary.encode("ab月\n" * 500_000)
    np.testing.assert_array_equal(tokens.reshape(-1, 4), [[0, 2, 3, 1]] * 500_000)


def test_an_empty_text_has_no_tokens() -> None:
    vocabulary = Vocabulary.from_text("ab")
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == ""


# Negative log-likelihoods of characters


ABC = Vocabulary.from_text("abc\n" * 9 + "d")  # V=5
LOGITS = np.random.default_rng(0).normal(0.0, 3.0, (2, 3, len(ABC)))


def test_all_nats_are_those_of_the_softmax_and_of_no_escape() -> None:
    expected = ABC.known_nats - torch.log_softmax(torch.from_numpy(LOGITS), -1)
    np.testing.assert_allclose(likelihood.all_nats(ABC, LOGITS), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(likelihood.all_nats(ABC, np.zeros(5)), math.log(5) + ABC.known_nats, rtol=1e-15)
    assert likelihood.all_nats(ABC, LOGITS[0]).shape == (3, 5)


def test_the_probabilities_of_known_characters_and_the_escape_add_up_to_1() -> None:
    total = np.exp(-likelihood.all_nats(ABC, LOGITS)).sum(-1)
    np.testing.assert_allclose(total, 1.0 - ABC.escape_probability, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, ABC.dtype])
def test_target_nats_select_from_all_nats_or_are_those_of_the_escape(dtype: type[np.integer]) -> None:
    targets = np.array([[0, 4, 5], [5, 2, 1]], dtype=dtype)
    assert ABC.escape == 5
    found = likelihood.target_nats(ABC, LOGITS, targets)
    expected = target_nats(torch.from_numpy(LOGITS), torch.tensor(targets.tolist()), ABC.known_nats, ABC.escape_nats)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    every = likelihood.all_nats(ABC, LOGITS)
    assert found[0, 2] == found[1, 0] == ABC.escape_nats
    assert found[1, 1] == pytest.approx(every[1, 1, 2], abs=1e-12)
    assert found.shape == (2, 3)
    assert found.dtype == np.float64


def test_nats_of_fp32_logits_equal_those_of_torch_and_are_float64() -> None:
    logits, targets = LOGITS.astype(np.float32), np.array([[0, 4, 5], [5, 2, 1]])
    expected = target_nats(torch.from_numpy(logits), torch.from_numpy(targets), ABC.known_nats, ABC.escape_nats)
    np.testing.assert_allclose(likelihood.target_nats(ABC, logits, targets), expected, rtol=1e-6)
    exact = likelihood.target_nats(ABC, logits.astype(np.float64), targets)
    np.testing.assert_allclose(likelihood.target_nats(ABC, logits, targets), exact, rtol=1e-6)
    assert likelihood.all_nats(ABC, logits).dtype == likelihood.target_nats(ABC, logits, targets).dtype == np.float64


@pytest.mark.parametrize(("dtype", "huge"), [(np.float64, 1e300), (np.float32, 1e38), (np.float32, 1e4)])
def test_huge_logits_overflow_nothing(dtype: type[np.floating], huge: float) -> None:
    logits = np.array([[huge, -huge, 0.0, huge, 1.0]], dtype=dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        every = likelihood.all_nats(ABC, logits)[0]
        single = [likelihood.target_nats(ABC, logits, np.array([target])).item() for target in range(6)]
    assert every[0] == every[3] == pytest.approx(math.log(2) + ABC.known_nats, rel=1e-15)
    assert every[1] == pytest.approx(2 * huge, rel=1e-4)
    np.testing.assert_allclose(single[:5], every, rtol=1e-12, atol=1e-15 * huge)
    assert single[5] == ABC.escape_nats


def test_computing_nats_changes_no_logits() -> None:
    logits = LOGITS.copy()
    likelihood.all_nats(ABC, logits)
    likelihood.target_nats(ABC, logits, np.array([[0, 4, 5], [5, 2, 1]]))
    np.testing.assert_array_equal(logits, LOGITS)
