"""Scoring is exact in a single pass, and agrees with it in parallel segments, by character and in bf16."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.config.schema import ModelConfig
from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation import scoring, window_scorer
from charrnn.evaluation.segments import SegmentScorer
from charrnn.evaluation.window_scorer import Bf16Trial, WindowScorer
from charrnn.messages import no_progress
from charrnn.models import ngram
from charrnn.models.char_rnn import CharRNN
from charrnn.models.layers import State

VOCABULARY = Vocabulary.from_text("abc\n" * 20 + "d")


def model(**options: object) -> CharRNN:
    values = {"hidden_size": 5, "num_layers": 2, "embedding_size": 4, "dropout": 0.5, "tie_weights": False} | options
    made = CharRNN(ModelConfig.model_validate(values), len(VOCABULARY))
    made.initialise(torch.Generator().manual_seed(3))
    with torch.no_grad():
        for weights in made.parameters():
            weights.mul_(1.5)  # large enough for context to matter
    return made


def text(length: int, seed: int = 0) -> str:
    drawn = np.random.default_rng(seed).choice(list("abcd\nz"), length, p=[0.3, 0.25, 0.2, 0.1, 0.1, 0.05])
    return "".join(drawn.tolist())


def by_hand(one: CharRNN, content: str) -> float:
    """Sum the nats of a text one character at a time, straight from the definition."""
    state, total, token = one.initial_state(1), 0.0, VOCABULARY.boundary_tokens[0]
    one.eval()
    with torch.no_grad():
        for target in VOCABULARY.encode(content).tolist():
            logits, state = one(torch.tensor([[token]]), state)
            if target == VOCABULARY.escape:
                total += VOCABULARY.escape_nats
            else:
                total += VOCABULARY.known_nats - float(torch.log_softmax(logits[0, 0].double(), -1)[target])
            token = target
    return total


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_single_pass_scores_every_character_once_including_the_first(cell: str) -> None:
    one, content = model(cell=cell), text(700)
    result = scoring.evaluate(one, VOCABULARY, VOCABULARY.encode(content), exact=True)
    assert result.score.characters == 700
    assert result.memory is None
    assert result.score.nats == pytest.approx(by_hand(one, content), rel=1e-6)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_segments_agree_with_a_single_pass(cell: str) -> None:
    one, tokens = model(cell=cell), VOCABULARY.encode(text(9_000))
    exact = scoring.evaluate(one, VOCABULARY, tokens, exact=True)
    parallel = scoring.evaluate(one, VOCABULARY, tokens)
    assert parallel.memory is not None
    assert parallel.score.characters == exact.score.characters == 9_000
    assert abs(parallel.score.bits_per_character - exact.score.bits_per_character) < 0.001
    assert abs(parallel.score.correct - exact.score.correct) <= 9


def accumulator() -> CharRNN:
    """Make a ReLU RNN that sums its inputs forever."""
    one = model(cell="rnn", activation="relu", init="identity", num_layers=1, hidden_size=5)
    with torch.no_grad():
        weight_ih, _, _, _ = one.layers[0].weights()  # type: ignore[operator]
        one.layers[0].initialise("identity", torch.Generator())  # type: ignore[operator]
        drawn = torch.Generator().manual_seed(3)
        weight_ih.copy_(0.02 * torch.rand(weight_ih.shape, generator=drawn))
        one.embedding.copy_(torch.rand(one.embedding.shape, generator=drawn))
    return one


def test_a_model_that_never_forgets_needs_a_single_pass() -> None:
    one, tokens = accumulator(), VOCABULARY.encode(text(9_000))
    result = scoring.evaluate(one, VOCABULARY, tokens)
    assert result.needs_single_pass
    assert result.score == scoring.evaluate(one, VOCABULARY, tokens, exact=True).score


def test_segments_that_disagree_are_scored_again_from_carried_states() -> None:
    # memory fades by a factor 0.97 a step: 64 characters leave a seventh of it, 512 nothing
    one = accumulator()
    with torch.no_grad():
        one.layers[0].weights()[1].mul_(0.97)  # type: ignore[operator]
    tokens = VOCABULARY.encode(text(12_000))
    result = scoring.evaluate(one, VOCABULARY, tokens)
    exact = scoring.evaluate(one, VOCABULARY, tokens, exact=True)
    assert result.memory is not None
    assert result.memory == 3 * scoring.WARMUP + 1091  # plus one whole segment of eleven
    assert result.warmup == scoring.WARMUP  # doubling it would halve the number of segments
    again = scoring.evaluate(one, VOCABULARY, tokens, warmup=8 * scoring.WARMUP)
    assert again.warmup == 12_000 // 128  # eight segments at least
    assert abs(result.score.bits_per_character - exact.score.bits_per_character) < 0.001


def test_the_next_evaluation_of_a_long_text_starts_with_twice_the_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_MANY", 3)
    one = accumulator()
    with torch.no_grad():
        one.layers[0].weights()[1].mul_(0.97)  # type: ignore[operator]
    tokens = VOCABULARY.encode(text(24_000))
    result = scoring.evaluate(one, VOCABULARY, tokens)
    assert result.warmup == 2 * scoring.WARMUP
    again = scoring.evaluate(one, VOCABULARY, tokens, warmup=result.warmup)
    assert again.warmup in {result.warmup, 2 * result.warmup}
    exact = scoring.evaluate(one, VOCABULARY, tokens, exact=True)
    assert abs(again.score.bits_per_character - exact.score.bits_per_character) < 0.001


def test_a_score_of_nan_is_returned_after_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training waits for it before it rolls back."""
    one, sweeps = model(), 0
    with torch.no_grad():
        one.head_bias[0] = math.nan
    sweep = SegmentScorer._sweep

    def counted(self: SegmentScorer, *arguments: Any, **options: Any) -> Any:
        nonlocal sweeps
        sweeps += 1
        return sweep(self, *arguments, **options)

    monkeypatch.setattr(SegmentScorer, "_sweep", counted)
    result = scoring.evaluate(one, VOCABULARY, VOCABULARY.encode(text(9_000)))
    assert math.isnan(result.score.nats)
    assert not result.needs_single_pass
    assert sweeps == 2  # the segments, and what follows their boundaries


