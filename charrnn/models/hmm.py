"""The hidden Markov model: a recurrence whose state is a probability distribution, trained by gradients like any other.
Knows tokens, not text, files or optimizers.
Shapes: B batch rows, T steps, V vocabulary, S hidden states (`hidden_size`)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from charrnn.config.schema import ModelConfig
from charrnn.models import cells
from charrnn.models.layers import State


class _Recursion(torch.autograd.Function):
    """The forward recursion over a window, and its gradient by hand: that of A is one product for all steps.

    For each step, with f, b, p and A as in `cells.hidden_markov`, c = sum(f * b), and dx for the gradient of x:
        dp = df' A^T,  du = (dp - sum(dp * p)) / c,  df = du * b,  db = du * f,  dA = sum over steps of p^T df'
    """

    @staticmethod
    def forward(ctx: Any, predicted: Tensor, likelihoods: Tensor, transition: Tensor) -> tuple[Tensor, Tensor]:
        """Run from f (B, S) through likelihoods (B, T, S); return f' of every step (B, T, S) and the last p (B, S)."""
        predictions, posteriors = [predicted], []
        for likelihood in likelihoods.unbind(1):
            posterior, predicted = cells.hidden_markov(predicted, likelihood, transition)
            posteriors.append(posterior)
            predictions.append(predicted)
        ctx.save_for_backward(torch.stack(predictions[:-1]), torch.stack(posteriors), likelihoods, transition)
        return torch.stack(predictions[1:], 1), posteriors[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outputs: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the gradients of the three arguments from those of both results."""
        f, p, b, transition = ctx.saved_tensors
        b = b.transpose(0, 1)  # (T, B, S)
        c = (f * b).sum(-1, keepdim=True)
        df, dp = outputs.new_zeros(last.shape), last
        du, df_after = torch.empty_like(f), torch.empty_like(f)
        for step in range(len(f) - 1, -1, -1):
            df_after[step] = df = df + outputs[:, step]
            dp = torch.addmm(dp, df, transition.T)
            du[step] = (dp - (dp * p[step]).sum(-1, keepdim=True)) / c[step]
            df, dp = du[step] * b[step], torch.zeros_like(last)
        return df, (du * f).transpose(0, 1), p.flatten(0, 1).T @ df_after.flatten(0, 1)


class HiddenMarkov(nn.Module):
    """Predicts the next character in each batch row from a chain of hidden states (Rabiner 1989, sections II and III).
    Holds no state: `model(tokens, state) -> (logits, state)`.

    The state is the logarithm of the posterior, log P(s | the text so far). A (S, S) and E (V, S) are the softmax of
    the weights, by rows and by columns; they are trained by the gradient of the forward recursion instead of
    re-estimated (Baum and Welch). Before a text all hidden states are equally likely. An unknown character carries no
    information about the hidden state.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        assert not config.unresolved
        self.config, self.vocabulary_size = config, vocabulary_size
        states = int(config.hidden_size)
        self.transition = nn.Parameter(torch.empty(states, states))
        self.emission = nn.Parameter(torch.empty(vocabulary_size, states))

    @property
    def embedding(self) -> Tensor:
        """Return the weights that show on which device, and in what type, this model computes."""
        return self.emission

    def initialise(self, generator: Generator, frequencies: Tensor | None = None) -> None:
        """Draw all weights: hidden states differ from the first step on, each around the frequencies (V), if given."""
        nn.init.normal_(self.transition, generator=generator)
        nn.init.normal_(self.emission, generator=generator)
        if frequencies is not None:
            with torch.no_grad():
                self.emission.add_(frequencies.log()[:, None])

    def initial_state(self, batch_size: int) -> State:
        """Return the state before any text, for B batch rows: all hidden states are equally likely."""
        states = len(self.transition)
        return State(self.transition.new_full((1, batch_size, states), -math.log(states)))

    def forward(self, tokens: Tensor, state: State, generator: Generator | None = None) -> tuple[Tensor, State]:
        """Read tokens (B, T) from a state; return the logits (B, T, V) of each next token, and the next state."""
        features, state = self.read(tokens, state, generator)
        return self.logits(features), state

    def read(self, tokens: Tensor, state: State, generator: Generator | None = None) -> tuple[Tensor, State]:
        """Do the same as forward, but return the features (B, T, S): predictions of the next hidden state."""
        # in bf16 the probabilities would not add up to one
        with torch.autocast(tokens.device.type, enabled=False):
            transition, emission = self.transition.softmax(1), cells.emission(self.emission)
            unknown = emission.new_ones(1, emission.shape[1])
            likelihoods = F.embedding(tokens, torch.cat((emission, unknown)))  # (B, T, S)
            features, posterior = _Recursion.apply(  # type: ignore[no-untyped-call]
                state.hidden[0].exp() @ transition, likelihoods, transition
            )
        tiny = torch.finfo(posterior.dtype).tiny
        return features, State(posterior.clamp_min(tiny).log()[None])

    def logits(self, features: Tensor) -> Tensor:
        """Return logits (..., V) from features (..., S): the logarithms of the probabilities."""
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features, cells.emission(self.emission)).log()

    def use_custom_kernel(self, custom: bool) -> None:
        """Do nothing: there is only one kernel."""
