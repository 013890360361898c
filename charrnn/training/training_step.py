"""Training by truncated backpropagation through time, with exact resume: one optimizer step or evaluation at a time.
`loop` decides when; the run folder is `run_dir`'s. Shapes: B batch rows, T steps, V vocabulary."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from charrnn.checkpoints import model_file, safetensors_file
from charrnn.checkpoints.model_file import EvaluationRecord, Header
from charrnn.checkpoints.run_dir import Run
from charrnn.config.schema import Config, resolved
from charrnn.data.batches import ContiguousBatches
from charrnn.data.corpus import Corpus, CorpusCard
from charrnn.data.loader import Batch, load_beginnings, make_loader
from charrnn.device import Readback, tf32
from charrnn.errors import CharRNNError
from charrnn.messages import Progress
from charrnn.models import losses
from charrnn.models.bidirectional import LOOKAHEAD
from charrnn.models.factory import Network, make_model
from charrnn.models.torch_model import TorchModel
from charrnn.scores import NATS_PER_BIT, BaselineScores, Score
from charrnn.training import throughput
from charrnn.training.evaluation_samples import write_sample
from charrnn.training.events import Evaluated, RolledBack, StepDone
from charrnn.training.mixing import Counts
from charrnn.training.optimizer import clip_gradients, decay_weights, make_optimizer, rate_at
from charrnn.training.selection import best_of, progresses
from charrnn.training.snapshot import (
    GENERATOR,
    Position,
    Snapshot,
    carried_state,
    collect_tensors,
    copy_tensors,
    load_tensors,
)
from charrnn.training.validation import validate

SNAPSHOT_EVERY = 200  # steps
MAX_ROLLBACKS = 3  # close together: with this many steps between them each is a first one
FORGIVING_STEPS = 1000
MIN_RATE_SCALE = 1 / 8
BEGINNING, BEGINNING_EVERY = 16, 16  # characters of documents that are read from their boundary on, and how often
GPU_LAG = 2  # steps that a GPU has left to do while the figures of the one before are read


@dataclass(frozen=True)
class _PendingStep:
    """A step that the device may not have done yet: its forward loss, its loss and its gradient norm (`figures`), and
    its report without them."""

    figures: Readback
    report: StepDone


class Training:
    """A training's moving parts: model, optimizer, carried state, generator, position."""

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        card: CorpusCard,
        device: torch.device,
        model: Network | None = None,
        *,
        seconds: float = 0.0,
        baselines: BaselineScores | None = None,
        counts: Counts | None = None,
        evaluation_seconds: float = 0.0,
        teacher: Network | None = None,
    ) -> None:
        """Start with random weights or with a model's, with distillation from a teacher if there is one, and `counts`
        to mix it with; `seconds` of a time budget are spent, and `evaluation_seconds` an estimate."""
        self.start_clock(seconds)  # what follows takes a second or more
        self.config, self.card, self.device, self.baselines, self.counts = config, card, device, baselines, counts
        train, self.vocabulary, self.validation = config.train, corpus.vocabulary, corpus.validation.tokens
        seed, batch_size, custom = resolved(train.seed), resolved(train.batch_size), train.kernel == "custom"
        base_given = model is not None
        if model is None:
            model = make_model(config.model, len(self.vocabulary))
            frequencies = torch.from_numpy(corpus.training.frequencies)
            model.initialise(torch.Generator().manual_seed(seed), frequencies)
        self.model = model.to(device)
        self.model.use_custom_kernel(custom)
        self.optimizer = make_optimizer(train, self.model)
        self.generator = torch.Generator(device).manual_seed(seed + 1)  # of dropout
        self.batches = ContiguousBatches(
            corpus.training.tokens,
            corpus.training.starts,
            self.vocabulary.boundary_tokens.tolist(),
            batch_size,
            train.sequence_length,
            seed,
            corpus.shuffled,
            LOOKAHEAD if config.model.bidirectional else 0,
        )
        self.load_batch = make_loader(self.batches, device)
        # runs with line documents, too, begin none: those of earlier versions cannot be told from them
        self.begins_documents = corpus.shuffled and self.vocabulary.boundary != "\n"
        self.state, self.teacher = self.model.initial_state(batch_size), None
        if teacher is not None:
            teacher.to(device).eval().requires_grad_(False).use_custom_kernel(custom)
            self.teacher = losses.Teacher(teacher, resolved(train.distillation), teacher.initial_state(batch_size))
        self.position = Position(
            seconds=seconds,
            startup=seconds,
            evaluated=-1 if base_given else 0,  # a base model is evaluated first: it may be better than what follows
            evaluation_seconds=evaluation_seconds,
            device=device.type,
        )
        self.history: list[EvaluationRecord] = []
        self.lag = GPU_LAG if device.type == "cuda" else 0
        self._pending: deque[_PendingStep] = deque()
        self._read, self._reading = 0, 0.0  # characters by all steps of this process, and their seconds
        self.last_good = Snapshot({}, self.position)
        self.take_snapshot()

    def start_clock(self, seconds: float) -> None:
        """Let the training's time go on from here, where `seconds` have passed since its beginning."""
        self._began = time.perf_counter() - seconds

    def tick(self) -> None:
        """Bring the position's seconds up to date; all that pass count, whatever takes them."""
        self.position.seconds = time.perf_counter() - self._began
        if self.position.step == 0:
            self.position.startup = self.position.seconds

    @property
    def total(self) -> int | None:
        """Return the planned number of steps; None where only time decides."""
        train = self.config.train
        if train.steps is not None:
            return train.steps
        return train.epochs * self.batches.windows if isinstance(train.epochs, int) else None

    @property
    def progress(self) -> float:
        """Return the share of the training that is done, 0 to 1, by steps or by time, whichever is further."""
        by_steps = self.position.step / self.total if self.total is not None else 0.0
        by_time = 0.0
        if self.config.train.time is not None:
            # the last evaluation must fit in, unless it takes more than half; time before the first step is no
            # progress, or the learning rate would not start from its beginning
            left = self.config.train.time - self.position.startup
            spent, waiting = self.position.seconds - self.position.startup, self.position.evaluation_seconds
            if not self.history and self._read:  # the machine may have become busy since the plan
                speed = self._read / max(self._reading, 1e-9)
                waiting = max(waiting, throughput.longest_evaluation(self.config, len(self.validation), speed))
            available = max(left - waiting, left / 2)
            by_time = spent / max(available, 1e-9)
        return min(1.0, max(by_steps, by_time))

    @property
    def epoch(self) -> float:
        """Return the epochs done, with the share of the present one."""
        return self.position.epoch + self.position.window / self.batches.windows

    def finished(self) -> Literal["done", "time", "patience"] | None:
        """Return why training is over, or None if it is not."""
        if self.total is not None and self.position.step >= self.total:
            return "done"
        if self.progress >= 1.0:
            return "time"
        patience = self.config.train.patience
        if isinstance(patience, int) and self.position.stale >= patience:
            return "patience"
        return None

    def step(self) -> StepDone | RolledBack | None:
        """Read one window and take one optimizer step.

        Return the report of the step taken `lag` steps before, or None if there is none: a GPU has done that one by
        now, and need not wait. If its loss or gradient is not finite, it and the later ones are rolled back.
        Every SNAPSHOT_EVERY steps the state before a step is copied, to roll back to.
        """
        train, position, began = self.config.train, self.position, time.perf_counter()
        rate = rate_at(train, position.step, self.progress) * position.rate_scale
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if position.window == 0:
            self.state = self.model.initial_state(self.batches.batch_size)
            if self.teacher is not None:
                self.teacher.state = self.teacher.model.initial_state(self.batches.batch_size)
        tensors = self.tensors() if position.step % SNAPSHOT_EVERY == 0 else None
        batch = self.load_batch(position.epoch, position.window)
        figures = Readback(self._backpropagate(batch))
        if tensors is not None:
            self._keep_if_finite(tensors, figures)
        decay_weights(self.model, rate * resolved(train.weight_decay), self.vocabulary.unseen)
        self.optimizer.step()
        position.step += 1
        position.window += 1
        if position.window == self.batches.windows:
            position.epoch, position.window = position.epoch + 1, 0
        self.tick()
        report = StepDone(
            position.step,
            self.total,
            self.epoch,
            position.seconds,
            self.progress,
            bits_per_character=math.nan,
            gradient_norm=math.nan,
            learning_rate=rate,
            characters=batch.targets.numel(),
        )
        self._pending.append(_PendingStep(figures, report))
        earlier = self._report() if len(self._pending) > self.lag else None
        self._read, self._reading = self._read + report.characters, self._reading + time.perf_counter() - began
        return earlier

    def _keep_if_finite(self, tensors: dict[str, Tensor], figures: Readback) -> None:
        """Keep the state before a step, if its figures and those of the steps before it are finite.

        Weights and moments are still those before it, so no second copy is needed; a GPU is waited for.
        """
        position = replace(self.position)
        for pending in self._pending:
            forward, loss, norm = pending.figures.read()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                return
            position.nats += forward * pending.report.characters
            position.characters += pending.report.characters
        if all(math.isfinite(figure) for figure in figures.read()):
            self.last_good = Snapshot(copy_tensors(tensors, self.last_good.tensors), position)

    def _backpropagate(self, batch: Batch) -> Tensor:
        """Set the gradients and carry the state on; return the forward loss, the loss and the gradient norm (3)."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        rounded, vocabulary = self.config.train.precision == "bf16", self.vocabulary
        with tf32(self.device, rounded):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=rounded):
                found, carried = losses.compute_losses(
                    self.model,
                    batch,
                    self.state,
                    vocabulary.known_nats,
                    vocabulary.escape_nats,
                    self.generator,
                    self.teacher,
                )
                loss = found.total()
                if self.begins_documents and self.position.step % BEGINNING_EVERY == 0:
                    begun = load_beginnings(self.batches, self.position.step, BEGINNING, self.device)
                    nats = vocabulary.known_nats, vocabulary.escape_nats
                    begun_loss = losses.beginning_loss(self.model, begun, *nats, self.generator)
                    loss = loss + begun_loss * BEGINNING / batch.targets.shape[1]
            loss.backward()  # type: ignore[no-untyped-call]
        self.state = carried.detach()
        norm = clip_gradients(self.model, self.config.train, vocabulary.unseen)
        return torch.stack((found.forward.detach(), loss.detach(), norm))

    def settle(self) -> Iterator[StepDone | RolledBack]:
        """Wait for all pending steps, and yield their reports."""
        while self._pending:
            yield self._report()

    def _report(self) -> StepDone | RolledBack:
        """Wait for the figures of the oldest pending step; roll back if they are not finite."""
        pending, position = self._pending.popleft(), self.position
        forward, loss, norm = pending.figures.read()
        self.tick()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return self._roll_back()
        characters = pending.report.characters
        position.nats += forward * characters
        position.characters += characters
        return replace(pending.report, bits_per_character=forward / NATS_PER_BIT, gradient_norm=norm)

    def evaluate(self, progress: Progress) -> Evaluated | RolledBack:
        """Score the validation split and write a sample; training's own state and generator stay untouched.

        No step may be pending (see `settle`). If the score is not finite, training rolls back.
        """
        assert not self._pending
        began = time.perf_counter()
        position = self.position
        found = validate(
            self.model,
            self.vocabulary,
            self.validation,
            self.counts,
            (position.warmup, position.backward_warmup),
            progress,
        )
        if not found.finite:
            return self._roll_back()
        seed, documents = resolved(self.config.train.seed), self.config.data.documents
        text = write_sample(TorchModel(self.model), self.vocabulary, seed, position.step, documents)
        bits = Score(position.nats, position.characters).bits_per_character if position.characters else None
        record = found.record(position.step, self.epoch, position.seconds, bits)
        # patience does not count from the base model, which may only be beaten in the end, when the rate has fallen
        compared = [one for one in self.history if one.step > position.patience_from]
        position.stale = 0 if progresses(record, compared) else position.stale + 1
        self.history.append(record)
        best = best_of(self.history) is record
        position.best_bits = record.judged_bits if best else position.best_bits
        position.warmup = found.forward.warmup
        position.backward_warmup = found.two_sided.warmup if found.two_sided else position.backward_warmup
        position.evaluated, position.nats, position.characters = position.step, 0.0, 0
        position.evaluation_seconds = time.perf_counter() - began
        self.tick()
        self.take_snapshot()
        return Evaluated(
            record, best, text, position.evaluation_seconds, found.forward.needs_single_pass, self.counts is not None
        )

    def header(self, *, resumable: bool) -> Header:
        """Describe these weights for a model file."""
        position = asdict(self.position) if resumable else None
        mixture = None if self.counts is None else self.counts.record
        history = tuple(self.history)
        return Header(
            self.config, self.vocabulary, self.card, history, position, baselines=self.baselines, mixture=mixture
        )

    def save_best(self, run: Run) -> None:
        """Write the weights as the best so far."""
        self._write(run.best, self.header(resumable=False), self.model.state_dict())

    def save_last(self, run: Run) -> None:
        """Write all that a resumed training needs: the present state, or the last good one if weights are not finite.

        No step may be pending (see `settle`).
        """
        assert not self._pending
        if not all(bool(weights.isfinite().all()) for weights in self.model.parameters()):
            self.restore_snapshot(self.last_good)
        self.tick()
        self.position.lengths = run.lengths()
        tensors = self.tensors()
        if self.teacher is not None:
            weights = self.teacher.model.state_dict()
            tensors |= {safetensors_file.TEACHER + name: tensor for name, tensor in weights.items()}
        self._write(run.last, self.header(resumable=True), tensors)

    def _write(self, path: Path, header: Header, tensors: dict[str, Tensor]) -> None:
        counted = None if self.counts is None or header.mixture is None else self.counts.model.tables()
        model_file.write(path, header, tensors, counted)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that training changes, without copying it."""
        states = {"state": self.state} | ({"teacher_state": self.teacher.state} if self.teacher is not None else {})
        return collect_tensors(self.model, self.optimizer, self.generator, states)

    def take_snapshot(self) -> None:
        """Copy the state, to roll back to it."""
        self.last_good = Snapshot(copy_tensors(self.tensors(), self.last_good.tensors), replace(self.position))

    def restore_snapshot(self, snapshot: Snapshot) -> None:
        """Return to a state."""
        tensors, position = snapshot
        load_tensors(tensors, self.model, self.optimizer)
        if position.device == self.device.type:
            self.generator.set_state(tensors[GENERATOR].cpu())
        else:  # generators of another type of device have another state
            self.generator.manual_seed(resolved(self.config.train.seed) + 1 + position.step)
        self.state = carried_state(tensors, "state", self.device)
        if self.teacher is not None:
            self.teacher.state = carried_state(tensors, "teacher_state", self.device)
        self.position = replace(position)

    def _roll_back(self) -> RolledBack:
        """Return to the last good state with half the learning rate, at least an eighth of the one that is set.

        Raises CharRNNError the fourth time, unless FORGIVING_STEPS good steps lie between two times: the count starts
        again, but the rate stays low, since a higher one may be what failed.
        """
        reached, before = self.position.step, self.position
        rollbacks = 1 if reached - before.rolled_back >= FORGIVING_STEPS else before.rollbacks + 1
        scale = max(before.rate_scale / 2, MIN_RATE_SCALE)
        self._pending.clear()
        self.restore_snapshot(self.last_good)
        if rollbacks > MAX_ROLLBACKS:
            saved = "; the saved weights are good" if self.history else ""  # each evaluation saves them
            raise CharRNNError(
                f"The loss was not finite again at step {reached}, after {MAX_ROLLBACKS} rollbacks and at an eighth of"
                f" the learning rate{saved}. Set a lower train.learning_rate, or train.clip_norm=1."
            )
        step = self.position.step
        self.position = replace(self.position, rollbacks=rollbacks, rolled_back=step, rate_scale=scale)
        self.tick()
        self.last_good = self.last_good._replace(position=replace(self.position))
        return RolledBack(step, resolved(self.config.train.learning_rate) * scale, rollbacks)