@pytest.mark.bf16
def test_bf16_is_given_up_before_segments_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that never forgets keeps rounding errors in its state too."""
    seen: list[bool | None] = []
    sweep = SegmentScorer._sweep

    def recording(self: SegmentScorer, *arguments: Any, **options: Any) -> Any:
        result = sweep(self, *arguments, **options)
        seen.append(self.bf16.accepted)
        return result

    monkeypatch.setattr(window_scorer, "bf16_may_pay", lambda weights: True)
    monkeypatch.setattr(Bf16Trial, "agrees", lambda *arguments: True)
    monkeypatch.setattr(SegmentScorer, "_sweep", recording)
    one, tokens = accumulator(), VOCABULARY.encode(text(60_000))
    result = scoring.evaluate(one, VOCABULARY, tokens)
    assert result.needs_single_pass
    assert seen[0] is True
    assert seen[-1] is False
    assert result.score == scoring.evaluate(one, VOCABULARY, tokens, exact=True).score


@pytest.mark.parametrize(("rows", "least", "blocks"), [(1, 1, 3_000), (7, 1, 434), (7, 50, 70), (100_000, 1, 12)])
def test_the_size_of_logit_blocks_does_not_change_the_score(
    rows: int, least: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are `blocks` of them, in windows of 256."""
    monkeypatch.setattr(window_scorer, "bf16_may_pay", lambda weights: False)  # which depends on timing
    one, tokens = model(), VOCABULARY.encode(text(3_000))
    plain = scoring.evaluate(one, VOCABULARY, tokens)
    nats = np.concatenate([block.nats for block in scoring.characters(one, VOCABULARY, tokens)])
    monkeypatch.setattr(window_scorer, "_LOGITS", rows * len(VOCABULARY))
    monkeypatch.setattr(window_scorer, "_ROWS", least)
    result = scoring.evaluate(one, VOCABULARY, tokens)
    assert result.score.nats == pytest.approx(plain.score.nats, rel=1e-6)
    assert (result.score.characters, result.score.correct) == (plain.score.characters, plain.score.correct)
    assert 0 < plain.score.correct < 3_000
    again = [block.nats for block in scoring.characters(one, VOCABULARY, tokens)]
    assert len(again) == blocks
    np.testing.assert_allclose(np.concatenate(again), nats, atol=1e-5)


