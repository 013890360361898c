"""Claims about scoring: exact, in lanes, by character, and never below the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from charrnn import evaluate
from charrnn.config import ModelConfig
from charrnn.model import CharRNN
from charrnn.vocabulary import Vocabulary

VOCABULARY = Vocabulary.of("abc\n" * 20 + "d")


def model(**options: object) -> CharRNN:
    values = {"hidden_size": 5, "num_layers": 2, "embedding_size": 4, "dropout": 0.5} | options
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
    state, total, token = one.start_state(1), 0.0, VOCABULARY.newline
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
    result = evaluate.evaluate(one, VOCABULARY, VOCABULARY.encode(content), exact=True)
    assert result.score.characters == 700
    assert result.warmup is None
    assert result.score.nats == pytest.approx(by_hand(one, content), rel=1e-6)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_lanes_agree_with_the_single_pass(cell: str) -> None:
    one, tokens = model(cell=cell), VOCABULARY.encode(text(9_000))
    exact = evaluate.evaluate(one, VOCABULARY, tokens, exact=True)
    lanes = evaluate.evaluate(one, VOCABULARY, tokens)
    assert lanes.warmup is not None
    assert lanes.score.characters == exact.score.characters == 9_000
    assert abs(lanes.score.bits_per_character - exact.score.bits_per_character) < 0.001
    assert abs(lanes.score.correct - exact.score.correct) <= 9


def never_forgetting() -> CharRNN:
    """A ReLU RNN that adds up its input for ever."""
    one = model(cell="rnn", activation="relu", init="identity", num_layers=1, hidden_size=5)
    with torch.no_grad():
        weight_ih, _, _, _ = one.layers[0].weights()  # type: ignore[operator]
        one.layers[0].initialise("identity", torch.Generator())  # type: ignore[operator]
        weight_ih.copy_(0.02 * torch.rand_like(weight_ih))
        one.embedding.copy_(torch.rand_like(one.embedding))
    return one


def test_a_model_that_never_forgets_is_read_in_a_single_pass() -> None:
    one, tokens = never_forgetting(), VOCABULARY.encode(text(9_000))
    result = evaluate.evaluate(one, VOCABULARY, tokens)
    assert result.never_forgets
    assert result.score == evaluate.evaluate(one, VOCABULARY, tokens, exact=True).score


def test_warmup_doubles_until_the_seams_agree() -> None:
    # memory fades by a factor 0.97 a step: 64 characters leave a seventh of it, 512 nothing
    one = never_forgetting()
    with torch.no_grad():
        one.layers[0].weights()[1].mul_(0.97)  # type: ignore[operator]
    tokens = VOCABULARY.encode(text(12_000))
    result = evaluate.evaluate(one, VOCABULARY, tokens)
    exact = evaluate.evaluate(one, VOCABULARY, tokens, exact=True)
    assert result.warmup is not None
    assert result.warmup > evaluate.WARMUP
    assert abs(result.score.bits_per_character - exact.score.bits_per_character) < 0.001


def test_characters_add_up_to_the_text() -> None:
    one, content = model(), text(700)
    blocks = list(evaluate.characters(one, VOCABULARY, VOCABULARY.encode(content)))
    nats = np.concatenate([block.nats for block in blocks])
    ranks = np.concatenate([block.ranks for block in blocks])
    exact = evaluate.evaluate(one, VOCABULARY, VOCABULARY.encode(content), exact=True).score
    assert len(nats) == 700
    assert nats.sum() == pytest.approx(exact.nats, rel=1e-6)
    assert (ranks == 1).sum() == exact.correct
    escaped = np.array([character == "z" for character in content])
    assert (ranks[escaped] == len(VOCABULARY) + 1).all()
    assert nats[escaped] == pytest.approx(VOCABULARY.escape_nats, rel=1e-6)


def test_evaluation_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    evaluate.evaluate(model(), VOCABULARY, VOCABULARY.encode(text(3_000)))
    assert torch.equal(before, torch.get_rng_state())


def test_an_untrained_head_costs_the_logarithm_of_the_vocabulary() -> None:
    one = model()
    with torch.no_grad():
        assert one.head is not None
        one.head.zero_()
    score = evaluate.evaluate(one, VOCABULARY, VOCABULARY.encode("abcab"), exact=True).score
    expected = math.log2(len(VOCABULARY)) + VOCABULARY.known_nats / math.log(2)
    assert score.bits_per_character == pytest.approx(expected, rel=1e-6)
