"""Scores are sums, divided once; errors carry their exit code."""

import math

import pytest

from charrnn.errors import CharRNNError, MisuseError
from charrnn.scores import NATS_PER_BIT, Score


def test_three_characters_of_two_bits_each_are_two_bits_per_character() -> None:
    score = Score(nats=6 * math.log(2), characters=3, correct=1)
    assert score.bits == pytest.approx(6.0, abs=1e-15)
    assert score.bits_per_character == pytest.approx(2.0, abs=1e-15)
    assert score.perplexity == pytest.approx(4.0, abs=1e-14)
    assert score.accuracy == 1 / 3


def test_scores_add_up_before_they_are_divided() -> None:
    """The mean of means would be 2 bits: the long text must weigh more than the short one."""
    total = Score(1 * NATS_PER_BIT, 1, 1) + Score(9 * NATS_PER_BIT, 3, 2)
    assert total == Score(10 * NATS_PER_BIT, 4, 3)
    assert total.bits_per_character == 2.5
    assert total.accuracy == 0.75


def test_an_empty_score_is_the_zero_of_addition() -> None:
    score = Score(1.5, 7, 2)
    assert score + Score() == score == sum([score], Score())


def test_a_score_of_no_characters_has_no_mean() -> None:
    empty = Score()
    assert empty.bits == 0.0
    assert math.isnan(empty.bits_per_character)
    assert math.isnan(empty.perplexity)
    assert math.isnan(empty.accuracy)


def test_certainty_costs_nothing() -> None:
    assert Score(0.0, 5, 5).bits_per_character == 0.0
    assert Score(0.0, 5, 5).perplexity == 1.0
    assert Score(0.0, 5, 5).accuracy == 1.0


def test_misuse_exits_with_2_and_any_other_error_with_1() -> None:
    assert CharRNNError("a sentence").exit_code == 1
    assert MisuseError("a sentence").exit_code == 2
    assert issubclass(MisuseError, CharRNNError)
    assert str(MisuseError("a sentence")) == "a sentence"


def test_a_perplexity_beyond_float_range_is_infinite() -> None:
    assert Score(1e6, 1).perplexity == math.inf