def test_nats_of_characters_add_up_to_the_score() -> None:
    one, content = model(), text(700)
    blocks = list(scoring.characters(one, VOCABULARY, VOCABULARY.encode(content)))
    nats = np.concatenate([block.nats for block in blocks])
    ranks = np.concatenate([block.ranks for block in blocks])
    exact = scoring.evaluate(one, VOCABULARY, VOCABULARY.encode(content), exact=True).score
    assert len(nats) == 700
    assert nats.sum() == pytest.approx(exact.nats, rel=1e-6)
    assert (ranks == 1).sum() == exact.correct
    escaped = np.array([character == "z" for character in content])
    assert (ranks[escaped] == len(VOCABULARY) + 1).all()
    assert nats[escaped] == pytest.approx(VOCABULARY.escape_nats, rel=1e-6)


@pytest.mark.parametrize("fading", [0.0, 0.93, 0.97, 1.0])
def test_the_nats_of_every_character_are_those_of_the_score_in_segments_too(fading: float) -> None:
    """Of models that forget at once, and soon, one whose segments are scored again, one that needs a single pass."""
    one, tokens = accumulator(), VOCABULARY.encode(text(12_001))  # the last segment ends beyond the text
    with torch.no_grad():
        one.layers[0].weights()[1].mul_(fading)  # type: ignore[operator]
    each, exact = np.full((2, len(tokens)), np.nan)
    score = scoring.evaluate(one, VOCABULARY, tokens, each=each).score
    single = scoring.evaluate(one, VOCABULARY, tokens, exact=True, each=exact).score
    assert each.sum() == pytest.approx(score.nats, rel=1e-9)
    assert exact.sum() == pytest.approx(single.nats, rel=1e-9)
    by_character = np.concatenate([block.nats for block in scoring.characters(one, VOCABULARY, tokens)])
    np.testing.assert_allclose(exact, by_character, atol=1e-5)
    # segments predict from states that have forgotten what a carried one would remember: nowhere by much
    np.testing.assert_allclose(each, exact, atol=0.02 if fading else 1e-5)
    assert score == scoring.evaluate(one, VOCABULARY, tokens).score


def test_the_nats_of_every_character_of_an_ngram_model_add_up_to_its_score() -> None:
    training = VOCABULARY.encode(text(500, seed=1))
    tokens = VOCABULARY.encode(text(300))
    for one in ngram.grow(training, int(VOCABULARY.boundary_tokens[-1]), len(VOCABULARY)):
        each = np.full(len(tokens), np.nan)
        score = scoring.evaluate(one, VOCABULARY, tokens, each=each).score
        assert each.sum() == pytest.approx(score.nats, rel=1e-12)
        by_character = np.concatenate([block.nats for block in scoring.characters(one, VOCABULARY, tokens)])
        np.testing.assert_allclose(each, by_character, rtol=1e-9)
        assert one.nats(VOCABULARY, tokens) == pytest.approx(score.nats, rel=1e-12)


@pytest.mark.bf16
def test_evaluation_does_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    scoring.evaluate(model(), VOCABULARY, VOCABULARY.encode(text(3_000)))
    assert torch.equal(before, torch.get_rng_state())


def test_a_zero_head_scores_the_logarithm_of_the_vocabulary_size() -> None:
    one = model()
    with torch.no_grad():
        assert one.head is not None
        one.head.zero_()
    score = scoring.evaluate(one, VOCABULARY, VOCABULARY.encode("abcab"), exact=True).score
    expected = math.log2(len(VOCABULARY)) + VOCABULARY.known_nats / math.log(2)
    assert score.bits_per_character == pytest.approx(expected, rel=1e-6)


# Scoring in bf16


READ = WindowScorer.read
SCORE = WindowScorer.score
Positions = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Read = tuple[torch.Tensor, torch.Tensor, State]
Scored = tuple[torch.Tensor, torch.Tensor]


def reads(monkeypatch: pytest.MonkeyPatch, *, fast: bool, exact: bool = False) -> tuple[scoring.Evaluation, list[bool]]:
    """Evaluate 150,000 characters where bf16 is fast or not; return the result, and of each read whether it was in
    bf16."""
    seen: list[bool] = []

    def recording(self: WindowScorer, positions: Positions, state: State, bf16: bool = False) -> Read:
        features, targets, after = READ(self, positions, state, bf16)
        in_full, _, _ = READ(self, positions, state)
        assert torch.equal(features, in_full) != bf16
        seen.append(bf16)
        return features, targets, after

    monkeypatch.setattr(WindowScorer, "read", recording)
    monkeypatch.setattr(window_scorer, "bf16_may_pay", lambda weights: True)
    monkeypatch.setattr(Bf16Trial, "is_faster", lambda self, state: fast)
    return scoring.evaluate(model(), VOCABULARY, VOCABULARY.encode(text(150_000)), exact=exact), seen


