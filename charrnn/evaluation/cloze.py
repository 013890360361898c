"""Two-sided scoring: the likelihood of each character given all others, as if it alone were missing (cloze, Taylor
1953). Such scores must not be compared with those of forward models. Knows bidirectional models and tokens, not files.
Shapes: N characters, K segments of n characters, T steps of a window, F features."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charrnn.data.corpus import Tokens
from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation import scoring
from charrnn.evaluation.scoring import WARMUP
from charrnn.evaluation.segments import join, segment_count
from charrnn.messages import Progress, no_progress
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.factory import start_state
from charrnn.models.layers import State
from charrnn.models.losses import target_nats
from charrnn.scores import Score

_WINDOW = 256
_MAX_FLOATS = 1 << 24  # of logits or hidden units at a time: 64 MB


@dataclass(frozen=True)
class TwoSided:
    """Scores of a bidirectional model's other two heads: `backward`, each character given those after it, and `cloze`,
    given all others. `warmup` is the backward warm-up for the next evaluation of this model."""

    backward: Score
    cloze: Score
    warmup: int


def fields(backward: Score, cloze: Score) -> dict[str, float]:
    """Return both scores under their names in JSON."""
    return {
        "cloze_bits_per_character": cloze.bits_per_character,
        "cloze_accuracy": cloze.accuracy,
        "backward_bits_per_character": backward.bits_per_character,
    }


@torch.inference_mode()
def score(
    model: BidirectionalRNN,
    vocabulary: Vocabulary,
    tokens: Tokens,
    forward: scoring.Evaluation,
    *,
    exact: bool = False,
    warmup: int = WARMUP,
    progress: Progress = no_progress,
) -> TwoSided:
    """Score N tokens as one text between two boundaries, given its forward evaluation.

    The backward score is that of `scoring.evaluate` on the reversed text. The cloze score is computed in segments only
    if both halves agreed with a single pass in segments, with warm-ups as long as each half was found to need.
    """
    half = model.backward_half
    after = vocabulary.boundary_tokens[::-1]
    backward = scoring.evaluate(
        half, vocabulary, tokens[::-1], exact=exact, warmup=warmup, boundary=after, progress=progress
    )
    scorer = _ClozeScorer(model, vocabulary, tokens, progress)
    warmups = [found.memory for found in (forward, backward) if found.memory is not None]
    count = min(segment_count(len(tokens), WARMUP), len(tokens) // max(warmups)) if len(warmups) == 2 else 1
    cloze = scorer.score(count, *warmups) if count > 1 else scorer.score(1, 0, 0)
    return TwoSided(backward.score, cloze, backward.warmup)


class _ClozeScorer:
    """Reads windows of one text with both halves of one model. Position p is character p - 1: 0 is the last token of
    the boundary before the text, and after the text stands the first one of the boundary that follows it."""

    def __init__(self, model: BidirectionalRNN, vocabulary: Vocabulary, tokens: Tokens, progress: Progress) -> None:
        self.model, self.vocabulary, self.tokens, self.progress = model.eval(), vocabulary, tokens, progress
        self.size = len(tokens) + 2  # with a token of the boundary at each end
        self.boundary = vocabulary.boundary_tokens

    def score(self, count: int, forward_warmup: int, backward_warmup: int) -> Score:
        """Score each character once, in `count` segments.

        Segments are equally long, and the last ones may overlap a little: no character is scored twice. The backward
        stack runs first and keeps its state at the end of each window; from there the features of a window are computed
        again when the forward stack arrives, so only these states take memory that grows with the text.
        """
        n = -(-len(self.tokens) // count)
        starts = (np.arange(count) * (len(self.tokens) - n) // max(count - 1, 1)).astype(np.int64)
        window = _WINDOW if count > 1 else 4 * _WINDOW
        # as many steps of a window at a time as the joint head has memory for
        steps = max(1, _MAX_FLOATS // (count * max(len(self.vocabulary), 4 * self.model.feature_size)))
        bounds = [*range(0, n, window), n]
        state = self._warm_up_backward(starts + n, backward_warmup)
        states = [state]
        for first, last in zip(bounds[-2:0:-1], bounds[:1:-1], strict=True):
            _, state = self._read_after(starts, first, last, state)
            states.append(state)
        state = self._warm_up_forward(starts, forward_warmup)
        unscored = np.concatenate(([0], starts[:-1] + n))[:, None]  # (K, 1): ends of the segments before
        total = Score()
        for first, last in pairwise(bounds):
            positions = starts[:, None] + np.arange(first, last)[None]  # (K, T)
            after, _ = self._read_after(starts, first, last, states.pop())
            before, state = self.model.read(self._inputs(positions), state)
            inside = torch.from_numpy(positions >= unscored)
            for step in range(0, last - first, steps):
                block = slice(step, step + steps)
                targets = self._inputs(positions[:, block] + 1)
                logits = self.model.joint_logits(before[:, block], after[:, block])
                nats = target_nats(logits, targets, self.vocabulary.known_nats, self.vocabulary.escape_nats)
                correct = (logits.argmax(-1) == targets).cpu() & inside[:, block]
                summed = float((nats.cpu().double() * inside[:, block]).sum())
                total += Score(summed, int(inside[:, block].sum()), int(correct.sum()))
            self.progress(positions.size)
        return total

    def _inputs(self, positions: npt.NDArray[np.int64]) -> Tensor:
        tokens = self.tokens[np.clip(positions - 1, 0, len(self.tokens) - 1)].astype(np.int64)
        framed = np.where(positions == 0, self.boundary[-1], tokens)
        framed = np.where(positions == self.size - 1, self.boundary[0], framed)
        return torch.from_numpy(framed).to(self.model.embedding.device)

    def _read_after(self, starts: npt.NDArray[np.int64], first: int, last: int, state: State) -> tuple[Tensor, State]:
        """Return the backward stack's features after each target of a window (K, T, F), and its state before it."""
        return self.model.read_back(self._inputs(starts[:, None] + np.arange(first, last)[None] + 2), state)

    def _warm_up_forward(self, starts: npt.NDArray[np.int64], warmup: int) -> State:
        """Return the forward states at the starts of segments: the first is that before the text."""
        state = start_state(self.model, self.boundary)
        if len(starts) > 1:
            warmed = self.model.initial_state(len(starts) - 1)
            for first in range(-warmup, 0, _WINDOW):
                positions = starts[1:, None] + np.arange(first, min(first + _WINDOW, 0))[None]
                _, warmed = self.model.read(self._inputs(np.maximum(positions, 0)), warmed)
            state = join(state, warmed)
        return state

    def _warm_up_backward(self, ends: npt.NDArray[np.int64], warmup: int) -> State:
        """Return the backward states at the ends of segments: the last is that after the text."""
        state = start_state(self.model.backward_half, self.boundary[::-1])
        if len(ends) > 1:
            warmed = self.model.backward_stack.initial_state(len(ends) - 1)
            for last in range(warmup, 0, -_WINDOW):
                positions = ends[:-1, None] + np.arange(max(last - _WINDOW, 0), last)[None] + 2
                _, warmed = self.model.read_back(self._inputs(np.minimum(positions, self.size - 1)), warmed)
            state = join(warmed, state)
        return state
