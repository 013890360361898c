"""The hidden Markov model: a recurrence whose state is a probability, trained by gradient like any other.
Text, files and optimizers are someone else's business.
Shapes: B lanes, T steps, V vocabulary, S hidden states (`hidden_size`)."""

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
    """The forward recursion over a window, and its gradient by hand: the gradient of A is one product for all steps.

    For each step, with f, b, p and A as in `cells.hidden_markov`, c = sum(f * b), and d. for the gradient of .:
        dp = df' A^T,  du = (dp - sum(dp * p)) / c,  df = du * b,  db = du * f,  dA = sum over steps of p^T df'
    """

    @staticmethod
    def forward(ctx: Any, coming: Tensor, likelihoods: Tensor, transition: Tensor) -> tuple[Tensor, Tensor]:
        """Step from f (B, S) through likelihoods (B, T, S); gives f' of every step (B, T, S) and the last p (B, S)."""
        before, posteriors = [coming], []
        for likelihood in likelihoods.unbind(1):
            posterior, coming = cells.hidden_markov(coming, likelihood, transition)
            posteriors.append(posterior)
            before.append(coming)
        ctx.save_for_backward(torch.stack(before[:-1]), torch.stack(posteriors), likelihoods, transition)
        return torch.stack(before[1:], 1), posteriors[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outputs: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turn the gradients of both results into those of all three arguments."""
        before, posteriors, likelihoods, transition = ctx.saved_tensors
        likelihoods = likelihoods.transpose(0, 1)  # (T, B, S)
        scales = (before * likelihoods).sum(-1, keepdim=True)
        coming, d_posterior = outputs.new_zeros(last.shape), last
        d_before, d_coming = torch.empty_like(before), torch.empty_like(before)
        for step in range(len(before) - 1, -1, -1):
            coming = coming + outputs[:, step]
            d_coming[step] = coming
            d_posterior = torch.addmm(d_posterior, coming, transition.T)
            own = (d_posterior * posteriors[step]).sum(-1, keepdim=True)
            d_before[step] = (d_posterior - own) / scales[step]
            coming, d_posterior = d_before[step] * likelihoods[step], torch.zeros_like(last)
        d_transition = posteriors.flatten(0, 1).T @ d_coming.flatten(0, 1)
        return coming, (d_before * before).transpose(0, 1), d_transition


class HiddenMarkov(nn.Module):
    """Predict each next character of B lanes from a chain of hidden states (Rabiner 1989, sections II and III).
    Holds no state: `model(tokens, state) -> (logits, state)`.

    The state carried is the logarithm of the posterior, log P(s | all that was read). A (S, S) and E (V, S) are the
    softmax of what is learnt, of rows and of columns; instead of re-estimating them (Baum and Welch) the gradient of
    the forward recursion is followed. Before a text any hidden state is as likely as another. An unknown character
    says nothing about the hidden state.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        assert not config.unsettled
        self.config, self.vocabulary_size = config, vocabulary_size
        states = int(config.hidden_size)
        self.transition = nn.Parameter(torch.empty(states, states))
        self.emission = nn.Parameter(torch.empty(vocabulary_size, states))

    @property
    def embedding(self) -> Tensor:
        """Give the weights by which others see where, and in what type, this model computes."""
        return self.emission

    def initialise(self, generator: Generator, frequencies: Tensor | None = None) -> None:
        """Draw all weights: hidden states must differ from the first step on, each around the frequencies (V)."""
        nn.init.normal_(self.transition, generator=generator)
        nn.init.normal_(self.emission, generator=generator)
        if frequencies is not None:
            with torch.no_grad():
                self.emission.add_(frequencies.log()[:, None])

    def initial_state(self, batch_size: int) -> State:
        """Give the state before any text, for B lanes: all hidden states are equally likely."""
        states = len(self.transition)
        return State(self.transition.new_full((1, batch_size, states), -math.log(states)))

    def forward(self, tokens: Tensor, state: State, generator: Generator | None = None) -> tuple[Tensor, State]:
        """Read tokens (B, T) from a state; gives logits (B, T, V) of what follows each, and the state after them."""
        features, state = self.read(tokens, state, generator)
        return self.logits(features), state

    def read(self, tokens: Tensor, state: State, generator: Generator | None = None) -> tuple[Tensor, State]:
        """Do the same as forward, but give the features (B, T, S): which hidden state comes next."""
        # products of probabilities in bf16 would add up to anything but one
        with torch.autocast(tokens.device.type, enabled=False):
            transition, emission = self.transition.softmax(1), cells.emission(self.emission)
            unknown = emission.new_ones(1, emission.shape[1])
            likelihoods = F.embedding(tokens, torch.cat((emission, unknown)))  # (B, T, S)
            features, posterior = _Recursion.apply(  # type: ignore[no-untyped-call]
                state.hidden[0].exp() @ transition, likelihoods, transition
            )
        least = torch.finfo(posterior.dtype).tiny
        return features, State(posterior.clamp_min(least).log()[None])

    def logits(self, features: Tensor) -> Tensor:
        """Turn features (..., S) into logits (..., V): the logarithms of the probabilities."""
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features, cells.emission(self.emission)).log()

    def use_custom_kernel(self, own: bool) -> None:
        """Do nothing: there is one way to run it."""
