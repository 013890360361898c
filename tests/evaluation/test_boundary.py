"""Every score of a text, and all that is written, starts after the boundary of documents, fed to zeros."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from charrnn.evaluation import cloze, dynamic, scoring, short_texts
from charrnn.generation import beam_search, infill
from charrnn.generation.infill import Gapped
from charrnn.generation.primes import ReadPrimes
from charrnn.inspection.states import read_states
from charrnn.models import likelihood, ngram
from charrnn.models.interface import LanguageModel
from charrnn.models.torch_model import TorchModel
from charrnn.scores import NATS_PER_BIT
from tests.conftest import close
from tests.evaluation.test_cloze import VOCABULARY as NEWLINE
from tests.evaluation.test_cloze import model, read_all
from tests.evaluation.test_scoring import model as causal
from tests.evaluation.test_scoring import text
from tests.models.test_numpy_model import to_numpy

VOCABULARY = replace(NEWLINE, boundary="\nba")  # no palindrome: backwards it is a, b, newline
CONTENT = text(57)
TOKENS = VOCABULARY.encode(CONTENT)
BIDIRECTIONAL = model().eval()
CAUSAL = causal().double().eval()
COUNTS = [*ngram.grow(NEWLINE.encode(text(500, 2)), int(NEWLINE.boundary_tokens[0]), len(NEWLINE))][3]


def one_by_one(one: LanguageModel, tokens: list[int]) -> float:
    """Sum the nats of tokens after the boundary, read one at a time from the initial state."""
    state, total = one.initial_state(1), 0.0
    for token in VOCABULARY.encode("\nba").tolist():
        logits, state = one.step(np.array([[token]]), state)
    for token in tokens:
        total += float(likelihood.target_nats(VOCABULARY, logits, np.array([token]))[0])
        logits, state = one.step(np.array([[token]]), state)
    return total


EXPECTED = one_by_one(to_numpy(CAUSAL), TOKENS.tolist())


def test_it_matters() -> None:
    assert abs(EXPECTED - short_texts.score_batch(to_numpy(CAUSAL), NEWLINE, [TOKENS])[0].nats) > 0.01


@pytest.mark.parametrize("exact", [True, False])
def test_a_text_is_scored_after_it(exact: bool) -> None:
    close(scoring.evaluate(CAUSAL, VOCABULARY, TOKENS, exact=exact).score.nats, EXPECTED)
    close(sum(block.nats.sum() for block in scoring.characters(CAUSAL, VOCABULARY, TOKENS)), EXPECTED)
    for one in (to_numpy(CAUSAL), TorchModel(CAUSAL)):
        close(short_texts.score_batch(one, VOCABULARY, [TOKENS, TOKENS[:3]])[0].nats, EXPECTED)
        close(short_texts.character_nats(one, VOCABULARY, TOKENS).sum(), EXPECTED)


def test_segments_agree_with_a_single_pass_after_it() -> None:
    tokens = VOCABULARY.encode(text(9_000))
    parallel = scoring.evaluate(CAUSAL, VOCABULARY, tokens)
    assert parallel.memory is not None
    exact = scoring.evaluate(CAUSAL, VOCABULARY, tokens, exact=True)
    assert abs(parallel.score.bits_per_character - exact.score.bits_per_character) < 0.001
    close(parallel.score.nats / NATS_PER_BIT / 9_000, exact.score.bits_per_character, 1e-3)


def test_an_ngram_model_scores_after_it() -> None:
    expected = one_by_one(COUNTS, TOKENS.tolist())
    close(COUNTS.score(VOCABULARY, TOKENS).nats, expected)
    close(COUNTS.nats(VOCABULARY, TOKENS), expected)
    close(short_texts.score_batch(COUNTS, VOCABULARY, [TOKENS])[0].nats, expected)
    assert abs(expected - COUNTS.score(NEWLINE, TOKENS).nats) > 0.01


@torch.no_grad()
def test_the_backward_half_starts_after_it_reversed() -> None:
    before, after = (VOCABULARY.encode(VOCABULARY.boundary[::step]).tolist() for step in (1, -1))
    known, backward, joint = TOKENS.tolist(), 0.0, 0.0

    def nats(logits: torch.Tensor, target: int) -> float:
        return float(likelihood.target_nats(VOCABULARY, logits.numpy()[None], np.array([target]))[0])

    for position, target in enumerate(known):
        left = read_all(BIDIRECTIONAL, [*before, *known[:position]], backwards=False)
        right = read_all(BIDIRECTIONAL, [*after, *known[position + 1 :][::-1]], backwards=True)
        backward += nats(BIDIRECTIONAL.backward_logits(right), target)
        joint += nats(BIDIRECTIONAL.joint_logits(left, right, 1), target)
    forward = scoring.evaluate(BIDIRECTIONAL, VOCABULARY, TOKENS, exact=True)
    found = cloze.score(BIDIRECTIONAL, VOCABULARY, TOKENS, forward, exact=True)
    close(found.backward.nats, backward)
    close(found.cloze.nats, joint)


def test_states_are_those_after_it() -> None:
    found = read_states(to_numpy(BIDIRECTIONAL), TOKENS.astype(np.int64), VOCABULARY.boundary_tokens)
    whole = read_states(
        to_numpy(BIDIRECTIONAL), VOCABULARY.encode("ba" + CONTENT).astype(np.int64), VOCABULARY.boundary_tokens[:1]
    )
    close(found.hidden, whole.hidden[2:])
    assert found.backward is not None
    back = read_states(
        to_numpy(BIDIRECTIONAL), VOCABULARY.encode(CONTENT + "\nb").astype(np.int64), VOCABULARY.boundary_tokens[2:]
    )
    assert back.backward is not None
    close(found.backward.hidden, back.backward.hidden[:-2])


def test_dynamic_evaluation_scores_its_first_segment_as_without_it() -> None:
    nats = next(dynamic.DynamicEvaluator.of(CAUSAL, VOCABULARY).characters(TOKENS)).nats
    close(nats, short_texts.character_nats(to_numpy(CAUSAL), VOCABULARY, TOKENS)[: len(nats)])
    _, score = dynamic.adapt(CAUSAL, VOCABULARY, TOKENS[: dynamic.SEGMENT], dynamic.UpdateRule())
    close(score.nats, nats.sum(), 1e-9)


def test_what_is_written_follows_it() -> None:
    one = to_numpy(CAUSAL)
    read = ReadPrimes(one, VOCABULARY, ["", "ab"])
    state = one.initial_state(1)
    for token in VOCABULARY.encode("\nbaab").tolist():
        logits, state = one.step(np.array([[token]]), state)
    close(read.logits[1], logits[0])
    (best, *_) = beam_search.search(one, VOCABULARY, "", 5, 50)
    close(best.nats, short_texts.score_batch(one, VOCABULARY, [VOCABULARY.encode(best.text)])[0].nats)
    (filled, *_) = infill.fill(one, VOCABULARY, Gapped.parse("__ab"))
    close(filled.nats, short_texts.score_batch(one, VOCABULARY, [VOCABULARY.encode(filled.text)])[0].nats)
