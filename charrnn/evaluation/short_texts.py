"""Scoring many short texts, each alone from the start state, side by side.
Knows readers and characters, not files. Shapes: B texts, T steps, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from charrnn.callbacks import Progress, no_progress
from charrnn.data.vocabulary import Vocabulary
from charrnn.models import likelihood
from charrnn.models.interface import LanguageModel
from charrnn.scores import Score

_LANES = 256
_WINDOW = 256
_CHARACTERS = 1 << 18  # of texts side by side, at most
_NUMBERS = 1 << 24  # at a time, at most: 64 MB
Tokens = npt.NDArray[np.unsignedinteger]


def score(
    reader: LanguageModel, vocabulary: Vocabulary, texts: Sequence[str], progress: Progress = no_progress
) -> list[Score]:
    """Score each line alone from the start state, the newline that ends it included."""
    scores = [Score()] * len(texts)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    first = 0
    while first < len(order):
        # lines of like length side by side; fewer of long ones, so that memory is bounded
        shortest = len(texts[order[first]]) + 1
        width = max(1, min(_LANES, _CHARACTERS // shortest))
        chosen = [index for index in order[first : first + width] if len(texts[index]) <= 2 * shortest + 16]
        first += len(chosen)
        encoded = [vocabulary.encode(texts[index] + "\n") for index in chosen]
        for index, scored in zip(chosen, side_by_side(reader, vocabulary, encoded, progress), strict=True):
            scores[index] = scored
    return scores


def side_by_side(
    reader: LanguageModel, vocabulary: Vocabulary, texts: Sequence[Tokens], progress: Progress = no_progress
) -> list[Score]:
    """Score texts, given as tokens, each alone from the start state, exactly."""
    lengths = np.array([len(tokens) for tokens in texts])
    longest = int(lengths.max(initial=0))
    targets = np.zeros((len(texts), longest), dtype=np.int64)
    for row, tokens in enumerate(texts):
        targets[row, : len(tokens)] = tokens
    before = np.full((len(texts), 1), vocabulary.newline)  # the character before each window
    costs, correct = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    state = reader.initial_state(len(texts))
    lanes = max(1, len(texts))
    window = max(1, min(_WINDOW * max(1, _LANES // lanes), _NUMBERS // (lanes * max(len(vocabulary), reader.gates))))
    for first in range(0, longest, window):
        part = targets[:, first : first + window]
        inputs = np.concatenate((before, part[:, :-1]), 1)
        before = part[:, -1:]
        features, state = reader.read(inputs, state)
        logits = reader.logits(features)
        inside = first + np.arange(part.shape[1]) < lengths[:, None]
        costs += (likelihood.target_nats(vocabulary, logits, part) * inside).sum(1)
        correct += ((logits.argmax(-1) == part) & inside).sum(1)
        progress(int(inside.sum()))
    return [
        Score(float(cost), int(length), int(right)) for cost, length, right in zip(costs, lengths, correct, strict=True)
    ]
