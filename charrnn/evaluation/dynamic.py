"""Dynamic evaluation: score a text segment by segment, and train on each segment after it is scored
(Krause et al. 2018, "Dynamic Evaluation of Neural Sequence Models"). Works on copies: models are never changed.
Knows models and tokens, not files. Shapes: N characters, T characters of a segment, B rows, V vocabulary."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charrnn.config.limits import FILE_BOUNDARY
from charrnn.data.batches import Window
from charrnn.data.corpus import Tokens
from charrnn.data.loader import Batch, to_device
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError
from charrnn.evaluation.short_texts import Characters
from charrnn.evaluation.window_scorer import ranks
from charrnn.generation.filters import Filters
from charrnn.generation.sampling import Sampler
from charrnn.messages import Progress, no_progress
from charrnn.models import likelihood
from charrnn.models.bidirectional import LOOKAHEAD
from charrnn.models.char_rnn import CharRNN
from charrnn.models.factory import start_state
from charrnn.models.layers import State
from charrnn.models.losses import Losses, compute_losses, target_nats
from charrnn.models.torch_mixture import TorchMixture
from charrnn.models.torch_model import TorchModel
from charrnn.scores import Score

SEGMENT = 20  # characters
TUNING_CHARACTERS = 20_000  # at most
_EPSILON = 0.3  # of the mean RMS: a floor for weights that are hardly ever used
_SAMPLES, _SAMPLE_SEGMENTS = 32, 12  # that the model generates to measure its gradients on
_DIVERGED_NATS = 1e4  # a character: no weights that still predict anything are so wrong
_MAX_RATE_FACTOR = 16  # how far from the default rate to search, either way
_DECAYS = 0.01, 0.05  # to try besides the default


@dataclass(frozen=True)
class UpdateRule:
    """How weights are updated after each segment.

    `rate`: the nats a character by which one update lowers an average segment's own loss, to first order; defined so,
    one rate suits models of any size. `decay`: the share of the way back to the trained weights that an average weight
    goes with each segment.
    """

    rate: float = 0.4
    decay: float = 0.002


@dataclass(frozen=True)
class DynamicEvaluator:
    """The trained forward model, the `rms` of its gradients in the order of parameters() (see `gradient_rms`), and the
    update rule. With a `mixture`, what is scored is the model mixed with its n-gram model, whose counts stay; the
    weights follow the model's own loss as they do without."""

    model: CharRNN
    vocabulary: Vocabulary
    rms: Sequence[Tensor]
    rule: UpdateRule
    mixture: TorchMixture | None = None

    @classmethod
    def of(
        cls, model: CharRNN | TorchMixture, vocabulary: Vocabulary, rule: UpdateRule | None = None
    ) -> DynamicEvaluator:
        """Take a model, of a bidirectional one the forward half, and measure its gradients."""
        mixture = model if isinstance(model, TorchMixture) else None
        network = model.network if isinstance(model, TorchMixture) else model
        assert isinstance(network, CharRNN)
        half = forward_half(network)
        return cls(half, vocabulary, gradient_rms(half, vocabulary), rule or UpdateRule(), mixture)

    @property
    def fields(self) -> dict[str, Any]:
        """Return what JSON says about a dynamic score."""
        return {"mode": "dynamic", "dynamic_rate": self.rule.rate, "dynamic_decay": self.rule.decay}

    def evaluate(self, tokens: Tokens, progress: Progress = no_progress) -> Score:
        """Score N tokens as one text that follows the boundary. Raises CharRNNError where the weights diverge."""
        score = Score()
        for block in self.characters(tokens, progress):
            score += block.score
        return score

    def characters(
        self, tokens: Tokens, progress: Progress = no_progress, *, top: int | None = None
    ) -> Iterator[Characters]:
        """Score N tokens character by character; yield one segment at a time, in order, with the `top` likeliest
        characters."""
        model, vocabulary = copy.deepcopy(self.model), self.vocabulary
        updater = _Updater(model, self.rms, self.rule)
        state, device = start_state(model, vocabulary.boundary_tokens), model.embedding.device
        for first in range(0, len(tokens), SEGMENT):
            window = _window(tokens[None], first, vocabulary.boundary_tokens)
            inputs, targets = (torch.from_numpy(array).to(device) for array in window[:2])  # (1, T)
            logits, state = model(inputs, state)
            losses = target_nats(logits, targets, vocabulary.known_nats, vocabulary.escape_nats)
            if not bool((losses < _DIVERGED_NATS).all()):
                raise _diverged(first, self.rule, "--dynamic-rate")
            yield self._scored(tokens, first, losses.detach()[0], logits.detach()[0], targets[0], top)
            updater.update(losses.mean())
            state = state.detach()
            progress(targets.shape[1])

    def _scored(
        self, tokens: Tokens, first: int, nats: Tensor, logits: Tensor, targets: Tensor, top: int | None
    ) -> Characters:
        """Return what is scored of the characters (T) from `first`, from the model's nats (T) and logits (T, V)."""
        if self.mixture is not None:
            boundary = self.vocabulary.boundary_tokens
            contexts = self.mixture.contexts(tokens, boundary, np.array([first]), len(targets))
            nats = self.mixture.nats(self.vocabulary, nats, targets.cpu().numpy(), contexts)
            # in double precision, or close probabilities would share a logarithm, and a rank
            logits = self.mixture.distribution(logits, contexts).cpu().double().log()
            targets = targets.cpu()
        best = likelihood.likeliest(self.vocabulary, logits.cpu().numpy(), top) if top else None
        return Characters(nats.cpu().double().numpy(), ranks(logits, targets).cpu().numpy(), best)

    def tune(
        self, tokens: Tokens, progress: Progress = no_progress
    ) -> tuple[UpdateRule, list[tuple[UpdateRule, Score]]]:
        """Find the rule that scores the first TUNING_CHARACTERS of N tokens best; return it and all that were tried.

        The rate is doubled or halved as long as that helps; then stronger decays are tried. No decay weaker than the
        default is tried: the default forgets within some 10,000 characters, so a tuning text can judge it.
        """
        tokens = tokens[:TUNING_CHARACTERS]
        tried: list[tuple[UpdateRule, Score]] = []

        def nats_with(rule: UpdateRule) -> float:
            try:
                score = replace(self, rule=rule).evaluate(tokens, progress)
            except CharRNNError:  # diverged
                score = Score(math.inf, len(tokens))
            tried.append((rule, score))
            return score.nats

        best = default = UpdateRule()
        least = nats_with(best)
        for factor in (2.0, 0.5):
            while 1 / _MAX_RATE_FACTOR <= best.rate * factor / default.rate <= _MAX_RATE_FACTOR:
                candidate = replace(best, rate=best.rate * factor)
                if (nats := nats_with(candidate)) >= least:
                    break
                best, least = candidate, nats
            if best != default:
                break
        for decay in _DECAYS:
            candidate = replace(best, decay=decay)
            if (nats := nats_with(candidate)) >= least:
                break
            best, least = candidate, nats
        return best, tried


