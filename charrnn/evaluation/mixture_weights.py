"""How much of a mixture a network and an n-gram model should each have: weights fitted on one part of a held-out text
and judged on another. Knows nats and contexts, not models or files. Needs no torch.
Shapes: N characters, R rows and C columns of a table of weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.models.interface import Tokens
from charrnn.models.ngram import Ngram
from charrnn.models.ngram_mixture import Weights

PIECES = 16  # of the text, in turns of one fold and the other
COLUMNS = 8  # of the largest table: contexts counted once, twice, four times ... 128 times and more
EQUAL, ALIKE = 100.0, 30.0  # characters that the prior counts for: of equal weights, and of a cell like its row
MIN_GAIN = 0.001  # of the nats, for a table with more cells
MAX_FITTED = 1 << 16  # characters that weights are fitted to: a second for each million more would be waited for
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
    blocks = [
        (model.nats_after(vocabulary, numbers, targets), *model.evidence(numbers))
        for numbers, targets in model.read_blocks(vocabulary, tokens, _BLOCK)
    ]
    return Known(*(np.concatenate(each) for each in zip(*blocks, strict=True)))


def fit(network: Doubles, known: Known, order: int) -> Fitted:
    """Fit the weights of an n-gram model of an order, from the nats (N) that the network needs for each character.

    Tried are a constant weight, one for each order, and one for each order and count. A table with more cells is taken
    where it predicts the halves of the text, each with weights fitted on the other, 0.1 % better, and by two standard
    errors.
    """
    fold = np.arange(len(network)) * PIECES // max(1, len(network)) % 2 == 1
    fitted = (_tables(network, known, order, where) for where in (~fold, fold, np.ones_like(fold)))
    best, least = None, np.zeros(0)
    for one, other, table in zip(*fitted, strict=True):
        nats = np.where(fold, mixed(network, known, Weights(one)), mixed(network, known, Weights(other)))
        gained = least - nats if best is not None else np.zeros(0)
        if best is None or gained.sum() > max(MIN_GAIN * least.sum(), 2 * np.sqrt(np.square(gained).sum())):
            best, least = table, nats
    assert best is not None
    return Fitted(Weights(best), float(least.sum()))


def mixed(network: Doubles, known: Known, weights: Weights) -> Doubles:
    """Compute the nats (N) of each character under the mixture."""
    share = weights.of(known.orders, known.counts)
    least = np.minimum(network, known.nats)
    return np.asarray(least - np.log((1 - share) * np.exp(least - network) + share * np.exp(least - known.nats)))


def _tables(network: Doubles, known: Known, order: int, where: npt.NDArray[np.bool_]) -> list[Doubles]:
    """Fit the three tables (R, C) to the characters `where` (N) it says so, of a long text to some of them: a constant
    first, which is the prior of each row, which is the prior of each of its cells."""
    chosen = np.flatnonzero(where)
    chosen = chosen[:: 1 + len(chosen) // MAX_FITTED]
    gains, table, prior, tables = network[chosen] - known.nats[chosen], np.full((1, 1), 0.5), EQUAL, []
    for rows, columns in ((1, 1), (order, 1), (order, COLUMNS)):
        cells = _cells(known, rows, columns)[chosen]
        before = np.broadcast_to(table, (rows, columns)).ravel()
        table = _expectation_maximisation(gains, cells, before, prior).reshape(rows, columns)
        tables.append(table)
        prior = ALIKE
    return tables


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
