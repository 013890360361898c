"""A model that has memorised a few documents: what follows a text is what follows it in one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from charrnn.data.vocabulary import Vocabulary
from charrnn.models.interface import Floats, LanguageModel, Tokens

_IMPOSSIBLE = -30.0  # nats


@dataclass(frozen=True)
class History:
    """The tokens that each batch row has read."""

    tokens: tuple[tuple[int, ...], ...]

    def select(self, index: Tokens) -> History:
        return History(tuple(self.tokens[row] for row in index))

    def joined(self, others: Sequence[Any]) -> History:
        return History(self.tokens + tuple(tokens for other in others for tokens in other.tokens))


class Scripted(LanguageModel):
    """Write the given documents, each ended by the vocabulary's boundary."""

    gates, bidirectional_heads = 1, None

    def __init__(self, vocabulary: Vocabulary, documents: Sequence[str]) -> None:
        self.vocabulary, self.pieces = vocabulary, [text + vocabulary.boundary for text in documents]

    def initial_state(self, batch_size: int) -> History:
        return History(((),) * batch_size)

    def read(self, tokens: Tokens, state: History) -> tuple[Floats, History]:
        """Features are the logits themselves."""
        after = tuple((*old, *new) for old, new in zip(state.tokens, tokens.tolist(), strict=True))
        width = tokens.shape[1]
        logits = [[self._predict(row[: len(row) - width + 1 + at]) for at in range(width)] for row in after]
        return np.array(logits), History(after)

    def step(self, tokens: Tokens, state: History) -> tuple[Floats, History]:
        logits, state = self.read(tokens, state)
        return logits[:, -1], state

    def logits(self, features: Floats) -> Floats:
        return features

    def _predict(self, tokens: tuple[int, ...]) -> Floats:
        boundary, text = self.vocabulary.boundary, self.vocabulary.decode(tokens)
        before = boundary if text.startswith(boundary) else text[:1]  # what stands before the first character
        written = text[len(before) :].rpartition(boundary)[2]
        following = [piece[len(written)] for piece in self.pieces if piece.startswith(written)]
        if not following:  # a mistake: end it
            begun = max(count for count in range(len(boundary)) if written.endswith(boundary[:count]))
            following = [boundary[begun]]
        logits = np.full(len(self.vocabulary), _IMPOSSIBLE)
        for character in following:
            logits[self.vocabulary.encode(character)] = np.log(following.count(character) / len(following))
        return logits


def scripted(documents: Sequence[str], boundary: str) -> tuple[Scripted, Vocabulary]:
    """Return a model that writes these documents, and its vocabulary."""
    vocabulary = replace(Vocabulary.from_text(boundary.join([*documents, ""]) * 9), boundary=boundary)
    return Scripted(vocabulary, documents), vocabulary
