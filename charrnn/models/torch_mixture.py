"""A network on torch, mixed with an n-gram model. What generates or scores lines wraps both behind NumPy arrays, by
`torch_model.language_model`; what scores long texts reads the network in parallel segments."""

from __future__ import annotations

from typing import NamedTuple

from charrnn.models.factory import Network
from charrnn.models.ngram import Ngram
from charrnn.models.ngram_mixture import Weights


class TorchMixture(NamedTuple):
    """The parts of an `ngram_mixture.NgramMixture`, the network as a torch module."""

    network: Network
    ngram: Ngram
    weights: Weights
