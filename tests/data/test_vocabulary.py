"""One character is one token, and the probabilities of all that may come next add up to 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.data import vocabulary
from charrnn.data.vocabulary import SCALARS, Vocabulary, count, empty_counts
from charrnn.models import likelihood
from charrnn.models.losses import target_nats

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


def test_characters_known_before_stay_known_and_are_no_news() -> None:
    """b, c and z are seen once; of them only c was not known before. y is known and not seen."""
    counts = empty_counts()
    count(np.array([ord(character) for character in "aabcz"], dtype=np.uint32), counts)
    known = Vocabulary.counted(counts, known="yzb")
    assert known.characters == "abcz\ny"
    assert (known.seen, known.novel) == (5, 1)
    assert known.unseen == 1
    assert Vocabulary.counted(counts, min_count=2, known="yzb") == Vocabulary("abz\ny", seen=5, novel=1, unseen=1)
    assert Vocabulary.counted(counts, min_count=2).novel == 3


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


# What logits say that characters cost


ABC = Vocabulary.of("abc\n" * 9 + "d")  # V=5
LOGITS = np.random.default_rng(0).normal(0.0, 3.0, (2, 3, len(ABC)))


def test_prices_are_those_of_the_softmax_and_of_being_known() -> None:
    expected = ABC.known_nats - torch.log_softmax(torch.from_numpy(LOGITS), -1)
    np.testing.assert_allclose(likelihood.all_nats(ABC, LOGITS), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(likelihood.all_nats(ABC, np.zeros(5)), math.log(5) + ABC.known_nats, rtol=1e-15)
    assert likelihood.all_nats(ABC, LOGITS[0]).shape == (3, 5)


def test_all_known_characters_and_the_escape_have_probability_1_together() -> None:
    known = np.exp(-likelihood.all_nats(ABC, LOGITS)).sum(-1)
    np.testing.assert_allclose(known, 1.0 - ABC.escape_probability, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, ABC.dtype])
def test_costs_are_the_prices_of_the_targets_and_the_escapes_own(dtype: type[np.integer]) -> None:
    targets = np.array([[0, 4, 5], [5, 2, 1]], dtype=dtype)
    assert ABC.escape == 5
    found = likelihood.target_nats(ABC, LOGITS, targets)
    expected = target_nats(torch.from_numpy(LOGITS), torch.tensor(targets.tolist()), ABC.known_nats, ABC.escape_nats)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    prices = likelihood.all_nats(ABC, LOGITS)
    assert found[0, 2] == found[1, 0] == ABC.escape_nats
    assert found[1, 1] == pytest.approx(prices[1, 1, 2], abs=1e-12)
    assert found.shape == (2, 3)
    assert found.dtype == np.float64


def test_costs_of_fp32_logits_are_those_of_torch_and_summed_in_float64() -> None:
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
        prices = likelihood.all_nats(ABC, logits)[0]
        costs = [likelihood.target_nats(ABC, logits, np.array([target])).item() for target in range(6)]
    assert prices[0] == prices[3] == pytest.approx(math.log(2) + ABC.known_nats, rel=1e-15)
    assert prices[1] == pytest.approx(2 * huge, rel=1e-4)
    np.testing.assert_allclose(costs[:5], prices, rtol=1e-12, atol=1e-15 * huge)
    assert costs[5] == ABC.escape_nats


def test_pricing_changes_no_logits() -> None:
    logits = LOGITS.copy()
    likelihood.all_nats(ABC, logits)
    likelihood.target_nats(ABC, logits, np.array([[0, 4, 5], [5, 2, 1]]))
    np.testing.assert_array_equal(logits, LOGITS)
