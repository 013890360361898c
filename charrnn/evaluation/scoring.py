"""Score a text: every character once, from the initial state, in a single pass or in parallel segments that agree.
Knows models and tokens, not files. Shapes: N characters, T targets, V vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from charrnn.data.corpus import Tokens
from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation.mixture_scorer import MixtureScorer
from charrnn.evaluation.segments import MIN_WARMUPS, SegmentScorer, segment_count
from charrnn.evaluation.short_texts import Characters
from charrnn.evaluation.window_scorer import WINDOW, WindowScorer, ranks
from charrnn.messages import Progress, no_progress
from charrnn.models import likelihood
from charrnn.models.factory import Causal
from charrnn.models.ngram import Ngram
from charrnn.models.torch_mixture import TorchMixture
from charrnn.scores import Score

WARMUP = 64
_MANY, _FEWEST = 32, 8  # segments


@dataclass(frozen=True)
class Evaluation:
    """A text's score and how it was read: after `memory` characters a state predicts as well as one that has read all
    characters before (None for a single pass); `warmup` is the warm-up for the next evaluation of this model."""

    score: Score
    memory: int | None
    warmup: int
    needs_single_pass: bool = False


@torch.inference_mode()
def evaluate(
    model: Causal | Ngram | TorchMixture,
    vocabulary: Vocabulary,
    tokens: Tokens,
    *,
    exact: bool = False,
    warmup: int = WARMUP,
    boundary: npt.NDArray[np.int64] | None = None,
    each: npt.NDArray[np.float64] | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score N tokens as one text that follows the boundary, by default the vocabulary's. `each` (N), where given, is
    filled with the nats of every character, of which the score is the sum.

    The text is cut into segments that are scored in parallel, each after a warm-up on the `warmup` characters before
    it. Where they do not agree with the states carried across segment boundaries, to within 0.0005 bits per character
    of the whole text as `SegmentScorer.parallel` estimates it, all segments are scored again from these states. If that
    does not converge (some models never forget), or if `exact`, the text is scored in a single pass. A single pass and
    the characters after a segment boundary are computed in full precision; the rest of long segments in bf16, where
    that is faster and the first windows, scored both ways, agree to within another 0.0005 bits. An n-gram model is
    always exact.
    """
    if isinstance(model, Ngram):
        if each is not None:
            each[:] = model.nats_of_each(vocabulary, tokens)
        return Evaluation(model.score(vocabulary, tokens, progress), None, warmup)
    before = vocabulary.boundary_tokens if boundary is None else boundary
    scorer = SegmentScorer(_window_scorer(model, vocabulary, tokens, before, progress), each)
    warmup = max(WARMUP, min(warmup, len(tokens) // (MIN_WARMUPS * _FEWEST)))
    count = segment_count(len(tokens), warmup)
    if exact or count < 2:
        return Evaluation(scorer.single_pass(), None, warmup)
    found = scorer.parallel(count, warmup)
    if found is None:
        return Evaluation(scorer.single_pass(), None, warmup, needs_single_pass=True)
    score, memory = found
    # doubling the warm-up is cheaper than another round, as long as many segments are left
    longer = memory > -(-len(tokens) // count) and segment_count(len(tokens), 2 * warmup) >= min(count, _MANY)
    return Evaluation(score, memory, 2 * warmup if longer else warmup)


@torch.inference_mode()
def characters(
    model: Causal | Ngram | TorchMixture,
    vocabulary: Vocabulary,
    tokens: Tokens,
    progress: Progress = no_progress,
    *,
    top: int | None = None,
) -> Iterator[Characters]:
    """Score N tokens character by character in a single pass; yield blocks of them, in order, with the `top` likeliest
    characters."""
    if isinstance(model, Ngram):
        for predicted, given in model.predicted(vocabulary, tokens):
            found = ranks(torch.from_numpy(predicted), torch.from_numpy(given)).numpy()
            best = likelihood.likeliest(vocabulary, predicted, top) if top else None
            yield Characters(likelihood.target_nats(vocabulary, predicted, given), found, best)
            progress(len(given))
        return
    scorer = _window_scorer(model, vocabulary, tokens, vocabulary.boundary_tokens, progress)
    state = scorer.start()
    for first in range(0, len(tokens), WINDOW):
        positions = np.arange(first, min(first + WINDOW, len(tokens)))[None]
        features, targets, state = scorer.read(positions, state)
        for nats, ranked, logits in scorer.ranked(positions, features, targets):
            best = likelihood.likeliest(vocabulary, logits.cpu().numpy(), top) if top else None
            yield Characters(nats.cpu().double().numpy(), ranked.cpu().numpy(), best)


def _window_scorer(
    model: Causal | TorchMixture,
    vocabulary: Vocabulary,
    tokens: Tokens,
    boundary: npt.NDArray[np.int64],
    progress: Progress,
) -> WindowScorer:
    """Return what scores windows of a text, with the network in evaluation mode."""
    if isinstance(model, TorchMixture):
        model.network.eval()
        return MixtureScorer(model, vocabulary, tokens, boundary, progress)
    return WindowScorer(model.eval(), vocabulary, tokens, boundary, progress)
