"""Claims about what a page stores: numbers of fp16, and JSON that cannot end its script element."""

from __future__ import annotations

import base64
import json
import re
import zlib

import numpy as np
import pytest

from charrnn.inspection import page
from charrnn.models.interface import Floats


def unpacked(text: str) -> list[float]:
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text), -15), np.uint8).reshape(2, -1)
    return planes.T.copy().view("<f2").ravel().tolist()  # type: ignore[no-any-return]


def test_numbers_come_back_as_they_were() -> None:
    arrays: dict[str, Floats] = {
        "a": np.array([[0.5, -1.25, 65504.0], [6e-8, -0.0, 0.1]], np.float16),
        "b": np.array([3.0], np.float16),
    }
    assert unpacked(page.packed(arrays)) == [*arrays["a"].ravel().tolist(), 3.0]
    assert unpacked(page.packed({})) == []


def test_drawn_weights_are_stored_in_less_than_their_bytes() -> None:
    weights = np.random.default_rng(0).normal(0.0, 0.05, (1000, 100)).astype(np.float16)
    assert len(page.packed({"w": weights})) < 0.85 * len(base64.b64encode(weights.tobytes()))


@pytest.mark.parametrize("text", ["</script>", "<!--", "\u2028\u2029", "\ud800", "\r\n\0\x85", "我 😀 \\u003c", '"&'])
def test_json_in_a_page_is_the_same_text_and_ends_nothing(text: str) -> None:
    stored = page.embeddable({text: [text, 1.5, None]})
    assert json.loads(stored) == {text: [text, 1.5, None]}
    assert not re.search("[<\u2028\u2029\ud800-\udfff\0\r\n]", stored)


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
