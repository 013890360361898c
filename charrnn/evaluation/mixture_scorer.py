"""Score windows of one text under a network mixed with an n-gram model. Of the n-gram model no state is carried: its
contexts are in the text. Shapes: K rows, T steps, F features, V vocabulary, R rows of a block of logits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charrnn.data.corpus import Tokens
from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation.window_scorer import WindowScorer, ranks
from charrnn.messages import Progress
from charrnn.models.torch_mixture import Contexts, TorchMixture

Positions = npt.NDArray[np.int64]


class MixtureScorer(WindowScorer):
    """Scores characters of one text, given their positions and the network's states before them."""

    def __init__(
        self, mixture: TorchMixture, vocabulary: Vocabulary, tokens: Tokens, boundary: Positions, progress: Progress
    ) -> None:
        super().__init__(mixture.network, vocabulary, tokens, boundary, progress)
        self.mixture = mixture

    def score_at(
        self, positions: Positions, features: Tensor, targets: Tensor, bf16: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Do the same as `score` for targets at consecutive positions (K, T)."""
        blocks = self._blocks(positions, features, targets, bf16)
        nats, correct = zip(*(self._score_block(*block) for block in blocks), strict=True)
        return torch.cat(nats).view(targets.shape), torch.cat(correct).view(targets.shape)

    def ranked(self, positions: Positions, features: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the nats (R) and ranks (R) of targets (K, T) at consecutive positions (K, T), in order."""
        for logits, wanted, contexts in self._blocks(positions, features, targets):
            nats = self.mixture.nats(self.vocabulary, self.nats(logits, wanted), wanted.cpu().numpy(), contexts)
            yield nats, ranks(self.mixture.distribution(logits, contexts), wanted)

    def _blocks(
        self, positions: Positions, features: Tensor, targets: Tensor, bf16: bool = False
    ) -> Iterator[tuple[Tensor, Tensor, Contexts]]:
        """Yield the network's logits (R, V), targets (R) and contexts (R), in order."""
        contexts = self.mixture.contexts(self.tokens, self.boundary, positions[:, 0], positions.shape[1])
        last = 0
        for logits, wanted in self.logit_blocks(features, targets, bf16):
            first, last = last, last + len(wanted)
            yield logits, wanted, contexts.select(slice(first, last))

    def _score_block(self, logits: Tensor, wanted: Tensor, contexts: Contexts) -> tuple[Tensor, Tensor]:
        """Return nats (R) and whether correct (R).

        A character of probability 1/2 is the likeliest; another is not if it is less likely than the network's choice.
        The whole distribution, which takes far longer, is computed only where both leave it open.
        """
        network_nats, (best, chosen) = self.nats(logits, wanted), logits.max(1)
        known = wanted < len(self.vocabulary)
        own = logits.gather(1, wanted.where(known, 0)[:, None])[:, 0]
        nats = self.mixture.nats(self.vocabulary, network_nats, wanted.cpu().numpy(), contexts)
        correct = nats <= self.vocabulary.known_nats + math.log(2)
        rows = torch.nonzero(known.cpu() & ~correct)[:, 0]
        other_nats = (network_nats - (best - own)).cpu()[rows]
        others = contexts.select(rows.numpy())
        other_nats = self.mixture.nats(self.vocabulary, other_nats, chosen.cpu()[rows].numpy(), others)
        rows = rows[(nats[rows] <= other_nats) | (chosen == wanted).cpu()[rows]]
        on_device = rows.to(self.device)
        p = self.mixture.distribution(logits[on_device], contexts.select(rows.numpy()))
        likelihoods = p.gather(1, wanted[on_device, None])[:, 0]
        correct[rows] = (likelihoods == p.amax(1)).cpu()
        return nats, correct