def adapt(
    model: CharRNN, vocabulary: Vocabulary, tokens: Tokens, rule: UpdateRule, progress: Progress = no_progress
) -> tuple[CharRNN, Score]:
    """Return a copy of a model adapted to N tokens, and their forward score during adaptation.

    A bidirectional model adapts all of its heads, as in training. Raises CharRNNError where the weights diverge.
    """
    model = copy.deepcopy(model)
    updater = _Updater(model, gradient_rms(model, vocabulary), rule)
    state, generator, score = start_state(model, vocabulary.boundary_tokens), _generator(model), Score()
    for first in range(0, len(tokens), SEGMENT):
        window = _window(tokens[None], first, vocabulary.boundary_tokens)
        losses, state = _losses(model, vocabulary, window, state, generator)
        length, nats = window.targets.size, float(losses.forward.detach())
        score += Score(length * nats, length)
        if not nats < _DIVERGED_NATS:
            raise _diverged(first, rule, "--adapt-rate")
        updater.update(losses.total())
        state = state.detach()
        progress(length)
    return model, score


def forward_half(model: CharRNN) -> CharRNN:
    """Copy the forward half of a bidirectional model, or all of any other."""
    half = CharRNN(model.config, model.vocabulary_size).to(model.embedding)
    weights = model.state_dict()
    half.load_state_dict({name: weights[name] for name in half.state_dict()})
    return half.eval()


