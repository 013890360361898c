"""Claims about scoring: exact, in lanes, by character, and never below the truth."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.callbacks import no_progress
from charrnn.config.schema import ModelConfig
from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation import scoring
from charrnn.models.char_rnn import CharRNN
from charrnn.models.layers import State

VOCABULARY = Vocabulary.of("abc\n" * 20 + "d")


def model(**options: object) -> CharRNN:
    values = {"hidden_size": 5, "num_layers": 2, "embedding_size": 4, "dropout": 0.5, "tie_weights": False} | options
    made = CharRNN(ModelConfig.model_validate(values), len(VOCABULARY))
    made.initialise(torch.Generator().manual_seed(3))
    with torch.no_grad():
        for weights in made.parameters():
            weights.mul_(1.5)  # opinions strong enough for context to matter
    return made


def text(length: int, seed: int = 0) -> str:
    drawn = np.random.default_rng(seed).choice(list("abcd\nz"), length, p=[0.3, 0.25, 0.2, 0.1, 0.1, 0.05])
    return "".join(drawn.tolist())


def by_hand(one: CharRNN, content: str) -> float:
    """Sum the nats of a text, one character after the other, straight from the definition."""
    state, total, token = one.initial_state(1), 0.0, VOCABULARY.newline
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
def test_the_single_pass_scores_every_character_once_the_first_too(cell: str) -> None:
    one, content = model(cell=cell), text(700)
    result = scoring.evaluate(one, VOCABULARY, VOCABULARY.encode(content), exact=True)
    assert result.score.characters == 700
    assert result.memory is None
    assert result.score.nats == pytest.approx(by_hand(one, content), rel=1e-6)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_lanes_agree_with_the_single_pass(cell: str) -> None:
    one, tokens = model(cell=cell), VOCABULARY.encode(text(9_000))
    exact = scoring.evaluate(one, VOCABULARY, tokens, exact=True)
    lanes = scoring.evaluate(one, VOCABULARY, tokens)
    assert lanes.memory is not None
    assert lanes.score.characters == exact.score.characters == 9_000
    assert abs(lanes.score.bits_per_character - exact.score.bits_per_character) < 0.001
    assert abs(lanes.score.correct - exact.score.correct) <= 9


def never_forgetting() -> CharRNN:
    """A ReLU RNN that adds up its input for ever."""
    one = model(cell="rnn", activation="relu", init="identity", num_layers=1, hidden_size=5)
    with torch.no_grad():
        weight_ih, _, _, _ = one.layers[0].weights()  # type: ignore[operator]
        one.layers[0].initialise("identity", torch.Generator())  # type: ignore[operator]
        drawn = torch.Generator().manual_seed(3)
        weight_ih.copy_(0.02 * torch.rand(weight_ih.shape, generator=drawn))
        one.embedding.copy_(torch.rand(one.embedding.shape, generator=drawn))
    return one


def test_a_model_that_never_forgets_is_read_in_a_single_pass() -> None:
    one, tokens = never_forgetting(), VOCABULARY.encode(text(9_000))
    result = scoring.evaluate(one, VOCABULARY, tokens)
    assert result.needs_single_pass
    assert result.score == scoring.evaluate(one, VOCABULARY, tokens, exact=True).score


def test_where_seams_show_lanes_start_from_the_ends_of_those_before_them() -> None:
    # memory fades by a factor 0.97 a step: 64 characters leave a seventh of it, 512 nothing
    one = never_forgetting()
    with torch.no_grad():
        one.layers[0].weights()[1].mul_(0.97)  # type: ignore[operator]
    tokens = VOCABULARY.encode(text(12_000))
    result = scoring.evaluate(one, VOCABULARY, tokens)
    exact = scoring.evaluate(one, VOCABULARY, tokens, exact=True)
    assert result.memory is not None
    assert result.memory == 3 * scoring.WARMUP + 1091  # a whole lane more, of eleven
    assert result.warmup == scoring.WARMUP  # with twice as much there would be half as many lanes
    again = scoring.evaluate(one, VOCABULARY, tokens, warmup=8 * scoring.WARMUP)
    assert again.warmup == 12_000 // 128  # there are eight lanes at least
    assert abs(result.score.bits_per_character - exact.score.bits_per_character) < 0.001


def test_a_long_text_is_begun_with_twice_the_warmup_another_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_MANY", 3)
    one = never_forgetting()
    with torch.no_grad():
        one.layers[0].weights()[1].mul_(0.97)  # type: ignore[operator]
    tokens = VOCABULARY.encode(text(24_000))
    result = scoring.evaluate(one, VOCABULARY, tokens)
    assert result.warmup == 2 * scoring.WARMUP
    again = scoring.evaluate(one, VOCABULARY, tokens, warmup=result.warmup)
    assert again.warmup in {result.warmup, 2 * result.warmup}
    exact = scoring.evaluate(one, VOCABULARY, tokens, exact=True)
    assert abs(again.score.bits_per_character - exact.score.bits_per_character) < 0.001


def test_a_score_that_is_no_number_is_given_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training waits for it, and then goes back."""
    one, sweeps = model(), 0
    with torch.no_grad():
        one.head_bias[0] = math.nan
    sweep = scoring._Scorer._sweep

    def counted(self: scoring._Scorer, *arguments: Any, **options: Any) -> Any:
        nonlocal sweeps
        sweeps += 1
        return sweep(self, *arguments, **options)

    monkeypatch.setattr(scoring._Scorer, "_sweep", counted)
    result = scoring.evaluate(one, VOCABULARY, VOCABULARY.encode(text(9_000)))
    assert math.isnan(result.score.nats)
    assert not result.needs_single_pass
    assert sweeps == 2  # the lanes, and what follows their seams


