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

    def ranked(
        self, positions: Positions, features: Tensor, targets: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the nats (R) and ranks (R) of targets (K, T) at consecutive positions (K, T), and the logits (R, V) of
        the mixture, in order."""
        for logits, wanted, contexts in self._blocks(positions, features, targets):
            nats = self.mixture.nats(self.vocabulary, self.nats(logits, wanted), wanted.cpu().numpy(), contexts)
            p = self.mixture.distribution(logits, contexts)
            yield nats, ranks(p, wanted), p.log()

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

        A character of probability 1/2 is the likeliest, and one that is less likely than the network's choice is not.
        The whole distribution, which takes far longer, is computed only where both leave it open.
        """
        network_nats, known = self.nats(logits, wanted), wanted < len(self.vocabulary)
        own = logits.gather(1, wanted.where(known, 0)[:, None])[:, 0]
        chosen_nats = (network_nats - (logits.amax(1) - own)).cpu().double()  # of the network's choice
        nats = self.mixture.nats(self.vocabulary, network_nats, wanted.cpu().numpy(), contexts)
        correct = nats <= self.vocabulary.known_nats + math.log(2)
        # its choice at its weight alone: to look for the choice itself takes as long as a softmax
        bound = chosen_nats - torch.from_numpy(contexts.weights).neg().log1p()
        rows = torch.nonzero(known.cpu() & ~correct & (nats <= bound))[:, 0]
        chosen = logits[rows.to(self.device)].argmax(1).cpu().numpy()
        others = contexts.select(rows.numpy())
        least = self.mixture.nats(self.vocabulary, chosen_nats[rows], chosen, others)
        # where the choice is the target the two may differ by rounding
        rows = rows[(nats[rows] <= least) | (torch.from_numpy(chosen) == wanted.cpu()[rows])]
        some, targets = logits[rows.to(self.device)], wanted[rows.to(self.device)]
        p = self.mixture.distribution(some, contexts.select(rows.numpy()))
        correct[rows] = (p.gather(1, targets[:, None])[:, 0] == p.amax(1)).cpu()
        return nats, correct
