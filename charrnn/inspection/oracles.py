"""Oracles: what would have known the characters that a model missed (Karpathy, Johnson and Li 2015, section 4.4).
Shapes: N characters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.inspection.characters import Mask, is_cjk
from charrnn.messages import Progress, no_progress
from charrnn.models import ngram
from charrnn.scores import NATS_PER_BIT

ORDERS = 9  # of n-grams
WINDOW = 500  # characters that the copy is made from
MATCH = 3  # characters that must agree before; of Chinese and Japanese one


def ngrams(
    vocabulary: Vocabulary, training: npt.NDArray[np.unsignedinteger], text: str, progress: Progress = no_progress
) -> Iterator[tuple[str, Mask]]:
    """Yield for each order the characters of a text (N) to which the n-gram model of the training text gives a
    probability above one half. Progress counts the training text, once for each order."""
    tokens, ends = vocabulary.encode(text), vocabulary.boundary_tokens
    documents = None if vocabulary.boundary == "\n" else ends
    for model in ngram.grow(training, int(ends[-1]), len(vocabulary), documents):
        yield f"order {model.order}", model.nats_of_each(vocabulary, tokens) < NATS_PER_BIT
        progress(len(training))
        if model.order == ORDERS:
            return


def copied(text: str, missed: Mask) -> Mask:
    """Say which of the missed characters (N) a copy would have known: the longest run before it that came in the last
    WINDOW characters as well was followed there, the last time, by the same character."""
    known = np.zeros(len(text), dtype=bool)
    for position in np.flatnonzero(missed).tolist():
        known[position] = _predicted(text, position) == text[position]
    return known


def _predicted(text: str, position: int) -> str | None:
    """Return what followed the longest run before a position, when that came last; None without a run of MATCH."""
    first, end = max(0, position - WINDOW), position - 1  # the character after it must have been read too
    found, length = -1, 1 if is_cjk(text[end]) else MATCH
    while length <= end - first and (place := text.rfind(text[position - length : position], first, end)) >= 0:
        found, length = place + length, length + 1
    return None if found < 0 else text[found]
