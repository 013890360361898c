"""The page as a whole: its views draw, share one selected character, and go by keys; and it writes as sample does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from charrnn.checkpoints import inference, model_file
from charrnn.inspection import page, states
from charrnn.inspection.page import PageModel
from charrnn.models import likelihood
from charrnn.models.numpy_model import NumpyHMM, NumpyModel
from tests.browser.test_page import HOSTILE
from tests.conftest import Charrnn, close, settings

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.browser.conftest import OpenPage

FIXTURES = Path(__file__).parent.parent / "fixtures" / "0.1.0"
TEXT = (FIXTURES / "text.txt").read_text("utf-8")[:200] + "a \tЖ\n\nend"
KINDS = ("lstm", "gru-tied", "rnn-skip", "bidirectional", "hmm", "own")
FRAMES = "() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"
PHONE, SCREEN = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
UNITS: dict[str, Any] = {
    "features": [{"feature": "newline", "kind": "binary", "share": 0.1, "description": "A newline."}],
    "threshold": {"auc": 0.7, "r": None},
    "units": [
        {"direction": "forward", "layer": layer, "state": state, "unit": unit, "feature": "newline"}
        | {"statistic": "auc", "sign": sign, "found": 0.9, "confirmed": confirmed}
        for layer, state, unit, sign, confirmed in ((1, "h", 3, 1, 0.95), (0, "h", 5, -1, 0.9), (1, "f", 2, 1, 0.8))
    ],
}
NGRAM = [
    {
        "bits": 1.5,
        "rank": 2,
        "likeliest": [{"character": "x", "probability": 0.5}, {"character": c, "probability": 0.35}],
    }
    for c in TEXT
]


def built(kind: str, text: str = TEXT, tables: dict[str, Any] | None = None, **changes: Any) -> str:
    """Return the page of one of the models of an earlier version."""
    header, contents = model_file.read_arrays(FIXTURES / kind / "best.safetensors")
    weights = {} if kind == "ngram" else {name: contents.arrays[name] for name in contents.weights}
    html = page.build(kind, PageModel(kind, f"a {kind}", header, weights), text=text, tables=tables or {})
    for name, value in changes.items():
        html = re.sub(rf'"{name}": \w+', f'"{name}": {value}', html, count=1)
    return html


def read_through(tab: Page) -> Page:
    """Wait until the model has read the whole text, and every colour is there."""
    tab.locator("#progress.complete").wait_for(state="attached")
    tab.evaluate(FRAMES)
    return tab


def shown(tab: Page, view: str) -> Locator:
    """Show a view by its key, and return its section."""
    tab.keyboard.press(str(1 + [one.get_attribute("id") for one in tab.locator("main > section").all()].index(view)))
    section = tab.locator(f"#{view}")
    section.wait_for()
    tab.evaluate(FRAMES)
    return section


def selected(tab: Page) -> int:
    return int(tab.evaluate("app.selected"))


def words(place: Locator) -> str:
    """Return a text without the marks that isolate its characters."""
    return re.sub("[\u2068\u2069]", "", place.inner_text())


@pytest.mark.parametrize("viewport", [PHONE, SCREEN], ids=["phone", "screen"])
@pytest.mark.parametrize("kind", [*KINDS, "ngram"])
def test_every_view_draws_without_scrolling_sideways(kind: str, viewport: Any, open_page: OpenPage) -> None:
    tables = {"ngram": {"surprise": NGRAM}, "hmm": {}}.get(kind, {"units": UNITS})
    tab = read_through(open_page(built(kind, tables=tables), viewport=viewport))
    for view in ("surprise", "units", "unrolled", "reach", "saliency", "gates", "errors", "write"):
        section = shown(tab, view)
        assert section.locator("h2").inner_text()
        assert section.locator(".text, .stage, .notice").count() > 0
        assert tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert tab.get_by_role("tab", selected=True).get_attribute("id") == f"tab-{view}"


@pytest.mark.parametrize("kind", ["lstm", "gru-tied", "bidirectional", "hmm"])
def test_bits_and_ranks_are_those_of_the_decoder(
    kind: str, charrnn: Charrnn, tmp_path: Path, open_page: OpenPage
) -> None:
    half = tmp_path / "half.safetensors"
    assert charrnn("export", "--half", str(half), "-m", str(FIXTURES / kind)).exit_code == 0
    model, vocabulary = inference.load(half)
    assert isinstance(model, NumpyModel | NumpyHMM)
    tokens = vocabulary.encode(TEXT).astype(np.int64)
    read = np.concatenate((vocabulary.boundary_tokens, tokens))[None]
    features, _ = model.read(read, model.initial_state(1))
    logits = model.logits(features)[0, len(vocabulary.boundary_tokens) - 1 : -1]
    tab = read_through(open_page(built(kind)))
    found = tab.evaluate("app.characters.map((_, i) => [app.run.bits(i), app.run.rank(i)])")
    bits, ranks = np.array(found).T
    close(bits, likelihood.target_nats(vocabulary, logits, tokens) / np.log(2), 1e-4)
    known = tokens < vocabulary.escape
    own = np.take_along_axis(logits, np.minimum(tokens, vocabulary.escape - 1)[:, None], -1)
    assert (ranks[known] == 1 + (logits > own + 1e-5).sum(-1)[known]).mean() > 0.98  # near ties may change places
    assert set(ranks[~known]) == {len(vocabulary) + 1}


@pytest.mark.parametrize("kind", ["lstm", "bidirectional"])
def test_signals_are_the_states_of_the_decoder(
    kind: str, charrnn: Charrnn, tmp_path: Path, open_page: OpenPage
) -> None:
    half = tmp_path / "half.safetensors"
    assert charrnn("export", "--half", str(half), "-m", str(FIXTURES / kind)).exit_code == 0
    model, vocabulary = inference.load(half)
    assert isinstance(model, NumpyModel)
    expected = states.read_states(model, vocabulary.encode(TEXT).astype(np.int64), vocabulary.boundary_tokens)
    tab = read_through(open_page(built(kind)))
    for direction, part in (("forward", expected), ("backward", expected.backward)):
        for name, values in {} if part is None else {"h": part.hidden, "c": part.cell}.items():
            found = tab.evaluate(f"Array.from(app.run.signal('{direction}', 1, '{name}', 3))")
            assert values is not None
            close(found, values[:, 1, 3], 1e-4)


def test_all_characters_are_coloured_by_surprise_and_a_selected_one_is_explained(open_page: OpenPage) -> None:
    tab = read_through(open_page(built("lstm"), viewport=SCREEN))
    spans = tab.locator("#surprise .text span")
    assert spans.count() == len(TEXT)
    bits = tab.evaluate("app.run.bits(4)")
    alpha = min(1.0, bits / 8)
    assert spans.nth(4).get_attribute("style") == f"background-color: rgb(var(--surprise-rgb) / {alpha:.3f});"
    spans.nth(TEXT.index("Ж")).click()
    panel = words(tab.locator("#surprise .panel"))
    assert "Ж, U+0416" in panel
    assert "does not know this character" in panel
    spans.nth(TEXT.index("\t")).click()
    assert spans.nth(TEXT.index("\t")).inner_text() == "⇥"
    spans.nth(4).click()
    assert spans.nth(TEXT.index("\t")).inner_text() != "⇥"
    assert f"{bits:.2f} bits" in words(tab.locator("#surprise .facts"))
    assert tab.locator("#surprise .likeliest .right .character").inner_text() == TEXT[4]


def test_the_likeliest_of_an_ngram_model_come_from_its_table(open_page: OpenPage) -> None:
    tab = read_through(open_page(built("ngram", tables={"surprise": NGRAM})))
    assert "1.50 bits" in words(tab.locator("#surprise .facts"))
    assert tab.locator("#surprise .likeliest .number").all_inner_texts() == ["50%", "35%"]
    assert "has no units" in shown(tab, "units").inner_text()
    assert "charrnn sample writes with it" in shown(tab, "write").inner_text()


@pytest.mark.parametrize("view", ["surprise", "units", "unrolled"])
def test_left_and_right_select_a_character_for_all_views(view: str, open_page: OpenPage) -> None:
    tab = read_through(open_page(built("gru-tied", tables={"units": UNITS})))
    shown(tab, view)
    before = selected(tab)
    for key, expected in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        tab.keyboard.press(key)
        assert selected(tab) == before + expected
    for other in ("surprise", "units"):
        shown(tab, other)
        assert tab.evaluate(f"document.querySelector('#{other} .selected').i") == before + 1


def test_up_and_down_walk_through_the_units_that_follow_something(open_page: OpenPage) -> None:
    tab = read_through(open_page(built("lstm", tables={"units": UNITS}), viewport=SCREEN))
    section = shown(tab, "units")
    title = section.locator(".unit")
    assert title.inner_text() == "Layer 1, unit 3 (h) follows: newline (AUC 0.95)."
    tab.keyboard.press("ArrowDown")
    assert title.inner_text() == "Layer 0, unit 5 (h) follows: newline (AUC 0.90, low)."
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("ArrowUp")
    assert title.inner_text() == "Layer 1, unit 2 (f) follows: newline (AUC 0.80)."
    tab.keyboard.press("PageDown")
    assert title.inner_text() == "Layer 1, unit 3 (f)"
    section.locator(".found li").nth(1).click()
    assert title.inner_text().startswith("Layer 0, unit 5 (h)")


def test_a_unit_is_red_below_zero_and_blue_above(open_page: OpenPage) -> None:
    tab = read_through(open_page(built("lstm")))
    signals = np.array(
        tab.evaluate("[...Array(8).keys()].map((unit) => Array.from(app.run.signal('forward', 0, 'h', unit)))")
    )
    unit = int(np.minimum(signals.max(1), -signals.min(1)).argmax())  # that goes furthest in both directions
    tab.evaluate(f"app.showUnit({{ direction: 'forward', layer: 0, state: 'h', unit: {unit} }})")
    tab.evaluate(FRAMES)
    values = signals[unit]
    styles = tab.locator("#units .text span").evaluate_all("(all) => all.map((span) => span.getAttribute('style'))")
    assert values.min() < -0.1
    assert values.max() > 0.1
    for value, style in zip(values, styles, strict=True):
        if abs(value) > 0.01:
            assert f"--{'red' if value < 0 else 'blue'}-rgb" in style
            assert float(re.findall(r"/ ([\d.]+)", style)[0]) == pytest.approx(abs(value), abs=1e-3)


def test_gates_lead_to_their_unit_in_the_text(open_page: OpenPage) -> None:
    tab = read_through(open_page(built("lstm")))
    tab.evaluate("app.showUnit({ direction: 'forward', layer: 1, state: 'f', unit: 6 })")
    assert tab.locator("#units .unit").inner_text() == "Layer 1, unit 6 (f)"
    assert tab.get_by_role("tab", selected=True).get_attribute("id") == "tab-units"


def test_the_unrolled_network_says_the_equation_of_each_part(open_page: OpenPage) -> None:
    tab = read_through(open_page(built("lstm"), viewport=SCREEN))
    section = shown(tab, "unrolled")
    said = set()
    for _ in range(20):
        tab.keyboard.press("ArrowUp")
    for _ in range(20):
        said.add(section.locator(".equation h3").inner_text())
        tab.keyboard.press("ArrowDown")
    for part in (
        "Prediction of the next character",
        "Hidden state h, layer 1",
        "Forget gate f, layer 0",
        "Recurrence, layer 0",
    ):
        assert part in said
    assert "The character read at this step" in said
    pixels = "canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data"
    assert section.locator("canvas").evaluate(f"(canvas) => {pixels}.some((one) => one > 0)")


def test_neither_half_of_a_bidirectional_model_reads_the_character_asked_for(open_page: OpenPage) -> None:
    tab = read_through(open_page(built("bidirectional"), viewport=SCREEN))
    section = shown(tab, "unrolled")
    assert "Neither has read the character asked for." in section.locator(".equation").inner_text()
    at = selected(tab)
    read = section.locator("svg text.small").all_text_contents()
    assert {str(at - 1), str(at + 1), "not read"} <= set(read)
    assert str(at) not in read


def test_the_joint_bits_of_a_bidirectional_model_are_less(open_page: OpenPage) -> None:
    """A trained model that sees both sides predicts better; so does this one, small as it is."""
    tab = read_through(open_page(built("bidirectional")))
    sums = tab.evaluate("[app.run.sum, app.run.backward.bits.reduce((a, b) => a + b)]")
    assert sums[1] < sums[0]


@pytest.mark.parametrize("prime", ["", "KING: ", "Ж"])
def test_write_writes_what_sample_writes(
    prime: str, either: str, charrnn: Charrnn, tmp_path: Path, open_page: OpenPage
) -> None:
    half, html = tmp_path / "half.safetensors", tmp_path / "page.html"
    assert charrnn("export", "--half", str(half), "--html", str(html), "-m", either).exit_code == 0
    expected = charrnn("sample", "--greedy", "-n", "200", *["-p", prime] * bool(prime), "-m", str(half))
    assert greedy(open_page(html), prime) + "\n" == expected.stdout


@pytest.mark.parametrize(("documents", "separator"), [("blank-line", "\n\n"), ("line", "\n"), ("file", None)])
def test_write_begins_a_document_as_sample_does(
    documents: str, separator: str | None, here: Path, charrnn: Charrnn, open_page: OpenPage
) -> None:
    """The newlines that a model of blank lines may put before a document are not written; the end of a file is one."""
    source = here / "poems"
    if separator is None:
        source.mkdir()
        for index in range(12):
            (source / f"{index}.txt").write_text(f"poem {index}\nof two lines\n", "utf-8")
    else:
        source.write_text(separator.join(f"poem {index}" for index in range(99)), "utf-8")
    given = settings("train.steps=60", f"data.documents={documents}", "train.learning_rate=0.05")
    trained = charrnn("train", str(source), "-q", "-o", "run", *given)
    assert trained.exit_code == 0, trained.output
    assert charrnn("export", "--half", "half.safetensors", "--html", "page.html", "-m", "run").exit_code == 0
    expected = charrnn("sample", "--greedy", "-n", "200", "-m", "half.safetensors")
    assert greedy(open_page(here / "page.html"), "") + "\n" == expected.stdout


def greedy(tab: Page, prime: str, length: int = 200) -> str:
    """Return the prime and what the page writes after it."""
    tab.locator("#write").wait_for()
    tab.fill("#prime", prime)
    tab.get_by_label("Always the likeliest").check()
    tab.get_by_label("stop after").fill(str(length))
    tab.get_by_label("Speed").select_option("Infinity")
    tab.click("#play")
    tab.get_by_text(f"{length} characters written").wait_for()
    return "".join(tab.locator("#write .paper > span").all_text_contents())


def test_a_page_without_a_text_shows_write_alone(open_page: OpenPage) -> None:
    tab = read_through(open_page(built("lstm", text="")))
    assert [one.get_attribute("id") for one in tab.locator("main > section").all()] == ["write"]
    assert tab.get_by_role("tablist").is_hidden()
    assert len(greedy(tab, "", 20)) == 20


def test_writing_pauses_steps_and_starts_anew(open_page: OpenPage) -> None:
    tab = read_through(open_page(built("lstm", tables={"units": UNITS}), viewport=SCREEN))
    section = shown(tab, "write")
    paper = section.locator(".paper > span")
    section.get_by_label("Speed").select_option("4")
    section.locator(".paper").focus()
    tab.keyboard.press("Space")
    paper.nth(1).wait_for()
    tab.keyboard.press("Space")
    written = paper.count()
    assert section.locator("#play").inner_text() == "Go on"
    section.get_by_role("button", name="Step").click()
    assert paper.count() == written + 1
    expected = section.locator(".next .character").nth(2).inner_text()
    section.locator(".next button").nth(2).click()
    assert paper.count() == written + 2
    assert paper.last.inner_text().strip("\n") == expected.strip("⏎")
    section.get_by_role("button", name="Clear").click()
    assert paper.count() == 0


def test_a_held_unit_keeps_its_value_while_the_model_writes(open_page: OpenPage) -> None:
    tab = read_through(open_page(built("lstm", text="")))
    tab.evaluate("signals.choose({ direction: 'forward', layer: 1, state: 'c', unit: 4 })")
    tab.get_by_label("Hold c of one unit").check()
    tab.get_by_role("button", name="that of the colours").click()
    tab.get_by_label("held at").fill("-1")
    greedy(tab, "", 30)
    styles = tab.locator("#write .paper > span").evaluate_all("(all) => all.map((span) => span.getAttribute('style'))")
    assert set(styles) == {f"background-color: rgb(var(--red-rgb) / {np.tanh(1.0):.3f});"}


def test_min_p_leaves_the_characters_that_are_likely_enough(open_page: OpenPage) -> None:
    tab = read_through(open_page(built("lstm", text="")))
    drawn = tab.evaluate("""() => {
      const writer = new Writer(app.network, '我'), counts = new Map();
      while (writer.pending.length) writer.read();
      for (let time = 0; time < 2000; time++) {
        const token = writer.choose({ greedy: false, temperature: 1.5, minP: 0.3 });
        counts.set(token, (counts.get(token) ?? 0) + 1);
      }
      return [Object.fromEntries(counts), Array.from(app.network.probabilities(app.network.logits(writer.state), 1.5))];
    }""")
    counts, probabilities = drawn[0], np.array(drawn[1][:-1])
    kept = np.flatnonzero(probabilities >= 0.3 * probabilities.max())
    assert {int(token) for token in counts} == set(kept.tolist())
    for token in kept:
        share = probabilities[token] / probabilities[kept].sum()
        assert counts[str(token)] / 2000 == pytest.approx(share, abs=0.06)  # five standard deviations


def test_a_mixture_says_that_its_network_is_shown(open_page: OpenPage) -> None:
    tab = open_page(built("lstm", mixture="true"))
    assert "without the counts" in tab.locator("main > .notice").inner_text()


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_any_text_is_shown_as_text(text: str, open_page: OpenPage) -> None:
    tab = read_through(open_page(built("lstm", text=text)))
    for view in ("surprise", "units", "unrolled"):
        shown(tab, view)
        for _ in range(3):
            tab.keyboard.press("ArrowLeft")
    spans = tab.locator("#surprise .text span").all_text_contents()
    assert len(spans) == len(text)
    displaced = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\u200f\ufeff\ufffe\U0010ffff]")
    for one, character in zip(spans, text, strict=True):
        assert one == character or displaced.match(character) or one in "␣⇥"
        assert not displaced.match(one)
    assert tab.title() == "lstm"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_keeps_its_contrast_on_every_colour_of_both_schemes(scheme: Any, open_page: OpenPage) -> None:
    tab = read_through(open_page(built("lstm"), color_scheme=scheme))
    mine = tab.evaluate("""() => {
      const box = document.body.appendChild(document.createElement('i'));
      const rgb = (colour) => {
        box.style.color = colour;
        return getComputedStyle(box).color.match(/[\\d.]+/g).map(Number);
      };
      const names = ['red', 'blue', 'surprise'].map((name) => `rgb(var(--${name}-rgb))`);
      return {
        foreground: ['var(--foreground)', ['var(--background)', 'var(--panel)', ...names]].flat().map(rgb),
        muted: ['var(--muted)', 'var(--background)', 'var(--panel)'].map(rgb),
        accent: ['var(--accent)', 'var(--background)', 'var(--panel)'].map(rgb),
        button: ['var(--on-accent)', 'var(--accent)'].map(rgb),
        ...Object.fromEntries([1, 2, 3, 4, 5, 6].map((n) => [n, [`var(--series-${n})`, 'var(--background)'].map(rgb)])),
      };
    }""")
    for name, (text, *backgrounds) in mine.items():
        for background in backgrounds:
            assert contrast(text, background) >= 4.5, (name, background)


def contrast(one: list[float], other: list[float]) -> float:
    """Return the ratio of contrast of two colours (WCAG 2.2)."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[float]) -> float:
    values = [value / 255 for value in colour[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_the_scheme_follows_the_system_until_one_is_chosen(open_page: OpenPage) -> None:
    tab = open_page(built("lstm"), color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = tab.evaluate(background)
    tab.emulate_media(color_scheme="light")
    tab.get_by_role("button", name="Use dark colours").wait_for()
    assert tab.evaluate(background) != dark
    tab.get_by_role("button", name="Use dark colours").click()
    assert tab.evaluate(background) == dark
    for scheme in ("dark", "light"):
        tab.emulate_media(color_scheme=scheme)
        tab.evaluate(FRAMES)
    assert tab.evaluate(background) == dark


def test_digits_typed_into_a_field_show_no_other_view(open_page: OpenPage) -> None:
    tab = read_through(open_page(built("lstm")))
    shown(tab, "write")
    tab.locator("#prime").focus()
    tab.keyboard.type("12 ")
    assert tab.locator("#prime").input_value() == "12 "
    assert tab.get_by_role("tab", selected=True).get_attribute("id") == "tab-write"
