"""Score many short texts in batches, each on its own from the initial state.
Knows models and characters, not files. Shapes: B texts, T steps, V vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.messages import Progress, no_progress
from charrnn.models import likelihood
from charrnn.models.interface import Floats, LanguageModel, start_state
from charrnn.scores import Score

_MAX_BATCH = 256
_WINDOW = 256
_MAX_CHARACTERS = 1 << 18  # in a batch
_MAX_FLOATS = 1 << 24  # of logits or gates at a time: 64 MB
Tokens = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Characters:
    """The negative log-likelihoods `nats` (N) of characters, their `ranks` (N), 1 the most likely, V + 1 an escape, and
    what was likeliest in their places, where that was asked for."""

    nats: npt.NDArray[np.float64]
    ranks: npt.NDArray[np.int64]
    likeliest: likelihood.Likeliest | None = None

    @property
    def score(self) -> Score:
        """Add them up."""
        return Score(float(self.nats.sum()), len(self.nats), int((self.ranks == 1).sum()))


def score(
    model: LanguageModel,
    vocabulary: Vocabulary,
    texts: Sequence[str],
    progress: Progress = no_progress,
    *,
    end: str = "\n",
) -> list[Score]:
    """Score each line or document from the initial state, including the text that ends it."""
    scores = [Score()] * len(texts)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    first = 0
    while first < len(order):
        # texts of similar length share a batch; fewer of long ones, so that memory is bounded
        shortest = len(texts[order[first]]) + len(end)
        size = max(1, min(_MAX_BATCH, _MAX_CHARACTERS // shortest))
        batch = [index for index in order[first : first + size] if len(texts[index]) <= 2 * shortest + 16]
        first += len(batch)
        encoded = [vocabulary.encode(texts[index] + end) for index in batch]
        for index, scored in zip(batch, score_batch(model, vocabulary, encoded, progress), strict=True):
            scores[index] = scored
    return scores


def score_batch(
    model: LanguageModel, vocabulary: Vocabulary, texts: Sequence[Tokens], progress: Progress = no_progress
) -> list[Score]:
    """Score texts, given as tokens, in one batch, each exactly and from the initial state.

    Raises CharRNNError for scores that are not finite.
    """
    lengths = np.array([len(tokens) for tokens in texts])
    nats, correct = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    first = 0
    for targets, logits in windows(model, vocabulary, texts):
        inside = first + np.arange(targets.shape[1]) < lengths[:, None]
        first += targets.shape[1]
        nats += (likelihood.target_nats(vocabulary, logits, targets) * inside).sum(1)
        correct += ((logits.argmax(-1) == targets) & inside).sum(1)
        progress(int(inside.sum()))
    likelihood.check_finite(nats)
    return [Score(float(each), int(n), int(right)) for each, n, right in zip(nats, lengths, correct, strict=True)]


def character_nats(model: LanguageModel, vocabulary: Vocabulary, text: Tokens) -> npt.NDArray[np.float64]:
    """Compute the negative log-likelihood of each of N tokens, in nats (N), exactly and from the initial state."""
    return nats_of_each(model, vocabulary, [text])[0]


def nats_of_each(
    model: LanguageModel, vocabulary: Vocabulary, texts: Sequence[Tokens], progress: Progress = no_progress
) -> list[npt.NDArray[np.float64]]:
    """Compute the same for each of several texts, side by side."""
    found = [np.empty((len(texts), 0))]
    for targets, logits in windows(model, vocabulary, texts):
        found.append(likelihood.target_nats(vocabulary, logits, targets))
        progress(targets.size)
    nats = np.concatenate(found, 1)
    likelihood.check_finite(nats)
    return [row[: len(text)] for row, text in zip(nats, texts, strict=True)]


def windows(
    model: LanguageModel, vocabulary: Vocabulary, texts: Sequence[Tokens]
) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
    """Read B texts in windows of T tokens; yield the tokens (B, T), 0 beyond the end of a text, and the logits
    (B, T, V) that predict them."""
    batch_size = max(1, len(texts))
    longest = max((len(tokens) for tokens in texts), default=0)
    targets = np.zeros((len(texts), longest), dtype=np.int64)
    for row, tokens in enumerate(texts):
        targets[row, : len(tokens)] = tokens
    boundary = vocabulary.boundary_tokens
    last = np.full((len(texts), 1), boundary[-1])  # the character before each window
    state = start_state(model, boundary, len(texts))
    steps = _MAX_FLOATS // (batch_size * max(len(vocabulary), model.gates))
    steps = max(1, min(_WINDOW * max(1, _MAX_BATCH // batch_size), steps))
    for first in range(0, longest, steps):
        window = targets[:, first : first + steps]  # (B, T)
        inputs = np.concatenate((last, window[:, :-1]), 1)
        last = window[:, -1:]
        features, state = model.read(inputs, state)
        yield window, model.logits(features)
