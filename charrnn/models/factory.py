"""Build the network of a configuration, and copy weights into a network of another vocabulary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from charrnn.config.schema import ModelConfig
from charrnn.models.bidirectional import BackwardHalf, BidirectionalRNN
from charrnn.models.char_rnn import BY_CHARACTER, CharRNN
from charrnn.models.hmm import HiddenMarkov
from charrnn.models.layers import State

Network = CharRNN | HiddenMarkov  # trained by gradients
Causal = Network | BackwardHalf  # reads a text in one direction, from the initial state


def make_model(config: ModelConfig, vocabulary_size: int) -> Network:
    """Build the network of a configuration; its weights are not drawn yet."""
    if config.cell == "hmm":
        return HiddenMarkov(config, vocabulary_size)
    return (BidirectionalRNN if config.bidirectional else CharRNN)(config, vocabulary_size)


@torch.no_grad()
def start_state(model: Causal, boundary: npt.NDArray[np.int64], batch_size: int = 1) -> State:
    """Return the state before the last token of a boundary (K), which is the first input of every text: zeros that have
    read the tokens before it."""
    state = model.initial_state(batch_size)
    if len(boundary) > 1:
        tokens = torch.from_numpy(np.tile(boundary[:-1], (batch_size, 1))).to(model.embedding.device)
        _, state = model.read(tokens, state)
    return state


@torch.no_grad()
def transplant(old: Network, old_characters: str, new: Network, new_characters: str) -> int:
    """Copy a model's weights into one of another vocabulary, matching rows by character; return how many matched.

    A character new to the old model starts as its mean character, which is unremarkable, rather than as noise.
    """
    of_training = {"dropout": 0.0, "mixture": "none"}
    assert old.config.model_copy(update=of_training) == new.config.model_copy(update=of_training)
    rows = {character: row for row, character in enumerate(old_characters)}
    shared = [(row, rows[character]) for row, character in enumerate(new_characters) if character in rows]
    target, source = (torch.tensor([pair[side] for pair in shared], dtype=torch.long) for side in (0, 1))
    before, after = old.state_dict(), new.state_dict()
    for name, weights in after.items():
        if name in BY_CHARACTER:
            weights.copy_(before[name].mean(0, keepdim=True).expand_as(weights))
            weights[target] = before[name][source]
        else:
            weights.copy_(before[name])
    return len(shared)
