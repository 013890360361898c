"""Scoring text: every character once, from the start state, exactly or in lanes that agree with it.
Knows models and tokens, not files.
Shapes: N characters, K lanes of n characters, W characters of warm-up, T steps of a window, F features, V vocabulary,
R rows of a block."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charrnn.callbacks import Progress, no_progress
from charrnn.data.corpus import Tokens
from charrnn.data.vocabulary import Vocabulary
from charrnn.device import bf16_may_pay, tf32
from charrnn.models import likelihood
from charrnn.models.factory import Causal
from charrnn.models.layers import State
from charrnn.models.losses import target_nats
from charrnn.models.ngram import Ngram
from charrnn.scores import NATS_PER_BIT, Score

_WINDOW = 256
# logits at a time: 4 MB, which stay in a CPU's caches until the softmax has done with them, for every 128 features,
# whose weights each block has to read again, and no fewer rows than these; on a GPU, slow at many small calls, 128 MB
_LOGITS, _ROWS, _LOGITS_THERE = 1 << 20, 64, 1 << 25
_CHARACTERS = 1 << 14  # of all lanes: more at a time are no faster, and a window less exactly where it should end
_LANES, _MANY, _FEWEST = 256, 32, 8
_WARMUPS = 16  # in a lane, at least: what is read for the seams alone stays a small share
_SWEEPS = 8
_TRIED = 32  # steps, to see which way is the faster
WARMUP = 64
_TOLERANCE = 0.0005 * NATS_PER_BIT  # nats a character: half of what is promised


@dataclass(frozen=True)
class Evaluation:
    """Hold a text's score and how it was read: after `memory` characters a state is as good as one that knows all
    before them, None for the single exact pass; `warmup` is the warm-up to begin with another time."""

    score: Score
    memory: int | None
    warmup: int
    needs_single_pass: bool = False


@dataclass(frozen=True)
class Characters:
    """Hold what each of N characters cost: `nats` (N), and `ranks` (N) of the right answer, 1 the likeliest."""

    nats: npt.NDArray[np.float64]
    ranks: npt.NDArray[np.int64]


def segment_count(length: int, warmup: int = WARMUP) -> int:
    """Choose in how many lanes to read a text of so many characters after a warm-up of so many."""
    return min(_LANES, length // (_WARMUPS * warmup), math.isqrt(length))


@torch.inference_mode()
def evaluate(
    model: Causal | Ngram,
    vocabulary: Vocabulary,
    tokens: Tokens,
    *,
    exact: bool = False,
    warmup: int = WARMUP,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score N tokens as one text that follows a newline.

    The text is cut into lanes that are read side by side, each after a warm-up on the `warmup` characters before it.
    Where the seams do not agree with the state carried across, to within 0.0005 bits per character of the whole
    text as `in_lanes` reckons it, all lanes are read again from the states at the ends of those before them. If that
    brings them no nearer (some cells never forget), or if `exact`, the text is read in a single pass. That is done in
    full precision, and so is what follows a seam; the rest of long lanes is read in bf16, where the device is fast at
    it and first windows read in both ways agree to within another 0.0005 bits. An n-gram model is always exact.
    """
    if isinstance(model, Ngram):
        return Evaluation(model.score(vocabulary, tokens, progress), None, warmup)
    model.eval()
    reader = _Scorer(model, vocabulary, tokens, progress)
    warmup = max(WARMUP, min(warmup, len(tokens) // (_WARMUPS * _FEWEST)))
    count = segment_count(len(tokens), warmup)
    if exact or count < 2:
        return Evaluation(reader.single_pass(), None, warmup)
    length = -(-len(tokens) // count)
    found = reader.in_lanes(length * np.arange(count), length, warmup)
    if found is None:
        return Evaluation(reader.single_pass(), None, warmup, needs_single_pass=True)
    score, memory = found
    # twice the warm-up is less than to read all again, if lanes are still many
    longer = memory > length and segment_count(len(tokens), 2 * warmup) >= min(count, _MANY)
    return Evaluation(score, memory, 2 * warmup if longer else warmup)


@torch.inference_mode()
def characters(
    model: Causal | Ngram, vocabulary: Vocabulary, tokens: Tokens, progress: Progress = no_progress
) -> Iterator[Characters]:
    """Score N tokens character by character in a single pass, a block at a time, in order."""
    if isinstance(model, Ngram):
        for predicted, given in model.predicted(vocabulary, tokens):
            found = ranks(torch.from_numpy(predicted), torch.from_numpy(given)).numpy()
            yield Characters(likelihood.target_nats(vocabulary, predicted, given), found)
        return
    model.eval()
    reader = _Scorer(model, vocabulary, tokens, progress)
    state = model.initial_state(1)
    for first in range(0, len(tokens), _WINDOW):
        places = np.arange(first, min(first + _WINDOW, len(tokens)))[None]
        features, targets, state = reader.read(places, state)
        for logits, wanted in reader.blocks(features, targets):
            yield Characters(reader.price(logits, wanted).cpu().double().numpy(), ranks(logits, wanted).cpu().numpy())


class _Scorer:
    """Reads places of one text with one model."""

    def __init__(self, model: Causal, vocabulary: Vocabulary, tokens: Tokens, progress: Progress) -> None:
        self.model, self.vocabulary, self.tokens, self.progress = model, vocabulary, tokens, progress
        # whether products in bf16 do for this text; None while that has not been tried
        self.bf16_will_do: bool | None = None
        self._compared = np.zeros(3)  # characters read in both ways, the sum of their differences, and of the squares

    def read(self, places: npt.NDArray[np.int64], state: State, rounded: bool = False) -> tuple[Tensor, Tensor, State]:
        """Read the characters at places (K, T), `rounded` with products in bf16; gives features (K, T, F), targets
        (K, T) and the state after."""
        targets = self.tokens[places].astype(np.int64)
        inputs = self.tokens[np.maximum(places - 1, 0)].astype(np.int64)
        inputs[places[:, 0] == 0, 0] = self.vocabulary.newline
        device = self.model.embedding.device
        with tf32(device, rounded), torch.autocast(device.type, torch.bfloat16, enabled=rounded):
            features, state = self.model.read(torch.from_numpy(inputs).to(device), state)
        self.progress(places.size)
        return features, torch.from_numpy(targets).to(device), state

    def blocks(self, features: Tensor, targets: Tensor, rounded: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Turn features (K, T, F) into logits (R, V) of targets (R), some of them at a time and all in order."""
        room = _LOGITS * max(1, features.shape[-1] // 128) if features.device.type == "cpu" else _LOGITS_THERE
        rows = max(_ROWS, room // len(self.vocabulary))
        with torch.autocast(features.device.type, torch.bfloat16, enabled=rounded):
            pairs = (torch.split(each.flatten(0, 1), rows) for each in (features, targets))
            for some, wanted in zip(*pairs, strict=True):
                yield self.model.logits(some), wanted

    def price(self, logits: Tensor, targets: Tensor) -> Tensor:
        return target_nats(logits[None], targets[None], self.vocabulary.known_nats, self.vocabulary.escape_nats)[0]

    def predicted_nats(self, features: Tensor, targets: Tensor, rounded: bool = False) -> tuple[Tensor, Tensor]:
        """Price targets (K, T) by features (K, T, F); gives costs (K, T), in float64, and whether nothing
        was likelier."""
        costs, correct = [], []
        for logits, wanted in self.blocks(features, targets, rounded):
            costs.append(self.price(logits, wanted))
            known = wanted < len(self.vocabulary)
            own = logits.gather(1, wanted.where(known, 0)[:, None])[:, 0]
            correct.append((own == logits.amax(1)) & known)
        # on the CPU: not every device has float64
        return torch.cat(costs).cpu().double().view(targets.shape), torch.cat(correct).cpu().view(targets.shape)

    def _gains(self, state: State) -> bool:
        """Say whether bf16 is the faster way here: some processors have its instructions and are slower by them.

        Either way is tried twice, in turns; the first time it has to set itself up.
        """
        device = self.model.embedding.device
        inputs = torch.zeros(state.hidden.shape[1], _TRIED, dtype=torch.long, device=device)
        seconds = {False: math.inf, True: math.inf}
        for rounded in (False, True) * 2:
            began = time.perf_counter()
            with tf32(device, rounded), torch.autocast(device.type, torch.bfloat16, enabled=rounded):
                features, _ = self.model.read(inputs, state)
            self.predicted_nats(features, inputs, rounded)  # whose costs are waited for
            seconds[rounded] = min(seconds[rounded], time.perf_counter() - began)
        return seconds[True] < seconds[False]

    def window(self, lanes: int) -> int:
        """Choose how many steps to read at once."""
        return min(_WINDOW, max(_CHARACTERS // lanes, _WINDOW // 4))

    def single_pass(self) -> Score:
        costs, _ = self._sweep(np.zeros(1, dtype=np.int64), len(self.tokens), self.model.initial_state(1))
        return costs

    def in_lanes(self, starts: npt.NDArray[np.int64], length: int, warmup: int) -> tuple[Score, int] | None:
        """Score in lanes; gives also how many characters make a state good enough, or None where seams go on to show.

        What follows each seam is read twice: from the warmed-up state and from the state carried across, which knows
        a whole lane more. The carried costs count. What is left is what such a difference still does further on: its
        mean over the last quarter of what was read twice, as if it never shrank again, over whole lanes; signed, since
        lanes err both ways, with two standard errors on top. If that is too much, the states carried across are the
        next to start from, as long as each round at least halves it (and what is left counts as the sum of all rounds
        that could follow): rounding must not be what is left, so that bf16 is given up before the lanes are.
        """
        state = join(self.model.initial_state(1), self._warmed(starts[1:], warmup))
        checked = 2 * warmup
        shown, memory = math.inf, warmup + checked
        for _ in range(_SWEEPS):
            first: list[tuple[Tensor, Tensor]] = []
            score, ends = self._sweep(starts, length, state, keep=(checked, first))
            carried = ends.select(slice(0, -1))
            second: list[tuple[Tensor, Tensor]] = []
            self._sweep(starts[1:], checked, carried, keep=(checked, second))
            costs, correct = (
                torch.cat([pair[which] for pair in second], 1)[:, :checked]
                - torch.cat([pair[which] for pair in first], 1)[1:, :checked]
                for which in (0, 1)
            )
            lasting = costs[:, -checked // 4 :].mean(1) * length
            left = float(lasting.sum().abs() + 2 * lasting.square().sum().sqrt())
            share = left / shown
            if left <= _TOLERANCE * len(self.tokens) * (1 - share) or not math.isfinite(left):
                return score + Score(float(costs.sum()), 0, int(correct.sum())), memory
            if share > 0.5:
                if not self.bf16_will_do:
                    return None
                self.bf16_will_do, left = False, math.inf
            state, shown, memory = join(self.model.initial_state(1), carried), left, memory + length
        return None

    def _agrees(self, places: npt.NDArray[np.int64], state: State, left: int) -> bool | None:
        """Read a window in both ways, if the `left` steps may gain by it; say whether its mean cost, and so that of the
        text, is the same to within the tolerance, two standard errors included; None where this and the windows before
        do not tell yet."""
        if left < 4 * places.shape[1]:
            return False
        if not self._compared[0] and not (bf16_may_pay(self.model.embedding) and self._gains(state)):
            return False
        inside = torch.from_numpy(places < len(self.tokens))
        costs = []
        for rounded in (False, True):
            features, targets, _ = self.read(np.minimum(places, len(self.tokens) - 1), state, rounded)
            costs.append(self.predicted_nats(features, targets, rounded)[0] * inside)
        difference = costs[1] - costs[0]
        self._compared += np.array([int(inside.sum()), float(difference.sum()), float(difference.square().sum())])
        count, total, squares = self._compared
        error, allowed = 2 * math.sqrt(squares), _TOLERANCE * count
        if abs(total) + error <= allowed:
            return True
        return False if abs(total) - error > allowed or count > len(self.tokens) / 8 else None

    def _warmed(self, starts: npt.NDArray[np.int64], warmup: int) -> State:
        state = self.model.initial_state(len(starts))
        window = self.window(len(starts))
        for first in range(-warmup, 0, window):
            places = starts[:, None] + np.arange(first, min(first + window, 0))[None]
            _, _, state = self.read(places, state)
        return state

    def _sweep(
        self,
        starts: npt.NDArray[np.int64],
        length: int,
        state: State,
        keep: tuple[int, list[tuple[Tensor, Tensor]]] | None = None,
    ) -> tuple[Score, State]:
        """Score `length` characters of each lane; characters past the text's end cost nothing."""
        # a lone lane is read in long windows: each call costs the same to set up
        window = self.window(len(starts)) if len(starts) > 1 else 4 * self.window(4)
        total = Score()
        for first in range(0, length, window):
            places = starts[:, None] + np.arange(first, min(first + window, length))[None]
            inside = torch.from_numpy(places < len(self.tokens))
            rounded = keep is not None and first >= keep[0] and self.bf16_will_do is not False
            if rounded and self.bf16_will_do is None:
                self.bf16_will_do, rounded = self._agrees(places, state, length - first), False
            features, targets, state = self.read(np.minimum(places, len(self.tokens) - 1), state, rounded)
            costs, correct = self.predicted_nats(features, targets, rounded)
            costs, correct = costs * inside, correct & inside
            total += Score(float(costs.sum()), int(inside.sum()), int(correct.sum()))
            if keep is not None and first < keep[0]:
                keep[1].append((costs, correct.long()))
        return total, state


def join(first: State, rest: State) -> State:
    """Put the lanes of two states side by side."""
    joined: list[Any] = [
        None if one is None or other is None else torch.cat((one, other), 1)
        for one, other in zip(first, rest, strict=True)
    ]
    return State(*joined)


def ranks(logits: Tensor, targets: Tensor) -> Tensor:
    """Rank each target (T) among logits (T, V): 1 the likeliest; the escape comes after all others."""
    vocabulary_size = logits.shape[-1]
    escaped = targets == vocabulary_size
    own = logits.gather(1, targets.masked_fill(escaped, 0)[:, None])
    return torch.where(escaped, vocabulary_size + 1, (logits > own).sum(1) + 1)
