"""What simpler models need for a text: all characters alike, their frequencies, xz, and the best n-gram model.
A network that needs more has learnt nothing. Knows tokens and parts, not files of models."""

from __future__ import annotations

import contextlib
import lzma
import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from charrnn.callbacks import Say, silent
from charrnn.checkpoints import training_corpus
from charrnn.checkpoints.model_file import Header
from charrnn.data.corpus import Corpus, Split, Tokens
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError
from charrnn.models import ngram
from charrnn.scores import NATS_PER_BIT, Baselines, BaselineScores

SOON = 1 << 21  # characters of a training part, up to which all is reckoned before the training begins
MOST = 1 << 22  # and up to which it is reckoned at all: longer ones would keep a user waiting for minutes


def compute(corpus: Corpus) -> BaselineScores:
    """Reckon the baselines of both held-out parts; of a long text only what takes no time."""
    vocabulary = corpus.vocabulary
    counts = count(corpus)
    soon = len(corpus.training) <= SOON
    model = chosen(corpus) if soon else None
    parts = [
        measure(vocabulary, counts, part.tokens, model, (corpus.training, part.text) if soon else None)
        for part in (corpus.validation, corpus.test)
        if len(part)
    ]
    return BaselineScores(counts, *parts)


def count(corpus: Corpus) -> tuple[int, ...]:
    """Count each known character (V) of the training part."""
    counts = np.zeros(len(corpus.vocabulary) + 1, dtype=np.int64)
    for first in range(0, len(corpus.training), 1 << 24):
        counts += np.bincount(corpus.training.tokens[first : first + (1 << 24)], minlength=len(counts))
    return tuple(counts[:-1].tolist())


def chosen(corpus: Corpus, order: int | None = None) -> ngram.Ngram:
    """Count n-gram models up to an order, or if None up to the one that the validation part needs least with."""
    best, least = None, math.inf
    vocabulary, training, validation = corpus.vocabulary, corpus.training.tokens, corpus.validation.tokens
    if vocabulary.unseen:
        vocabulary = vocabulary.alone(count(corpus))
        training, validation = _within(vocabulary, training), _within(vocabulary, validation)
    for model in ngram.grow(training, vocabulary.newline, len(vocabulary)):
        if order is None:
            nats = model.score(vocabulary, validation).nats
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
    """Reckon what simpler models need for N tokens, given the counts of training (V), and where they are at hand an
    n-gram model and the training part, with the text that the tokens stand for.

    They know the characters of the training part only, whatever the vocabulary has from an earlier model. The
    frequencies, and all characters alike, leave to the escape what that vocabulary gives it. A newline that the
    training part does not have counts as seen once.
    """
    if vocabulary.unseen:
        vocabulary = vocabulary.alone(counts)
        tokens, counts = _within(vocabulary, tokens), counts[: len(vocabulary)]
    known = tokens[tokens != vocabulary.escape]
    base = len(known) * vocabulary.known_nats + (len(tokens) - len(known)) * vocabulary.escape_nats
    seen = np.maximum(np.array(counts, dtype=np.float64), 1.0)
    prices = np.log(seen.sum()) - np.log(seen)
    bits = growth(texts[0].text, texts[1]) if texts is not None and len(texts[1]) <= MOST else None
    return Baselines(
        len(tokens),
        base + len(known) * math.log(len(vocabulary)),
        base + float((np.bincount(known, minlength=len(vocabulary)) * prices).sum()),
        None if bits is None else bits * NATS_PER_BIT,
        None if model is None else model.score(vocabulary, tokens).nats,
        None if model is None else model.order,
    )


def _within(vocabulary: Vocabulary, tokens: Tokens) -> Tokens:
    """Turn tokens (N) of a larger vocabulary, which begins with this one, into this one's."""
    return np.asarray(np.minimum(tokens, tokens.dtype.type(vocabulary.escape)))


def growth(before: str, text: str) -> float | None:
    """Give by how many bits xz grows when a text is appended to another; None if by none, as may be for a few letters:
    it counts in whole bytes."""
    alone = _packed(before)
    return 8.0 * grown if (grown := _packed(before + text) - alone) > 0 else None


@lru_cache(maxsize=2)  # the training text is packed once for all texts that are appended to it
def _packed(text: str) -> int:
    raw = text.encode()
    # the strongest there is; a dictionary no larger than the text, which would only take memory
    strongest = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": max(4096, len(raw))}
    # without the frame, which is padded to four bytes
    return len(lzma.compress(raw, format=lzma.FORMAT_RAW, filters=[strongest]))


class BaselineScorer:
    """Reckons what simpler models need, as far as the text that a model learnt from is at hand, unchanged, and not too
    long: it is read and counted once, and only if need be."""

    def __init__(self, header: Header, path: Path, say: Say = silent) -> None:
        self.header, self.path, self.say = header, path, say

    @cached_property
    def corpus(self) -> Corpus | None:
        """Read what the model learnt from; None where that cannot be."""
        if self.header.corpus.training <= MOST:
            with contextlib.suppress(CharRNNError):
                return training_corpus.find(self.header, self.path, "")
        return None

    @cached_property
    def model(self) -> ngram.Ngram | None:
        """Count the best n-gram model."""
        known = self.header.baselines
        order = None if known is None else known.validation.order
        if self.corpus is None:
            return None
        if len(self.corpus.training) > SOON:
            self.say("Counting what the model learnt from, for the n-gram model to compare it with ...")
        return chosen(self.corpus, order)

    def needs(self, tokens: Tokens, content: str | None = None) -> Baselines | None:
        """Give what they need for N tokens: of the text `content`, or if None of the model's held-out part."""
        known, vocabulary = self.header.baselines, self.header.vocabulary
        kept = None if known is None or content is not None else known.test or known.validation
        if kept is not None and kept.whole:
            return kept
        whole = self.corpus
        if whole is None:
            return None if known is None else kept or measure(vocabulary, known.counts, tokens)
        counts = count(whole) if known is None else known.counts
        if content is None:
            content = (whole.test if len(whole.test) else whole.validation).text
        return measure(vocabulary, counts, tokens, self.model, (whole.training, content))
