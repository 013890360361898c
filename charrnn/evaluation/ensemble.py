"""Ensembles: models of the same characters that are mixed, and the weights that suit a text best.
Needs no torch. Knows models and tokens, not files. Shapes: K models, N characters, V vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import MisuseError
from charrnn.evaluation import short_texts
from charrnn.evaluation.short_texts import Characters
from charrnn.messages import Progress, counted, no_progress
from charrnn.models import likelihood
from charrnn.models.interface import LanguageModel
from charrnn.models.mixture import Mixture, Part
from charrnn.showable import shown

_GAP = 1e-8  # nats a character that weights may be above the least
_MOST_STEPS = 20_000
_ROWS, _LENGTH, _WARMUP = 64, 256, 64  # pieces of a text that weights are chosen on
Doubles = npt.NDArray[np.float64]
Opened = tuple[LanguageModel, Vocabulary]


def best_weights(nats: Doubles) -> Doubles:
    """Find the constant weights (K) of the mixture that predicts a text best, from the nats (K, N) of each of its
    characters under each model, to within 1e-8 nats a character.

    Each step of expectation-maximisation (Dempster, Laird and Rubin 1977) moves a weight to the mean share that its
    model has in the mixture's probability:

        w_k' = w_k g_k        g_k = mean over n of p_kn / (sum over j of w_j p_jn)

    The g_k are the gradient of the mean log-likelihood, which is concave: weights are at most max(g) - 1 from the best.
    """
    likelihoods = np.exp(nats.min(0) - nats)  # (K, N), scaled by the best model of each character
    weights = np.full(len(nats), 1 / len(nats))
    for _ in range(_MOST_STEPS):
        gradient = likelihoods @ (1 / (weights @ likelihoods)) / max(1, nats.shape[1])
        if gradient.max() - 1 <= _GAP:
            break
        weights *= gradient
    return np.asarray(weights / weights.sum())


def mixture(models: Sequence[Opened], weights: Sequence[float]) -> tuple[Mixture, Vocabulary]:
    """Mix models that `check_alike` accepts; return the mixture and its vocabulary, the first model's, which also says
    how probable the escape is."""
    vocabulary = models[0][1]
    return Mixture([Part(model, _order(vocabulary, own)) for model, own in models], weights), vocabulary


def check_alike(names: Sequence[str], vocabularies: Sequence[Vocabulary]) -> None:
    """Raise MisuseError for models whose characters or boundaries differ."""
    first = vocabularies[0]
    for name, other in zip(names[1:], vocabularies[1:], strict=True):
        if different := set(first.characters) ^ set(other.characters):
            example = shown(repr(min(different)))
            knows = names[0] if min(different) in first.characters else name
            raise MisuseError(
                f"{names[0]} and {name} cannot be mixed: their characters differ by {len(different):,}, and only"
                f" {knows} knows {example}. Train both on the same text."
            )
        if other.boundary != first.boundary:
            raise MisuseError(
                f"{names[0]} and {name} cannot be mixed: documents of one end with {first.boundary!r}, of the other"
                f" with {other.boundary!r}. Train both with the same data.documents."
            )


def parse_weights(given: str, count: int) -> list[float]:
    """Read the weights of so many models, with commas between, and divide them by their sum.

    Raises MisuseError for others.
    """
    try:
        weights = [float(each) for each in given.split(",")]
    except ValueError:
        raise MisuseError(f"--weights is {shown(given)}; it must be numbers with commas between: 0.7,0.3.") from None
    return normalised("--weights", weights, count)


def normalised(name: str, weights: Sequence[float], count: int) -> list[float]:
    """Divide weights by their sum. Raises MisuseError for other than `count`, or a negative one, or none above 0."""
    if len(weights) != count:
        numbers = counted(len(weights), "number")
        raise MisuseError(f"{name} has {numbers} for {count} models; give one for each, in their order.")
    total = sum(weights)
    if not all(weight >= 0 for weight in weights) or not 0 < total < float("inf"):
        raise MisuseError(f"{name} must be 0 or more each, and not all 0.")
    return [weight / total for weight in weights]


def choose_weights(
    models: Sequence[Opened], tokens: npt.NDArray[np.unsignedinteger], progress: Progress = no_progress
) -> list[float]:
    """Choose weights on N tokens of the first model's vocabulary, at most 64 pieces of 256 spread over them, each read
    after the 64 tokens before it: exact scores of a long text would take a minute."""
    tokens = np.asarray(tokens)
    starts = np.linspace(0, len(tokens), min(_ROWS, -(-len(tokens) // _LENGTH)) + 1).astype(int).tolist()
    ends = [min(start + _LENGTH, after) for start, after in pairwise(starts)]
    skipped = [min(start, _WARMUP) for start in starts[:-1]]
    pieces = [tokens[s - skip : end] for s, skip, end in zip(starts, skipped, ends, strict=False)]
    first = models[0][1]
    nats = []
    for model, vocabulary in models:
        order = _order(first, vocabulary)
        own = replace(vocabulary, seen=first.seen, novel=first.novel)  # one probability of the escape
        read = pieces if order is None else [order[piece].astype(piece.dtype) for piece in pieces]
        rows = short_texts.nats_of_each(model, own, read, progress)
        nats.append(np.concatenate([row[skip:] for row, skip in zip(rows, skipped, strict=True)]))
    return [float(weight) for weight in best_weights(np.stack(nats))]


def characters(
    model: LanguageModel,
    vocabulary: Vocabulary,
    tokens: npt.NDArray[np.unsignedinteger],
    progress: Progress = no_progress,
    *,
    top: int | None = None,
) -> Iterator[Characters]:
    """Score N tokens character by character in a single pass; yield blocks of them, in order, with the `top` likeliest
    characters."""
    for (targets,), (logits,) in short_texts.windows(model, vocabulary, [tokens]):
        nats = likelihood.target_nats(vocabulary, logits, targets)
        likelihood.check_finite(nats)
        escaped = targets == vocabulary.escape
        own = logits[np.arange(len(targets)), np.where(escaped, 0, targets)]
        ranks = np.where(escaped, len(vocabulary) + 1, (logits > own[:, None]).sum(-1) + 1)
        yield Characters(nats, ranks, likelihood.likeliest(vocabulary, logits, top) if top else None)
        progress(len(targets))


def _order(first: Vocabulary, own: Vocabulary) -> npt.NDArray[np.int64] | None:
    """Return the tokens (V+1) that a model has for those of the first; None where they are the same."""
    if own.characters == first.characters:
        return None
    return np.append(own.encode(first.characters), own.escape).astype(np.int64)