def gradient_rms(model: CharRNN, vocabulary: Vocabulary) -> list[Tensor]:
    """Return the root mean square of each weight's gradient over single segments, in the order of parameters().

    The text is sampled from the model, so that none has to be available, and the mean squares estimate the diagonal of
    its Fisher information. The paper takes the training text; in trials both did about equally well.
    """
    model = copy.deepcopy(model).eval()
    model.use_custom_kernel(True)
    length, indices = _SAMPLE_SEGMENTS * SEGMENT, range(_SAMPLES)
    visible = _visible(vocabulary)
    sampler = Sampler(TorchModel(model), visible, [""] * _SAMPLES, length, Filters(), seed=0, indices=indices)
    for _ in sampler:
        pass
    tokens = np.stack([visible.encode(sample.text) for sample in sampler.samples])  # (B, N)
    weights, generator = list(model.parameters()), _generator(model)
    squares = [torch.zeros_like(weight) for weight in weights]
    state = start_state(model, vocabulary.boundary_tokens, _SAMPLES)
    for first in range(0, length, SEGMENT):
        window = _window(tokens, first, vocabulary.boundary_tokens)
        losses, state = _losses(model, vocabulary, window, state, generator)
        state = state.detach()
        for square, gradient in zip(squares, torch.autograd.grad(losses.total(), weights), strict=True):
            square.addcmul_(gradient, gradient)
    # the gradient of a mean over B nearly independent rows is sqrt(B) times smaller than that of one
    return [(square * (_SAMPLES / _SAMPLE_SEGMENTS)).sqrt() for square in squares]


def _visible(vocabulary: Vocabulary) -> Vocabulary:
    """Return a vocabulary in which another character stands for NUL, which samples have as a newline."""
    unused = next(chr(code) for code in range(0xE000, 0x10FFFF) if chr(code) not in vocabulary.characters)
    characters = vocabulary.characters.replace(FILE_BOUNDARY, unused)
    return replace(vocabulary, characters=characters, boundary=vocabulary.boundary.replace(FILE_BOUNDARY, unused))


class _Updater:
    """Updates a model's weights after each segment, with g the gradient of its mean loss (Krause et al., section 3):

    w' = w + d (w0 - w) - s g / (r + e)
        r the RMS of g, e a share of its mean over all weights
        d = min(1, decay r / mean(r)): weights that matter more decay faster
        s = rate / sum(r^2 / (r + e)), so that an update lowers the loss of an average segment by `rate`
    """

    def __init__(self, model: CharRNN, rms: Sequence[Tensor], rule: UpdateRule) -> None:
        model.eval().use_custom_kernel(True)
        self.weights = list(model.parameters())
        mean = sum(float(r.sum()) for r in rms) / sum(r.numel() for r in rms)
        floor = _EPSILON * mean
        gain = sum(float((r.square() / (r + floor)).sum()) for r in rms) if mean else math.inf
        self.steps = [rule.rate / gain / (r + floor) if mean else torch.zeros_like(r) for r in rms]
        self.trained = [weight.detach().clone() for weight in self.weights] if rule.decay else None
        self.decays = [(rule.decay / mean * r).clamp(max=1.0) for r in rms] if rule.decay and mean else None

    def update(self, loss: Tensor) -> None:
        """Take one step on a segment's mean loss."""
        gradients = torch.autograd.grad(loss, self.weights)
        with torch.no_grad():
            if self.decays is not None and self.trained is not None:
                for weight, trained, decay in zip(self.weights, self.trained, self.decays, strict=True):
                    weight.lerp_(trained, decay)
            for weight, gradient, step in zip(self.weights, gradients, self.steps, strict=True):
                weight.addcmul_(gradient, step, value=-1)


def _window(tokens: Tokens, first: int, boundary: npt.NDArray[np.int64]) -> Window:
    """Cut a segment out of rows (B, N) that stand between two boundaries (K): inputs and targets (B, T), and what
    follows each target (B, T + lookahead)."""
    last = min(first + SEGMENT, tokens.shape[1])
    edges = np.tile(boundary, (len(tokens), 1))  # (B, K)
    targets = tokens[:, first:last].astype(np.int64)
    before = tokens[:, first - 1 : first].astype(np.int64) if first else edges[:, -1:]
    after = tokens[:, first + 1 : last + 1 + LOOKAHEAD].astype(np.int64)
    if last + 1 + LOOKAHEAD > tokens.shape[1]:
        after = np.concatenate((after, edges[:, :1]), 1)
    return Window(np.concatenate((before, targets[:, :-1]), 1), targets, after)


def _losses(
    model: CharRNN, vocabulary: Vocabulary, window: Window, state: State, generator: torch.Generator
) -> tuple[Losses, State]:
    device = model.embedding.device
    batch = Batch(*(None if array is None else to_device(array, device) for array in window))  # type: ignore[arg-type]
    return compute_losses(model, batch, state, vocabulary.known_nats, vocabulary.escape_nats, generator)


def _diverged(position: int, rule: UpdateRule, option: str) -> CharRNNError:
    return CharRNNError(
        f"The weights diverged before character {position + 1:,}: a rate of {rule.rate:g} is too high."
        f" Choose a smaller one with {option}."
    )


def _generator(model: CharRNN) -> torch.Generator:
    return torch.Generator(model.embedding.device).manual_seed(0)
