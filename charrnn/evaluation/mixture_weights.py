"""How much of a mixture a network and an n-gram model should each have: weights fitted on one part of a held-out text
and judged on another. Knows nats and contexts, not models or files. Needs no torch.
Shapes: N characters, R rows and C columns of a table of weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.models.interface import Tokens
from charrnn.models.ngram import Contexts, Ngram
from charrnn.models.ngram_mixture import Weights

PIECES = 16  # of the text, in turns of one fold and the other
COLUMNS = 8  # of the largest table: contexts counted once, twice, four times ... 128 times and more
EQUAL, ALIKE = 100.0, 30.0  # characters that the prior counts for: of equal weights, and of a cell like its row
MIN_GAIN = 0.001  # of the nats, for a table with more cells
_ROUNDS, _GAP = 200, 1e-5
_BLOCK = 1 << 16  # characters read at a time
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """What a mixture's weights depend on, of each of N characters of a held-out text: the nats that the n-gram model
    needs for it, and its `Ngram.evidence` of the context before it."""

    nats: Doubles
    orders: Tokens
    counts: Tokens


@dataclass(frozen=True)
class Fitted:
    """Weights fitted on a whole text, and the `nats` of that text where each half has weights fitted on the other."""

    weights: Weights
    nats: float


def known(model: Ngram, vocabulary: Vocabulary, tokens: npt.NDArray[np.unsignedinteger]) -> Known:
    """Read N tokens that follow the boundary with an n-gram model."""
    before, boundary = model.initial_state(1), vocabulary.boundary_tokens
    if len(boundary) > 1:
        before = Contexts(model.last_grams(boundary[None, :-1], before)[:, -1])
    read, blocks = np.concatenate((boundary[-1:], tokens[:-1].astype(np.int64))), []
    for first in range(0, len(tokens), _BLOCK):
        numbers = model.last_grams(read[None, first : first + _BLOCK], before)[0]
        before = Contexts(numbers[-1:])
        blocks.append(model.evidence(numbers))
    orders, counts = (np.concatenate(each) for each in zip(*blocks, strict=True))
    return Known(model.nats_of_each(vocabulary, tokens), orders, counts)


def fit(network: Doubles, known: Known, order: int) -> Fitted:
    """Fit the weights of an n-gram model of an order, from the nats (N) that the network needs for each character.

    Tried are a constant weight, one for each order, and one for each order and count. A table with more cells is taken
    where it predicts the halves of the text, each with weights fitted on the other, 0.1 % better, and by two standard
    errors.
    """
    fold = np.arange(len(network)) * PIECES // max(1, len(network)) % 2 == 1
    best, least = (1, 1), _cross_fitted(network, known, (1, 1), fold)
    for shape in ((order, 1), (order, COLUMNS)):
        nats = _cross_fitted(network, known, shape, fold)
        gained = least - nats
        if gained.sum() >= max(MIN_GAIN * least.sum(), 2 * np.sqrt(np.square(gained).sum())) > 0.0:
            best, least = shape, nats
    return Fitted(Weights(_table(network, known, best, np.ones_like(fold))), float(least.sum()))


def _cross_fitted(network: Doubles, known: Known, shape: tuple[int, int], fold: npt.NDArray[np.bool_]) -> Doubles:
    """Compute the nats (N) under weights (R, C) fitted on the characters of the other fold (N)."""
    one, other = (mixed(network, known, Weights(_table(network, known, shape, where))) for where in (~fold, fold))
    return np.where(fold, one, other)


def mixed(network: Doubles, known: Known, weights: Weights) -> Doubles:
    """Compute the nats (N) of each character under the mixture."""
    share = weights.of(known.orders, known.counts)
    least = np.minimum(network, known.nats)
    return np.asarray(least - np.log((1 - share) * np.exp(least - network) + share * np.exp(least - known.nats)))


def _table(network: Doubles, known: Known, shape: tuple[int, int], where: npt.NDArray[np.bool_]) -> Doubles:
    """Fit a table (R, C) to the characters `where` (N) it says so: a constant first, which is the prior of each row,
    which is the prior of each of its cells."""
    table, prior = np.full((1, 1), 0.5), EQUAL
    for rows, columns in _nested(shape):
        cells = _cells(known, rows, columns)[where]
        before = np.broadcast_to(table, (rows, columns)).ravel()
        table = _expectation_maximisation(network[where] - known.nats[where], cells, before, prior)
        table, prior = table.reshape(rows, columns), ALIKE
    return table


def _nested(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    yield 1, 1
    if shape[0] > 1:
        yield shape[0], 1
    if shape[1] > 1:
        yield shape


def _cells(known: Known, rows: int, columns: int) -> Tokens:
    """Number the cell of each character (N)."""
    numbers = np.arange(float(rows * columns)).reshape(rows, columns)
    return Weights(numbers).of(known.orders, known.counts).astype(np.int64)


def _expectation_maximisation(gains: Doubles, cells: Tokens, before: Doubles, prior: float) -> Doubles:
    """Find the likeliest weight of the n-gram model in each of R C cells, by steps of expectation-maximisation
    (Dempster, Laird and Rubin 1977), from the nats (N) that it gains on the network at each character, the cell (N) of
    that, and a prior: that `prior` more characters in each cell were taken by the share `before` (R C)."""
    total = np.bincount(cells, minlength=len(before)) + prior
    weights: Doubles = before.copy()
    odds = np.exp(np.clip(gains, -500.0, 500.0))
    for _ in range(_ROUNDS):
        share, earlier = weights[cells], weights
        taken = share * odds / (share * odds + 1 - share)
        weights = np.asarray((np.bincount(cells, taken, len(before)) + prior * before) / total)
        if np.abs(weights - earlier).max() < _GAP:
            break
    return weights
