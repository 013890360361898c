"""Bidirectional models: two stacks that never see the character to predict, and a head that joins them.
Knows tokens, not text, files or optimizers.
Shapes: B batch rows, T steps, V vocabulary, F features (H, or E where weights are tied)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from charrnn.config.schema import ModelConfig
from charrnn.models.char_rnn import CharRNN, start_bias
from charrnn.models.interface import WIDEST
from charrnn.models.layers import Stack, State

LOOKAHEAD = 64  # characters after a training window that only warm up the backward stack, at most


class BidirectionalRNN(CharRNN):
    """Predicts each character from the text before it, from the text after it, and from both.

    One stack reads forwards and another backwards; they share the embedding and the head's matrix (Peters et al. 2018).
    Character t is predicted from the forward stack after t-1 and the backward stack after t+1: however deep, neither
    has seen it. As a module it is its forward half, an ordinary causal model: `model(tokens, state)`.

    Joint head, for the first of r characters that remain in a gap:
        j = f + a_r * b + U relu(W [f; b] + e_r)        f, b, a_r (F), e_r (2F), W (2F, 2F), U (F, 2F)
    With r = 1 it starts as the product of both halves' predictions, and learns what that product counts twice.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__(config, vocabulary_size)
        size = self.feature_size
        self.backward_bias = nn.Parameter(torch.empty(vocabulary_size))
        self.joint_bias = nn.Parameter(torch.empty(vocabulary_size))
        self.joint_width = nn.Parameter(torch.empty(WIDEST, 2 * size))  # e
        self.joint_trust = nn.Parameter(torch.empty(WIDEST, size))  # a
        self.backward_stack = Stack(config)
        with torch.random.fork_rng(devices=[]):
            self.joint_hidden = nn.Linear(2 * size, 2 * size, bias=False)  # W
            self.joint_output = nn.Linear(2 * size, size, bias=False)  # U

    def initialise(self, generator: Generator, frequencies: Tensor | None = None) -> None:
        """Draw all weights: those of the forward half first, as in a causal model."""
        super().initialise(generator, frequencies)
        self.backward_stack.initialise_layers(generator)
        start_bias(self.backward_bias, frequencies)
        start_bias(self.joint_bias, frequencies)
        nn.init.zeros_(self.joint_width)
        nn.init.zeros_(self.joint_trust)
        with torch.no_grad():
            self.joint_trust[0] = 1.0  # only with no other character between does b predict this very one
        nn.init.xavier_uniform_(self.joint_hidden.weight, generator=generator)
        nn.init.zeros_(self.joint_output.weight)

    @property
    def backward_half(self) -> BackwardHalf:
        """Return the half that reads from the end to the beginning."""
        return BackwardHalf(self)

    def read_back(self, tokens: Tensor, state: State, generator: Generator | None = None) -> tuple[Tensor, State]:
        """Read tokens (B, T) from the last to the first; return features (B, T, F), of which the i-th has read the
        tokens from i on, and the state after the first token."""
        features, state = self.backward_stack.run_layers(self.embed(tokens.flip(1)), state, generator)
        return features.flip(1), state

    def backward_logits(self, after: Tensor) -> Tensor:
        """Predict the character before from features of the backward stack (..., F); return logits (..., V)."""
        return self.logits(after, self.backward_bias)

    def joint_logits(
        self, before: Tensor, after: Tensor, remaining: Tensor | int = 1, generator: Generator | None = None
    ) -> Tensor:
        """Predict the first of `remaining` unknown characters (1 or more) between features of both stacks.

        before, after (..., F), remaining (...); returns logits (..., V).
        """
        row = (torch.as_tensor(remaining, device=before.device) - 1).clamp(max=WIDEST - 1)
        # an embedding, not an index, whose gradient depends on the order in which threads add
        mixed = self.joint_hidden(torch.cat((before, after), -1)) + F.embedding(row, self.joint_width)
        mixed = self.joint_output(self.apply_dropout(torch.relu(mixed), generator))
        return self.logits(before + F.embedding(row, self.joint_trust) * after + mixed, self.joint_bias)


class BackwardHalf:
    """The backward half of a bidirectional model, as a causal model of reversed text."""

    def __init__(self, model: BidirectionalRNN) -> None:
        self.model, self.config, self.embedding = model, model.config, model.embedding

    def __call__(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read tokens (B, T) of a reversed text; return the logits (B, T, V) of each next token, and the next state."""
        features, state = self.read(tokens, state)
        return self.logits(features), state

    def read(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Do the same, but return the features (B, T, F) that the head would read."""
        return self.model.backward_stack.run_layers(self.model.embed(tokens), state)

    def logits(self, features: Tensor) -> Tensor:
        """Return logits (..., V) from features (..., F)."""
        return self.model.backward_logits(features)

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any text: zeros, for B batch rows."""
        return self.model.backward_stack.initial_state(batch_size)

    def eval(self) -> BackwardHalf:
        """Put the model into evaluation mode."""
        self.model.eval()
        return self
