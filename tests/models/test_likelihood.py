"""The likeliest characters, on five symbols."""

from __future__ import annotations

import math

import numpy as np
import pytest

from charrnn.data.vocabulary import Vocabulary
from charrnn.models.likelihood import all_nats, likeliest

VOCABULARY = Vocabulary("eta\nq", seen=9, novel=1)
LOGITS = np.log(np.array([[0.1, 0.4, 0.2, 0.2, 0.1], [0.2, 0.2, 0.2, 0.2, 0.2], [0.05, 0.1, 0.15, 0.3, 0.4]]))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["t", "e", "q"]),
        (2, ["ta", "et", "q\n"]),
        (4, ["ta\ne", "eta\n", "q\nat"]),
        (9, ["ta\neq", "eta\nq", "q\nate"]),
    ],
)
def test_the_likeliest_come_first_and_of_equals_the_more_frequent(count: int, expected: list[str]) -> None:
    found = likeliest(VOCABULARY, LOGITS, count)
    assert ["".join(character for character, _ in row) for row in found.named(VOCABULARY)] == expected


def test_their_probabilities_leave_the_escape_its_share() -> None:
    found = likeliest(VOCABULARY, LOGITS.astype(np.float32) + 50, 5)
    np.testing.assert_allclose(found.probabilities.sum(1), math.exp(-VOCABULARY.known_nats))
    nats = all_nats(VOCABULARY, LOGITS)
    np.testing.assert_allclose(
        -np.log(found.probabilities), np.take_along_axis(nats, found.tokens, 1), rtol=1e-5, atol=0
    )
