"""Baselines for a text: the uniform distribution, unigram frequencies, xz, and the best n-gram model.
A network that needs more bits than these has learnt nothing. Knows tokens and splits, not networks.
Shapes: N characters, V vocabulary."""

from __future__ import annotations

import lzma
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from charrnn.checkpoints import ngram_cache, training_corpus
from charrnn.checkpoints.model_file import Header
from charrnn.data.corpus import Corpus, Split, Tokens
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError
from charrnn.messages import Say, silent
from charrnn.models import ngram
from charrnn.scores import NATS_PER_BIT, Baselines, BaselineScores

MAX_AT_START = 1 << 21  # characters of a training split, up to which all baselines are computed before training starts
MIN_ON_DEMAND = 5000  # characters of another text, from which on xz and n-grams are computed without being requested
MAX_ON_DEMAND = 1 << 22  # of both, up to which they are computed at all: longer ones would take minutes


def compute(corpus: Corpus, *, ngrams: bool = True, model: ngram.Ngram | None = None) -> BaselineScores:
    """Compute the baselines of both held-out splits, that of n-grams from the best `model` if it was counted already;
    without xz and n-grams if not wanted or the training split is long."""
    vocabulary, training = corpus.vocabulary, corpus.training
    counts = count(corpus)
    short = ngrams and len(training) <= MAX_AT_START
    model = best_ngram(corpus) if short and model is None else model
    scores = [
        measure(vocabulary, counts, split.tokens, model, (training, split.text) if short else None)
        for split in (corpus.validation, corpus.test)
        if len(split)
    ]
    return BaselineScores(counts, *scores)


def count(corpus: Corpus) -> tuple[int, ...]:
    """Count each character of the vocabulary (V) in the training split."""
    counts = np.zeros(len(corpus.vocabulary) + 1, dtype=np.int64)
    for first in range(0, len(corpus.training), 1 << 24):
        counts += np.bincount(corpus.training.tokens[first : first + (1 << 24)], minlength=len(counts))
    return tuple(counts[:-1].tolist())


def best_ngram(corpus: Corpus, order: int | None = None, *, inherited: bool = False) -> ngram.Ngram:
    """Return the n-gram model of an order; if None, of the order with the lowest validation loss. It knows the
    characters of the training split alone, unless it shall know those that are `inherited` from an earlier model."""
    best, least = None, math.inf
    vocabulary, validation = corpus.vocabulary, corpus.validation.tokens
    training = corpus.training.tokens[-ngram.MAX_CHARACTERS :]
    if vocabulary.unseen and not inherited:
        vocabulary = vocabulary.without_inherited(count(corpus))
        training, validation = _restrict(vocabulary, training), _restrict(vocabulary, validation)
    ends = vocabulary.boundary_tokens
    documents = None if vocabulary.boundary == "\n" else ends
    for model in ngram.grow(training, int(ends[-1]), len(vocabulary), documents):
        if order is None:
            nats = model.nats(vocabulary, validation)
            if nats >= least:
                break
            least = nats
        best = model
        if model.order == order:
            break
    assert best is not None
    return best


def measure(
    vocabulary: Vocabulary,
    counts: Sequence[int],
    tokens: Tokens,
    model: ngram.Ngram | None = None,
    texts: tuple[Split, str] | None = None,
) -> Baselines:
    """Compute the baselines of N tokens from the counts of training (V) and, where available, an n-gram model and the
    training split with the text of the tokens.

    Baselines know only the characters of the training split, even if the vocabulary has more from an earlier model.
    Uniform and unigram use the vocabulary's escape probability. A newline missing from training counts as seen once.
    """
    if vocabulary.unseen:
        vocabulary = vocabulary.without_inherited(counts)
        tokens, counts = _restrict(vocabulary, tokens), counts[: len(vocabulary)]
    in_vocabulary = tokens[tokens != vocabulary.escape]
    base = len(in_vocabulary) * vocabulary.known_nats + (len(tokens) - len(in_vocabulary)) * vocabulary.escape_nats
    seen = np.maximum(np.array(counts, dtype=np.float64), 1.0)
    unigram_nats = np.log(seen.sum()) - np.log(seen)  # (V)
    bits = xz_bits(texts[0].text, texts[1]) if texts is not None and len(texts[1]) <= MAX_ON_DEMAND else None
    return Baselines(
        len(tokens),
        base + len(in_vocabulary) * math.log(len(vocabulary)),
        base + float((np.bincount(in_vocabulary, minlength=len(vocabulary)) * unigram_nats).sum()),
        None if bits is None else bits * NATS_PER_BIT,
        None if model is None else model.nats(vocabulary, tokens),
        None if model is None else model.order,
    )


