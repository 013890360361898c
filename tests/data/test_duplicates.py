"""Held-out documents that also stand in the training split are counted, word for word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config.schema import DataConfig
from charrnn.data import duplicates, splits, spool
from charrnn.data.duplicates import Repeated
from charrnn.data.splits import SPLITS
from tests.data.test_corpus import SEED, Text, documents_of, one, several, split, spooled


def count(text: Text, data: DataConfig) -> dict[str, Repeated]:
    with spooled(text) as source:
        return duplicates.count(source, splits.plan_split(source, data, data.boundary, SEED))


@given(
    st.lists(st.text("ab月\n", max_size=4), min_size=3, max_size=30),
    st.sampled_from(["line", "blank-line", "file"]),
    st.sampled_from([1, 3, 1 << 15]),
    st.sampled_from([4, 1 << 20]),
)
def test_they_are_those_that_a_comparison_of_all_documents_finds(
    contents: list[str], kind: Any, block: int, chunk: int
) -> None:
    text, data = several(*contents, "ab\n\n", kind=kind), DataConfig(split=(0.4, 0.3, 0.3), documents=kind)
    training, *held_out = split(text, data, SEED)
    known = {document.rstrip("\n\0") for document in documents_of(training)}
    expected = {}
    for name, part in zip(SPLITS[1:], held_out, strict=True):
        whole = documents_of(part) if len(part.starts) else []
        stripped = [document.rstrip("\n\0") for document in whole if document.strip("\n\0")]
        if stripped:
            expected[name] = Repeated(len(stripped), sum(document in known for document in stripped))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_BLOCK", block)
        patch.setattr(duplicates, "BLOCK", block)
        patch.setattr(spool, "_CHUNK", chunk)
        assert count(text, data) == expected


def test_a_list_without_duplicates_has_none_and_one_with_each_line_twice_has_many() -> None:
    names = [f"name{number}" for number in range(400)]
    data = DataConfig(documents="line")
    assert {each.repeated for each in count(one("\n".join(names)), data).values()} == {0}
    assert count(one("\n".join(names * 2)), data)["validation"].share > 0.7


def test_empty_lines_are_no_documents_that_repeat() -> None:
    lines = [f"name{number}\n" for number in range(100)]
    assert {each.repeated for each in count(one("\n".join(lines)), DataConfig(documents="line")).values()} == {0}


def test_the_order_of_characters_counts() -> None:
    contents = ["ab", "ba", "aab", "aba", "baa", "ab\n\nab", "abab", "\nab"]
    text = several(*contents, kind="file")
    with spooled(text) as source:
        bounds = splits.find_documents(source, "file", "\0")
        hashes = duplicates.hash_documents(source, bounds)
    assert len(set(hashes.tolist())) == len(contents)


def test_hashes_differ_in_a_million_short_lines() -> None:
    """Seven digits each: a hash of fewer bits would meet itself."""
    text = "\n".join(str(number) for number in range(1_000_000, 2_000_000))
    with spooled(one(text)) as source:
        hashes = duplicates.hash_documents(source, splits.find_documents(source, "line", "\n"))
    assert len(np.unique(hashes)) == 1_000_000


def test_the_advice_counts_each_split_and_leaves_out_few() -> None:
    repeated = {"validation": Repeated(1150, 412), "test": Repeated(1000, 9)}
    assert duplicates.advice(repeated, "line") == (
        "412 of 1,150 validation lines (35.8%) also stand in the training split, word for word, so scores flatter."
        " sort -u removes repeated lines."
    )
    assert duplicates.advice({"test": Repeated(1000, 9)}, "line") is None
    assert str(duplicates.advice({"test": Repeated(10, 9)}, "blank-line")).endswith("Remove repeated pieces.")
