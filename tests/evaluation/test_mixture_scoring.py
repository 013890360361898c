"""A network mixed with an n-gram model is scored as its definition says: exactly, in segments, dynamically, and of a
bidirectional one the forward half."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from charrnn.checkpoints import model_file, safetensors_file
from charrnn.config.schema import ModelConfig
from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation import cloze, dynamic_tuning, scoring, window_scorer
from charrnn.evaluation.dynamic import SEGMENT, DynamicEvaluator, UpdateRule
from charrnn.evaluation.mixture_scorer import MixtureScorer
from charrnn.evaluation.window_scorer import Bf16Trial
from charrnn.messages import no_progress
from charrnn.models import ngram
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.char_rnn import CharRNN
from charrnn.models.factory import Network, make_model
from charrnn.models.interface import start_state
from charrnn.models.ngram import Ngram
from charrnn.models.ngram_mixture import NgramMixture, Weights
from charrnn.models.torch_mixture import TorchMixture
from charrnn.models.torch_model import language_model
from charrnn.scores import NATS_PER_BIT
from tests.conftest import TEXT
from tests.evaluation.test_scoring import VOCABULARY, accumulator, text
from tests.fake_cuda import fake_cuda
from tests.training.test_entropy import SYMBOLS, draw, markov_source

# two orders and three counts that the n-gram model knows apart; with 0 and 1 one part alone
TABLE = np.array([[0.3, 0.9, 0.0], [0.6, 1.0, 0.2]])
Doubles = npt.NDArray[np.float64]


def counts(vocabulary: Vocabulary, content: str, order: int) -> Ngram:
    """Count a text; `order` is that of the model."""
    boundary = vocabulary.boundary_tokens
    models = ngram.grow(
        vocabulary.encode(content), int(boundary[-1]), len(vocabulary), boundary if len(boundary) > 1 else None
    )
    return next(model for model in models if model.order == order)


def network(vocabulary: Vocabulary, **options: object) -> Network:
    values = {"hidden_size": 5, "num_layers": 2, "embedding_size": 4, "dropout": 0.5, "tie_weights": False} | options
    values = {name: values[name] for name in ("cell", "hidden_size")} if options.get("cell") == "hmm" else values
    made = make_model(ModelConfig.model_validate(values), len(vocabulary))
    made.initialise(torch.Generator().manual_seed(3))
    with torch.no_grad():
        for weights in made.parameters():
            weights.mul_(1.5)
    return made


def mixture(order: int = 4, table: Doubles = TABLE, **options: object) -> TorchMixture:
    return TorchMixture(network(VOCABULARY, **options), counts(VOCABULARY, text(2_000, seed=1), order), Weights(table))


def by_hand(mixed: TorchMixture, vocabulary: Vocabulary, content: str) -> tuple[Doubles, npt.NDArray[np.int64]]:
    """Return the nats and the rank of each character, one at a time, straight from the definition."""
    model = language_model(mixed)
    assert isinstance(model, NgramMixture)
    boundary = vocabulary.boundary_tokens
    state: Any = start_state(model, boundary)
    token = boundary[-1]
    nats, ranks = [], []
    for target in vocabulary.encode(content).tolist():
        (log_p,), state = model.step(np.array([[token]]), state)
        assert np.exp(log_p).sum() == pytest.approx(1)
        escaped = target == vocabulary.escape
        nats.append(vocabulary.escape_nats if escaped else vocabulary.known_nats - log_p[target])
        ranks.append(len(vocabulary) + 1 if escaped else 1 + int((log_p > log_p[target]).sum()))
        token = target
    return np.array(nats), np.array(ranks)


def scored(mixed: TorchMixture, vocabulary: Vocabulary, content: str) -> tuple[Doubles, npt.NDArray[np.int64]]:
    """Return the nats and the rank of each character as `scoring.characters` has them."""
    blocks = list(scoring.characters(mixed, vocabulary, vocabulary.encode(content)))
    return np.concatenate([block.nats for block in blocks]), np.concatenate([block.ranks for block in blocks])


def following(mixed: TorchMixture, rule: UpdateRule) -> DynamicEvaluator:
    """Make a dynamic evaluator whose gradients are all taken for equally large."""
    assert isinstance(mixed.network, CharRNN)
    rms = [torch.full_like(weights, 0.1) for weights in mixed.network.parameters()]
    return DynamicEvaluator(mixed.network, VOCABULARY, rms, rule, mixed)


def check(mixed: TorchMixture, vocabulary: Vocabulary, content: str) -> None:
    """Compare all that a single pass says with the definition."""
    expected, expected_ranks = by_hand(mixed, vocabulary, content)
    each = np.full(len(content), np.nan)
    score = scoring.evaluate(mixed, vocabulary, vocabulary.encode(content), exact=True, each=each).score
    nats, ranks = scored(mixed, vocabulary, content)
    for found in (nats, each):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert score.nats == pytest.approx(each.sum(), rel=1e-9)
    np.testing.assert_array_equal(ranks, expected_ranks)
    assert (score.characters, score.correct) == (len(content), (expected_ranks == 1).sum())


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("cell", ["gru", "lstm", "hmm"])
def test_a_mixture_is_scored_as_its_definition_says(cell: str, order: int) -> None:
    mixed = mixture(order, cell=cell)
    check(mixed, VOCABULARY, text(400))  # with escapes
    assert scored(mixed, VOCABULARY, "z")[0] == pytest.approx([VOCABULARY.escape_nats])


@pytest.mark.parametrize("content", ["a", "zb", "ca\n"])
def test_texts_shorter_than_the_order_follow_the_boundary_alone(content: str) -> None:
    check(mixture(6), VOCABULARY, content)


def test_a_text_follows_all_characters_of_a_boundary() -> None:
    vocabulary = Vocabulary.from_text("abc\n%" * 20 + "d", boundary="%\n%")
    documents = "".join(f"{text(17, seed)}%\n%" for seed in range(60))
    counted = counts(vocabulary, documents, 6)
    mixed = TorchMixture(network(vocabulary), counted, Weights(np.array([[0.1], [0.2], [0.3], [0.5], [0.7], [0.9]])))
    check(mixed, vocabulary, text(300, seed=70))
    # of the first character's contexts the longest known is the boundary itself: nothing comes before
    assert by_hand(mixed, vocabulary, "a")[0] != pytest.approx(by_hand(mixed, vocabulary, "%\n%a")[0][-1:], rel=1e-3)


def test_segments_of_a_mixture_agree_with_a_single_pass() -> None:
    mixed, tokens = mixture(), VOCABULARY.encode(text(9_001))
    single, each = np.full((2, len(tokens)), np.nan)
    exact = scoring.evaluate(mixed, VOCABULARY, tokens, exact=True, each=single)
    parallel = scoring.evaluate(mixed, VOCABULARY, tokens, each=each)
    assert parallel.memory is not None
    assert parallel.score.characters == exact.score.characters == 9_001
    assert abs(parallel.score.bits_per_character - exact.score.bits_per_character) < 0.001
    assert abs(parallel.score.correct - exact.score.correct) <= 9
    assert each.sum() == pytest.approx(parallel.score.nats, rel=1e-9)
    np.testing.assert_allclose(each, single, atol=0.01)


def test_weights_of_0_and_1_score_one_part_alone() -> None:
    tokens = VOCABULARY.encode(text(3_000))
    for weight in (0.0, 1.0):
        mixed = mixture(table=np.array([[weight]]))
        part = mixed.ngram if weight else mixed.network
        expected = scoring.evaluate(part, VOCABULARY, tokens, exact=True).score
        found = scoring.evaluate(mixed, VOCABULARY, tokens, exact=True).score
        assert found.nats == pytest.approx(expected.nats, rel=1e-6)
        ranks = np.concatenate([block.ranks for block in scoring.characters(part, VOCABULARY, tokens)])
        assert found.correct == (ranks == 1).sum()  # of equally likely characters an n-gram model's score names one


def test_a_mixture_with_counts_of_a_known_source_comes_near_its_entropy_and_not_below() -> None:
    source = markov_source(5)
    vocabulary = Vocabulary.from_text(SYMBOLS * 100)
    counted = counts(vocabulary, draw(source, 60_000, 1)[0], 4)
    table = np.array([[0.3], [0.6], [0.99]])  # the network knows nothing, so that less would be far above
    content, true_bits = draw(source, 20_000, 2)
    each = np.full(len(content), np.nan)
    mixed = TorchMixture(network(vocabulary), counted, Weights(table))
    scoring.evaluate(mixed, vocabulary, vocabulary.encode(content), each=each)
    # the first character follows one newline for the model but two for the source: it is left out
    difference = (each / NATS_PER_BIT - true_bits)[1:]
    error = difference.std() / math.sqrt(len(difference))
    assert difference.mean() > -3 * error  # below the truth is a leak
    assert difference.mean() < 0.03 * true_bits[1:].mean()


def test_the_agreement_of_segments_judges_the_mixture() -> None:
    """What the network never forgets matters only as far as its predictions have weight."""
    counted, tokens = counts(VOCABULARY, text(2_000, seed=1), 3), VOCABULARY.encode(text(9_000))
    for weight, single in ((0.0, True), (1.0, False)):
        mixed = TorchMixture(accumulator(), counted, Weights(np.array([[weight]])))
        assert scoring.evaluate(mixed, VOCABULARY, tokens).needs_single_pass == single


@pytest.mark.bf16
def test_the_trial_of_bf16_judges_the_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rounding of the network matters where its predictions have no weight."""
    monkeypatch.setattr(window_scorer, "bf16_may_pay", lambda weights: True)
    monkeypatch.setattr(Bf16Trial, "is_faster", lambda self, state: True)
    monkeypatch.setattr(window_scorer, "TOLERANCE", 1e-12)
    tokens, positions = VOCABULARY.encode(text(20_000)), np.arange(0, 20_000, 1_000)[:, None] + np.arange(100)
    for weight, answers in ((0.5, {None, False}), (1.0, {True})):
        mixed = mixture(table=np.array([[weight]]))
        mixed.network.eval()
        trial = Bf16Trial(MixtureScorer(mixed, VOCABULARY, tokens, VOCABULARY.boundary_tokens, no_progress))
        with torch.inference_mode():
            assert trial.agrees(positions, mixed.network.initial_state(20), 1_000) in answers


