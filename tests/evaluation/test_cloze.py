"""Claims about scoring with both sides given: each character once, by all others, in one pass and in lanes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from charrnn.config.schema import ModelConfig
from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation import cloze, scoring
from charrnn.evaluation.cloze import TwoSided
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.scores import Score
from tests.evaluation.test_scoring import text

CELLS = ("rnn", "gru", "lstm")
VOCABULARY = Vocabulary.of("aabc\n" * 20 + "d")  # the newline is no first token


def model(**options: object) -> BidirectionalRNN:
    """Make a model in float64 with opinions on everything, the widths of gaps too."""
    values = {
        "hidden_size": 5,
        "num_layers": 2,
        "embedding_size": 4,
        "dropout": 0.5,
        "tie_weights": False,
        "bidirectional": True,
    } | options
    made = BidirectionalRNN(ModelConfig.model_validate(values), len(VOCABULARY)).double()
    generator = torch.Generator().manual_seed(3)
    made.initialise(generator)
    with torch.no_grad():
        for name, weights in made.named_parameters():
            if name.startswith(("joint_", "backward_bias")):
                weights.normal_(0.0, 0.5, generator=generator)
            weights.mul_(1.5)  # opinions strong enough for context to matter
    return made


def forgetful(**options: object) -> BidirectionalRNN:
    """Make a model whose memory is over after ten characters, five units a layer: any warm-up is an exact one."""
    made = model(cell="rnn", **options)
    with torch.no_grad():
        for name, weights in made.named_parameters():
            if "weight_hh" in name:
                weights.triu_(1)  # each unit hears of those after it alone
    return made


def scored(one: BidirectionalRNN, content: str, *, exact: bool = False) -> tuple[scoring.Evaluation, TwoSided]:
    tokens = VOCABULARY.encode(content)
    forward = scoring.evaluate(one, VOCABULARY, tokens, exact=exact)
    return forward, cloze.score(one, VOCABULARY, tokens, forward, exact=exact)


def price(logits: Tensor, target: int) -> float:
    if target == VOCABULARY.escape:
        return VOCABULARY.escape_nats
    return VOCABULARY.known_nats - float(torch.log_softmax(logits, -1)[target])


def read_whole(one: BidirectionalRNN, tokens: Sequence[int], *, backwards: bool) -> Tensor:
    """Give what a stack knows (F) after reading all of some tokens, one at a time, in the order given."""
    stack = one.backward_stack if backwards else one
    state = stack.initial_state(1)
    for token in tokens:
        features, state = stack.run_layers(one.embed(torch.tensor([[token]])), state)
    return features[0, 0]


@torch.no_grad()
def by_hand(one: BidirectionalRNN, content: str) -> tuple[float, float, int]:
    """Sum the nats of a text, backward and cloze, and count the right guesses, straight from the definition.

    Each character has a reading of its own of all before it, newline first, and of all after it, newline first."""
    one.eval()
    tokens, newline = VOCABULARY.encode(content).tolist(), VOCABULARY.newline
    backward = between = 0.0
    right = 0
    for place, target in enumerate(tokens):
        before = read_whole(one, [newline, *tokens[:place]], backwards=False)
        after = read_whole(one, [newline, *tokens[place + 1 :][::-1]], backwards=True)
        logits = one.joint_logits(before, after, 1)
        backward += price(one.backward_logits(after), target)
        between += price(logits, target)
        right += int(logits.argmax()) == target
    return backward, between, right


@pytest.mark.parametrize("cell", CELLS)
def test_an_exact_score_is_that_of_reading_both_sides_of_every_character_anew(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloze, "_WINDOW", 2)  # so that 43 characters are read in windows of 8
    one, content = model(cell=cell), text(43)
    assert "z" in content  # escapes are priced as ever
    backward, between, right = by_hand(one, content)
    _, sides = scored(one, content, exact=True)
    assert sides.backward.nats == pytest.approx(backward, rel=1e-12)
    assert sides.cloze.nats == pytest.approx(between, rel=1e-12)
    assert sides.backward.characters == sides.cloze.characters == 43
    assert sides.cloze.correct == right


@pytest.mark.parametrize("options", [{"time_skip": 2, "leak": 0.3}, {"tie_weights": True, "layer_norm": True}], ids=str)
def test_an_exact_score_is_so_for_every_state_that_is_carried(options: dict[str, object]) -> None:
    one, content = model(cell="lstm", **options), text(17)
    backward, between, _ = by_hand(one, content)
    _, sides = scored(one, content, exact=True)
    assert sides.backward.nats == pytest.approx(backward, rel=1e-12)
    assert sides.cloze.nats == pytest.approx(between, rel=1e-12)


def test_windows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one, content = model(cell="gru"), text(1_300)  # two windows of a single pass
    _, whole = scored(one, content, exact=True)
    for size in (2, 100):
        monkeypatch.setattr(cloze, "_WINDOW", size)
        _, windows = scored(one, content, exact=True)
        assert windows.cloze.nats == pytest.approx(whole.cloze.nats, rel=1e-12)
        assert windows.cloze.correct == whole.cloze.correct


def assert_lanes_agree(one: BidirectionalRNN, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content, lanes_read = text(length), []
    read = cloze._BothSides.score

    def watched(self: cloze._BothSides, lanes: int, before: int, after: int) -> Score:
        lanes_read.append(lanes)
        return read(self, lanes, before, after)

    monkeypatch.setattr(cloze._BothSides, "score", watched)
    _, exact = scored(one, content, exact=True)
    forward, lanes = scored(one, content)
    assert forward.memory is not None
    assert lanes_read[0] == 1
    assert lanes_read[1] > 1
    for mine, theirs in ((lanes.backward, exact.backward), (lanes.cloze, exact.cloze)):
        assert mine.characters == theirs.characters == length
        assert abs(mine.bits_per_character - theirs.bits_per_character) < 0.001
        assert abs(mine.correct - theirs.correct) <= 5


@pytest.mark.parametrize("cell", CELLS)
def test_lanes_agree_with_the_single_pass(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_lanes_agree(model(cell=cell), 9_000, monkeypatch)


@pytest.mark.parametrize("leak", [0.05, 0.15])
def test_lanes_of_a_model_that_forgets_slowly_agree_with_the_single_pass(
    leak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seam that `evaluate` corrects over 2 W characters with the state carried across stood in the cloze score."""
    assert_lanes_agree(model(cell="rnn", leak=leak, num_layers=1), 9_000, monkeypatch)


