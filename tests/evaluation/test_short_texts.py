"""Many short texts scored in batches: each has the score that it has alone, whatever its batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from charrnn.evaluation import short_texts
from charrnn.models.char_rnn import CharRNN
from charrnn.models.torch_model import TorchModel
from charrnn.scores import Score
from tests.conftest import CELLS
from tests.evaluation.test_scoring import VOCABULARY, by_hand, model, text
from tests.models.test_numpy_model import to_numpy

# of very different lengths, some empty, some of unknown characters, in no order
LINES = ["abc", "", text(300, 1).replace("\n", "a"), "zzz", "cab", "", "d", text(41, 2).replace("\n", "鸟"), "a" * 17]
every_cell = pytest.mark.parametrize(("cell", "activation"), CELLS)


@torch.no_grad()
def by_torch(one: CharRNN, content: str) -> Score:
    """Score a text in a single forward pass."""
    tokens = torch.tensor([[VOCABULARY.boundary_tokens[0], *VOCABULARY.encode(content).tolist()]])
    logits, _ = one.eval()(tokens[:, :-1], one.initial_state(1))
    targets = tokens[0, 1:]
    known = VOCABULARY.known_nats - torch.log_softmax(logits[0].double(), -1)
    known = known.gather(1, targets.clamp(max=len(VOCABULARY) - 1)[:, None])[:, 0]
    nats = torch.where(targets == VOCABULARY.escape, VOCABULARY.escape_nats, known)
    return Score(float(nats.sum()), len(content), int((logits[0].argmax(-1) == targets).sum()))


def assert_agree(scores: list[Score], expected: list[Score], tolerance: float = 1e-9) -> None:
    assert [(score.characters, score.correct) for score in scores] == [
        (score.characters, score.correct) for score in expected
    ]
    np.testing.assert_allclose([score.nats for score in scores], [score.nats for score in expected], rtol=tolerance)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_each_line_is_scored_from_the_initial_state_with_its_newline(cell: str) -> None:
    one = model(cell=cell)
    for line, score in zip(LINES, short_texts.score(TorchModel(one), VOCABULARY, LINES), strict=True):
        assert score.characters == len(line) + 1
        assert score.nats == pytest.approx(by_hand(one, line + "\n"), rel=1e-5)


@every_cell
def test_lines_score_the_same_with_and_without_torch_and_in_a_forward_pass(cell: str, activation: str) -> None:
    one = model(cell=cell, activation=activation).double()
    expected = [by_torch(one, line + "\n") for line in LINES]
    for language_model in (TorchModel(one), to_numpy(one)):
        assert_agree(short_texts.score(language_model, VOCABULARY, LINES), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [("_MAX_BATCH", 1), ("_MAX_BATCH", 2), ("_WINDOW", 1), ("_WINDOW", 7), ("_MAX_CHARACTERS", 9), ("_MAX_FLOATS", 1)],
)
def test_batch_and_window_sizes_do_not_change_scores(name: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model = to_numpy(model().double())
    expected = short_texts.score(language_model, VOCABULARY, LINES)
    monkeypatch.setattr(short_texts, name, value)
    assert_agree(short_texts.score(language_model, VOCABULARY, LINES), expected)
    assert_agree([score for line in LINES for score in short_texts.score(language_model, VOCABULARY, [line])], expected)


def test_texts_in_a_batch_end_where_they_end() -> None:
    one = model(cell="gru").double()
    texts = ["ab\nc", "", "z" * 9, text(300)]  # no newline is added
    tokens = [VOCABULARY.encode(content) for content in texts]
    expected = [by_torch(one, content) if content else Score() for content in texts]
    for language_model in (TorchModel(one), to_numpy(one)):
        assert_agree(short_texts.score_batch(language_model, VOCABULARY, tokens), expected)


def test_no_lines_have_no_scores_and_empty_texts_score_nothing() -> None:
    language_model = to_numpy(model())
    assert short_texts.score(language_model, VOCABULARY, []) == []
    assert short_texts.score_batch(language_model, VOCABULARY, []) == []
    assert short_texts.score_batch(language_model, VOCABULARY, [VOCABULARY.encode("")]) == [Score()]
    assert [score.characters for score in short_texts.score(language_model, VOCABULARY, ["", ""])] == [1, 1]


def test_progress_counts_every_character_once() -> None:
    counts: list[int] = []
    scores = short_texts.score(to_numpy(model()), VOCABULARY, LINES, counts.append)
    assert sum(counts) == sum(score.characters for score in scores) == sum(len(line) + 1 for line in LINES)


def test_lines_of_similar_length_share_a_batch_of_limited_size(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[list[int]] = []
    score_batch = short_texts.score_batch

    def recording(*arguments: Any) -> list[Score]:
        blocks.append([len(tokens) for tokens in arguments[2]])
        return score_batch(*arguments)

    monkeypatch.setattr(short_texts, "score_batch", recording)
    monkeypatch.setattr(short_texts, "_MAX_BATCH", 4)
    monkeypatch.setattr(short_texts, "_MAX_CHARACTERS", 40)
    lengths = (301, 1, 13, 5, 300, 2, 3, 21, 0, 8, 34)
    short_texts.score(to_numpy(model()), VOCABULARY, ["a" * length for length in lengths])
    # with newlines: at most four lines, at most 40 characters if all were the shortest, none much longer than it
    assert blocks == [[1, 2, 3, 4], [6, 9, 14, 22], [35], [301], [302]]
