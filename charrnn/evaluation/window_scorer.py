"""Read windows of one text with one network and score them, in full precision or in bf16.
Does not choose the windows. Shapes: K rows, T steps, F features, V vocabulary, R rows of a block of logits."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charrnn.data.corpus import Tokens
from charrnn.data.vocabulary import Vocabulary
from charrnn.device import bf16_may_pay, tf32
from charrnn.messages import Progress
from charrnn.models.factory import Causal, start_state
from charrnn.models.layers import State
from charrnn.models.losses import target_nats
from charrnn.scores import NATS_PER_BIT

WINDOW = 256  # steps at a time
TOLERANCE = 0.0005 * NATS_PER_BIT  # nats a character: half of the promised 0.001 bits
# logits at a time: 4 MB, which stay in a CPU's caches until the softmax is done, for every 128 features, since each
# block reads the head's weights again, and no fewer rows than these; on a GPU, where small calls are slow, 128 MB
_LOGITS, _ROWS, _CUDA_LOGITS = 1 << 20, 64, 1 << 25
_TIMED_STEPS = 32


class WindowScorer:
    """Scores characters of one text, given their positions and the states before them. Before the text stands the
    boundary (K)."""

    def __init__(
        self, model: Causal, vocabulary: Vocabulary, tokens: Tokens, boundary: npt.NDArray[np.int64], progress: Progress
    ) -> None:
        self.boundary = boundary
        self.model, self.vocabulary, self.tokens, self.progress = model, vocabulary, tokens, progress
        self.device = model.embedding.device

    def start(self) -> State:
        """Return the state before the first character's input."""
        return start_state(self.model, self.boundary)

    def read(self, positions: npt.NDArray[np.int64], state: State, bf16: bool = False) -> tuple[Tensor, Tensor, State]:
        """Return features (K, T, F) to predict the characters at `positions` (K, T), these characters (K, T), and the
        state after; with `bf16`, matrix products are taken in bf16."""
        targets = self.tokens[positions].astype(np.int64)
        inputs = self.tokens[np.maximum(positions - 1, 0)].astype(np.int64)
        inputs[positions[:, 0] == 0, 0] = self.boundary[-1]
        features, state = self.features(torch.from_numpy(inputs).to(self.device), state, bf16)
        self.progress(positions.size)
        return features, torch.from_numpy(targets).to(self.device), state

    def features(self, inputs: Tensor, state: State, bf16: bool) -> tuple[Tensor, State]:
        """Run the layers on inputs (K, T); return features (K, T, F) and the state after."""
        with tf32(self.device, bf16), torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return self.model.read(inputs, state)

    def logit_blocks(self, features: Tensor, targets: Tensor, bf16: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits (R, V) and targets (R) from features (K, T, F) and targets (K, T), in order."""
        size = _LOGITS * max(1, features.shape[-1] // 128) if self.device.type == "cpu" else _CUDA_LOGITS
        rows = max(_ROWS, size // len(self.vocabulary))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            pairs = (torch.split(each.flatten(0, 1), rows) for each in (features, targets))
            for some, wanted in zip(*pairs, strict=True):
                yield self.model.logits(some), wanted

    def nats(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the negative log-likelihoods (R) of targets (R) under logits (R, V)."""
        return target_nats(logits[None], targets[None], self.vocabulary.known_nats, self.vocabulary.escape_nats)[0]

    def score(self, features: Tensor, targets: Tensor, bf16: bool = False) -> tuple[Tensor, Tensor]:
        """Return the negative log-likelihoods of targets (K, T) given features (K, T, F), in float64 (K, T), and
        whether each was the most likely character (K, T)."""
        nats, correct = [], []
        for logits, wanted in self.logit_blocks(features, targets, bf16):
            nats.append(self.nats(logits, wanted))
            in_vocabulary = wanted < len(self.vocabulary)
            own = logits.gather(1, wanted.where(in_vocabulary, 0)[:, None])[:, 0]
            correct.append((own == logits.amax(1)) & in_vocabulary)
        # on the CPU: not every device has float64
        return torch.cat(nats).cpu().double().view(targets.shape), torch.cat(correct).cpu().view(targets.shape)

    def score_at(
        self, positions: npt.NDArray[np.int64], features: Tensor, targets: Tensor, bf16: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Do the same for targets at consecutive positions (K, T)."""
        return self.score(features, targets, bf16)

    def ranked(
        self, positions: npt.NDArray[np.int64], features: Tensor, targets: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the nats (R) and ranks (R) of targets (K, T) at consecutive positions (K, T), and the logits (R, V)
        that predict them, in order."""
        for logits, wanted in self.logit_blocks(features, targets):
            yield self.nats(logits, wanted), ranks(logits, wanted), logits

    def read_and_score(
        self, positions: npt.NDArray[np.int64], state: State, bf16: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, State]:
        """Score the characters at `positions` (K, T), of which those past the end of the text count nothing; return
        nats and whether correct (K, T), whether within the text (K, T), and the state after."""
        inside = torch.from_numpy(positions < len(self.tokens))
        features, targets, state = self.read(np.minimum(positions, len(self.tokens) - 1), state, bf16)
        nats, correct = self.score_at(positions, features, targets, bf16)
        return nats * inside, correct & inside, inside, state


def ranks(logits: Tensor, targets: Tensor) -> Tensor:
    """Rank targets (T) among logits (T, V), 1 the most likely; an escape ranks V + 1, after all characters."""
    vocabulary_size = logits.shape[-1]
    escaped = targets == vocabulary_size
    own = logits.gather(1, targets.masked_fill(escaped, 0)[:, None])
    return torch.where(escaped, vocabulary_size + 1, (logits > own).sum(1) + 1)


class Bf16Trial:
    """Finds out whether a long text can be scored in bf16: whether that is faster here, and agrees well enough."""

    def __init__(self, scorer: WindowScorer) -> None:
        self.scorer = scorer
        self.accepted: bool | None = None  # None: undecided
        self._compared = np.zeros(3)  # characters scored both ways, sum of their differences, sum of the squares

    def accepts(self, positions: npt.NDArray[np.int64], state: State, steps_left: int) -> bool:
        """Say whether to score a window in bf16. While that is undecided, the answer is no, and the window is used
        for a trial."""
        if self.accepted is not None:
            return self.accepted
        self.accepted = self.agrees(positions, state, steps_left)
        return False

    def agrees(self, positions: npt.NDArray[np.int64], state: State, steps_left: int) -> bool | None:
        """Score a window both ways, if the steps left are worth it, and say whether the mean difference so far is
        within the tolerance by two standard errors; None while that is unclear."""
        if steps_left < 4 * positions.shape[1]:
            return False
        if not self._compared[0] and not (bf16_may_pay(self.scorer.model.embedding) and self.is_faster(state)):
            return False
        (full, _, inside, _), (rounded, *_) = (
            self.scorer.read_and_score(positions, state, bf16) for bf16 in (False, True)
        )
        difference = rounded - full
        self._compared += np.array([int(inside.sum()), float(difference.sum()), float(difference.square().sum())])
        count, total, squares = self._compared
        error, allowed = 2 * math.sqrt(squares), TOLERANCE * count
        if abs(total) + error <= allowed:
            return True
        return False if abs(total) - error > allowed or count > len(self.scorer.tokens) / 8 else None

    def is_faster(self, state: State) -> bool:
        """Time both precisions: some processors have bf16 instructions and are slower with them.

        Each is timed twice, in turns; the first call includes one-time setup.
        """
        inputs = torch.zeros(state.hidden.shape[1], _TIMED_STEPS, dtype=torch.long, device=self.scorer.device)
        seconds = {False: math.inf, True: math.inf}
        for bf16 in (False, True) * 2:
            began = time.perf_counter()
            features, _ = self.scorer.features(inputs, state, bf16)
            self.scorer.score(features, inputs, bf16)  # copies to the CPU, so it waits for the device
            seconds[bf16] = min(seconds[bf16], time.perf_counter() - began)
        return seconds[True] < seconds[False]
