"""Two-sided scoring counts each character once, given all others, in a single pass and in parallel segments."""

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
VOCABULARY = Vocabulary.from_text("aabc\n" * 20 + "d")  # the newline is not token 0


def model(**options: object) -> BidirectionalRNN:
    """Make a float64 model whose weights all matter, those of gap widths too."""
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
            weights.mul_(1.5)  # large enough for context to matter
    return made


def forgetful(**options: object) -> BidirectionalRNN:
    """Make a model that forgets everything after ten characters (five units a layer), so that any warm-up is exact."""
    made = model(cell="rnn", **options)
    with torch.no_grad():
        for name, weights in made.named_parameters():
            if "weight_hh" in name:
                weights.triu_(1)  # each unit receives from later ones only
    return made


def scored(one: BidirectionalRNN, content: str, *, exact: bool = False) -> tuple[scoring.Evaluation, TwoSided]:
    tokens = VOCABULARY.encode(content)
    forward = scoring.evaluate(one, VOCABULARY, tokens, exact=exact)
    return forward, cloze.score(one, VOCABULARY, tokens, forward, exact=exact)


def target_nats(logits: Tensor, target: int) -> float:
    if target == VOCABULARY.escape:
        return VOCABULARY.escape_nats
    return VOCABULARY.known_nats - float(torch.log_softmax(logits, -1)[target])


def read_all(one: BidirectionalRNN, tokens: Sequence[int], *, backwards: bool) -> Tensor:
    """Return the features of a stack (F) after reading tokens one at a time, in the order given."""
    stack = one.backward_stack if backwards else one
    state = stack.initial_state(1)
    for token in tokens:
        features, state = stack.run_layers(one.embed(torch.tensor([[token]])), state)
    return features[0, 0]


@torch.no_grad()
def by_hand(one: BidirectionalRNN, content: str) -> tuple[float, float, int]:
    """Sum the backward and cloze nats of a text, and count correct predictions, straight from the definition.

    For each character, everything before it is read anew, newline first, and so is everything after it."""
    one.eval()
    tokens, newline = VOCABULARY.encode(content).tolist(), VOCABULARY.boundary_tokens[0]
    backward = cloze_nats = 0.0
    correct = 0
    for position, target in enumerate(tokens):
        before = read_all(one, [newline, *tokens[:position]], backwards=False)
        after = read_all(one, [newline, *tokens[position + 1 :][::-1]], backwards=True)
        logits = one.joint_logits(before, after, 1)
        backward += target_nats(one.backward_logits(after), target)
        cloze_nats += target_nats(logits, target)
        correct += int(logits.argmax()) == target
    return backward, cloze_nats, correct


@pytest.mark.parametrize("cell", CELLS)
def test_the_exact_score_equals_reading_both_sides_of_every_character_anew(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloze, "_WINDOW", 2)  # so that 43 characters are read in windows of 8
    one, content = model(cell=cell), text(43)
    assert "z" in content  # unknown characters are scored as escapes
    backward, cloze_nats, correct = by_hand(one, content)
    _, sides = scored(one, content, exact=True)
    assert sides.backward.nats == pytest.approx(backward, rel=1e-12)
    assert sides.cloze.nats == pytest.approx(cloze_nats, rel=1e-12)
    assert sides.backward.characters == sides.cloze.characters == 43
    assert sides.cloze.correct == correct


@pytest.mark.parametrize("options", [{"time_skip": 2, "leak": 0.3}, {"tie_weights": True, "layer_norm": True}], ids=str)
def test_the_exact_score_carries_every_kind_of_state(options: dict[str, object]) -> None:
    one, content = model(cell="lstm", **options), text(17)
    backward, cloze_nats, _ = by_hand(one, content)
    _, sides = scored(one, content, exact=True)
    assert sides.backward.nats == pytest.approx(backward, rel=1e-12)
    assert sides.cloze.nats == pytest.approx(cloze_nats, rel=1e-12)


