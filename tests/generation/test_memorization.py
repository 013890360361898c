"""Claims about the longest runs: a plain search finds the same, and the report is in plain words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.cli.sample_output import report
from charrnn.generation import memorization
from charrnn.generation.memorization import Codes, longest_repeated, longest_shared


def codes_of(text: str) -> Codes:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def shared(text: str, samples: list[str]) -> int:
    runs = [sample[at:end] for sample in samples for at in range(len(sample)) for end in range(at + 1, len(sample) + 1)]
    return max((len(run) for run in runs if run in text), default=0)


@given(
    st.text("ab鸟", max_size=60),
    st.lists(st.text("ab鸟z", max_size=25), max_size=3),
    st.sampled_from([1, 5, 1 << 20]),
    st.sampled_from([0, 9, 1 << 22]),
)
def test_the_longest_shared_run_is_as_long_as_a_plain_search_finds(
    text: str, samples: list[str], block: int, max_table: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memorization, "_BLOCK", block)
        patch.setattr(memorization, "_MAX_TABLE", max_table)
        found = longest_shared(codes_of(text), samples)
    assert len(found) == shared(text, samples)
    assert found in text
    assert found == "" or any(found in sample for sample in samples)


@given(st.text("abcdefgh", min_size=20, max_size=200), st.integers(0, 100), st.integers(1, 100))
def test_a_run_inserted_into_noise_is_found(text: str, start: int, length: int) -> None:
    run = text[start : start + length]
    found = longest_shared(codes_of(text).astype(np.uint8), [f"{'x' * 50}{run}{'y' * 50}"])
    assert found == run


@given(st.text("ab", max_size=60))
def test_the_longest_repeated_run_is_as_long_as_a_plain_search_finds(text: str) -> None:
    found = longest_repeated(text)
    lengths = [
        size
        for size in range(1, len(text))
        if len({text[at : at + size] for at in range(len(text) - size + 1)}) < len(text) - size + 1
    ]
    assert len(found) == max(lengths, default=0)
    assert found == "" or text.find(found, text.find(found) + 1) > 0


def test_no_run_extends_from_one_sample_into_the_next() -> None:
    assert longest_shared(codes_of("abcdef"), ["xabc", "defx"]) == "abc"
    assert report(["abab", "ab"], None) == "Longest run repeated within a sample: 2 characters: ab"


def test_a_report_is_one_short_line_for_each_run() -> None:
    text = "0123456789\n" * 10
    copied, repeated = report([text[3:103]], codes_of(text)).splitlines()
    assert copied.startswith("Longest run copied from the training text: 100 characters: 3456789\\n0123456789\\n")
    assert "..." in copied
    assert repeated.startswith("Longest run repeated within a sample: 89 characters: ")
    assert report([""], codes_of(text)).splitlines() == [
        "Longest run copied from the training text: none",
        "Longest run repeated within a sample: none",
    ]
    assert report(["9"], codes_of(text)).splitlines()[0].endswith(": 1 character: 9")
