"""Claims about what a page stores: numbers of fp16, and JSON that cannot end its script element."""

from __future__ import annotations

import json
import os
import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from charrnn.checkpoints import model_file
from charrnn.inspection import page
from charrnn.inspection.page import PageModel
from charrnn.models.interface import Floats

FIXTURES = Path(__file__).parent.parent / "fixtures" / "0.1.0"


def unpacked(text: str) -> list[float]:
    """Read packed numbers as the page does."""
    digits = np.array([60 if character == "!" else ord(character) for character in text[1:]]).reshape(-1, 5) - 35
    words = digits @ 85 ** np.arange(4, -1, -1)
    data = words.astype(">u4").tobytes()
    planes = np.frombuffer(zlib.decompress(data[: len(data) - int(text[0])], -15), np.uint8).reshape(2, -1)
    return planes.T.copy().view("<f2").ravel().tolist()  # type: ignore[no-any-return]


def test_numbers_come_back_as_they_were() -> None:
    arrays: dict[str, Floats] = {
        "a": np.array([[0.5, -1.25, 65504.0], [6e-8, -0.0, 0.1]], np.float16),
        "b": np.array([3.0], np.float16),
    }
    assert unpacked(page.packed(arrays)) == [*arrays["a"].ravel().tolist(), 3.0]
    assert unpacked(page.packed({})) == []


def test_a_gradient_of_any_size_has_a_number_of_fp16() -> None:
    gradients = np.array([-np.inf, -1e38, -2.0, np.nan, 3.0, 65505.0, np.inf], np.float32)
    assert page.capped(gradients).tolist() == [-65504.0, -65504.0, -2.0, 0.0, 3.0, 65504.0, 65504.0]


def test_drawn_weights_are_stored_in_less_than_their_bytes() -> None:
    weights = np.random.default_rng(0).normal(0.0, 0.05, (1000, 100)).astype(np.float16)
    assert len(page.packed({"w": weights})) < 1.07 * weights.nbytes  # as text


def test_bytes_as_text_are_digits_to_the_base_of_85() -> None:
    assert page.in_ascii(b"") == "0"
    assert page.in_ascii(b"\xff\xff\xff\xff\0\0\0\x19") == "0u:Y/#####!"  # 25 would be a "<"
    for size in range(1, 9):
        text = page.in_ascii(bytes(range(250, 250 - size, -1)))
        assert text[0] == str(-size % 4)
        assert len(text) == 1 + 5 * -(-size // 4)
    numbers = np.arange(85**2, dtype=">u4")
    assert not {"<", " ", "\n"} & set(page.in_ascii(numbers.tobytes()))


@pytest.mark.parametrize("text", ["</script>", "<!--", "\u2028\u2029", "\ud800", "\r\n\0\x85", "我 😀 \\u003c", '"&'])
def test_json_in_a_page_is_the_same_text_and_ends_nothing(text: str) -> None:
    stored = page.embeddable({text: [text, 1.5, None]})
    assert json.loads(stored) == {text: [text, 1.5, None]}
    assert not re.search("[<\u2028\u2029\ud800-\udfff\0\r\n]", stored)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("lstm", {"num_layers": 2, "hidden_size": 8, "order": None}),
        ("hmm", {"num_layers": 1, "hidden_size": 8, "embedding_size": None}),
        ("ngram", {"num_layers": None, "hidden_size": None, "order": 3}),
    ],
)
def test_a_model_has_the_sizes_that_it_has(kind: str, sizes: dict[str, int | None]) -> None:
    header = model_file.read_header(FIXTURES / kind / "best.safetensors")
    found = page.model_fields(PageModel("name", "what it is", header))
    assert {size: found[size] for size in sizes} == sizes


def test_a_name_that_is_no_utf_8_can_be_written() -> None:
    header = model_file.read_header(FIXTURES / "lstm" / "best.safetensors")
    name = os.fsdecode(b"caf\xe9")
    assert "<title>caf\\udce9</title>" in page.build(name, PageModel(name, name, header)).encode().decode()


def test_what_is_not_finite_is_null() -> None:
    assert page.embeddable({"gradient": [float("nan"), float("inf"), 1.0]}) == '{"gradient": [null, null, 1.0]}'


def test_no_script_or_style_could_end_its_element() -> None:
    for name in page.SCRIPTS:
        assert not re.search("</script|<!--", page.read(f"{name}.js"), re.IGNORECASE), name
    for name in page.STYLES:
        assert "</" not in page.read(f"{name}.css"), name


def test_a_script_is_short_and_strict() -> None:
    for name in page.SCRIPTS:
        lines = page.read(f"{name}.js").splitlines()
        assert lines[0] == "'use strict';", name
        assert len(lines) <= 400, name
