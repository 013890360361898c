"""Scoring text by what stands on both sides: each character of it as if it alone were missing (cloze, Taylor 1953).
Knows bidirectional models and tokens, not files. Never to be compared with the score of a text read forwards.
Shapes: N characters, K lanes of n characters, T steps of a window, F features."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charrnn.callbacks import Progress, no_progress
from charrnn.data.corpus import Tokens
from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation import scoring
from charrnn.evaluation.scoring import WARMUP
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.layers import State
from charrnn.models.losses import target_nats
from charrnn.scores import Score

_WINDOW = 256
_LOGITS = 1 << 24  # numbers at a time, at most: 64 MB


@dataclass(frozen=True)
class TwoSided:
    """Hold what a bidirectional model's other two heads make of a text: `backward`, each character by those after it,
    and `cloze`, each by all others. `warmup` is what to begin with another time for the backward half."""

    backward: Score
    cloze: Score
    warmup: int


def fields(backward: Score, cloze: Score) -> dict[str, float]:
    """Give both scores under the names that JSON has for them."""
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
    """Score N tokens as one text between two newlines, whose forward evaluation is known.

    Backwards the text is read as `evaluate` reads it, from the end; the cloze score is taken in lanes only where both
    halves found lanes to agree with a single pass, and after as many characters as each of them was found to remember.
    """
    half = model.backward_half
    backward = scoring.evaluate(half, vocabulary, tokens[::-1], exact=exact, warmup=warmup, progress=progress)
    reader = _BothSides(model, vocabulary, tokens, progress)
    warmups = [found.memory for found in (forward, backward) if found.memory is not None]
    lanes = min(scoring.segment_count(len(tokens)), len(tokens) // max(warmups)) if len(warmups) == 2 else 1
    cloze = reader.score(lanes, *warmups) if lanes > 1 else reader.score(1, 0, 0)
    return TwoSided(backward.score, cloze, backward.warmup)


class _BothSides:
    """Reads windows of one text with both halves of one model."""

    def __init__(self, model: BidirectionalRNN, vocabulary: Vocabulary, tokens: Tokens, progress: Progress) -> None:
        self.model, self.vocabulary, self.tokens, self.progress = model.eval(), vocabulary, tokens, progress
        self.size = len(tokens) + 2  # with the newlines around it: character t is at t + 1

    def score(self, lanes: int, before: int, after: int) -> Score:
        """Score each character once, in lanes whose forward and backward states were warmed up on so many characters.

        Lanes are equally long, and the last ones may overlap a little: what was scored is not scored again. The
        backward stack goes first, and leaves its state at every window's end; from there each window's features are
        made anew when the forward stack arrives, so that memory does not grow with the text but by those states.
        """
        size = len(self.tokens)
        length = -(-size // lanes)
        starts = (np.arange(lanes) * (size - length) // max(lanes - 1, 1)).astype(np.int64)
        window = _WINDOW if lanes > 1 else 4 * _WINDOW
        # of a window's features, as many steps at a time as the joint head has memory for
        steps = max(1, _LOGITS // (lanes * max(len(self.vocabulary), 4 * self.model.feature_size)))
        cuts = [*range(0, length, window), length]
        behind = self._warmed_after(starts + length, after)
        states = [behind]
        for first, last in zip(cuts[-2:0:-1], cuts[:1:-1], strict=True):
            _, behind = self._after(starts, first, last, behind)
            states.append(behind)
        state = self._warmed_before(starts, before)
        total = Score()
        fresh = starts + length  # where each lane's text was scored up to, by the lane before
        for first, last in pairwise(cuts):
            places = starts[:, None] + np.arange(first, last)[None]  # (K, T)
            beyond, _ = self._after(starts, first, last, states.pop())
            known, state = self.model.read(self._read(places), state)
            inside = torch.from_numpy(places >= np.concatenate(([0], fresh[:-1]))[:, None])
            for step in range(0, last - first, steps):
                part = slice(step, step + steps)
                targets = self._read(places[:, part] + 1)
                logits = self.model.joint_logits(known[:, part], beyond[:, part])
                costs = target_nats(logits, targets, self.vocabulary.known_nats, self.vocabulary.escape_nats)
                correct = (logits.argmax(-1) == targets).cpu() & inside[:, part]
                spent = float((costs.cpu().double() * inside[:, part]).sum())
                total += Score(spent, int(inside[:, part].sum()), int(correct.sum()))
            self.progress(places.size)
        return total

    def _read(self, places: npt.NDArray[np.int64]) -> Tensor:
        inside = self.tokens[np.clip(places - 1, 0, len(self.tokens) - 1)].astype(np.int64)
        framed = np.where((places == 0) | (places == self.size - 1), self.vocabulary.newline, inside)
        return torch.from_numpy(framed).to(self.model.embedding.device)

    def _after(self, starts: npt.NDArray[np.int64], first: int, last: int, behind: State) -> tuple[Tensor, State]:
        """Give what the backward stack knows after each target of a window (K, T, F), and its state before it."""
        return self.model.read_back(self._read(starts[:, None] + np.arange(first, last)[None] + 2), behind)

    def _warmed_before(self, starts: npt.NDArray[np.int64], warmup: int) -> State:
        """Give the forward states in which lanes begin: the first knows that nothing is before it."""
        state = self.model.initial_state(len(starts))
        if len(starts) > 1:
            warmed = self.model.initial_state(len(starts) - 1)
            for first in range(-warmup, 0, _WINDOW):
                places = starts[1:, None] + np.arange(first, min(first + _WINDOW, 0))[None]
                _, warmed = self.model.read(self._read(np.maximum(places, 0)), warmed)
            state = scoring.join(state.select(slice(0, 1)), warmed)
        return state

    def _warmed_after(self, ends: npt.NDArray[np.int64], warmup: int) -> State:
        """Give the backward states in which lanes end: the last knows that nothing is after it."""
        state = self.model.backward_stack.initial_state(len(ends))
        if len(ends) > 1:
            warmed = self.model.backward_stack.initial_state(len(ends) - 1)
            for last in range(warmup, 0, -_WINDOW):
                places = ends[:-1, None] + np.arange(max(last - _WINDOW, 0), last)[None] + 2
                _, warmed = self.model.read_back(self._read(np.minimum(places, self.size - 1)), warmed)
            state = scoring.join(warmed, state.select(slice(0, 1)))
        return state
