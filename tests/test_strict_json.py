"""Claims about JSON: only what every reader understands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from charrnn.strict_json import to_json


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"字": 1.5, "none": None}, '{"字": 1.5, "none": null}'),
        ({"a": float("inf"), "b": [float("nan"), {"c": (-float("inf"), 2)}], "d": "NaN"}, None),
    ],
)
def test_numbers_that_are_not_finite_are_null(value: Any, expected: str | None) -> None:
    written = to_json(value)
    assert written == (expected or '{"a": null, "b": [null, {"c": [null, 2]}], "d": "NaN"}')

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(written, parse_constant=refuse)
