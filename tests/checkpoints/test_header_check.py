"""Claims about the check of headers: it knows every field that charrnn writes, and allows what settings allow."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from charrnn.checkpoints import header_check, safetensors_file
from charrnn.checkpoints.model_file import EvaluationRecord
from charrnn.config.schema import Config
from charrnn.data.corpus import CorpusCard
from charrnn.data.duplicates import Repeated
from charrnn.scores import Baselines
from charrnn.training.snapshot import MOMENTS, Position

SECTIONS = {"data": header_check.DATA, "model": header_check.MODEL, "train": header_check.TRAIN}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([10**6, 10**6 + 1, 10**12, 10**12 + 1, 2**63 - 1, 2**63, 10**400]),
    st.sampled_from([0.0, 0.5, 1.0, 1.5, 1e6, 1.1e6, 3.2e8, 3.3e8, 1e308, float("inf"), float("nan"), -0.1]),
    st.sampled_from(
        ["auto", "", "x", "lstm", "gru", "relu", "line", "skip", "adamw", "linear", "bf16", "custom", "own", ".", "a\0"]
    ),
    st.sampled_from([character * count for character in "x." for count in (1_000, 1_001, 65_536, 65_537)]),
    st.sampled_from([["a\0"], ["a", "x" * 1_001], ["x" * 65_536], ["x" * 65_537], ["."], [""]]),
    st.sampled_from([[1.0000005, 0.0000003, 0], [1.0000005, -0.0000003, 0], [0.9999995, 0.0000003, 0], [1, 1e-7, 0]]),
    st.sampled_from([[], ["a.txt"], [0.9, 0.05, 0.05], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0], ["*.py", "*.txt"], [1, 2]]),
)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_checked(section: str) -> None:
    assert SECTIONS[section].keys() == Config.SECTIONS[section].model_fields.keys()


def names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


def test_every_field_of_a_record_is_checked() -> None:
    assert names(Position) == header_check.POSITION.keys()
    assert names(CorpusCard) == {*header_check.CORPUS, "repeated"}
    assert names(Repeated) == header_check.REPEATED.keys()
    assert names(Baselines) == header_check.BASELINES.keys()
    assert names(EvaluationRecord) == {*header_check.RECORD, *header_check.LATER}


def test_the_moments_of_every_optimizer_are_known() -> None:
    assert {name for name in MOMENTS if header_check.TRAIN["optimizer"](name)} == {"adamw", "rmsprop", "sgd"}


@pytest.mark.parametrize(
    ("section", "name"), [(section, name) for section, checks in SECTIONS.items() for name in checks]
)
@given(value=VALUES)
def test_a_setting_is_allowed_in_a_file_exactly_where_it_is_allowed(section: str, name: str, value: Any) -> None:
    """Settings that need another one, and those that must be resolved in a file, are left to other tests."""
    accepts = SECTIONS[section][name]
    try:
        settings = Config.SECTIONS[section].model_validate({name: value}, strict=True)
    except ValidationError as error:
        alone = all(len(item["loc"]) > 0 for item in error.errors())
        lenient = value == "own" or isinstance(value, list)
        assert lenient or not alone or not accepts(value)
        return
    kept = json.loads(settings.model_dump_json())[name]
    if kept != [] and (name, kept) != ("seed", None):
        assert accepts(kept)


def record(path: Path) -> dict[str, Any]:
    """Return charrnn's record in a file."""
    content: dict[str, Any] = safetensors_file.read(path).content
    return content


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config.model.cell", []),
        ("config.model.cell", {}),
        ("config.data.texts", None),
        ("config.train.seed", None),
        ("config.train.batch_size", "auto"),
        ("config.train.batch_size", 10**9),
        ("config.train.patience", "auto"),
        ("vocabulary.seen", 10**17),
        ("vocabulary.unseen", -1),
        ("corpus.training", 10**400),
        ("history.0.step", -1),
        ("history.0.correct", 10**9),
        ("position", {}),
        ("position.warmup", 0),
        ("position.seconds", float("nan")),
        ("baselines.counts", [10**6] * 3),
        ("baselines.validation.order", 11),
        ("baselines.validation.ngram", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_field_out_of_bounds_is_named(trained: Path, key: str, value: Any) -> None:
    content = record(trained / "last.safetensors")
    header_check.check(content)
    owner, names = content, key.split(".")
    for name in names[:-1]:
        owner = owner[int(name) if isinstance(owner, list) else name]
    owner[names[-1]] = value
    with pytest.raises(header_check.Garbled):
        header_check.check(content)
    del owner[names[-1]]
    if names[-1] not in {"unseen"}:
        with pytest.raises(header_check.Garbled):
            header_check.check(content)


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("texts", ["a\0b"], False),
        ("texts", ["x" * 65_536], True),
        ("texts", ["x" * 65_537], False),
        ("encoding", "utf\0", False),
        ("encoding", "x" * 65_537, False),
        ("glob", ["*\0"], False),
        ("glob", ["*.py", "./"], False),
        ("glob", ["x" * 1_000], True),
        ("glob", ["x" * 1_001], False),
        ("split", [1.0000005, 0.0000003, 0.0], False),
        ("split", [0.9999995, 0.0000003, 0.0], True),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_setting_that_no_file_may_have_is_refused(name: str, value: Any, fits: bool) -> None:
    """A run was trained and saved, and its files were called damaged."""
    if fits:
        assert header_check.DATA[name](value)
        assert Config.SECTIONS["data"].model_validate({name: value})
    else:
        with pytest.raises(ValidationError):
            Config.SECTIONS["data"].model_validate({name: value})
