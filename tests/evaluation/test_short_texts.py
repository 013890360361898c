"""Claims about many short texts: each costs what it costs alone, whoever stands beside it."""

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
from tests.models.test_numpy_model import decoded

# of very different lengths, some empty, some of unknown characters, in no order
LINES = ["abc", "", text(300, 1).replace("\n", "a"), "zzz", "cab", "", "d", text(41, 2).replace("\n", "鸟"), "a" * 17]
every_cell = pytest.mark.parametrize(("cell", "activation"), CELLS)


@torch.no_grad()
def by_torch(one: CharRNN, content: str) -> Score:
    """Score a text in a single plain pass."""
    tokens = torch.tensor([[VOCABULARY.newline, *VOCABULARY.encode(content).tolist()]])
    logits, _ = one.eval()(tokens[:, :-1], one.initial_state(1))
    targets = tokens[0, 1:]
    known = VOCABULARY.known_nats - torch.log_softmax(logits[0].double(), -1)
    known = known.gather(1, targets.clamp(max=len(VOCABULARY) - 1)[:, None])[:, 0]
    costs = torch.where(targets == VOCABULARY.escape, VOCABULARY.escape_nats, known)
    return Score(float(costs.sum()), len(content), int((logits[0].argmax(-1) == targets).sum()))


def agree(scores: list[Score], expected: list[Score], tolerance: float = 1e-9) -> None:
    assert [(score.characters, score.correct) for score in scores] == [
        (score.characters, score.correct) for score in expected
    ]
    np.testing.assert_allclose([score.nats for score in scores], [score.nats for score in expected], rtol=tolerance)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_each_line_is_scored_alone_from_the_start_state_with_its_newline(cell: str) -> None:
    one = model(cell=cell)
    for line, score in zip(LINES, short_texts.score(TorchModel(one), VOCABULARY, LINES), strict=True):
        assert score.characters == len(line) + 1
        assert score.nats == pytest.approx(by_hand(one, line + "\n"), rel=1e-5)


@every_cell
def test_with_and_without_torch_each_line_costs_what_a_plain_pass_says(cell: str, activation: str) -> None:
    one = model(cell=cell, activation=activation).double()
    expected = [by_torch(one, line + "\n") for line in LINES]
    for reader in (TorchModel(one), decoded(one)):
        agree(short_texts.score(reader, VOCABULARY, LINES), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [("_LANES", 1), ("_LANES", 2), ("_WINDOW", 1), ("_WINDOW", 7), ("_CHARACTERS", 9), ("_NUMBERS", 1)],
)
def test_neighbours_and_windows_of_any_size_change_nothing(
    name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = decoded(model().double())
    whole = short_texts.score(reader, VOCABULARY, LINES)
    monkeypatch.setattr(short_texts, name, value)
    agree(short_texts.score(reader, VOCABULARY, LINES), whole)
    agree([score for line in LINES for score in short_texts.score(reader, VOCABULARY, [line])], whole)


def test_texts_side_by_side_end_where_they_end() -> None:
    one = model(cell="gru").double()
    texts = ["ab\nc", "", "z" * 9, text(300)]  # no newline is added
    tokens = [VOCABULARY.encode(content) for content in texts]
    expected = [by_torch(one, content) if content else Score() for content in texts]
    for reader in (TorchModel(one), decoded(one)):
        agree(short_texts.side_by_side(reader, VOCABULARY, tokens), expected)


def test_no_lines_have_no_scores_and_no_characters_cost_nothing() -> None:
    reader = decoded(model())
    assert short_texts.score(reader, VOCABULARY, []) == []
    assert short_texts.side_by_side(reader, VOCABULARY, []) == []
    assert short_texts.side_by_side(reader, VOCABULARY, [VOCABULARY.encode("")]) == [Score()]
    assert [score.characters for score in short_texts.score(reader, VOCABULARY, ["", ""])] == [1, 1]


def test_progress_counts_every_character_once() -> None:
    told: list[int] = []
    scores = short_texts.score(decoded(model()), VOCABULARY, LINES, told.append)
    assert sum(told) == sum(score.characters for score in scores) == sum(len(line) + 1 for line in LINES)


def test_lines_of_like_length_stand_side_by_side_and_never_too_many_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[list[int]] = []
    plain = short_texts.side_by_side

    def watched(*asked: Any) -> list[Score]:
        blocks.append([len(tokens) for tokens in asked[2]])
        return plain(*asked)

    monkeypatch.setattr(short_texts, "side_by_side", watched)
    monkeypatch.setattr(short_texts, "_LANES", 4)
    monkeypatch.setattr(short_texts, "_CHARACTERS", 40)
    lengths = (301, 1, 13, 5, 300, 2, 3, 21, 0, 8, 34)
    short_texts.score(decoded(model()), VOCABULARY, ["a" * length for length in lengths])
    # newline included: four at most, 40 characters of the shortest, none much longer than that one
    assert blocks == [[1, 2, 3, 4], [6, 9, 14, 22], [35], [301], [302]]
