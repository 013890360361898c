"""Making the network that a configuration asks for, and carrying weights over to another vocabulary."""

from __future__ import annotations

import torch

from charrnn.config.schema import ModelConfig
from charrnn.models.bidirectional import BackwardHalf, BidirectionalRNN
from charrnn.models.char_rnn import BY_CHARACTER, CharRNN
from charrnn.models.hmm import HiddenMarkov

Network = CharRNN | HiddenMarkov  # learns by gradients
Causal = Network | BackwardHalf  # reads a text in one direction, from the start state


def make_model(config: ModelConfig, vocabulary_size: int) -> Network:
    """Make the model that a configuration asks for, its weights not yet drawn."""
    if config.cell == "hmm":
        return HiddenMarkov(config, vocabulary_size)
    return (BidirectionalRNN if config.bidirectional else CharRNN)(config, vocabulary_size)


@torch.no_grad()
def transplant(
    old: CharRNN | HiddenMarkov, old_characters: str, new: CharRNN | HiddenMarkov, new_characters: str
) -> int:
    """Copy a model's weights into one of another vocabulary, rows matched by character; gives how many were known.

    A character new to the old model starts as its mean character, so that it is unremarkable rather than noise.
    """
    assert old.config.model_copy(update={"dropout": 0.0}) == new.config.model_copy(update={"dropout": 0.0})
    rows = {character: row for row, character in enumerate(old_characters)}
    known = [(row, rows[character]) for row, character in enumerate(new_characters) if character in rows]
    to, source = (torch.tensor([pair[side] for pair in known], dtype=torch.long) for side in (0, 1))
    before, after = old.state_dict(), new.state_dict()
    for name, weights in after.items():
        if name in BY_CHARACTER:
            weights.copy_(before[name].mean(0, keepdim=True).expand_as(weights))
            weights[to] = before[name][source]
        else:
            weights.copy_(before[name])
    return len(known)
