"""The n-gram model beside a network in training: counted once, and mixed with the network at each evaluation, if that
predicts the validation split better."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from charrnn.checkpoints import inference, mixture_parts, safetensors_file
from charrnn.checkpoints.model_file import MixtureRecord
from charrnn.config.schema import Config
from charrnn.data.corpus import Corpus
from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation import baselines, mixture_weights
from charrnn.evaluation.mixture_weights import Doubles, Known
from charrnn.models import ngram
from charrnn.models.ngram import Ngram
from charrnn.models.ngram_mixture import NgramMixture
from charrnn.models.ngram_vocabulary import translated

MAX_COUNTED = 1 << 23  # characters of a training split that are counted without being asked: a minute, and 2 GB
MIN_NETWORK_GAIN = 0.005  # of the network's nats, for a mixture without being asked
MAX_TABLE_BYTES = 40_000_000  # of tables; where they would be larger, the order is lowered


class Counts:
    """An n-gram model of the training split, and the weights to mix it with; None until an evaluation has accepted
    some."""

    def __init__(self, model: Ngram, corpus: Corpus, required: bool) -> None:
        self.model, self.vocabulary, self.validation = model, corpus.vocabulary, corpus.validation.tokens
        self.required = required
        self.record: MixtureRecord | None = None

    @cached_property
    def _known(self) -> Known:
        return mixture_weights.known(self.model, self.vocabulary, self.validation)

    def fit(self, network: Doubles) -> float | None:
        """Choose weights by the nats (N) that the network needs for the validation split; return the mixture's nats of
        it, each half with weights of the other, or None where it gains too little."""
        found = mixture_weights.fit(network, self._known, self.model.order)
        # a mixture that was accepted stays, as long as it gains: the score must not jump where gains go to and fro
        least = 0.0 if self.record is not None else MIN_NETWORK_GAIN
        if not self.required and found.nats > (1 - least) * network.sum():
            self.record = None
            return None
        self.record = MixtureRecord(self.model.order, tuple(map(tuple, found.weights.table.tolist())))
        return found.nats


def count(
    config: Config, corpus: Corpus, best: Ngram | None = None, order: int | None = None, base: Path | None = None
) -> Counts | None:
    """Count the n-gram model that a network is mixed with, of the order that predicts the validation split best; None
    where none is wanted. `best` is that model or its `order` is known, if any is. The counts of a `base` model are
    taken instead, if they predict that split better."""
    required = config.model.mixture == "ngram"
    if config.model.mixture == "none" or (best is None and order is None and not required):
        return None
    if best is None or corpus.vocabulary.unseen:
        best = baselines.best_ngram(corpus, order if best is None else best.order, inherited=True)
    order = best.order
    while (model := ngram.prune(ngram.up_to(best, order))).nbytes > MAX_TABLE_BYTES and order > 1:
        order -= 1
    old = None if base is None else _counts_of(base, corpus.vocabulary)
    if old is not None:
        nats = [each.nats(corpus.vocabulary, corpus.validation.tokens) for each in (old, model)]
        model = old if nats[0] < nats[1] else model
    return Counts(model, corpus, required)


def _counts_of(base: Path, vocabulary: Vocabulary) -> Ngram | None:
    """Return the n-gram model of a mixture for another vocabulary; None for a network without one, or where that lacks
    a character."""
    model, own = inference.load(base)
    if not isinstance(model, NgramMixture) or not set(own.characters) <= set(vocabulary.characters):
        return None
    tokens = np.append(vocabulary.encode(own.characters), vocabulary.escape).astype(np.int64)
    return translated(model.ngram, tokens, len(vocabulary))


def kept(config: Config, corpus: Corpus, last: Path, record: MixtureRecord) -> Counts:
    """Return the counts and weights that a checkpoint holds."""
    model, _ = mixture_parts.read(safetensors_file.read(last, arrays=True, tables=True))
    counts = Counts(model, corpus, config.model.mixture == "ngram")
    counts.record = record
    return counts
