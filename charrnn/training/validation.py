"""The scores of a network on the validation split: forwards, mixed with counts, and given both sides."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from charrnn.checkpoints.model_file import EvaluationRecord
from charrnn.data.corpus import Tokens
from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation import cloze, scoring
from charrnn.messages import Progress
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.factory import Network
from charrnn.training.mixing import Counts


class Validated(NamedTuple):
    """The evaluations of the network forwards and, if it is bidirectional, of its other heads; and the nats of the
    mixture, if there is one."""

    forward: scoring.Evaluation
    two_sided: cloze.TwoSided | None
    mixture_nats: float | None

    @property
    def finite(self) -> bool:
        """Say whether all scores are."""
        sides = self.two_sided
        return math.isfinite(self.forward.score.nats + (sides.backward.nats + sides.cloze.nats if sides else 0.0))

    def record(self, step: int, epoch: float, seconds: float, training_bits: float | None) -> EvaluationRecord:
        """Record the scores, at a step; `training_bits` are the bits/char of training since the one before."""
        score, sides = self.forward.score, self.two_sided
        return EvaluationRecord(
            step,
            epoch,
            seconds,
            training_bits,
            score.nats,
            score.characters,
            score.correct,
            sides.backward.nats if sides else None,
            sides.cloze.nats if sides else None,
            sides.cloze.correct if sides else None,
            self.mixture_nats,
        )


def validate(
    model: Network,
    vocabulary: Vocabulary,
    tokens: Tokens,
    counts: Counts | None,
    warmups: tuple[int, int],
    progress: Progress,
) -> Validated:
    """Score N tokens, with warm-ups of so many characters forwards and backwards; `counts` choose their weights."""
    each = np.empty(len(tokens))
    forward = scoring.evaluate(model, vocabulary, tokens, warmup=warmups[0], each=each, progress=progress)
    two_sided = None
    if isinstance(model, BidirectionalRNN):
        two_sided = cloze.score(model, vocabulary, tokens, forward, warmup=warmups[1], progress=progress)
    mixture_nats = counts.fit(each) if counts is not None and np.isfinite(each).all() else None
    return Validated(forward, two_sided, mixture_nats)