def _restrict(vocabulary: Vocabulary, tokens: Tokens) -> Tokens:
    """Map tokens (N) of a larger vocabulary that starts with this one to this one's tokens and escape."""
    return np.asarray(np.minimum(tokens, tokens.dtype.type(vocabulary.escape)))


def xz_bits(training: str, text: str) -> float | None:
    """Return the bits by which xz output grows when a text is appended to the training text; None if by none, which
    happens with a few letters since xz counts in whole bytes."""
    with ThreadPoolExecutor(2) as pool:  # lzma lets other threads run
        alone, both = pool.map(_compressed_size, (training, training + text))
    return 8.0 * (both - alone) if both > alone else None


@lru_cache(maxsize=2)  # the training text is compressed once for all texts that are appended to it
def _compressed_size(text: str) -> int:
    raw = text.encode()
    # the strongest preset; a dictionary larger than the text would only take memory
    strongest = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": max(4096, len(raw))}
    # raw, without the container, which is padded to four bytes
    return len(lzma.compress(raw, format=lzma.FORMAT_RAW, filters=[strongest]))


class BaselineScorer:
    """Computes baselines for a model file, as far as its training text is available, unchanged and not too long: that
    text is read at most once, when first needed, and its n-grams are kept beside the run."""

    def __init__(self, header: Header, path: Path, say: Say = silent) -> None:
        self.header, self.path, self.say = header, path, say

    @cached_property
    def _corpus(self) -> tuple[Corpus | None, str]:
        """Read the corpus that the model was trained on, or say why that is impossible or would take too long."""
        if self.header.corpus.training > MAX_ON_DEMAND:
            return None, _too_long("training split", self.header.corpus.training)
        try:
            return training_corpus.find(self.header, self.path, ""), ""
        except CharRNNError as error:
            return None, str(error).strip()

    @property
    def corpus(self) -> Corpus | None:
        """Return the corpus that the model was trained on, if it can be had."""
        return self._corpus[0]

    @cached_property
    def counts(self) -> tuple[int, ...] | None:
        """Return the count of each character (V) in the training split, stored or counted now."""
        stored = self.header.baselines
        return stored.counts if stored is not None else None if self.corpus is None else count(self.corpus)

    @cached_property
    def model(self) -> ngram.Ngram | None:
        """Return the best n-gram model, kept from another evaluation or counted now."""
        stored, vocabulary = self.header.baselines, self.header.vocabulary
        order = None if stored is None else stored.validation.order
        if self.counts is None:
            return None
        vocabulary = vocabulary.without_inherited(self.counts) if vocabulary.unseen else vocabulary
        kept = ngram_cache.load(self.path, self.header, vocabulary, order)
        if kept is not None or self.corpus is None:
            return kept
        if len(self.corpus.training) > MAX_AT_START:
            self.say("Counting n-grams of the training text for the n-gram baseline ...")
        counted = best_ngram(self.corpus, order)
        ngram_cache.save(self.path, self.header, vocabulary, counted)
        return counted

    def score(self, tokens: Tokens, content: str | None = None, *, requested: bool = False) -> Baselines | None:
        """Return the baselines of N tokens: of the text `content`, or if None of the model's held-out split. Those that
        take seconds are left out of a short text, unless they are requested."""
        stored, vocabulary = self.header.baselines, self.header.vocabulary
        held_out = None if stored is None or content is not None else stored.test or stored.validation
        if held_out is not None and held_out.complete:
            return held_out
        if self.counts is None:
            return None
        if content is not None and len(content) < MIN_ON_DEMAND and not requested:
            return measure(vocabulary, self.counts, tokens)
        if self.corpus is None:
            return held_out or measure(vocabulary, self.counts, tokens, self.model)
        if content is None:
            content = (self.corpus.test if len(self.corpus.test) else self.corpus.validation).text
        return measure(vocabulary, self.counts, tokens, self.model, (self.corpus.training, content))

    def missing(self, found: Baselines | None) -> str | None:
        """Say which baselines of a text were requested but not found, and why; None where nothing more could be had."""
        corpus, why = self._corpus
        if found is None:
            return f"no baselines. {why}"
        if corpus is not None and found.characters > MAX_ON_DEMAND:
            why = _too_long("text", found.characters)
        lost = [name for name, nats in (("xz", found.xz), ("an n-gram model", found.ngram)) if nats is None]
        return f"no baseline by {' and '.join(lost)}. {why}" if lost and why else None


def _too_long(what: str, characters: int) -> str:
    return f"The {what} has {characters:,} characters, and at most {MAX_ON_DEMAND:,} are read for baselines."
