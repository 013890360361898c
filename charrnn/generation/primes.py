"""Primes, each read once: side by side, without the head, and as often continued as one likes.
Shapes: P different primes, T steps, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.generation.copying import RepeatTracker
from charrnn.models import likelihood
from charrnn.models.interface import Floats, LanguageModel, ModelState, Tokens

_WINDOW = 1024
_MAX_NUMBERS = 1 << 22  # computed at a time


class ReadPrimes:
    """The state of a model at the end of each of P different primes.

    `rows` is the index of each, `last` (P) its last token and `before` the state before that, to which a sample may
    have to return; `logits` (P, V) and `state` are what follows it; `repeats` the runs of `no_repeat` characters that
    each contains.
    Raises MisuseError for a `no_repeat` below 2.
    """

    def __init__(
        self, model: LanguageModel, vocabulary: Vocabulary, primes: Sequence[str], no_repeat: int | None = None
    ) -> None:
        self.rows = {prime: row for row, prime in enumerate(dict.fromkeys(primes))}
        texts = [vocabulary.encode(vocabulary.boundary + prime) for prime in self.rows]
        self.last: Tokens = np.array([tokens[-1] for tokens in texts], dtype=np.int64)
        self.before = _read(model, [tokens[:-1] for tokens in texts])
        self.logits, self.state = step(model, self.last[:, None], self.before)
        self.repeats = [] if no_repeat is None else [RepeatTracker(no_repeat, prime) for prime in self.rows]


def step(model: LanguageModel, tokens: Tokens, state: ModelState) -> tuple[npt.NDArray[np.float64], ModelState]:
    """Read tokens (P, T); return the logits (P, V) of the next one in double precision, and the state.

    Raises CharRNNError where they are not finite.
    """
    logits: Floats
    logits, state = model.step(tokens, state)
    likelihood.check_finite(logits.max(-1))
    return logits.astype(np.float64), state


def _read(model: LanguageModel, texts: Sequence[npt.NDArray[np.unsignedinteger]]) -> ModelState:
    """Read texts of any lengths side by side; return the state after each, in their order.

    The shortest come first, and leave the batch where they end: nothing is read twice, or for nothing.
    """
    lengths = np.array([len(text) for text in texts])
    order = lengths.argsort(kind="stable")
    state, finished = model.initial_state(len(texts)), list[ModelState]()
    for start, end in pairwise([0, *np.unique(lengths)]):
        running = order[lengths[order] >= end]
        window = max(1, min(_WINDOW, _MAX_NUMBERS // (len(running) * model.gates)))
        for first in range(start, end, window):
            block = np.stack([texts[row][first : min(first + window, end)] for row in running])
            _, state = model.read(block.astype(np.int64), state)
        count = int((lengths == end).sum())
        finished.append(state.select(np.arange(count)))
        if count < len(running):
            state = state.select(np.arange(count, len(running)))
    return finished[0].joined(finished[1:]).select(order.argsort())