@pytest.mark.bf16
def test_bf16_is_given_up_before_the_lanes_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that never forgets keeps what rounding did to its state as well."""
    seen: list[bool | None] = []
    sweep = scoring._Scorer._sweep

    def watched(self: scoring._Scorer, *arguments: Any, **options: Any) -> Any:
        done = sweep(self, *arguments, **options)
        seen.append(self.bf16_will_do)
        return done

    monkeypatch.setattr(scoring, "bf16_may_pay", lambda weights: True)
    monkeypatch.setattr(scoring._Scorer, "_agrees", lambda *arguments: True)
    monkeypatch.setattr(scoring._Scorer, "_sweep", watched)
    one, tokens = never_forgetting(), VOCABULARY.encode(text(60_000))
    result = scoring.evaluate(one, VOCABULARY, tokens)
    assert result.needs_single_pass
    assert seen[0] is True
    assert seen[-1] is False
    assert result.score == scoring.evaluate(one, VOCABULARY, tokens, exact=True).score


@pytest.mark.parametrize(("rows", "least", "blocks"), [(1, 1, 3_000), (7, 1, 434), (7, 50, 70), (100_000, 1, 12)])
def test_so_many_logits_at_a_time_as_a_cache_holds_score_the_same(
    rows: int, least: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`blocks` of them, in windows of 256."""
    monkeypatch.setattr(scoring, "bf16_may_pay", lambda weights: False)  # the clock would have a say in it
    one, tokens = model(), VOCABULARY.encode(text(3_000))
    plain = scoring.evaluate(one, VOCABULARY, tokens)
    costs = np.concatenate([block.nats for block in scoring.characters(one, VOCABULARY, tokens)])
    monkeypatch.setattr(scoring, "_LOGITS", rows * len(VOCABULARY))
    monkeypatch.setattr(scoring, "_ROWS", least)
    result = scoring.evaluate(one, VOCABULARY, tokens)
    assert result.score.nats == pytest.approx(plain.score.nats, rel=1e-6)
    assert (result.score.characters, result.score.correct) == (plain.score.characters, plain.score.correct)
    assert 0 < plain.score.correct < 3_000
    again = [block.nats for block in scoring.characters(one, VOCABULARY, tokens)]
    assert len(again) == blocks
    np.testing.assert_allclose(np.concatenate(again), costs, atol=1e-5)


def test_characters_add_up_to_the_text() -> None:
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


@pytest.mark.bf16
def test_evaluation_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    scoring.evaluate(model(), VOCABULARY, VOCABULARY.encode(text(3_000)))
    assert torch.equal(before, torch.get_rng_state())


def test_an_untrained_head_costs_the_logarithm_of_the_vocabulary() -> None:
    one = model()
    with torch.no_grad():
        assert one.head is not None
        one.head.zero_()
    score = scoring.evaluate(one, VOCABULARY, VOCABULARY.encode("abcab"), exact=True).score
    expected = math.log2(len(VOCABULARY)) + VOCABULARY.known_nats / math.log(2)
    assert score.bits_per_character == pytest.approx(expected, rel=1e-6)


# Rounded products


READ = scoring._Scorer.read
Places = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Read = tuple[torch.Tensor, torch.Tensor, State]
Priced = tuple[torch.Tensor, torch.Tensor]


