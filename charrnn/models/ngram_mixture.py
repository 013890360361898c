"""A network and an n-gram model of the same text, mixed: the model that `charrnn train` makes where counts add to what
the network knows. Knows tokens, not text or files.
Shapes: B batch rows, T steps, V vocabulary, F features of the network, n the order, M queries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt

from charrnn.models.interface import Floats, LanguageModel, Tokens
from charrnn.models.mixture import TINY, MixedModel, Mixture, MixtureState, Part, mix
from charrnn.models.ngram import Ngram, up_to

Doubles = npt.NDArray[np.float64]
# the longest n-grams that are drawn with, by the least size of the vocabulary: longer ones copy the training text
# (docs/results.md, copies of mixtures)
SAMPLING_ORDER_BY_VOCABULARY = {0: 5, 2000: 3}


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

    def of_one(self, order: int, count: int) -> float:
        """Look up the weight of one context, in a tenth of the time."""
        row = self._rows[min(order, len(self._rows)) - 1]
        return row[min(max(count, 1).bit_length(), len(row)) - 1]

    @cached_property
    def _rows(self) -> list[list[float]]:
        return cast("list[list[float]]", self.table.tolist())


class NgramMixture(MixedModel):
    """A network and an n-gram model of the same vocabulary, whose distributions are averaged; see `MixedModel`.

        p(w | h) = (1 - a(h)) p_network(w | h) + a(h) p_ngram(w | h)

    with the weights a that `by_context` has. Features are the network's, and then the n-gram model's.
    """

    def __init__(self, network: LanguageModel, ngram: Ngram, by_context: Weights) -> None:
        super().__init__([Part(network), Part(ngram)])
        self.network, self.ngram, self.by_context = network, ngram, by_context

    def step(self, tokens: Tokens, state: MixtureState) -> tuple[Floats, MixtureState]:
        """Read tokens (B, T), 0 to V; return the logits (B, V) of the next token, and the state after the last."""
        logits, network_state = self.network.step(tokens, state.parts[0])
        if self.ngram.takes_one_by_one(tokens):
            each = self.ngram.next_grams(tokens, state.parts[1])
            weights = [self.by_context.of_one(*self.ngram.evidence_of_one(numbers)) for numbers in each]
            mixed = mix_probabilities(logits, self.ngram.after(each), np.array(weights)[:, None])
            return mixed, MixtureState((network_state, self.ngram.contexts(each)))
        contexts = self.ngram.contexts_after(tokens, state.parts[1])
        return self._mix(logits, contexts.numbers), MixtureState((network_state, contexts))

    def _mixed(self, features: Floats) -> Doubles:
        return self._mix(self._predicted(0, features), features[:, self.columns[1]].astype(np.int64))

    def _mix(self, logits: Floats, numbers: Tokens) -> Doubles:
        """Mix in what the n-gram model predicts after contexts of all lengths (M, n)."""
        weights = self.by_context.of(*self.ngram.evidence(numbers))
        return mix_probabilities(logits, self.ngram.distribution(numbers), weights[:, None])


def for_sampling(model: LanguageModel, *, mixture: bool) -> LanguageModel:
    """Return the model to draw samples from: of a network with counts, also within an ensemble, the network alone, or
    with `mixture` both, with shorter n-grams.

    Counts know neither where in a verse or sentence they are, nor which word was begun: a mixture predicts better, but
    drawn from, each character that only the counts propose breaks what the network has built.
    """
    if isinstance(model, Mixture):
        parts = [Part(for_sampling(part.model, mixture=mixture), part.order) for part in model.parts]
        return Mixture(parts, model.weights.tolist())
    if not isinstance(model, NgramMixture):
        return model
    if not mixture:
        return model.network
    order = max((least, order) for least, order in SAMPLING_ORDER_BY_VOCABULARY.items() if least <= model.ngram.size)[1]
    return NgramMixture(model.network, up_to(model.ngram, order), model.by_context)


def mix_probabilities(logits: Floats, p: Doubles, weights: Doubles | float) -> Doubles:
    """Compute log of (1 - a) softmax(logits) + a p (M, V) from logits (M, V), p (M, V) and the weights a (M, 1), or one
    for all: what `mixture.mix` does with logarithms of p, in half its time."""
    # the ufuncs themselves: half of a step is spent on the way to them
    mixed = np.subtract(logits, np.maximum.reduce(logits, -1, keepdims=True), dtype=np.float64)
    np.exp(mixed, out=mixed)
    mixed *= (1 - weights) / np.add.reduce(mixed, -1, keepdims=True)
    mixed += weights * p
    if np.minimum.reduce(mixed, None) > TINY:
        return np.log(mixed, out=mixed)
    both = np.concatenate((1 - weights, weights), -1) if isinstance(weights, np.ndarray) else [1 - weights, weights]
    return mix([logits, np.log(p)], np.asarray(both))
