"""Dynamic evaluation: the weights follow a text as it is read, and each character is scored before it is learnt
(Krause et al. 2018, "Dynamic Evaluation of Neural Sequence Models"). Works on copies: a model stays as it is.
Knows models and tokens, not files. Shapes: N characters, T characters of a segment, B lanes, V vocabulary."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charrnn.callbacks import Progress, no_progress
from charrnn.data.batches import Window
from charrnn.data.corpus import Tokens
from charrnn.data.loader import Batch, send
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError
from charrnn.evaluation.scoring import Characters, ranks
from charrnn.generation.filters import Filters
from charrnn.generation.sampling import Sampler
from charrnn.models import losses
from charrnn.models.bidirectional import LOOKAHEAD
from charrnn.models.char_rnn import CharRNN
from charrnn.models.layers import State
from charrnn.models.losses import target_nats
from charrnn.models.torch_model import TorchModel
from charrnn.scores import Score

SEGMENT = 20
_EPSILON = 0.3  # of the mean RMS: what a weight that is hardly ever used is taken to have at least
_LANES, _WINDOWS = 32, 12  # of the text that a model writes to see how large its gradients are
CHOOSING = 20_000  # characters to choose a rule on, at most
_LOST = 1e4  # nats a character: weights that foretell anything at all are never so wrong
_FARTHEST = 16  # times the default rate, or a share of it as small: where to stop looking
_DECAYS = 0.01, 0.05  # to try besides the default


@dataclass(frozen=True)
class UpdateRule:
    """Say how weights follow a text.

    `rate`: by how many nats a character an average segment would come to cost less, to first order, by being learnt; so
    defined it suits models of any size about alike. `decay`: which share of the way back to the trained weights an
    average weight goes with each segment.
    """

    rate: float = 0.4
    decay: float = 0.002


@dataclass(frozen=True)
class DynamicEvaluator:
    """Hold what reads a text forwards and learns it as it goes: the trained model, `rms` of its gradients in the order
    of parameters() (see `gradient_rms`), and the rule."""

    model: CharRNN
    vocabulary: Vocabulary
    rms: Sequence[Tensor]
    rule: UpdateRule

    @classmethod
    def of(cls, model: CharRNN, vocabulary: Vocabulary, rule: UpdateRule | None = None) -> DynamicEvaluator:
        """Take a model, of a bidirectional one the forward half, and see how large its gradients are."""
        half = forward_half(model)
        return cls(half, vocabulary, gradient_rms(half, vocabulary), rule or UpdateRule())

    @property
    def fields(self) -> dict[str, Any]:
        """Give what JSON says of a score made in this way."""
        return {"mode": "dynamic", "dynamic_rate": self.rule.rate, "dynamic_decay": self.rule.decay}

    def evaluate(self, tokens: Tokens, progress: Progress = no_progress) -> Score:
        """Score N tokens as one text that follows a newline, in a single pass that learns it as it goes.

        Raises CharRNNError where the weights run away.
        """
        score = Score()
        for block in self.characters(tokens, progress):
            score += Score(float(block.nats.sum()), len(block.nats), int((block.ranks == 1).sum()))
        return score

    def characters(self, tokens: Tokens, progress: Progress = no_progress) -> Iterator[Characters]:
        """Do the same character by character, a segment at a time, in order."""
        model, vocabulary = copy.deepcopy(self.model), self.vocabulary
        learner = _Updater(model, self.rms, self.rule)
        state, device = model.initial_state(1), model.embedding.device
        for first in range(0, len(tokens), SEGMENT):
            window = _window(tokens[None], first, vocabulary.newline)
            inputs, targets = (torch.from_numpy(array).to(device) for array in window[:2])  # (1, T)
            logits, state = model(inputs, state)
            prices = target_nats(logits, targets, vocabulary.known_nats, vocabulary.escape_nats)
            costs = prices.detach()[0].cpu().double().numpy()
            if not (costs < _LOST).all():
                raise _diverged(first, self.rule, "--dynamic-rate")
            yield Characters(costs, ranks(logits.detach()[0], targets[0]).cpu().numpy())
            # only now: each character was scored before it is learnt
            learner.learn(prices.mean())
            state = state.detach()
            progress(len(costs))

    def choose(
        self, tokens: Tokens, progress: Progress = no_progress
    ) -> tuple[UpdateRule, list[tuple[UpdateRule, Score]]]:
        """Find the rule that scores N tokens best, the first CHOOSING of them; gives it, and all that was tried.

        The rate is doubled or halved as long as that helps; then stronger decays are tried. None is weaker than the
        default, which forgets within some 10,000 characters: so what is best for a few of these is for a long text.
        """
        tokens = tokens[:CHOOSING]
        tried: list[tuple[UpdateRule, Score]] = []

        def cost(rule: UpdateRule) -> float:
            try:
                score = replace(self, rule=rule).evaluate(tokens, progress)
            except CharRNNError:  # the weights ran away
                score = Score(math.inf, len(tokens))
            tried.append((rule, score))
            return score.nats

        best = UpdateRule()
        least, start = cost(best), best
        for factor in (2.0, 0.5):
            while 1 / _FARTHEST <= best.rate * factor / start.rate <= _FARTHEST:
                further = replace(best, rate=best.rate * factor)
                if (price := cost(further)) >= least:
                    break
                best, least = further, price
            if best != start:
                break
        for decay in _DECAYS:
            slower = replace(best, decay=decay)
            if (price := cost(slower)) >= least:
                break
            best, least = slower, price
        return best, tried


def adapt(
    model: CharRNN, vocabulary: Vocabulary, tokens: Tokens, rule: UpdateRule, progress: Progress = no_progress
) -> tuple[CharRNN, Score]:
    """Give a copy of a model that has followed N tokens, and what they cost it forwards, each before it was learnt.

    A bidirectional model learns for all of its heads, as in training. Raises CharRNNError where the weights run away.
    """
    model = copy.deepcopy(model)
    learner = _Updater(model, gradient_rms(model, vocabulary), rule)
    state, generator, score = model.initial_state(1), _generator(model), Score()
    for first in range(0, len(tokens), SEGMENT):
        window = _window(tokens[None], first, vocabulary.newline)
        costs, state = _costs(model, vocabulary, window, state, generator)
        length, cost = window.targets.size, float(costs.forward.detach())
        score += Score(length * cost, length)
        if not cost < _LOST:
            raise _diverged(first, rule, "--adapt-rate")
        learner.learn(costs.total())
        state = state.detach()
        progress(length)
    return model, score


def forward_half(model: CharRNN) -> CharRNN:
    """Copy what reads forwards: of a bidirectional model one half, of any other the whole."""
    half = CharRNN(model.config, model.vocabulary_size).to(model.embedding)
    weights = model.state_dict()
    half.load_state_dict({name: weights[name] for name in half.state_dict()})
    return half.eval()


def gradient_rms(model: CharRNN, vocabulary: Vocabulary) -> list[Tensor]:
    """Give the root mean square of each weight's gradient over segments of one lane, in the order of parameters().

    The segments are of a text that the model writes itself: so no text need be at hand, and the mean squares are the
    diagonal of its Fisher information. The paper takes the training text; in trials both did about as well.
    """
    model = copy.deepcopy(model).eval()
    model.use_custom_kernel(True)
    length = _WINDOWS * SEGMENT
    sampler = Sampler(TorchModel(model), vocabulary, [""] * _LANES, length, Filters(1.0), seed=0, indices=range(_LANES))
    for _ in sampler:
        pass
    tokens = np.stack([vocabulary.encode(sample.text) for sample in sampler.samples])  # (B, N)
    weights, generator = list(model.parameters()), _generator(model)
    squares = [torch.zeros_like(weight) for weight in weights]
    state = model.initial_state(_LANES)
    for first in range(0, length, SEGMENT):
        window = _window(tokens, first, vocabulary.newline)
        costs, state = _costs(model, vocabulary, window, state, generator)
        state = state.detach()
        for square, gradient in zip(squares, torch.autograd.grad(costs.total(), weights), strict=True):
            square.addcmul_(gradient, gradient)
    # a mean over B lanes that have little in common is sqrt(B) times smaller than each
    return [(square * (_LANES / _WINDOWS)).sqrt() for square in squares]


class _Updater:
    """Moves a model's weights after each segment, with g the gradient of its mean price (Krause et al., section 3):

    w' = w + d (w0 - w) - s g / (r + e)
        r the RMS of g, e a share of its mean over all weights
        d = min(1, decay r / mean(r)): what matters more is held more firmly
        s = rate / sum(r^2 / (r + e)), so that the average segment gains `rate` by its own step
    """

    def __init__(self, model: CharRNN, rms: Sequence[Tensor], rule: UpdateRule) -> None:
        model.eval().use_custom_kernel(True)
        self.weights = list(model.parameters())
        mean = sum(float(r.sum()) for r in rms) / sum(r.numel() for r in rms)
        least = _EPSILON * mean
        gain = sum(float((r.square() / (r + least)).sum()) for r in rms) if mean else math.inf
        self.steps = [rule.rate / gain / (r + least) if mean else torch.zeros_like(r) for r in rms]
        self.origins = [weight.detach().clone() for weight in self.weights] if rule.decay else None
        self.pulls = [(rule.decay / mean * r).clamp(max=1.0) for r in rms] if rule.decay and mean else None

    def learn(self, cost: Tensor) -> None:
        """Follow the gradient of a segment's mean price."""
        gradients = torch.autograd.grad(cost, self.weights)
        with torch.no_grad():
            if self.pulls is not None and self.origins is not None:
                for weight, origin, pull in zip(self.weights, self.origins, self.pulls, strict=True):
                    weight.lerp_(origin, pull)
            for weight, gradient, step in zip(self.weights, gradients, self.steps, strict=True):
                weight.addcmul_(gradient, step, value=-1)


