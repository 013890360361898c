"""Charts put values where they belong, say them to pointer, finger and keys, and are drawn anew at each width."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.bare_page import bare_page

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.browser.conftest import OpenPage

LINES: dict[str, Any] = {
    "title": "Lost",
    "x": {"label": "characters", "kind": "log2", "at": [1, 2, 4, 8]},
    "y": {"label": "bits", "kind": "log10"},
    "series": [
        {"name": "short", "colour": 1, "values": [1, 0.1, 0.01, 0]},
        {"name": "long", "colour": 2, "values": [0.5, 0.5, 0.5, 0.5]},
    ],
}
MARKS = [
    {"x": 0, "y": 1, "colour": 1, "name": "open"},
    {"x": 1, "y": 0, "colour": 1, "name": "closed"},
    {"x": 0, "y": 0.1, "colour": 2, "name": "seldom"},
    {"x": 0.25, "y": 0.5, "colour": 2, "name": "between"},
]


@pytest.fixture
def bare(open_page: OpenPage) -> Page:
    return open_page(bare_page(), viewport={"width": 800, "height": 700})


def drawn(page: Page, kind: str, options: dict[str, Any]) -> Locator:
    """Draw a chart, and wait until it is there."""
    page.evaluate(
        "([kind, options]) => document.body.append(charts[kind]({ pick: (mark) => app.asked.push(mark.name),"
        " cells: () => [['a', 'b']], ...options }))",
        [kind, options],
    )
    chart = page.locator("figure").last
    chart.locator(".plot svg").first.wait_for()
    return chart


def numbers(shapes: Locator, attribute: str) -> list[float]:
    return [float(shape.get_attribute(attribute) or "nan") for shape in shapes.all()]


@pytest.mark.parametrize(
    ("kind", "domain", "most", "found"),
    [
        ("log2", [1, 512], 12, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]),
        ("log2", [1, 512], 5, [1, 4, 16, 64, 256]),
        ("log10", [0.001, 5], 6, [0.001, 0.01, 0.1, 1]),
        ("log10", [1e-9, 1], 5, [1e-8, 1e-6, 1e-4, 1e-2, 1]),
        ("linear", [0, 0.074], 6, [0, 0.02, 0.04, 0.06]),
        ("linear", [0, 128], 4, [0, 50, 100]),
    ],
    ids=str,
)
def test_ticks_are_round_and_evenly_spaced(
    bare: Page, kind: str, domain: list[float], most: int, found: list[float]
) -> None:
    ticks = bare.evaluate("([kind, domain, most]) => charts.ticks(kind, domain, most)", [kind, domain, most])

    assert ticks == pytest.approx(found)


def test_a_logarithmic_scale_gives_every_doubling_the_same_way(bare: Page) -> None:
    places = bare.evaluate("[1, 2, 8, 512].map(charts.scale('log2', [1, 512], [0, 90]))")

    assert places == pytest.approx([0, 10, 30, 90])


@pytest.mark.parametrize(
    ("call", "written"),
    [
        ("number(0.051234)", "0.0512"),
        ("number(0)", "0"),
        ("number(-3)", "−3"),
        ("number(1234.5)", "1230"),
        ("number(2.14e-6)", "2.1 × 10⁻⁶"),
        ("power(0.001)", "0.001"),
        ("power(1e-9)", "10⁻⁹"),
        ("percent(0)", "0%"),
        ("percent(0.001)", "< 1%"),
        ("percent(0.123)", "12%"),
        ("percent(0.999)", "> 99%"),
    ],
)
def test_numbers_are_short_and_hide_nothing(bare: Page, call: str, written: str) -> None:
    assert bare.evaluate(f"charts.{call}") == written


def test_points_stand_at_their_values(bare: Page) -> None:
    chart = drawn(bare, "lines", LINES)
    short = chart.locator("[data-series=short]")

    across, down = numbers(short.locator("circle"), "cx"), numbers(short.locator(".dot"), "cy")

    assert len({round(second - first, 3) for first, second in itertools.pairwise(across)}) == 1
    assert down[1] - down[0] == pytest.approx(down[2] - down[1])  # 1, 0.1, 0.01: a decade each
    assert down[0] < down[1]
    (tick,) = [tick for tick in chart.locator("svg text").all() if tick.text_content() == "0.1"]
    assert float(tick.get_attribute("y") or "nan") == pytest.approx(down[1] + 4)  # its base line


def test_what_a_log_axis_has_no_place_for_is_a_ring_below_it(bare: Page) -> None:
    chart = drawn(bare, "lines", LINES)
    short = chart.locator("[data-series=short]")

    (ring,) = numbers(short.locator(".ring"), "cy")

    assert ring > max(numbers(chart.locator(".grid"), "y1"))
    assert ring < numbers(chart.locator(".axis"), "y1")[0]
    assert "≤ 0" in chart.locator("svg text").all_text_contents()
    assert short.locator(".line.unsure").count() == 1


def test_a_floor_says_what_is_below_it(bare: Page) -> None:
    chart = drawn(bare, "lines", {**LINES, "y": {**LINES["y"], "floor": 0.1}})

    assert chart.locator("[data-series=short] .dot").count() == 2
    assert chart.locator("[data-series=short] .ring").count() == 2
    assert "< 0.1" in chart.locator("svg text").all_text_contents()


def test_arrow_keys_read_a_plot(bare: Page) -> None:
    chart = drawn(bare, "lines", LINES)
    plot, tip = chart.get_by_role("slider"), chart.locator(".tooltip")

    plot.focus()
    plot.press("ArrowRight")
    plot.press("ArrowRight")
    assert plot.get_attribute("aria-valuetext") == "characters: 2, short: 0.1, long: 0.5"
    assert "short: 0.1" in tip.inner_text()
    plot.press("End")
    assert plot.get_attribute("aria-valuenow") == "3"
    plot.press("ArrowRight")
    assert plot.get_attribute("aria-valuenow") == "3"
    plot.press("Home")
    assert "characters: 1" in tip.inner_text()
    plot.press("Escape")
    assert tip.is_hidden()


def test_keys_that_a_plot_does_not_know_reach_the_page(bare: Page) -> None:
    plot = drawn(bare, "lines", LINES).get_by_role("slider")
    bare.evaluate("document.addEventListener('keydown', (event) => app.asked.push(event.key))")

    plot.focus()
    for key in ("ArrowRight", "3", "Tab"):
        bare.keyboard.press(key)

    assert bare.evaluate("app.asked") == ["3", "Tab"]


def test_the_pointer_reads_the_nearest_value(bare: Page) -> None:
    chart = drawn(bare, "lines", LINES)
    third = chart.locator("[data-series=long] circle").nth(2)

    box = third.bounding_box()
    assert box is not None
    bare.mouse.move(box["x"] + 9, box["y"] + 60)

    assert "characters: 4" in chart.locator(".tooltip").inner_text()
    bare.mouse.move(1, 1)
    assert chart.locator(".tooltip").is_hidden()


def test_a_finger_reads_a_plot_too(open_page: OpenPage) -> None:
    page = open_page(bare_page(), viewport={"width": 360, "height": 700}, has_touch=True)
    chart = drawn(page, "lines", LINES)

    chart.locator(".plot").tap(position={"x": 300, "y": 100})

    assert "characters: 8" in chart.locator(".tooltip").inner_text()


def test_a_table_has_all_numbers(bare: Page) -> None:
    chart = drawn(bare, "lines", LINES)

    chart.get_by_text("Numbers").click()
    chart.locator("td").first.wait_for()

    rows = [row.locator("th, td").all_text_contents() for row in chart.locator("tr").all()]
    assert rows[0] == ["characters", "short", "long"]
    assert rows[3:] == [["4", "0.01", "0.5"], ["8", "0", "0.5"]]


def test_a_narrow_chart_is_drawn_anew_with_text_of_the_same_size(bare: Page) -> None:
    chart = drawn(bare, "lines", LINES)
    view = chart.locator(".plot svg").first
    assert view.get_attribute("viewBox") == f"0 0 776 {view.get_attribute('height')}"

    bare.set_viewport_size({"width": 360, "height": 700})
    bare.wait_for_function("document.querySelector('.plot svg').viewBox.baseVal.width === 336")

    scale, overflow = bare.evaluate(
        "[document.querySelector('.plot svg').getScreenCTM().a, document.documentElement.scrollWidth - innerWidth]"
    )
    assert scale == pytest.approx(1)
    assert overflow == 0


@pytest.mark.parametrize("end", [1, 0.1])  # at the top and at the bottom
def test_names_at_the_ends_of_lines_keep_apart(bare: Page, end: float) -> None:
    series = [{"name": f"model {i}", "colour": i + 1, "values": [0.1, 0.1, 0.1, end - i / 1000]} for i in range(5)]

    chart = drawn(bare, "lines", {**LINES, "series": series})

    heights = sorted(numbers(chart.locator("text.direct"), "y"))
    assert len(heights) == 5
    assert min(below - above for above, below in itertools.pairwise(heights)) >= 12
    assert heights[0] > numbers(chart.locator("svg text").get_by_text("↑"), "y")[0] + 12  # the name of the axis


def test_marks_stand_at_their_shares_and_can_be_picked(bare: Page) -> None:
    options = {"title": "Layer 0", "x": "low", "y": "high", "marks": MARKS, "diagonal": "both", "columns": ["unit"]}
    chart = drawn(bare, "square", options)
    across, down = (numbers(chart.locator(".mark"), name) for name in ("cx", "cy"))

    # from open to closed
    assert across[1] - across[0] == pytest.approx((across[3] - across[0]) / 4, abs=0.1)
    assert down[1] - down[0] == pytest.approx((down[3] - down[0]) / 2, abs=0.1)
    plot = chart.get_by_role("slider")
    plot.focus()
    for key in ("Home", "Enter", "ArrowRight", "Enter"):
        plot.press(key)
    chart.locator(".plot").click(position={"x": across[3] - 5, "y": down[3] - 5})
    chart.locator(".plot").click(position={"x": across[3] - 60, "y": down[0] + 40})  # no mark is near
    assert bare.evaluate("app.asked") == ["open", "between", "closed"]


@pytest.mark.parametrize("width", [360, 800])
def test_bars_are_as_long_as_their_values(bare: Page, width: int) -> None:
    bare.set_viewport_size({"width": width, "height": 700})
    rows = [
        {"name": "one", "bars": [{"value": 1, "colour": 1, "text": "1"}]},
        {"name": "three of a long name, which stands above", "bars": [{"value": 3, "colour": 1, "text": "3"}]},
        {"name": "last", "bars": [{"start": 1, "value": 2, "colour": 1, "text": "2"}]},
    ]

    chart = drawn(bare, "bars", {"title": "Bars", "rows": rows, "columns": ["a", "b"]})

    one, three, two = numbers(chart.locator(".block"), "width")
    assert three == pytest.approx(3 * one)
    assert two == pytest.approx(2 * one)
    starts = numbers(chart.locator(".block"), "x")
    assert starts[2] == pytest.approx(starts[0] + one)
    assert bare.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
