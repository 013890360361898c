"""Claims about weights of ensembles, and about what can be mixed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.checkpoints import inference, model_file
from charrnn.data.vocabulary import SCALARS, Vocabulary
from charrnn.errors import MisuseError
from charrnn.evaluation import ensemble, scoring, short_texts
from charrnn.models.ngram import Ngram
from tests.conftest import TEXT, close


def nats(*probabilities: list[float]) -> np.ndarray:
    return np.asarray(-np.log(np.array(probabilities)))


def test_the_weights_of_two_models_that_are_each_right_about_some_characters_are_their_shares() -> None:
    close(ensemble.best_weights(nats([1.0, 1.0, 1.0, 1e-30], [1e-30, 1e-30, 1e-30, 1.0])), [0.75, 0.25])


def test_the_weights_solve_the_equation_of_the_likeliest_mixture() -> None:
    # d/dw of log(0.2 + 0.6 w) + log(0.6 - 0.5 w) is 0 where 0.6 (0.6 - 0.5 w) = 0.5 (0.2 + 0.6 w)
    w = 0.26 / 0.6
    close(ensemble.best_weights(nats([0.8, 0.1], [0.2, 0.6])), [w, 1 - w], 1e-3)


def test_a_model_that_is_never_better_gets_no_weight() -> None:
    close(ensemble.best_weights(nats([0.5, 0.4, 0.9], [0.4, 0.3, 0.8])), [1.0, 0.0], 1e-6)


def test_equal_models_and_an_empty_text_are_weighed_equally() -> None:
    close(ensemble.best_weights(nats([0.5, 0.2], [0.5, 0.2], [0.5, 0.2])), [1 / 3] * 3)
    close(ensemble.best_weights(np.empty((2, 0))), [0.5, 0.5])


def test_nats_beyond_all_floats_are_weighed_by_their_differences() -> None:
    close(ensemble.best_weights(np.array([[2000.0, 5000.0], [2003.0, 4990.0]])), [0.475, 0.525], 0.05)


probabilities = st.lists(st.lists(st.floats(0.001, 1), min_size=3, max_size=3), min_size=2, max_size=6)


@given(probabilities, st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_no_other_weights_are_better(rows: list[list[float]], others: list[float]) -> None:
    p = np.array(rows).T  # (K, N)
    best, other = ensemble.best_weights(-np.log(p)), np.array(others) / sum(others)
    assert np.log(best @ p).mean() >= np.log(other @ p).mean() - 1e-7


def opened(runs: dict[str, Path], *kinds: str) -> list[ensemble.Opened]:
    return [inference.load(runs[kind] / "best.safetensors") for kind in kinds]


def test_the_probabilities_of_all_characters_and_the_escape_add_up_to_one(runs: dict[str, Path]) -> None:
    model, vocabulary = ensemble.mixture(opened(runs, "causal", "ngram"), [0.6, 0.4])
    every = [vocabulary.encode("the " + character) for character in vocabulary.characters]
    known = [short_texts.character_nats(model, vocabulary, tokens)[-1] for tokens in every]
    unknown = short_texts.character_nats(model, vocabulary, vocabulary.encode("the 鸟"))[-1]
    total = np.exp(-np.array(known)).sum() + (SCALARS - len(vocabulary)) * np.exp(-unknown)
    close(total, 1.0)


def test_a_text_is_scored_as_by_both_models_character_by_character(runs: dict[str, Path]) -> None:
    models = opened(runs, "causal", "ngram")
    model, vocabulary = ensemble.mixture(models, [0.6, 0.4])
    tokens = vocabulary.encode("the quick 鸟 brown fox\n" * 3)
    blocks = list(ensemble.characters(model, vocabulary, tokens))
    _, network = model_file.read_model(runs["causal"] / "best.safetensors")
    counts = models[1][0]
    assert isinstance(counts, Ngram)
    parts = [
        np.concatenate([block.nats for block in scoring.characters(part, vocabulary, tokens)])
        for part in (network, counts)
    ]
    expected = -np.log(0.6 * np.exp(-parts[0]) + 0.4 * np.exp(-parts[1]))
    close(np.concatenate([block.nats for block in blocks]), expected, 1e-5)
    ranks = np.concatenate([block.ranks for block in blocks])
    assert ranks[10] == len(vocabulary) + 1
    assert ranks[:10].min() >= 1


def test_ranks_are_those_of_the_scorer_of_single_models(runs: dict[str, Path]) -> None:
    ((model, vocabulary),) = opened(runs, "ngram")
    assert isinstance(model, Ngram)
    tokens = vocabulary.encode(TEXT[:200] + "鸟")
    found = np.concatenate([block.ranks for block in ensemble.characters(model, vocabulary, tokens)])
    expected = np.concatenate([block.ranks for block in scoring.characters(model, vocabulary, tokens)])
    assert (found == expected).all()


def test_weights_are_chosen_on_pieces_that_follow_what_stands_before_them(runs: dict[str, Path]) -> None:
    models, nats = opened(runs, "causal", "ngram"), []
    tokens = models[0][1].encode("the fox over the dog " * 25)[:500]  # two pieces, the second after 64 characters
    for model, vocabulary in models:
        pieces = tokens[:250], tokens[250 - 64 :]
        first, second = (short_texts.character_nats(model, vocabulary, piece) for piece in pieces)
        nats.append(np.concatenate((first, second[64:])))
    close(ensemble.choose_weights(models, tokens), ensemble.best_weights(np.stack(nats)), 1e-5)


def test_models_of_the_same_characters_in_another_order_predict_the_same_mixed(runs: dict[str, Path]) -> None:
    (model, vocabulary), (counts, _) = opened(runs, "causal", "ngram")
    turned = replace(vocabulary, characters=vocabulary.characters[::-1])

    tokens = vocabulary.encode("the fox")
    mixture, own = ensemble.mixture([(counts, vocabulary), (model, turned)], [0.0, 1.0])
    found = short_texts.character_nats(mixture, own, tokens)
    close(found, short_texts.character_nats(model, turned, turned.encode("the fox")), 1e-6)


def test_models_of_other_characters_or_boundaries_are_refused_with_a_sentence() -> None:
    first = Vocabulary.from_text("abc\n")
    with pytest.raises(
        MisuseError, match=r"a and b cannot be mixed: their characters differ by 2, and only a knows 'b'"
    ):
        ensemble.check_alike(["a", "b"], [first, Vocabulary.from_text("acd\n")])
    with pytest.raises(MisuseError, match=r"documents of one end with '\\n', of the other with '\\n\\n'"):
        ensemble.check_alike(["a", "b"], [first, Vocabulary.from_text("abc\n", boundary="\n\n")])
    ensemble.check_alike(["a", "b"], [first, Vocabulary.from_text("ccab\n")])


@pytest.mark.parametrize("given", ["", "0.5", "1,2,3", "-1,2", "0,0", "nan,1", "inf,1", "a,b"])
def test_weights_that_are_none_are_refused(given: str) -> None:
    with pytest.raises(MisuseError, match="--weights"):
        ensemble.parse_weights(given, 2)


def test_weights_are_divided_by_their_sum() -> None:
    assert ensemble.parse_weights("3, 1", 2) == [0.75, 0.25]
    assert ensemble.parse_weights("0,2", 2) == [0.0, 1.0]