def test_whole_distributions_are_computed_only_where_the_likeliest_character_is_in_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And no more of them at a time than memory has room for."""
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 3_000)))
    vocabulary = Vocabulary.from_text(characters)
    drawn = np.random.default_rng(0).zipf(1.5, 4_000) % 3_000
    content = "".join(characters[index] for index in drawn.tolist())
    frequencies = np.bincount(vocabulary.encode(content), minlength=len(vocabulary)) + 0.5
    mixed = TorchMixture(network(vocabulary), counts(vocabulary, content[:2_000], 3), Weights(np.array([[0.4]])))
    with torch.no_grad():
        mixed.network.head_bias.copy_(torch.from_numpy(np.log(frequencies)))  # type: ignore[operator]
    rows: list[int] = []
    whole = Ngram.distribution

    def recording(self: Ngram, numbers: npt.NDArray[np.int64]) -> Doubles:
        rows.append(len(numbers))
        return whole(self, numbers)

    monkeypatch.setattr(Ngram, "distribution", recording)
    score = scoring.evaluate(mixed, vocabulary, vocabulary.encode(content), exact=True).score
    assert 0 < sum(rows) < 4_000 / 2
    assert max(rows) * 3_000 <= 1 << 20
    _, ranks = scored(mixed, vocabulary, content)
    assert score.correct == (ranks == 1).sum()
    assert max(rows) * 3_000 <= 1 << 20


def test_a_mixture_scores_the_same_on_a_cuda_device() -> None:
    tokens = VOCABULARY.encode(text(3_000))
    expected = scoring.evaluate(mixture(), VOCABULARY, tokens, exact=True).score
    expected_dynamic = following(mixture(), UpdateRule()).evaluate(tokens[:100])
    _, expected_ranks = scored(mixture(), VOCABULARY, text(300))
    with fake_cuda():
        mixed = mixture()
        mixed = mixed._replace(network=mixed.network.to("cuda"))
        found = scoring.evaluate(mixed, VOCABULARY, tokens, exact=True).score
        _, ranks = scored(mixed, VOCABULARY, text(300))
        dynamic = following(mixed, UpdateRule()).evaluate(tokens[:100])
    assert found.nats == pytest.approx(expected.nats, rel=1e-6)
    assert found.correct == expected.correct
    assert dynamic.nats == pytest.approx(expected_dynamic.nats, rel=1e-5)
    np.testing.assert_array_equal(ranks, expected_ranks)


# Dynamic evaluation


@pytest.mark.parametrize("bidirectional", [False, True])
def test_weights_that_do_not_move_score_the_mixture_as_it_is(bidirectional: bool) -> None:
    mixed, content = mixture(bidirectional=bidirectional), text(170)
    expected, expected_ranks = scored(mixed, VOCABULARY, content)
    still = DynamicEvaluator.of(mixed, VOCABULARY, UpdateRule(0.0, 0.0))
    blocks = list(still.characters(VOCABULARY.encode(content)))
    np.testing.assert_allclose(np.concatenate([block.nats for block in blocks]), expected, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([block.ranks for block in blocks]), expected_ranks)
    assert still.evaluate(VOCABULARY.encode(content)).nats == pytest.approx(expected.sum(), rel=1e-6)


def test_the_network_of_a_mixture_follows_the_text_as_it_does_alone() -> None:
    """So the mixture's score is that of its parts' characters, mixed afterwards."""
    evaluator, tokens = following(mixture(), UpdateRule(0.5, 0.01)), VOCABULARY.encode(text(390))

    def nats(evaluator: DynamicEvaluator) -> Doubles:
        return np.concatenate([block.nats for block in evaluator.characters(tokens)])

    mixed, alone = evaluator.mixture, nats(replace(evaluator, mixture=None))
    assert mixed is not None
    assert np.abs(alone - nats(replace(evaluator, mixture=None, rule=UpdateRule(0.0, 0.0)))).max() > 0.1
    weights = mixed.contexts(tokens, VOCABULARY.boundary_tokens, np.zeros(1, dtype=np.int64), len(tokens)).weights
    p = (1 - weights) * np.exp(-alone) + weights * np.exp(-mixed.ngram.nats_of_each(VOCABULARY, tokens))
    np.testing.assert_allclose(nats(evaluator), -np.log(p), atol=1e-5)


def test_the_rule_of_a_mixture_is_not_that_of_its_network(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_tuning, "_MIN_CHARACTERS", 10)
    path = trained / "best.safetensors"
    header, model = model_file.read_model(path)
    assert isinstance(model, CharRNN)
    mixed = TorchMixture(model, counts(header.vocabulary, TEXT, 3), Weights(np.array([[1.0]])))
    evaluator = DynamicEvaluator.of(mixed, header.vocabulary)
    found = dynamic_tuning.tune(path, header, evaluator, say=lambda message: None)
    # where the network has no weight no rate gains on the default
    assert found == dynamic_tuning.load_rule(path, mixture=True) == UpdateRule()
    assert dynamic_tuning.load_rule(path) is None
    alone = dynamic_tuning.tune(path, header, replace(evaluator, mixture=None), say=lambda message: None)
    assert alone == dynamic_tuning.load_rule(path) != found
    assert dynamic_tuning.load_rule(path, mixture=True) == found, "each has its own, so neither is tuned again"


@pytest.mark.parametrize("mixed", [None, False, True])
def test_a_rule_is_found_where_one_entry_served_mixture_and_network(mixed: bool | None, trained: Path) -> None:
    path = trained / "best.safetensors"
    entry = {"rate": 0.8, "decay": 0.01, "segment": SEGMENT, "sha256": safetensors_file.digest(path)}
    more = {} if mixed is None else {"mixture": mixed}
    (trained / dynamic_tuning.RULE_FILE).write_text(json.dumps({path.name: entry | more}))
    assert dynamic_tuning.load_rule(path, mixture=bool(mixed)) == UpdateRule(0.8, 0.01)
    assert dynamic_tuning.load_rule(path, mixture=not mixed) is None


# Both sides


def test_the_forward_half_of_a_bidirectional_network_is_mixed_and_its_other_heads_score_as_they_do_alone() -> None:
    mixed, content = mixture(bidirectional=True), text(3_000)
    assert isinstance(mixed.network, BidirectionalRNN)
    check(mixed, VOCABULARY, content[:300])
    tokens = VOCABULARY.encode(content)
    forward = scoring.evaluate(mixed, VOCABULARY, tokens)
    assert forward.memory is not None
    found = cloze.score(mixed.network, VOCABULARY, tokens, forward)
    alone = scoring.evaluate(mixed.network, VOCABULARY, tokens, exact=True)
    exact = cloze.score(mixed.network, VOCABULARY, tokens, alone, exact=True)
    for one, other in ((found.backward, exact.backward), (found.cloze, exact.cloze)):
        assert abs(one.bits_per_character - other.bits_per_character) < 0.001
    heads = language_model(mixed).bidirectional_heads
    assert heads is not None
