"""Claims about settings files: what is small to write and large to read is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from charrnn.config import loading
from charrnn.errors import MisuseError

DOUBLED = "data: &a0 [x, x]\n" + "".join(f"k{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DOUBLED, r"mine\.yaml: not valid YAML at line 2 \(aliases \(\*name\) are not read; write it out\)"),
        ("model: " + "[" * 5_000 + "]" * 5_000, "more than 8 levels deep"),
        ("model:\n" + "".join("  " * n + "a:\n" for n in range(1, 200)), "more than 8 levels deep"),
        ("model:\n  hidden_size: 3\n  hidden_size: 4\n", r"line 3 \(hidden_size stands there twice\)"),
        ("model:\n  a: 1\n" * 10_000, "it has more than 65,536 bytes"),
        ("model: {[1]: 2}", "not valid YAML at line 1"),
    ],
    ids=["aliases", "lists", "mappings", "twice", "size", "key"],
)
def test_what_no_settings_file_needs_is_refused(here: Path, text: str, message: str) -> None:
    Path("mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(MisuseError, match=message):
        loading.load("mine.yaml")


def test_a_value_on_the_command_line_is_bounded_too() -> None:
    with pytest.raises(MisuseError, match="the value is not valid YAML"):
        loading.load(None, ["data.split=" + "[" * 5_000 + "]" * 5_000])


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("model.time_skip=100000000000000000000", "an integer from 2 to 1,000,000, or null"),
        ("train.l1=1e308", "a number from 0 to 1,000,000"),
        ("train.learning_rate=inf", "a number above 0, at most 1,000,000, or auto"),
        ("train.time=1e300", "a time such as 90s, 10m or 1h30m, or null"),
        ("train.time=999999h", "it must be at most 320,000,000."),
        ("model.num_layers=100000000", "it must be at most 1,000."),
        ("train.epochs=1000000000000000", "it must be at most 1,000,000,000,000."),
    ],
)
def test_extremes_are_refused(setting: str, allowed: str) -> None:
    with pytest.raises(MisuseError, match=allowed):
        loading.load(None, [setting])
