"""The views of reach, saliency, gates and errors draw what is in their tables, and say in words what it shows."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.bare_page import VIEWS, page_of_tables

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.browser.conftest import OpenPage

DISTANCES = [1, 2, 4, 8, 16]
LSTM: dict[str, Any] = {
    "model": "lstm",
    "positions": 256,
    "bits": 2,
    "distances": DISTANCES,
    "truncated": [1.5, 0.6, 0.05, 0.004, -0.001],
    "shuffled": [0.8, 0.02, 0.001, 0, 0],
    "gradient": {
        "hidden": [1, 0.1, 0.01, 0.001, 0.0001],
        "cell": [1, 1, 1, 0.9, 0.5],
        "layers": [
            {"layer": 0, "hidden": [0.8, 0.1, 0.01, 0.001, 0.0001], "cell": [1, 1, 1, 0.9, 0.5]},
            {"layer": 1, "hidden": [0.9, 0.1, 0.01, 0.001, 0.0001], "cell": [1, 1, 1, 0.9, 0.5]},
        ],
    },
}
COUNTS: dict[str, Any] = {
    **LSTM,
    "model": "counts",
    "distances": [1, 2, 4, 8],
    "truncated": [0.5, 0, 0, 0],
    "shuffled": [0.5, 0, 0, 0],
    "gradient": None,
}
GATES = {
    "layers": [
        {"direction": "forward", "layer": layer, "gate": gate, "low": [0, 0.5, 0.95], "high": [0.95, 0.25, 0]}
        for layer in (0, 1)
        for gate in ("i", "f", "o")
    ]
}
CLASSES = [("inside", 600, 300), ("word start", 200, 500), ("space", 200, 100), ("digit", 0, 0)]
ERRORS: dict[str, Any] = {
    "characters": 1000,
    "bits": 900,
    "classes": [
        {"class": name, "characters": characters, "bits": bits, "share": bits / 900}
        for name, characters, bits in CLASSES
    ],
    "oracles": [
        {"oracle": "order 1", "characters": 10, "bits": 60, "share": 0.1},
        {"oracle": "order 2", "characters": 20, "bits": 120, "share": 0.2},
        {"oracle": "copy", "characters": 10, "bits": 60, "share": 0.1},
        {"oracle": "none", "characters": 60, "bits": 360, "share": 0.6},
    ],
}
TEXT = "ab ba\nab 月光"
SALIENCY = {
    "window": 4,
    "rows": [
        {"position": at, "character": TEXT[at], "bits": 1.25, "first": max(0, at - 4)} for at in (0, 1, 2, 3, 5, 7)
    ],
}
VALUES: list[list[float]] = [[0.0] * 4, [0, 0, 0, 1], [0, 0, 1, 3], [0, 1, 2, 0.5], [0.25, 0.5, 2, 1], [0.5, 1, 2, 4]]
ALL: dict[str, Any] = {"reach": [LSTM], "gates": GATES, "errors": ERRORS, "saliency": SALIENCY}


def opened(open_page: OpenPage, tables: dict[str, Any], view: str, *, selected: int = 7, **settings: Any) -> Locator:
    """Open a page, and wait for the charts of a view."""
    values = VALUES if "saliency" in tables else None
    page = open_page(page_of_tables(tables, TEXT, saliency=values, selected=selected), **settings)
    section = page.locator(f"#{view}")
    for plot in section.locator(".plot").all():
        plot.locator("svg").first.wait_for()
    return section


def words(place: Locator) -> str:
    """Return a text without the marks that isolate its characters."""
    return re.sub("[\u2068\u2069]", "", place.inner_text())


def of(rects: Locator, name: str) -> float:
    return float(rects.get_attribute(name) or "nan")


def test_reach_says_what_a_model_loses_and_where_its_gradient_vanishes(open_page: OpenPage) -> None:
    section = opened(open_page, {"reach": [LSTM]}, "reach")

    assert section.locator(".finding").inner_text() == (
        "This model loses 0.05 bits/char when it sees only the last 4 characters; from 8 on nothing (less than 0.01). "
        "Order matters within the last 4 characters: to shuffle those further back loses nothing. "
        "Its gradient by the hidden state falls to 1/100 at a distance of 4; that by the cell state still has 0.5 of "
        "its first value at a distance of 16."
    )
    assert section.locator("figcaption").all_inner_texts() == [
        "What the model loses without the distant past",
        "Gradient by the hidden state h",
        "Gradient by the cell state c",
    ]
    assert section.locator("figure").nth(1).locator(".legend li").all_inner_texts() == [
        "all layers",
        "layer 0",
        "layer 1",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"truncated": [2, 1, -0.02, 0, 0]}, "With the last 4 characters alone it predicts better, by 0.02 bits/char."),
        ({"truncated": [0.001, 0, 0, 0, 0]}, "loses nothing even when it sees only the last character"),
        ({"truncated": [2, 1, 1, 1, 0.5]}, "still loses 0.50 bits/char when it sees only the last 16 characters"),
        ({"shuffled": [0, 0, 0, 0, 0]}, "In which order characters came does not matter to it."),
        ({"shuffled": [1, 1, 1, 1, 1]}, "Order still matters further back than 16 characters."),
        ({"gradient": {**LSTM["gradient"], "hidden": [1, 1, 1, 1, 4]}}, "grows to 4 times its first value"),
        ({"gradient": {**LSTM["gradient"], "hidden": [None] * 5}}, "For its gradient the text is too short."),
        ({"gradient": {**LSTM["gradient"], "hidden": [1, 1, 1, 0, 0]}}, "falls to 1/100 at a distance of 8"),
    ],
    ids=str,
)
def test_reach_has_a_sentence_for_every_case(open_page: OpenPage, change: dict[str, Any], words: str) -> None:
    section = opened(open_page, {"reach": [{**LSTM, **change}]}, "reach")

    assert words in section.locator(".finding").inner_text()


@pytest.mark.parametrize(("cell", "said"), [("hmm", True), ("gru", False)])
def test_a_model_that_is_no_network_has_no_gradient(open_page: OpenPage, cell: str, said: bool) -> None:
    page = open_page(page_of_tables({"reach": [{**LSTM, "gradient": None}]}, TEXT, cell=cell))

    assert ("It has no gradient: it is not a recurrent network." in page.locator("#reach").inner_text()) == said


def test_several_models_are_compared_in_one_table_and_one_colour_each(open_page: OpenPage) -> None:
    section = opened(open_page, {"reach": [COUNTS, LSTM]}, "reach")

    rows = [row.locator("th, td").all_inner_texts() for row in section.locator("table").first.locator("tr").all()]
    assert rows[1:] == [["counts", "2.00", "2", "2", "–", "–"], ["lstm", "2.00", "8", "4", "4", "> 16"]]
    truncated, shuffled, hidden, _ = section.locator("figure").all()
    for chart in (truncated, shuffled):
        assert chart.locator("[data-series=counts].series-1 circle").count() == 4
        assert chart.locator("[data-series=lstm].series-2 circle").count() == 5
    assert hidden.locator("[data-series]").count() == 1  # counts have no gradient
    assert hidden.locator("[data-series=lstm].series-2 circle").count() == 5


def test_saliency_colours_earlier_characters_by_what_they_mattered(open_page: OpenPage) -> None:
    section = opened(open_page, ALL, "saliency")

    strengths = section.locator(".earlier").evaluate_all(
        "all => all.map(one => one.style.getPropertyValue('--strength'))"
    )
    assert strengths == ["7.5%", "15.0%", "30.0%", "60.0%"]
    assert section.locator(".earlier").all_inner_texts() == ["b", "a", "⏎", "a"]
    assert section.locator(".selected").inner_text() == "b"
    assert words(section.locator(".finding")) == (
        "“b”, character 7, cost 1.25 bits. What mattered most: “a” just before, “⏎” 2 back and “a” 3 back. "
        "Half of all saliency lies in the character just before."
    )
    heights = [of(column, "height") for column in section.locator("rect.block").all()]
    assert [height / heights[0] for height in heights] == pytest.approx([1, 0.5, 0.25, 0.125])


def test_saliency_follows_the_selected_character(open_page: OpenPage) -> None:
    section = opened(open_page, ALL, "saliency")
    box, finding = section.locator(".saliency-text"), section.locator(".finding")

    box.press("ArrowLeft")
    assert "character 5," in words(finding)  # 6 has no row
    box.press("ArrowLeft")
    assert "character 3," in words(finding)
    section.get_by_text("Next").click()
    assert "character 5," in words(finding)
    section.locator("[data-i='2']").click()
    assert section.page.evaluate("app.selected") == 2
    assert "“␣”, character 2," in words(finding)
    section.page.evaluate("app.select(0)")
    assert "Nothing that came before it mattered." in words(finding)
    assert section.locator("figure").count() == 0


def test_a_character_without_saliency_leads_to_the_nearest_one_that_has_it(open_page: OpenPage) -> None:
    section = opened(open_page, ALL, "saliency", selected=9)

    assert "measured for 6 of the 11 characters, not for “月”, character 9" in words(section.locator(".finding"))
    assert section.locator(".selected").inner_text() == "月"
    section.locator(".finding button").click()
    assert section.page.evaluate("app.selected") == 7
    section.locator(".saliency-text").press("ArrowRight")  # there is no later row
    assert section.page.evaluate("app.selected") == 7


def test_gates_stand_by_how_often_they_are_closed_and_open(open_page: OpenPage) -> None:
    section = opened(open_page, ALL, "gates")

    assert section.locator("figcaption").all_inner_texts() == ["Layer 0", "Layer 1"]
    assert section.locator("figure").first.locator(".mark").count() == 9
    finding = section.locator(".finding").inner_text()
    assert "and so remember for long: 1 of 3 in layer 0, 1 of 3 in layer 1." in finding
    assert "and that see only the present: 1 of 3 in layer 0, 1 of 3 in layer 1." in finding


def test_a_gate_leads_to_its_unit_in_the_text(open_page: OpenPage) -> None:
    section = opened(open_page, ALL, "gates")
    plot = section.get_by_role("slider").last

    plot.focus()
    plot.press("End")
    plot.press("Enter")
    assert "Layer 1, output gate, unit 2: below 0.1 for 95% of the time, above 0.9 for 0%." in section.inner_text()
    section.get_by_text("Show it in the text").click()

    (unit,) = section.page.evaluate("app.asked")
    assert unit == {"direction": "forward", "layer": 1, "state": "o", "unit": 2}


def test_a_bidirectional_model_has_a_panel_for_each_direction(open_page: OpenPage) -> None:
    layers = [{**layer, "direction": direction} for direction in ("forward", "backward") for layer in GATES["layers"]]

    section = opened(open_page, {**ALL, "gates": {"layers": layers}}, "gates")

    assert section.locator("figcaption").all_inner_texts() == [
        "Forward, layer 0",
        "Forward, layer 1",
        "Backward, layer 0",
        "Backward, layer 1",
    ]


def test_errors_are_shown_by_class_with_the_share_of_the_characters_beside(open_page: OpenPage) -> None:
    section = opened(open_page, ALL, "errors")

    assert (
        "word start, with 56% of the bits for 20% of the characters." in section.locator(".finding").first.inner_text()
    )
    shares, hardness, _ = section.locator("figure").all()
    bits, characters = shares.locator("[data-row='word start'] rect").all()
    assert of(bits, "width") / of(characters, "width") == pytest.approx((500 / 900) / (200 / 1000))
    assert shares.locator("[data-row=digit]").count() == 0  # there is none
    assert re.findall(r"\d\.\d\d", hardness.locator("svg").text_content() or "") == ["0.90", "2.50", "0.50", "0.50"]


def test_oracles_spare_a_model_the_bits_of_a_waterfall(open_page: OpenPage) -> None:
    section = opened(open_page, ALL, "errors")

    assert section.locator(".finding").last.inner_text() == (
        "To 100 characters, 10% of all, the model gave a probability of less than one half. They cost 67% of the bits. "
        "Of these, n-grams of order 1 to 2 of its training text would have spared it 30%, and a copy of the last 500 "
        "characters 10% more; 60% no such memory explains."
    )
    bars = section.locator("figure").last.locator("[data-row] rect").all()
    ends = [(of(bar, "x"), of(bar, "x") + of(bar, "width")) for bar in bars]
    for (start, _), (_, end) in itertools.pairwise(ends):
        assert start == pytest.approx(end)


def test_without_a_training_text_there_is_the_copy_alone(open_page: OpenPage) -> None:
    errors = {**ERRORS, "oracles": ERRORS["oracles"][2:]}

    section = opened(open_page, {**ALL, "errors": errors}, "errors")

    assert "Of these, a copy of the last 500 characters would have spared it 14%" in section.inner_text()


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_without_its_table_names_the_command_that_measures_it(open_page: OpenPage, view: str) -> None:
    section = opened(open_page, {}, view)

    assert f"charrnn inspect --{view} prints it." in section.inner_text()


@pytest.mark.parametrize(("cell", "views"), [("rnn", ["gates"]), ("hmm", ["gates", "saliency"]), ("ngram", ["gates"])])
def test_a_model_without_gates_or_input_vectors_has_a_sentence(
    open_page: OpenPage, cell: str, views: list[str]
) -> None:
    page = open_page(page_of_tables({}, TEXT, cell=cell))

    for view in views:
        assert "model.safetensors has no" in page.locator(f"#{view}").inner_text()


@pytest.mark.parametrize("colour_scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(open_page: OpenPage, colour_scheme: str) -> None:
    settings: dict[str, Any] = {"viewport": {"width": 360, "height": 700}, "color_scheme": colour_scheme}
    page: Page = opened(open_page, {**ALL, "reach": [COUNTS, LSTM]}, "errors", **settings).page

    assert page.locator("figure").count() == 4 + 1 + 2 + 3
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