def test_the_window_size_does_not_change_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    one, content = model(cell="gru"), text(1_300)  # two windows of a single pass
    _, single = scored(one, content, exact=True)
    for size in (2, 100):
        monkeypatch.setattr(cloze, "_WINDOW", size)
        _, windows = scored(one, content, exact=True)
        assert windows.cloze.nats == pytest.approx(single.cloze.nats, rel=1e-12)
        assert windows.cloze.correct == single.cloze.correct


def assert_segments_agree(one: BidirectionalRNN, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content, counts = text(length), []
    score = cloze._ClozeScorer.score

    def recording(self: cloze._ClozeScorer, count: int, before: int, after: int) -> Score:
        counts.append(count)
        return score(self, count, before, after)

    monkeypatch.setattr(cloze._ClozeScorer, "score", recording)
    _, exact = scored(one, content, exact=True)
    forward, parallel = scored(one, content)
    assert forward.memory is not None
    assert counts[0] == 1
    assert counts[1] > 1
    for mine, theirs in ((parallel.backward, exact.backward), (parallel.cloze, exact.cloze)):
        assert mine.characters == theirs.characters == length
        assert abs(mine.bits_per_character - theirs.bits_per_character) < 0.001
        assert abs(mine.correct - theirs.correct) <= 5


@pytest.mark.parametrize("cell", CELLS)
def test_segments_agree_with_a_single_pass(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_segments_agree(model(cell=cell), 9_000, monkeypatch)


@pytest.mark.parametrize("leak", [0.05, 0.15])
def test_segments_of_a_model_that_forgets_slowly_agree_with_a_single_pass(
    leak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors after segment boundaries that `evaluate` corrects with carried states once remained in the cloze score."""
    assert_segments_agree(model(cell="rnn", leak=leak, num_layers=1), 9_000, monkeypatch)


@pytest.mark.parametrize("length", [1, 2, 3, 1_023, 1_024, 1_025, 2_048, 2_049, 3_071, 4_096, 4_097, 5_121])
def test_each_character_counts_once_at_any_length(length: int) -> None:
    """A character that is skipped, counted twice or read after the wrong ones would change the nats."""
    one, content = forgetful(), text(length)
    _, exact = scored(one, content, exact=True)
    _, parallel = scored(one, content)
    for mine, theirs in ((parallel.backward, exact.backward), (parallel.cloze, exact.cloze)):
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


def test_the_cloze_score_needs_a_single_pass_if_one_half_never_forgets() -> None:
    """Segments are used only if both halves agree across their boundaries; else the cloze score is exact."""
    one, content = forgetful(activation="relu"), text(4_500)
    with torch.no_grad():  # backwards it sums its inputs forever
        for layer in one.backward_stack.layers:
            weight_ih, weight_hh, bias_ih, bias_hh = layer.weights()  # type: ignore[operator]
            weight_hh.copy_(torch.eye(5, dtype=torch.float64))
            weight_ih.abs_().mul_(0.01)
            bias_ih.zero_()
            bias_hh.zero_()
        one.embedding.abs_()
    forward, parallel = scored(one, content)
    assert forward.memory is not None
    _, exact = scored(one, content, exact=True)
    assert parallel.cloze == exact.cloze
    assert parallel.backward == exact.backward


def test_escapes_score_what_the_vocabulary_says_and_are_never_correct() -> None:
    one = model()
    _, sides = scored(one, "zz月z", exact=True)
    assert sides.cloze.nats == pytest.approx(4 * VOCABULARY.escape_nats, rel=1e-12)
    assert sides.backward.nats == pytest.approx(4 * VOCABULARY.escape_nats, rel=1e-12)
    assert sides.cloze.correct == sides.backward.correct == 0


def test_a_small_text_scores_what_was_worked_out_by_hand() -> None:
    """Each half sees one neighbour and gives that character 4 times the odds of any other; the joint head adds them up.

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


def test_training_mode_scores_without_dropout_and_does_not_touch_the_global_generator() -> None:
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


def test_progress_counts_every_character_read() -> None:
    one, tokens = model(), VOCABULARY.encode(text(700))
    forward = scoring.evaluate(one, VOCABULARY, tokens, exact=True)
    counts: list[int] = []
    cloze.score(one, VOCABULARY, tokens, forward, exact=True, progress=counts.append)
    assert sum(counts) == 2 * 700
