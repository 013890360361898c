"""A mixture of language models, which is a language model itself. Knows tokens, not text or files.
Shapes: B batch rows, T steps, V vocabulary, F features of all parts, K parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from charrnn.models.interface import BidirectionalHeads, Floats, LanguageModel, ModelState, Tokens

Doubles = npt.NDArray[np.float64]
_NUMBERS = 1 << 16  # logits of a part mixed at a time, to stay in a cache
TINY = 1e-290  # probabilities below it are computed as logarithms


class MixtureState(NamedTuple):
    """The states of all parts between reads."""

    parts: tuple[Any, ...]

    def select(self, index: Tokens) -> MixtureState:
        """Return the batch rows that `index` names, in its order; a row may come several times."""
        return MixtureState(tuple(part.select(index) for part in self.parts))

    def joined(self, others: Sequence[MixtureState]) -> MixtureState:
        """Return these batch rows, followed by those of other states of the same model."""
        states = zip(self.parts, *(other.parts for other in others), strict=True)
        return MixtureState(tuple(first.joined(rest) for first, *rest in states))


class Part:
    """A model of a mixture: its own tokens `order` (V+1) of those of the mixture, or None where they are the same,
    V, and the width and type of its features."""

    def __init__(self, model: LanguageModel, order: Tokens | None = None) -> None:
        self.model, self.order = model, order
        features, _ = model.read(np.zeros((1, 1), dtype=np.int64), model.initial_state(1))
        self.width, self.dtype, self.size = features.shape[-1], features.dtype, model.logits(features).shape[-1]

    def own(self, tokens: Tokens) -> Tokens:
        """Translate tokens of the mixture, 0 to V."""
        return tokens if self.order is None else self.order[tokens]

    def shared(self, logits: Floats) -> Floats:
        """Put logits (..., V) into the order of the mixture."""
        return logits if self.order is None else logits[..., self.order[:-1]]


class MixedModel:
    """K models of the same characters and boundary that are one model; see `interface.LanguageModel`.

    Its features (..., F) are those of all parts side by side. Of a bidirectional part the forward half is mixed; the
    other two heads of the first such part stay as they are.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.gates = sum(part.model.gates for part in parts)
        bounds = accumulate((part.width for part in parts), initial=0)
        self.columns = [slice(*ends) for ends in pairwise(bounds)]
        heads = (
            _Heads(part, columns, part.model.bidirectional_heads)
            for part, columns in zip(parts, self.columns, strict=True)
            if part.model.bidirectional_heads is not None
        )
        self.bidirectional_heads: BidirectionalHeads | None = next(heads, None)

    def initial_state(self, batch_size: int) -> MixtureState:
        """Return the state before any text."""
        return MixtureState(tuple(part.model.initial_state(batch_size) for part in self.parts))

    def step(self, tokens: Tokens, state: MixtureState) -> tuple[Floats, MixtureState]:
        """Read tokens (B, T), 0 to V; return the logits (B, V) of the next token, and the state after the last."""
        raise NotImplementedError

    def read(self, tokens: Tokens, state: MixtureState) -> tuple[Floats, MixtureState]:
        """Read tokens (B, T), 0 to V; return the features (B, T, F) after each, and the state after the last."""
        features, after = list[Floats](), list[ModelState]()
        for part, before in zip(self.parts, state.parts, strict=True):
            found, next_state = part.model.read(part.own(tokens), before)
            features.append(found)
            after.append(next_state)
        # in double precision where a part's are: an n-gram model's are numbers, which single precision would round
        return np.concatenate(features, -1), MixtureState(tuple(after))

    def logits(self, features: Floats) -> Floats:
        """Return the logits (..., V) of the next token from features (..., F)."""
        flat = features.reshape(-1, features.shape[-1])
        size = self.parts[0].size
        mixed = np.empty((len(flat), size))
        rows = max(16, _NUMBERS // size)
        for first in range(0, len(flat), rows):
            mixed[first : first + rows] = self._mixed(flat[first : first + rows])
        return mixed.reshape(*features.shape[:-1], size)

    def _mixed(self, features: Floats) -> Doubles:
        """Return the logits (M, V) of the mixture from features of all (M, F)."""
        raise NotImplementedError

    def _predicted(self, index: int, features: Floats) -> Floats:
        """Return the logits (M, V) of one part from features of all (M, F)."""
        part = self.parts[index]
        own = np.ascontiguousarray(features[:, self.columns[index]], dtype=part.dtype)
        return part.shared(part.model.logits(own))


class Mixture(MixedModel):
    """K models whose distributions are averaged.

        p(w | h) = sum over k of w_k p_k(w | h)

    with weights w_k of sum 1. Its logits are the logarithms of p, in double precision.
    """

    def __init__(self, parts: Sequence[Part], weights: Sequence[float]) -> None:
        super().__init__(parts)
        self.weights = np.array(weights) / sum(weights)

    def step(self, tokens: Tokens, state: MixtureState) -> tuple[Floats, MixtureState]:
        """Read tokens (B, T), 0 to V; return the logits (B, V) of the next token, and the state after the last."""
        logits, after = list[Floats](), list[ModelState]()
        for part, before in zip(self.parts, state.parts, strict=True):
            predicted, next_state = part.model.step(part.own(tokens), before)
            logits.append(part.shared(predicted))
            after.append(next_state)
        return mix(logits, self.weights), MixtureState(tuple(after))

    def _mixed(self, features: Floats) -> Doubles:
        return mix([self._predicted(index, features) for index in range(len(self.parts))], self.weights)


class _Heads:
    """The other two heads of a bidirectional part; see `interface.BidirectionalHeads`."""

    def __init__(self, part: Part, columns: slice, heads: BidirectionalHeads) -> None:
        self.part, self.columns, self.heads = part, columns, heads
        self.backward: LanguageModel = heads.backward
        if part.order is not None:
            self.backward = Mixture([Part(heads.backward, part.order)], [1.0])

    def joint_logits(self, before: Floats, after: Floats, remaining: Tokens | int) -> Floats:
        """Predict the first of `remaining` (...) unknown tokens between features (..., F); return logits (..., V)."""
        own = before[..., self.columns].astype(self.part.dtype)
        return self.part.shared(self.heads.joint_logits(own, after, remaining))


def mix(logits: Sequence[Floats], weights: Doubles) -> Doubles:
    """Compute log p (..., V) of the mixture of K distributions, given as logits (..., V), with weights (K) or, one set
    for each position, (..., K)."""
    parts = []
    for index, each in enumerate(logits):
        # the ufuncs themselves: half of a step is spent on the way to them
        likelihoods = np.subtract(each, np.maximum.reduce(each, -1, keepdims=True), dtype=np.float64)
        np.exp(likelihoods, out=likelihoods)
        likelihoods *= weights[..., index, None] / np.add.reduce(likelihoods, -1, keepdims=True)
        parts.append(likelihoods)
    p = sum(parts[1:], parts[0])
    if np.minimum.reduce(p, None) > TINY:
        return np.log(p, out=p)
    return _mix_logarithms(logits, weights)


def _mix_logarithms(logits: Sequence[Floats], weights: Doubles) -> Doubles:
    """Do the same where a probability underflows, in ten times the time."""
    log_p = np.full(logits[0].shape, -np.inf)
    with np.errstate(divide="ignore"):  # of a weight of 0
        log_weights = np.log(weights)
    for index, each in enumerate(logits):
        below = np.subtract(each, each.max(-1, keepdims=True), dtype=np.float64)
        below += (log_weights[..., index] - np.log(np.exp(below).sum(-1)))[..., None]
        np.logaddexp(log_p, below, out=log_p)
    return log_p
