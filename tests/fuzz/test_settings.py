"""Claims about settings of any content: they are valid, or their mistakes are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charrnn.config import loading
from charrnn.config.schema import Config
from charrnn.errors import MisuseError
from charrnn.showable import showable_message

KEYS = [f"{section}.{name}" for section, kind in Config.SECTIONS.items() for name in kind.model_fields]
SCALARS = st.one_of(
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["auto", "null", "true", "no", "1e-3", "1h30", "[1, 2]", "[[[", "{a: b}", "&a *a", "!!python/none"]
    ),
    st.sampled_from(["9" * 5_000, "-1e999", "\x1b[2J", "\u202e", "\ud800", "a\0b", "lstm", "ngram", "hmm", "line"]),
)
TREES = st.recursive(
    SCALARS | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
SECTIONS = st.dictionaries(
    st.sampled_from([*Config.SECTIONS, "training", ""]),
    st.dictionaries(st.sampled_from([key.partition(".")[2] for key in KEYS] + ["lr", "\x07"]), TREES, max_size=4)
    | TREES,
    max_size=4,
)


def valid_or_told(source: str | None, given: list[str]) -> None:
    try:
        config = loading.load(source, given)
    except MisuseError as error:
        message = showable_message(str(error))
        assert message.strip()
        assert len(message.split("\n")) <= 61
        return
    # what is valid can be stored, and is the same when it is read again
    assert loading.from_dict(loading.to_dict(config), "a file") == config


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from([*KEYS, "model", "x.y", "model.", ""]), SCALARS), max_size=4))
def test_settings_on_the_command_line(pairs: list[tuple[str, str]]) -> None:
    valid_or_told(None, [f"{key}={value}" for key, value in pairs])


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=SECTIONS)
def test_settings_in_a_file(here: Path, tree: Any) -> None:
    Path("mine.yaml").write_bytes(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))
    valid_or_told("mine.yaml", [])


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200)
    | st.text(alphabet="model:train \n-[]{}&*!|>'\"#%@`?,\t1", max_size=200).map(str.encode)
)
def test_any_file(here: Path, content: bytes) -> None:
    Path("mine.yaml").write_bytes(content)
    valid_or_told("mine.yaml", [])