@pytest.mark.bf16
def test_most_of_a_long_text_is_scored_in_bf16_where_that_is_fast_and_scores_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact, slowly = reads(monkeypatch, fast=False)
    result, rounded = reads(monkeypatch, fast=True)
    assert not any(slowly)
    assert sum(rounded) > len(rounded) / 2
    assert result.score.nats != exact.score.nats  # it really was in bf16
    assert abs(result.score.bits_per_character - exact.score.bits_per_character) < 0.0005
    # in full precision around segment boundaries: the first windows, and those that are scored again
    assert not any(rounded[:3])
    assert not any(rounded[-1:])


@pytest.mark.bf16
def test_bf16_is_not_used_where_the_first_window_disagrees(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, _ = reads(monkeypatch, fast=False)
    agrees = Bf16Trial.agrees

    def never(self: Bf16Trial, *arguments: Any) -> bool:
        agrees(self, *arguments)
        return False

    monkeypatch.setattr(Bf16Trial, "agrees", never)
    result, rounded = reads(monkeypatch, fast=True)
    assert sum(rounded) == 1  # the trial itself
    assert result == exact


@pytest.mark.parametrize(("off", "windows", "answer"), [(0.0, 1, None), (0.0, 2, False), (0.1, 1, False)])
@pytest.mark.bf16
def test_the_trial_detects_a_disagreement(
    off: float, windows: int, answer: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 scores `off` nats more a character; 2,000 characters are too few to detect less, and the trial ends after an
    eighth of the text."""
    one, tokens = model().eval(), VOCABULARY.encode(text(20_000))

    def worse(self: WindowScorer, features: torch.Tensor, targets: torch.Tensor, bf16: bool) -> Scored:
        nats, correct = SCORE(self, features, targets, bf16)
        return nats + off * bf16, correct

    monkeypatch.setattr(WindowScorer, "score", worse)
    monkeypatch.setattr(window_scorer, "bf16_may_pay", lambda weights: True)
    monkeypatch.setattr(Bf16Trial, "is_faster", lambda self, state: True)
    monkeypatch.setattr(window_scorer, "TOLERANCE", 1e-9 if off == 0.0 else window_scorer.TOLERANCE)
    trial = Bf16Trial(WindowScorer(one, VOCABULARY, tokens, VOCABULARY.boundary_tokens, no_progress))
    positions = np.arange(0, 20_000, 1_000)[:, None] + np.arange(100)
    with torch.inference_mode():
        answers = [trial.agrees(positions, one.initial_state(20), 1_000) for _ in range(windows)]
        assert answers[-1] is answer
        monkeypatch.setattr(window_scorer, "TOLERANCE", 1.0)
        assert trial.agrees(positions, one.initial_state(20), 1_000) is True
        assert trial.agrees(positions, one.initial_state(20), 300) is False  # too few steps are left to gain from it


@pytest.mark.parametrize(("full", "rounded", "faster"), [(2.0, 1.0, True), (1.0, 2.0, False)])
@pytest.mark.bf16
def test_bf16_is_used_only_on_processors_where_it_is_faster(
    full: float, rounded: float, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some have bf16 instructions and are slower with them; the first call in each precision does not count."""
    one = model()
    tokens = VOCABULARY.encode(text(900))
    trial = Bf16Trial(WindowScorer(one, VOCABULARY, tokens, VOCABULARY.boundary_tokens, no_progress))
    now = 0.0
    seen: list[bool] = []

    def slow(self: WindowScorer, features: torch.Tensor, targets: torch.Tensor, bf16: bool) -> Scored:
        nonlocal now
        now += (rounded if bf16 else full) + (9.0 if bf16 and bf16 not in seen else 0.0)
        seen.append(bf16)
        return SCORE(self, features, targets, bf16)

    monkeypatch.setattr(WindowScorer, "score", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    with torch.inference_mode():
        assert trial.is_faster(one.initial_state(7)) is faster
    assert set(seen) == {False, True}


@pytest.mark.bf16
def test_a_single_pass_is_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    _, rounded = reads(monkeypatch, fast=True, exact=True)
    assert not any(rounded)
