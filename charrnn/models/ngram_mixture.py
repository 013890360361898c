"""A network and an n-gram model of the same text, mixed: the model that `charrnn train` makes where counts add to what
the network knows. Knows tokens, not text or files.
Shapes: B batch rows, T steps, V vocabulary, F features of the network, n the order, M queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from charrnn.models.interface import Floats, LanguageModel, Tokens
from charrnn.models.mixture import Mixture, MixtureState, Part, mix
from charrnn.models.ngram import Ngram

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """The weights of the n-gram model, a `table` (R, C) by what it knows of a context; the network has the rest of 1.

    Row k-1 is for contexts of which the longest one counted has k-1 characters, so that it is the k-gram that is looked
    up; the last row is for longer ones, too. Column c is for contexts counted less than 2^(c+1) times, and the last one
    for all others. So a table (1, 1) is constant. Weights by count are those of Jelinek and Mercer (1980).
    """

    table: Doubles

    def of(self, orders: Tokens, counts: Tokens) -> Doubles:
        """Look up the weights (M) of contexts by the orders (M), 1 to n, and counts (M) of `Ngram.evidence`."""
        rows, columns = self.table.shape
        buckets = np.minimum(np.frexp(np.maximum(counts, 1))[1] - 1, columns - 1)
        return np.asarray(self.table[np.minimum(orders, rows) - 1, buckets])


class NgramMixture(Mixture):
    """A network and an n-gram model of the same vocabulary, whose distributions are averaged; see `Mixture`.

        p(w | h) = (1 - a(h)) p_network(w | h) + a(h) p_ngram(w | h)

    with the weights a that `by_context` has. Features are the network's, and then the n-gram model's.
    """

    def __init__(self, network: LanguageModel, ngram: Ngram, by_context: Weights) -> None:
        mean = float(by_context.table.mean())
        super().__init__([Part(network), Part(ngram)], [1 - mean, mean])
        self.network, self.ngram, self.by_context = network, ngram, by_context

    def step(self, tokens: Tokens, state: MixtureState) -> tuple[Floats, MixtureState]:
        """Read tokens (B, T), 0 to V; return the logits (B, V) of the next token, and the state after the last."""
        known, network_state = self.network.step(tokens, state.parts[0])
        counted, contexts = self.ngram.step(tokens, state.parts[1])
        return mix([known, counted], self._weights_of(contexts.numbers)), MixtureState((network_state, contexts))

    def _weights_after(self, features: Floats) -> Doubles:
        return self._weights_of(features[:, self.columns[1]].astype(np.int64))

    def _weights_of(self, numbers: Tokens) -> Doubles:
        """Return the weights (M, 2) after contexts of all lengths (M, n)."""
        weights = self.by_context.of(*self.ngram.evidence(numbers))
        return np.stack((1 - weights, weights), -1)
