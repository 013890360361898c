"""Claims about filters, exact on four symbols with probabilities 1/2, 1/4, 3/16 and 1/16."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from charrnn.errors import MisuseError
from charrnn.generation.filters import Filters, min_p, top_k, top_p
from charrnn.models.cells import softmax

FOUR = np.array([4, 8, 1, 3]) / 16
LOGITS = np.log(FOUR) + 5.0  # a constant in the logits changes nothing


def sixteenths(probabilities: npt.NDArray[np.float64]) -> list[float]:
    return [round(float(value) * 16, 9) for value in probabilities]


def test_softmax_undoes_the_logarithm() -> None:
    assert sixteenths(softmax(LOGITS)) == [4, 8, 1, 3]


def test_half_the_temperature_squares_the_odds() -> None:
    np.testing.assert_allclose(softmax(LOGITS, 0.5), np.array([16, 64, 1, 9]) / 90, rtol=1e-12)
    np.testing.assert_allclose(softmax(LOGITS, 2.0), FOUR**0.5 / (FOUR**0.5).sum(), rtol=1e-12)


@pytest.mark.parametrize("temperature", [1e-3, 1e-310])
def test_almost_no_temperature_leaves_the_likeliest(temperature: float) -> None:
    """Dividing before shifting once gave inf - inf = nan."""
    assert sixteenths(softmax(LOGITS, temperature)) == [0, 16, 0, 0]


def test_logits_of_any_size_do_not_overflow() -> None:
    np.testing.assert_array_equal(softmax(np.array([1e4, -1e4, 1e4, 0.0])), [0.5, 0.0, 0.5, 0.0])


def test_top_k_keeps_the_k_likeliest() -> None:
    np.testing.assert_allclose(top_k(FOUR, 1), [0, 1, 0, 0])
    np.testing.assert_allclose(top_k(FOUR, 2), [1 / 3, 2 / 3, 0, 0])
    np.testing.assert_allclose(top_k(FOUR, 3), [4 / 15, 8 / 15, 0, 3 / 15])


@pytest.mark.parametrize("k", [4, 5, 1000])
def test_top_k_of_all_or_more_changes_nothing(k: int) -> None:
    np.testing.assert_array_equal(top_k(FOUR, k), FOUR)


@pytest.mark.parametrize(
    ("p", "kept"), [(1e-13, 1), (0.3, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.9375, 3), (0.94, 4)]
)
def test_top_p_keeps_the_smallest_set_that_sums_to_p(p: float, kept: int) -> None:
    expected = top_k(FOUR, kept)
    np.testing.assert_allclose(top_p(FOUR, p), expected, rtol=1e-12)


def test_top_p_of_1_keeps_even_what_is_too_small_to_change_the_sum() -> None:
    probabilities = softmax(np.array([0.0, -40.0, 0.0, -60.0]))
    np.testing.assert_array_equal(top_p(probabilities, 1.0), probabilities)
    assert (top_p(probabilities, 1.0) > 0).all()


def test_top_p_of_nine_tenths_of_tenths_keeps_nine() -> None:
    """0.1 added nine times is 0.8999999999999999, which must not admit a tenth one."""
    assert np.count_nonzero(top_p(np.full(10, 0.1), 0.9)) == 9


def test_min_p_is_relative_to_the_likeliest() -> None:
    np.testing.assert_allclose(min_p(FOUR, 0.4), [1 / 3, 2 / 3, 0, 0])
    np.testing.assert_allclose(min_p(FOUR, 0.375), [4 / 15, 8 / 15, 0, 3 / 15])  # exactly at the threshold is in
    np.testing.assert_allclose(min_p(FOUR, 1.0), [0, 1, 0, 0])
    np.testing.assert_array_equal(min_p(FOUR, 0.0), FOUR)


def test_of_ties_the_lower_index_stays_but_min_p_keeps_them_all() -> None:
    equal = np.full(4, 0.25)
    np.testing.assert_array_equal(top_k(equal, 2), [0.5, 0.5, 0, 0])
    np.testing.assert_array_equal(top_p(equal, 0.5), [0.5, 0.5, 0, 0])
    np.testing.assert_array_equal(min_p(equal, 1.0), equal)
    np.testing.assert_array_equal(Filters(greedy=True)(np.zeros(4)), [1, 0, 0, 0])


def test_filters_apply_in_the_order_temperature_top_k_top_p_min_p() -> None:
    filters = Filters(temperature=0.5, top_k=3, top_p=0.8, min_p=0.2)
    # squares 16 64 1 9; top-k leaves a sum of 89; 64 + 16 are 0.8 of that; both are at least a fifth of 64
    np.testing.assert_allclose(filters(LOGITS), [16 / 80, 64 / 80, 0, 0], rtol=1e-12)
    # at temperature 1, top-k comes first: 8/15 + 4/15 reach 0.8; without it, 3/4 would not
    np.testing.assert_allclose(Filters(top_k=3, top_p=0.8)(LOGITS), [1 / 3, 2 / 3, 0, 0], rtol=1e-12)
    assert np.count_nonzero(top_p(FOUR, 0.8)) == 3
    # top-p comes after the temperature: 64/90 reaches 0.7, 8/16 does not
    np.testing.assert_allclose(Filters(temperature=0.5, top_p=0.7)(LOGITS), [0, 1, 0, 0], rtol=1e-12)
    # min-p comes last: before top-p it would leave 8 and 4, of which 8 alone reaches 0.6; here 8 is 0.5 of 16
    np.testing.assert_allclose(Filters(top_p=0.6, min_p=0.4)(LOGITS), [1 / 3, 2 / 3, 0, 0], rtol=1e-12)


def test_greedy_leaves_the_likeliest_whatever_else_is_set() -> None:
    np.testing.assert_array_equal(Filters(temperature=9.0, top_k=3, greedy=True)(LOGITS), [0, 1, 0, 0])


def test_without_filters_the_probabilities_are_the_models() -> None:
    np.testing.assert_array_equal(Filters()(LOGITS), softmax(LOGITS))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0; it must be above 0. For the likeliest character use greedy."),
        ({"temperature": -1.0}, "temperature is -1; it must be above 0. For the likeliest character use greedy."),
        ({"temperature": float("nan")}, "temperature is nan; it must be above 0."),
        ({"temperature": float("inf")}, "temperature is inf; it must be finite."),
        ({"top_k": 0}, "top_k is 0; it must be at least 1. Leave it out to choose from all."),
        ({"top_p": 0.0}, "top_p is 0; it must be above 0 and at most 1."),
        ({"top_p": 1.5}, "top_p is 1.5; it must be above 0 and at most 1."),
        ({"top_p": float("nan")}, "top_p is nan; it must be above 0 and at most 1."),
        ({"min_p": -0.1}, "min_p is -0.1; it must lie between 0 and 1."),
        ({"min_p": 1.1}, "min_p is 1.1; it must lie between 0 and 1."),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_with_the_range(values: dict[str, float], message: str) -> None:
    with pytest.raises(MisuseError) as caught:
        Filters(**values)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


rows = arrays(np.float64, array_shapes(max_dims=3, max_side=6), elements=st.floats(-50, 50, allow_nan=False))


@given(
    rows,
    st.builds(
        Filters,
        temperature=st.floats(0.05, 20),
        top_k=st.none() | st.integers(1, 8),
        top_p=st.none() | st.floats(0, 1, exclude_min=True),
        min_p=st.none() | st.floats(0, 1),
        greedy=st.booleans(),
    ),
)
def test_every_row_sums_to_1_and_keeps_its_likeliest(logits: npt.NDArray[np.float64], filters: Filters) -> None:
    probabilities = filters(logits)
    assert probabilities.shape == logits.shape
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, rtol=1e-12)
    best = probabilities.argmax(-1)
    assert (np.take_along_axis(softmax(logits, filters.temperature), best[..., None], -1)[..., 0] > 0).all()
    if filters.top_k is not None:
        assert (np.count_nonzero(probabilities, -1) <= filters.top_k).all()


@given(rows, st.integers(1, 4), st.floats(0.01, 1), st.floats(0, 1))
def test_rows_are_filtered_independently(logits: npt.NDArray[np.float64], k: int, p: float, least: float) -> None:
    filters = Filters(temperature=0.7, top_k=k, top_p=p, min_p=least)
    together = filters(logits)
    for index in np.ndindex(logits.shape[:-1]):
        np.testing.assert_array_equal(together[index], filters(logits[index]))
