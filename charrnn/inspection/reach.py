"""Reach: how far back a model remembers, by what it loses without the rest and by its gradients.
Shapes: N characters, P positions, K distances, B batch rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation import short_texts
from charrnn.inspection import gradients
from charrnn.inspection.gradients import GradientNorms
from charrnn.inspection.states import States, read_states
from charrnn.messages import Progress, no_progress
from charrnn.models import likelihood
from charrnn.models.char_rnn import CharRNN
from charrnn.models.interface import Floats, LanguageModel, Tokens
from charrnn.models.numpy_model import NumpyModel
from charrnn.models.torch_model import TorchModel
from charrnn.scores import NATS_PER_BIT

POSITIONS = 256
FARTHEST = 512
SHUFFLED = 64  # characters further back, read in random order
_NUMBERS = 1 << 24  # logits at a time
_WINDOW = 128  # characters at a time


@dataclass(frozen=True)
class Reach:
    """How a model's predictions at P positions depend on what lies further back than each of K distances.

    bits       bits/char with the whole text before
    truncated  (K): bits/char lost when the model has read the last k characters only
    shuffled   (K): bits/char lost when it has read these after SHUFFLED others from further back in random order
    gradient   norms of d loss(t) / d state(t-k), as in `gradients.norms`; None without torch's network, or where no
               position has so much text before it
    """

    positions: int
    bits: float
    distances: tuple[int, ...]
    truncated: Floats
    shuffled: Floats
    gradient: GradientNorms | None = None

    def fields(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return {
            "positions": self.positions,
            "bits": self.bits,
            "distances": list(self.distances),
            "truncated": self.truncated.tolist(),
            "shuffled": self.shuffled.tolist(),
            "gradient": None if self.gradient is None else _gradient(self.gradient),
        }


def _gradient(norms: GradientNorms) -> dict[str, Any]:
    cells = norms.cell_of_layers
    return {
        "hidden": norms.hidden.tolist(),
        "cell": None if norms.cell is None else norms.cell.tolist(),
        "layers": [
            {"layer": layer, "hidden": hidden.tolist(), "cell": None if cells is None else cells[layer].tolist()}
            for layer, hidden in enumerate(norms.hidden_of_layers)
        ],
    }


def measure(
    model: LanguageModel,
    network: CharRNN | None,
    vocabulary: Vocabulary,
    text: str,
    *,
    states: States | None = None,
    seed: int = 1,
    positions: int = POSITIONS,
    distances: Sequence[int] | None = None,
    progress: Progress = no_progress,
) -> Reach:
    """Measure at up to P positions of a text, drawn at random, at ascending distances, by default those of
    `distances_of`.

    To truncate, the model starts from its state before any text and reads the last k characters; no boundary comes
    before them, since that would say that they begin a text. Where order no longer matters further back, but which
    characters occur there does, the shuffled loss is the smaller of the two (Khandelwal et al. 2018). Gradients are
    computed where `network`, the same model on torch, is given. Of a bidirectional model the forward half is measured.
    Progress counts what `work` returns.
    """
    encoded, generator = vocabulary.encode(text), np.random.default_rng(seed)
    tokens = encoded.astype(np.int64)
    reader: LanguageModel = model if network is None else TorchModel(network)  # faster for so many rows
    distances = tuple(distances or distances_of(len(tokens)))
    possible = np.arange(distances[-1], len(tokens))  # all have the largest distance before them
    chosen = np.sort(generator.permutation(possible)[:positions])
    whole = short_texts.character_nats(model, vocabulary, encoded)[chosen].mean()
    lost = {
        shuffled: np.array([
            _nats(reader, vocabulary, tokens, chosen, k, generator if shuffled else None, progress) - whole
            for k in distances
        ])
        for shuffled in (False, True)
    }  # fmt: skip
    gradient = None
    if network is not None:
        assert isinstance(model, NumpyModel)
        states = read_states(model, tokens, vocabulary.boundary_tokens) if states is None else states
        far = chosen - 1  # the prediction of a character is made from the state after the one before
        enough = far >= distances[-1] + gradients.earliest(network)
        if enough.any():
            gradient = gradients.norms(network, states, tokens, far[enough], distances, progress)
    truncated, shuffled = (lost[kind] / NATS_PER_BIT for kind in (False, True))
    return Reach(len(chosen), whole / NATS_PER_BIT, distances, truncated, shuffled, gradient)


def distances_of(characters: int) -> tuple[int, ...]:
    """Return 1, 2, 4 ... up to FARTHEST or half of a text."""
    return tuple(k for k in (1 << power for power in range(FARTHEST.bit_length())) if k == 1 or 2 * k <= characters)


def work(characters: int, *, gradient: bool, positions: int = POSITIONS) -> int:
    """Return how many characters `measure` reads of a text, but for the reading from beginning to end."""
    distances = distances_of(characters)
    rows = min(positions, characters - distances[-1])
    return rows * (2 * sum(distances) + SHUFFLED * len(distances) + gradient * distances[-1])


def _nats(
    model: LanguageModel,
    vocabulary: Vocabulary,
    tokens: Tokens,
    positions: Tokens,
    k: int,
    generator: np.random.Generator | None,
    progress: Progress,
) -> float:
    """Return the mean nats of the characters at `positions` for a model that has read the last k before them, and with
    a generator before these the others in random order."""
    total = 0.0
    for rows in _batches(positions, max(1, _NUMBERS // len(vocabulary))):
        state = model.initial_state(len(rows))
        context = tokens[rows[:, None] + np.arange(-k, 0)]  # (B, k)
        if generator is not None:
            context = np.concatenate((_further_back(tokens, rows - k, generator), context), 1)
        for first in range(0, context.shape[1], _WINDOW):
            logits, state = model.step(context[:, first : first + _WINDOW], state)
        total += float(likelihood.target_nats(vocabulary, logits, tokens[rows]).sum())
        progress(context.size)
    return total / len(positions)


def _further_back(tokens: Tokens, ends: Tokens, generator: np.random.Generator) -> Tokens:
    """Return SHUFFLED characters before each of `ends` (B), in random order (B, SHUFFLED); where the text has fewer, it
    is drawn from those again."""
    found = np.empty((len(ends), SHUFFLED), dtype=np.int64)
    for row, end in enumerate(ends.tolist()):
        before = tokens[max(0, end - SHUFFLED) : end] if end else tokens[:1]
        found[row] = generator.permutation(np.resize(before, SHUFFLED))
    return found


def _batches(positions: Tokens, size: int) -> Iterator[Tokens]:
    for first in range(0, len(positions), size):
        yield positions[first : first + size]