def reads(monkeypatch: pytest.MonkeyPatch, *, fast: bool, exact: bool = False) -> tuple[scoring.Evaluation, list[bool]]:
    """Evaluate 150,000 characters where bf16 is fast, or is not; gives the result, and of each read whether it was
    rounded."""
    seen: list[bool] = []

    def watched(self: scoring._Scorer, places: Places, state: State, rounded: bool = False) -> Read:
        features, targets, after = READ(self, places, state, rounded)
        in_full, _, _ = READ(self, places, state)
        assert torch.equal(features, in_full) != rounded
        seen.append(rounded)
        return features, targets, after

    monkeypatch.setattr(scoring._Scorer, "read", watched)
    monkeypatch.setattr(scoring, "bf16_may_pay", lambda weights: True)
    monkeypatch.setattr(scoring._Scorer, "_gains", lambda self, state: fast)
    return scoring.evaluate(model(), VOCABULARY, VOCABULARY.encode(text(150_000)), exact=exact), seen


@pytest.mark.bf16
def test_where_bf16_is_fast_most_of_a_long_text_is_read_so_and_the_score_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact, slowly = reads(monkeypatch, fast=False)
    result, rounded = reads(monkeypatch, fast=True)
    assert not any(slowly)
    assert sum(rounded) > len(rounded) / 2
    assert result.score.nats != exact.score.nats  # it really was another way
    assert abs(result.score.bits_per_character - exact.score.bits_per_character) < 0.0005
    # around the seams all is read in full: the first windows of lanes, and what is read twice after them
    assert not any(rounded[:3])
    assert not any(rounded[-1:])


@pytest.mark.bf16
def test_where_the_first_window_disagrees_all_is_read_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, _ = reads(monkeypatch, fast=False)
    agrees = scoring._Scorer._agrees

    def never(self: scoring._Scorer, *arguments: Any) -> bool:
        agrees(self, *arguments)
        return False

    monkeypatch.setattr(scoring._Scorer, "_agrees", never)
    result, rounded = reads(monkeypatch, fast=True)
    assert sum(rounded) == 1  # the trial itself
    assert result == exact


@pytest.mark.parametrize(("off", "windows", "answer"), [(0.0, 1, None), (0.0, 2, False), (0.1, 1, False)])
@pytest.mark.bf16
def test_a_disagreement_is_seen(off: float, windows: int, answer: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`off` is how much dearer reading in bf16 is; 2,000 characters are too few to tell less, and an eighth of the text
    is all that is tried."""
    one, tokens = model().eval(), VOCABULARY.encode(text(20_000))

    predicted_nats = scoring._Scorer.predicted_nats

    def dearer(self: scoring._Scorer, features: torch.Tensor, targets: torch.Tensor, rounded: bool) -> Priced:
        costs, correct = predicted_nats(self, features, targets, rounded)
        return costs + off * rounded, correct

    monkeypatch.setattr(scoring._Scorer, "predicted_nats", dearer)
    monkeypatch.setattr(scoring, "bf16_may_pay", lambda weights: True)
    monkeypatch.setattr(scoring._Scorer, "_gains", lambda self, state: True)
    monkeypatch.setattr(scoring, "_TOLERANCE", 1e-9 if off == 0.0 else scoring._TOLERANCE)
    reader = scoring._Scorer(one, VOCABULARY, tokens, no_progress)
    places = np.arange(0, 20_000, 1_000)[:, None] + np.arange(100)
    with torch.inference_mode():
        answers = [reader._agrees(places, one.initial_state(20), 1_000) for _ in range(windows)]
        assert answers[-1] is answer
        monkeypatch.setattr(scoring, "_TOLERANCE", 1.0)
        assert reader._agrees(places, one.initial_state(20), 1_000) is True
        assert reader._agrees(places, one.initial_state(20), 300) is False  # too little is left to gain by it


@pytest.mark.parametrize(("full", "rounded", "gains"), [(2.0, 1.0, True), (1.0, 2.0, False)])
@pytest.mark.bf16
def test_bf16_is_for_processors_that_are_faster_by_it(
    full: float, rounded: float, gains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some have instructions for it and are slower by them; what the first call of a kind takes does not count."""
    one = model()
    reader = scoring._Scorer(one, VOCABULARY, VOCABULARY.encode(text(900)), no_progress)
    predicted_nats, now = scoring._Scorer.predicted_nats, 0.0
    seen: list[bool] = []

    def taking(self: scoring._Scorer, features: torch.Tensor, targets: torch.Tensor, in_bf16: bool) -> Priced:
        nonlocal now
        now += (rounded if in_bf16 else full) + (9.0 if in_bf16 and in_bf16 not in seen else 0.0)
        seen.append(in_bf16)
        return predicted_nats(self, features, targets, in_bf16)

    monkeypatch.setattr(scoring._Scorer, "predicted_nats", taking)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    with torch.inference_mode():
        assert reader._gains(one.initial_state(7)) is gains
    assert set(seen) == {False, True}


@pytest.mark.bf16
def test_a_single_pass_is_never_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    _, rounded = reads(monkeypatch, fast=True, exact=True)
    assert not any(rounded)
