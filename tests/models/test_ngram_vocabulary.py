"""An n-gram model may be taken over to a vocabulary that has more characters, in another order."""

from __future__ import annotations

import numpy as np
import pytest

from charrnn.models import ngram
from charrnn.models.interface import Tokens
from charrnn.models.ngram import Ngram
from charrnn.models.ngram_vocabulary import translated

SIZE = 5
MOVED = np.array([6, 2, 7, 0, 3, 8])  # of tokens 0 to 4 and the escape, among eight characters and theirs


def text(length: int, seed: int) -> Tokens:
    """Draw a text that follows itself, with an escape now and then."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(length) < 0.02, SIZE, np.cumsum(rng.integers(0, 3, length)) % SIZE).astype(np.int64)


@pytest.mark.parametrize("pruned", [0.0, 0.05])
def test_the_same_is_predicted_of_the_same_characters(pruned: float) -> None:
    models = list(ngram.grow(text(3000, 0).astype(np.uint8), 0, SIZE))
    model = ngram.prune(models[4], pruned) if pruned else models[4]
    moved = translated(model, MOVED, 8)
    read = text(400, 1)[None]
    before = model.distribution(model.last_grams(read, model.initial_state(1))[0])
    after = moved.distribution(moved.last_grams(MOVED[read], moved.initial_state(1))[0])
    np.testing.assert_allclose(after.sum(1), 1.0)
    # three characters more share what was left to five
    np.testing.assert_allclose(after[:, MOVED[:SIZE]], before, atol=0.015)
    assert (after[:, [1, 4, 5]] > 0.0).all()


def test_tables_of_a_translated_model_are_those_of_a_model() -> None:
    model = ngram.prune(list(ngram.grow(text(3000, 0).astype(np.uint8), 0, SIZE))[4])
    moved = translated(model, MOVED, 8)
    again: Ngram = ngram.from_tables(moved.tables(), moved.order, 8)  # checks them
    numbers = moved.last_grams(MOVED[text(200, 2)][None], moved.initial_state(1))[0]
    np.testing.assert_array_equal(again.distribution(numbers), moved.distribution(numbers))


def test_a_vocabulary_of_the_same_characters_changes_nothing() -> None:
    model = list(ngram.grow(text(2000, 0).astype(np.uint8), 0, SIZE))[3]
    same = translated(model, np.arange(SIZE + 1), SIZE)
    for name, table in model.tables().items():
        np.testing.assert_array_equal(same.tables()[name], table)
