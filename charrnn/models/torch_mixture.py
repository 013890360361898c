"""A network on torch, mixed with an n-gram model. What generates or scores lines wraps both behind NumPy arrays, by
`torch_model.language_model`; what scores long texts reads the network in parallel segments.
Shapes: N characters, K rows, T steps, M positions, V vocabulary, n the order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charrnn.data.vocabulary import Vocabulary
from charrnn.models.factory import Network
from charrnn.models.interface import Tokens
from charrnn.models.ngram import Ngram
from charrnn.models.ngram_mixture import Weights

_PROBABILITIES = 1 << 20  # of the n-gram model at a time


class Contexts(NamedTuple):
    """What an n-gram model knows before M positions of a text: the `numbers` (M, n) of its contexts of all lengths, and
    its `weights` (M)."""

    numbers: Tokens
    weights: npt.NDArray[np.float64]

    def select(self, index: Tokens | slice) -> Contexts:
        """Return the positions that `index` names."""
        return Contexts(self.numbers[index], self.weights[index])


class TorchMixture(NamedTuple):
    """The parts of an `ngram_mixture.NgramMixture`, the network as a torch module."""

    network: Network
    ngram: Ngram
    weights: Weights

    def contexts(self, text: npt.NDArray[np.unsignedinteger], boundary: Tokens, starts: Tokens, steps: int) -> Contexts:
        """Look up the contexts (M = K T) of T `steps` from each of `starts` (K) of a text (N) after a boundary."""
        order = self.ngram.order
        positions = starts[:, None] + np.arange(-order, steps - 1)  # no context is longer than order - 1
        tokens = text[np.clip(positions, 0, len(text) - 1)].astype(np.int64)
        before = boundary[np.clip(positions + len(boundary), 0, len(boundary) - 1)]
        tokens = np.where(positions < 0, before, tokens)
        numbers = self.ngram.last_grams(tokens, self.ngram.initial_state(len(starts)))[:, order - 1 :]
        # nothing comes before the boundary
        numbers[np.arange(order) > positions[:, order - 1 :, None] + len(boundary) + 1] = -1
        flat = numbers.reshape(-1, order)
        return Contexts(flat, self.weights.of(*self.ngram.evidence(flat)))

    def nats(self, vocabulary: Vocabulary, nats: Tensor, tokens: Tokens, contexts: Contexts) -> Tensor:
        """Compute the negative log-likelihoods (M) of tokens (M) from those of the network (M), in double precision and
        on the CPU."""
        weights = torch.from_numpy(contexts.weights)
        counted = torch.from_numpy(self.ngram.nats_after(vocabulary, contexts.numbers, tokens))
        return -torch.logaddexp(torch.log1p(-weights) - nats.cpu().double(), weights.log() - counted)

    def distribution(self, logits: Tensor, contexts: Contexts) -> Tensor:
        """Compute p (M, V) of every character from the network's logits (M, V), on its device."""
        p = torch.softmax(logits.float(), -1)
        weights = contexts.weights[:, None]
        p *= torch.from_numpy((1 - weights).astype(np.float32)).to(p.device)
        rows = max(1, _PROBABILITIES // self.ngram.size)
        for first in range(0, len(p), rows):
            block = slice(first, first + rows)
            counted = weights[block] * self.ngram.distribution(contexts.numbers[block])
            p[block] += torch.from_numpy(counted.astype(np.float32)).to(p.device)
        return p
