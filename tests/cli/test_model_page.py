"""A loss curve in text: every value on its row, every evaluation in its column."""

import math

from charrnn.cli.model_page import draw


def test_three_values_lie_on_three_rows_over_the_whole_width() -> None:
    assert draw({"*": [3.0, 2.0, 1.0]}, width=5, height=3) == (
        "   3.000 |*\n"
        "   2.000 |  *\n"
        "   1.000 |    *\n"
        "         +-----"
    )  # fmt: skip


def test_the_last_curve_lies_on_top() -> None:
    assert draw({"o": [2.0, 1.0, 1.0], "*": [2.0, 2.0, 1.0]}, width=3, height=2) == (
        "   2.000 |**\n"
        "   1.000 | o*\n"
        "         +---"
    )  # fmt: skip


def test_a_missing_value_leaves_its_column_empty() -> None:
    drawing = draw({"*": [math.nan, 2.0, 1.0]}, width=3, height=2)
    assert drawing.splitlines()[:2] == ["   2.000 | *", "   1.000 |  *"]


def test_of_more_values_than_columns_each_column_shows_its_last() -> None:
    drawing = draw({"*": [9.0, 4.0, 9.0, 1.0, 9.0, 4.0]}, width=3, height=4).splitlines()
    # columns show the values 4, 1, 4; the scale still spans all values
    assert [line[10:] for line in drawing] == ["", "", "* *", " *", "---"]


def test_the_last_value_is_always_drawn_in_the_last_column() -> None:
    for count in range(2, 12):
        values = [1.0] * (count - 1) + [0.0]
        bottom = draw({"*": values}, width=5, height=2).splitlines()[-2]
        assert bottom == "   0.000 |    *", count


def test_a_flat_curve_is_drawn() -> None:
    assert draw({"*": [2.0, 2.0]}, width=4, height=2).splitlines()[0] == "   2.000 |*  *"


def test_what_is_not_finite_is_left_out() -> None:
    assert "*" in draw({"*": [float("inf"), 2.0, float("nan"), 1.0]})
    assert draw({"*": [float("nan")]}) == "(nothing finite to draw)"


def test_labels_stand_below_their_columns_as_far_as_there_is_space() -> None:
    curve, labels = {"*": [3.0, 2.0, 1.0]}, ["10", "20", "30"]
    assert draw(curve, 21, 2, labels).splitlines()[-1] == "          10       20        30"
    assert draw(curve, 9, 2, labels).splitlines()[-1] == "          10     30"
