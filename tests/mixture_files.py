"""Files of a network mixed with an n-gram model, made of the files of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from charrnn.checkpoints import inference, model_file
from charrnn.checkpoints.model_file import MixtureRecord
from charrnn.models.ngram import Ngram

WEIGHTS = ((0.2, 0.4), (0.5, 0.7), (0.3, 0.9))


def write_mixture(
    network: Path, ngram: Path, target: Path, weights: tuple[tuple[float, ...], ...] = WEIGHTS
) -> tuple[model_file.Header, Ngram]:
    """Write a mixture of two model files of the same text; return its header and the n-gram model."""
    header, tensors = model_file.read(network, training=True)
    counted, _ = inference.load(ngram)
    assert isinstance(counted, Ngram)
    latest = header.latest
    assert latest is not None
    history = (*header.history[:-1], replace(latest, mixture_nats=latest.nats / 2))
    mixed = replace(header, mixture=MixtureRecord(counted.order, weights), history=history)
    model_file.write(target, mixed, tensors, counted.tables())
    return mixed, counted
