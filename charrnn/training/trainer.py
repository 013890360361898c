"""Learning: truncated backpropagation through time over lanes, with exact resume.
`train` yields reports and knows no terminal; the run folder is `checkpoint`'s.
Shapes: B lanes, T steps, V vocabulary."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from charrnn import atomic_files
from charrnn.callbacks import Progress
from charrnn.checkpoints import model_file, safetensors_file
from charrnn.checkpoints.model_file import EvaluationRecord, Header
from charrnn.checkpoints.run_dir import Run
from charrnn.checkpoints.safetensors_file import EXTRA
from charrnn.config.schema import Config
from charrnn.data.batches import ContiguousBatches
from charrnn.data.corpus import Corpus, CorpusCard
from charrnn.data.loader import feed
from charrnn.device import Readback, tf32
from charrnn.errors import CharRNNError
from charrnn.evaluation import cloze, scoring
from charrnn.generation import sampling
from charrnn.generation.filters import Filters
from charrnn.models import losses
from charrnn.models.bidirectional import LOOKAHEAD, BidirectionalRNN
from charrnn.models.char_rnn import BY_CHARACTER, LOOKED_UP
from charrnn.models.factory import Network, make_model
from charrnn.models.layers import State
from charrnn.models.torch_model import TorchModel
from charrnn.scores import NATS_PER_BIT, BaselineScores, Score
from charrnn.training.events import Evaluated, RolledBack, StepDone
from charrnn.training.optimizer import make_optimizer, rate_at
from charrnn.training.state import Position

SAMPLE_LENGTH = 120
_SNAPSHOT_EVERY = 200  # steps between states to go back to
_ROLLBACKS = 3
_LAG = 2  # steps that a GPU has to do while the figures of the one before are read
_Snapshot = tuple[dict[str, Tensor], dict[str, Any]]  # all tensors, and the position


@dataclass(frozen=True)
class _Enqueued:
    """A step that is on its way: `figures` are its forward cost, its loss and its gradient's norm; `stepped` is its
    report without them, and `kept` the state before it, where it is one to go back to."""

    figures: Readback
    stepped: StepDone
    kept: _Snapshot | None


class Training:
    """Hold a training's moving parts: model, optimizer, carried state, generator, position."""

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        card: CorpusCard,
        device: torch.device,
        model: Network | None = None,
        seconds: float = 0.0,
        baselines: BaselineScores | None = None,
        evaluation_seconds: float = 0.0,
        teacher: Network | None = None,
    ) -> None:
        """Begin with fresh weights, or go on from a model's; `seconds` of a time budget are spent already, and an
        evaluation may take `evaluation_seconds`: the first one tells. What a teacher expects is learnt as well."""
        assert config.train.seed is not None
        started = model is not None
        self.config, self.card, self.device, self.baselines = config, card, device, baselines
        self.vocabulary = corpus.vocabulary
        if model is None:
            model = make_model(config.model, len(self.vocabulary))
            frequencies = torch.from_numpy(corpus.training.frequencies)
            model.initialise(torch.Generator().manual_seed(config.train.seed), frequencies)
        self.model = model.to(device)
        self.model.use_custom_kernel(config.train.kernel == "custom")
        self.optimizer = make_optimizer(config.train, self.model)
        self.generator = torch.Generator(device).manual_seed(config.train.seed + 1)  # dropout's own
        assert config.train.batch_size != "auto"
        self.batches = ContiguousBatches(
            corpus.training.tokens,
            corpus.training.starts,
            self.vocabulary.newline,
            config.train.batch_size,
            config.train.sequence_length,
            config.train.seed,
            corpus.shuffled,
            LOOKAHEAD if config.model.bidirectional else 0,
        )
        self.feed = feed(self.batches, device)
        self.validation = corpus.validation.tokens
        self.state = self.model.initial_state(config.train.batch_size)
        self.teacher: losses.Teacher | None = None
        if teacher is not None:
            assert config.train.distillation != "auto"
            teacher.to(device).eval().requires_grad_(False).use_custom_kernel(config.train.kernel == "custom")
            state = teacher.initial_state(config.train.batch_size)
            self.teacher = losses.Teacher(teacher, config.train.distillation, state)
        self.position = Position(
            seconds=seconds,
            startup=seconds,
            evaluated=-1 if started else 0,  # what it starts from may be better than what comes of it
            evaluation_seconds=evaluation_seconds,
            device=device.type,
        )
        self.history: list[EvaluationRecord] = []
        self.lag = _LAG if device.type == "cuda" else 0
        self._enqueued: deque[_Enqueued] = deque()
        self._kept: _Snapshot = self._tensors(), asdict(self.position)

    @property
    def total(self) -> int | None:
        """Give the planned number of steps; None where only the time decides."""
        train = self.config.train
        if train.steps is not None:
            return train.steps
        return train.epochs * self.batches.windows if isinstance(train.epochs, int) else None

    @property
    def progress(self) -> float:
        """Give the share of the training that is done, 0 to 1, by steps or by time, whichever is further."""
        by_steps = self.position.step / self.total if self.total is not None else 0.0
        by_time = 0.0
        if self.config.train.time is not None:
            # the evaluation that ends it must fit in, if it takes no more than half; what passed before the first step
            # is no progress: the rate would not start from its beginning
            left = self.config.train.time - self.position.startup
            given = max(left - self.position.evaluation_seconds, left / 2)
            by_time = (self.position.seconds - self.position.startup) / max(given, 1e-9)
        return min(1.0, max(by_steps, by_time))

    @property
    def epoch(self) -> float:
        """Give the epochs done, with the begun one's share."""
        return self.position.epoch + self.position.window / self.batches.windows

    def finished(self) -> Literal["done", "time", "patience"] | None:
        """Say why there is nothing left to do, if so."""
        if self.total is not None and self.position.step >= self.total:
            return "done"
        if self.progress >= 1.0:
            return "time"
        patience = self.config.train.patience
        if isinstance(patience, int) and self.position.stale >= patience:
            return "patience"
        return None

    def step(self) -> StepDone | RolledBack | None:
        """Read one window and take one optimizer step; where a number is not finite, go back instead.

        Gives the report of the step that was taken `lag` steps before, None while there was none: its figures are there
        by now, and a GPU need not wait until they are read. A step that was not finite is undone, with those behind it.
        """
        began = time.perf_counter()
        train, position = self.config.train, self.position
        rate = rate_at(train, position.step, self.progress) * position.rate_scale
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if position.window == 0:
            self.state = self.model.initial_state(self.batches.batch_size)
            if self.teacher is not None:
                self.teacher.state = self.teacher.model.initial_state(self.batches.batch_size)
        kept = (self._tensors(), asdict(position)) if position.step % _SNAPSHOT_EVERY == 0 else None
        window = self.feed(position.epoch, position.window)
        self.model.train()
        known, escape = self.vocabulary.known_nats, self.vocabulary.escape_nats
        self.optimizer.zero_grad(set_to_none=True)
        rounded = train.precision == "bf16"
        with tf32(self.device, rounded):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=rounded):
                costs, state = losses.compute_losses(
                    self.model, window, self.state, known, escape, self.generator, self.teacher
                )
            loss = costs.total()
            loss.backward()  # type: ignore[no-untyped-call]
        norm = self._clipped_norm()
        figures = Readback(torch.stack((costs.forward.detach(), loss.detach(), norm)))
        assert train.weight_decay != "auto"
        self._decay_weights(rate * train.weight_decay)
        self.optimizer.step()
        self.state = state.detach()
        position.step += 1
        position.window += 1
        if position.window == self.batches.windows:
            position.epoch, position.window = position.epoch + 1, 0
        position.seconds += time.perf_counter() - began
        stepped = StepDone(
            position.step,
            self.total,
            self.epoch,
            position.seconds,
            self.progress,
            math.nan,
            math.nan,
            rate,
            window.targets.numel(),
        )
        self._enqueued.append(_Enqueued(figures, stepped, kept))
        return self._report() if len(self._enqueued) > self.lag else None

    def settle(self) -> Iterator[StepDone | RolledBack]:
        """Wait for all steps that are on their way, and give their reports."""
        while self._enqueued:
            yield self._report()

    def _report(self) -> StepDone | RolledBack:
        """Wait for the figures of the oldest step that is on its way; where they are not finite, go back."""
        began = time.perf_counter()
        enqueued, position = self._enqueued.popleft(), self.position
        cost, total, norm = enqueued.figures.read()
        position.seconds += time.perf_counter() - began
        if not (math.isfinite(total) and math.isfinite(norm)):
            return self._roll_back()
        if enqueued.kept is not None:  # weights are good once a loss and a gradient have shown it, not before
            tensors, before = enqueued.kept
            # what the last steps cost was not known when it was written down
            self._kept = tensors, before | {"nats": position.nats, "characters": position.characters}
        characters = enqueued.stepped.characters
        position.nats += cost * characters
        position.characters += characters
        return replace(enqueued.stepped, bits_per_character=cost / NATS_PER_BIT, gradient_norm=norm)

    def evaluate(self, progress: Progress) -> Evaluated | RolledBack:
        """Score the validation part and write a sample; training's own state and generator stay untouched.

        No step may be on its way (see `settle`). A score that is not finite is no score: training goes back instead.
        """
        assert not self._enqueued
        began = time.perf_counter()
        position = self.position
        result = scoring.evaluate(
            self.model,
            self.vocabulary,
            self.validation,
            warmup=position.warmup,
            progress=progress,
        )
        score = result.score
        sides: cloze.TwoSided | None = None
        if isinstance(self.model, BidirectionalRNN):
            sides = cloze.score(
                self.model,
                self.vocabulary,
                self.validation,
                result,
                warmup=position.backward_warmup,
                progress=progress,
            )
            position.backward_warmup = sides.warmup
        if not math.isfinite(score.nats + (sides.backward.nats + sides.cloze.nats if sides else 0.0)):
            return self._roll_back()
        text = self._write()
        evaluated = EvaluationRecord(
            position.step,
            self.epoch,
            position.seconds,
            Score(position.nats, position.characters).bits_per_character if position.characters else None,
            score.nats,
            score.characters,
            score.correct,
            *((sides.backward.nats, sides.cloze.nats, sides.cloze.correct) if sides else ()),
        )
        # what it started from may only be beaten in the end, when the rate has fallen
        learnt = min((one.judged_bits for one in self.history if one.step > 0), default=math.inf)
        position.stale = 0 if evaluated.judged_bits < learnt else position.stale + 1
        self.history.append(evaluated)
        best = position.best_bits is None or evaluated.judged_bits < position.best_bits
        position.best_bits = evaluated.judged_bits if best else position.best_bits
        position.warmup = result.warmup
        position.evaluated, position.nats, position.characters = position.step, 0.0, 0
        position.evaluation_seconds = time.perf_counter() - began
        position.seconds += position.evaluation_seconds
        self._kept = self._tensors(), asdict(position)
        return Evaluated(evaluated, best, text, position.evaluation_seconds, result.needs_single_pass)

    def header(self, *, resumable: bool) -> Header:
        """Describe these weights for a model file."""
        position = asdict(self.position) if resumable else None
        return Header(self.config, self.vocabulary, self.card, tuple(self.history), position, baselines=self.baselines)

    def save_best(self, run: Run) -> None:
        """Write the weights as the best so far."""
        atomic_files.write_atomically(
            run.best, model_file.to_bytes(self.header(resumable=False), self.model.state_dict())
        )

    def save_last(self, run: Run) -> None:
        """Write all that a resumed training needs; the last good state, should these weights not be finite.

        No step may be on its way (see `settle`).
        """
        assert not self._enqueued
        if not all(bool(weights.isfinite().all()) for weights in self.model.parameters()):
            self._restore_snapshot(*self._kept)
        self.position.lengths = run.lengths()
        tensors = self._tensors()
        if self.teacher is not None:
            weights = self.teacher.model.state_dict()
            tensors |= {model_file.TEACHER + name: tensor for name, tensor in weights.items()}
        atomic_files.write_atomically(run.last, model_file.to_bytes(self.header(resumable=True), tensors))

    def restore(self, path: Path, header: Header, position: Position, tensors: dict[str, Tensor]) -> None:
        """Stand again where a last.safetensors was saved. Raises CharRNNError for a state that does not fit."""
        expected = {name: t.shape for name, t in self._tensors().items() if "optimizer/" not in name}
        sizes = {str(index): weights.shape for index, weights in enumerate(self.model.parameters())}
        for name, tensor in tensors.items():
            index = name.removeprefix(EXTRA + "optimizer/").partition("/")[0]
            fits = name in expected or (index in sizes and tensor.shape in {sizes[index], torch.Size([])})
            if not fits or (name in expected and expected[name] != tensor.shape and "generator" not in name):
                raise safetensors_file.damaged(path, f"{name} does not fit the model")
        if expected.keys() - tensors.keys() or position.window >= self.batches.windows:
            raise safetensors_file.damaged(path, "its training state is not whole")
        self.history = list(header.history)
        self._restore_snapshot(tensors, asdict(position))
        self.position.device = self.device.type
        self._kept = self._tensors(), asdict(self.position)

    def _restore_snapshot(self, tensors: dict[str, Tensor], position: dict[str, Any]) -> None:
        self.model.load_state_dict({name: t for name, t in tensors.items() if not name.startswith(EXTRA)})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(EXTRA + "optimizer/"):
                index, key = name.removeprefix(EXTRA + "optimizer/").split("/")
                moments.setdefault(int(index), {})[key] = tensor.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if position["device"] == self.device.type:
            self.generator.set_state(tensors[EXTRA + "generator"].cpu())
        else:  # another kind of device has another kind of generator
            assert self.config.train.seed is not None
            self.generator.manual_seed(self.config.train.seed + 1 + position["step"])
        self.state = self._carried(tensors, "state/")
        if self.teacher is not None:
            self.teacher.state = self._carried(tensors, "teacher_state/")
        self.position = Position(**position)

    def _carried(self, tensors: dict[str, Tensor], whose: str) -> State:
        """Find a carried state among all tensors."""
        found = (tensors.get(EXTRA + whose + name) for name in State._fields)
        # cloned: a tensor read from a file may lie anywhere, and matrix products round by where their operands lie
        return State(*(None if t is None else t.to(self.device).clone() for t in found))  # type: ignore[arg-type]

    def _tensors(self) -> dict[str, Tensor]:
        """Copy every tensor that training changes: weights, moments, generator, carried states."""
        tensors = dict(self.model.state_dict())
        for index, moments in self.optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                if value is not None:
                    tensors[f"{EXTRA}optimizer/{index}/{key}"] = torch.as_tensor(value)
        tensors[EXTRA + "generator"] = self.generator.get_state()
        states = {"state/": self.state} | ({"teacher_state/": self.teacher.state} if self.teacher is not None else {})
        for whose, state in states.items():
            for name, value in zip(State._fields, state, strict=True):
                if value is not None:
                    tensors[EXTRA + whose + name] = value
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def _roll_back(self) -> RolledBack:
        """Return to the last good state with half the rate. Raises CharRNNError after three times."""
        reached, seconds = self.position.step, self.position.seconds
        rollbacks, scale = self.position.rollbacks + 1, self.position.rate_scale / 2
        self._enqueued.clear()
        self._restore_snapshot(*self._kept)
        if rollbacks > _ROLLBACKS:
            raise CharRNNError(
                f"The loss was not finite again at step {reached}, after going back {_ROLLBACKS} times and"
                f" with an eighth of the learning rate; the weights saved are still good."
                " Set a lower train.learning_rate, or train.clip_norm=1."
            )
        self.position = replace(self.position, rollbacks=rollbacks, rate_scale=scale, seconds=seconds)
        assert self.config.train.learning_rate != "auto"
        return RolledBack(self.position.step, self.config.train.learning_rate * scale, rollbacks)

    def _clipped_norm(self) -> Tensor:
        """Add the L1 gradient, clip by value and norm; gives the norm before any clipping.

        The text would teach of characters that it lacks only that they never come: their rows stay as they are.
        """
        train = self.config.train
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        if train.l1 > 0.0:
            for parameter in parameters:
                if parameter.dim() > 1 and parameter.grad is not None:
                    parameter.grad.add_(parameter.detach().sign(), alpha=train.l1)
        if self.vocabulary.unseen:
            for name, parameter in self.model.named_parameters():
                if name in BY_CHARACTER and parameter.grad is not None:
                    parameter.grad[-self.vocabulary.unseen :].zero_()
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        cut = norm
        if train.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, train.clip_value)
            cut = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if train.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, train.clip_norm, cut)
        return norm

    @torch.no_grad()
    def _decay_weights(self, amount: float) -> None:
        """Decay matrices by a share, apart from the gradient (Loshchilov and Hutter 2019); tables are left alone."""
        tables = LOOKED_UP - ({"embedding"} if self.config.model.tied else set())  # that is the head's, too
        if amount > 0.0:
            for name, parameter in self.model.named_parameters():
                if parameter.dim() > 1 and name not in tables:
                    own = len(parameter) - (self.vocabulary.unseen if name in BY_CHARACTER else 0)
                    parameter[:own].mul_(1.0 - amount)

    def _write(self) -> str:
        assert self.config.train.seed is not None
        sampler = sampling.Sampler(
            TorchModel(self.model),
            self.vocabulary,
            [""],
            SAMPLE_LENGTH,
            Filters(sampling.TEMPERATURE, min_p=sampling.MIN_P),
            seed=self.config.train.seed,
            indices=[self.position.step],
        )
        for _ in sampler:
            pass
        return sampler.samples[0].text
