"""Where the bits of a text go, by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from charrnn.inspection import errors, oracles
from charrnn.inspection.errors import Part

TRAINING = "1ab2ac" * 30


def missed(text: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the nats of a model that needs two bits for each character."""
    return np.full(len(text), 2 * math.log(2))


def counts(parts: tuple[Part, ...]) -> dict[str, int]:
    return {part.name: part.characters for part in parts if part.characters}


def test_classes_add_up_to_the_total_exactly() -> None:
    text = "It's 1 大 é.\n" * 77
    nats = np.random.default_rng(1).exponential(1.0, len(text))
    found = errors.analyse(nats, text, None)
    assert sum(part.bits for part in found.classes) == found.bits
    assert found.bits == pytest.approx(nats.sum() / math.log(2), rel=1e-12)
    assert sum(part.characters for part in found.classes) == found.characters == len(text)
    assert sum(part.share for part in found.classes) == pytest.approx(1.0)


def test_each_character_is_of_one_class() -> None:
    text = "It's it, 11 it's 大大\n\n.. $"
    found = errors.analyse(missed(text), text, None)
    assert counts(found.classes) == {
        "newline": 2,
        "space": 5,
        "rare": 3,  # I , $ occur once
        "word start": 2,
        "inside a word": 5,
        "CJK": 2,
        "digit": 2,
        "punctuation": 4,
    }


def test_rare_is_what_the_training_text_has_seldom() -> None:
    found = errors.analyse(missed("aabZ9"), "aabZ9", "ab " * 9 + "a")
    assert counts(found.classes) == {"word start": 1, "inside a word": 1, "rare": 3}


def test_each_oracle_explains_what_those_before_it_left() -> None:
    text = "1ab zqwz zqwz"
    nats = missed(text)
    nats[[0, 3, 8]] = 0.5  # not missed
    found = errors.analyse(nats, text, TRAINING)
    assert [part.name for part in found.oracles] == [*(f"order {n}" for n in range(1, 10)), "copy", "none"]
    assert counts(found.oracles) == {"order 2": 1, "order 3": 1, "copy": 2, "none": 6}  # a, b, then w and z
    assert sum(part.bits for part in found.oracles) == pytest.approx(20.0)
    assert [part.share for part in found.oracles if part.name == "none"] == [pytest.approx(0.6)]


def test_without_a_training_text_a_copy_is_the_only_oracle() -> None:
    found = errors.analyse(missed("abcd abcd"), "abcd abcd", None)
    assert [(part.name, part.characters) for part in found.oracles] == [("copy", 1), ("none", 8)]


def test_a_copy_follows_the_longest_run_where_it_came_last() -> None:
    assert known("xabcd yabce zabcd") == ""  # abc was followed by e, the last time
    assert known("xabcd yabce zabce") == "e"
    assert known("xabcd yabce xabcd") == "cd"  # xab and xabc came once
    assert known("aaaaaa") == "aa"
    assert known("王生見李，王生") == "生"


@pytest.mark.parametrize(("between", "expected"), [(493, "d"), (494, "")])
def test_a_copy_remembers_the_last_500_characters(between: int, expected: str) -> None:
    assert known("abcd" + "".join(chr(0x100 + i) for i in range(between)) + "abcd") == expected


def known(text: str) -> str:
    found = oracles.copied(text, np.ones(len(text), dtype=bool))
    return "".join(character for character, knows in zip(text, found, strict=True) if knows)


def test_of_a_long_training_text_the_end_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "MAX_ON_DEMAND", len(TRAINING))
    read = list[int]()
    found = errors.analyse(missed("1ab99"), "1ab99", "9" * 1000 + TRAINING, progress=read.append)
    assert counts(found.classes)["rare"] == 2
    assert read == [len(TRAINING)] * oracles.ORDERS


def test_fields_are_json() -> None:
    fields = errors.analyse(missed("ab ab"), "ab ab", TRAINING).fields()
    assert json.loads(json.dumps(fields)) == fields
    assert set(fields) == {"characters", "bits", "classes", "oracles"}
    assert fields["classes"][0] == {"class": "space", "characters": 1, "bits": 2.0, "share": 0.2}
    assert set(fields["oracles"][0]) == {"oracle", "characters", "bits", "share"}