def _window(tokens: Tokens, first: int, newline: int) -> Window:
    """Cut a segment out of lanes (B, N) that follow a newline, and end with one: inputs and targets (B, T), and all
    that comes after each target (B, T + lookahead)."""
    last = min(first + SEGMENT, tokens.shape[1])
    edge = np.full((len(tokens), 1), newline, dtype=np.int64)
    targets = tokens[:, first:last].astype(np.int64)
    before = tokens[:, first - 1 : first].astype(np.int64) if first else edge
    after = tokens[:, first + 1 : last + 1 + LOOKAHEAD].astype(np.int64)
    if last + 1 + LOOKAHEAD > tokens.shape[1]:
        after = np.concatenate((after, edge), 1)
    return Window(np.concatenate((before, targets[:, :-1]), 1), targets, after)


def _costs(
    model: CharRNN, vocabulary: Vocabulary, window: Window, state: State, generator: torch.Generator
) -> tuple[losses.Losses, State]:
    device = model.embedding.device
    batch = Batch(*(None if array is None else send(array, device) for array in window))  # type: ignore[arg-type]
    return losses.compute_losses(model, batch, state, vocabulary.known_nats, vocabulary.escape_nats, generator)


def _diverged(place: int, rule: UpdateRule, option: str) -> CharRNNError:
    return CharRNNError(
        f"The weights ran away before character {place + 1:,}: they followed the text too fast, at rate {rule.rate:g}."
        f" Name a smaller one with {option}."
    )


def _generator(model: CharRNN) -> torch.Generator:
    return torch.Generator(model.embedding.device).manual_seed(0)