@pytest.mark.parametrize("length", [1, 2, 3, 1_023, 1_024, 1_025, 2_048, 2_049, 3_071, 4_096, 4_097, 5_121])
def test_each_character_counts_once_whatever_the_length(length: int) -> None:
    """A character left out, counted twice or read after the wrong ones would show in the nats."""
    one, content = forgetful(), text(length)
    _, exact = scored(one, content, exact=True)
    _, lanes = scored(one, content)
    for mine, theirs in ((lanes.backward, exact.backward), (lanes.cloze, exact.cloze)):
        assert mine.characters == theirs.characters == length
        assert mine.correct == theirs.correct
        assert mine.nats == pytest.approx(theirs.nats, rel=1e-12)


def test_the_backward_score_is_that_of_the_backward_half_on_the_reversed_text() -> None:
    one, content = model(cell="gru"), text(4_500)
    for exact in (True, False):
        _, sides = scored(one, content, exact=exact)
        reversed_text = VOCABULARY.encode(content[::-1])
        alone = scoring.evaluate(one.backward_half, VOCABULARY, reversed_text, exact=exact)
        assert sides.backward == alone.score
        assert sides.warmup == alone.warmup


def test_half_a_model_that_never_forgets_is_read_in_a_single_pass_as_a_whole() -> None:
    """Lanes are for where both halves agree across seams; the cloze score of such a model is the exact one."""
    one, content = forgetful(activation="relu"), text(4_500)
    with torch.no_grad():  # backwards it adds up its input for ever
        for layer in one.backward_stack.layers:
            weight_ih, weight_hh, bias_ih, bias_hh = layer.weights()  # type: ignore[operator]
            weight_hh.copy_(torch.eye(5, dtype=torch.float64))
            weight_ih.abs_().mul_(0.01)
            bias_ih.zero_()
            bias_hh.zero_()
        one.embedding.abs_()
    forward, lanes = scored(one, content)
    assert forward.memory is not None
    _, exact = scored(one, content, exact=True)
    assert lanes.cloze == exact.cloze
    assert lanes.backward == exact.backward


def test_escapes_cost_what_the_vocabulary_says_and_are_never_right() -> None:
    one = model()
    _, sides = scored(one, "zz月z", exact=True)
    assert sides.cloze.nats == pytest.approx(4 * VOCABULARY.escape_nats, rel=1e-12)
    assert sides.backward.nats == pytest.approx(4 * VOCABULARY.escape_nats, rel=1e-12)
    assert sides.cloze.correct == sides.backward.correct == 0


def test_a_small_text_costs_what_was_worked_out_by_hand() -> None:
    """Each half knows its one neighbour, and gives that character 4 times the odds of any other; both together add up.

    Newline, a, a, b, newline; 5 characters in all. Forwards: 1/8, 4/8, 1/8. Backwards: 4/8, 1/8, 1/8. Between the
    newline and a: 4/11 for a; between a and b: 4/11 for a; between a and the newline: 1/11 for b.
    """
    one = forgetful(activation="relu", num_layers=1, embedding_size=5)
    with torch.no_grad():
        for weights in one.parameters():
            weights.zero_()
        assert one.head is not None
        one.embedding.copy_(torch.eye(5, dtype=torch.float64))
        one.head.copy_(math.log(4) * torch.eye(5, dtype=torch.float64))
        for stack in (one, one.backward_stack):
            stack.layers[0].weights()[0].copy_(torch.eye(5, dtype=torch.float64))  # type: ignore[operator]
        one.joint_trust[0] = 1.0
    forward, sides = scored(one, "aab", exact=True)
    for score, odds in (
        (forward.score, (1 / 8, 4 / 8, 1 / 8)),
        (sides.backward, (4 / 8, 1 / 8, 1 / 8)),
        (sides.cloze, (4 / 11, 4 / 11, 1 / 11)),
    ):
        expected = sum(VOCABULARY.known_nats - math.log(share) for share in odds)
        assert score.nats == pytest.approx(expected, rel=1e-12)


def test_training_mode_scores_without_dropout_and_the_global_generator_is_left_alone() -> None:
    one, content = model(dropout=0.5), text(600)
    before = torch.get_rng_state()
    scores = []
    for training in (True, False):
        one.train(training)
        tokens = VOCABULARY.encode(content)
        forward = scoring.evaluate(one, VOCABULARY, tokens, exact=True)
        one.train(training)
        scores.append(cloze.score(one, VOCABULARY, tokens, forward, exact=True))
    assert scores[0] == scores[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_progress_is_told_of_every_character_read() -> None:
    one, tokens = model(), VOCABULARY.encode(text(700))
    forward = scoring.evaluate(one, VOCABULARY, tokens, exact=True)
    told: list[int] = []
    cloze.score(one, VOCABULARY, tokens, forward, exact=True, progress=told.append)
    assert sum(told) == 2 * 700
