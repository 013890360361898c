"""The training loop: steps, evaluations, saves, and when to stop. Yields reports and knows no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from charrnn import device
from charrnn.checkpoints.model_file import EvaluationRecord
from charrnn.checkpoints.run_dir import Run
from charrnn.config.schema import resolved
from charrnn.evaluation import cloze
from charrnn.scores import Score
from charrnn.training.events import Evaluated, Finished, Report, RolledBack, StepDone
from charrnn.training.training_step import Training

SAVE_SECONDS = 60.0


class _Stopped(Exception):
    """Interrupts an evaluation."""


def train(training: Training, run: Run, stop: Callable[[], bool] = lambda: False) -> Iterator[Report]:
    """Train to the end, or until `stop` returns true, and save on the way; yield a report a step and an evaluation.

    Evaluations come every eval_every steps and at the end. The last state is saved after each, once a minute, and when
    stopped; the best is saved first. Raises CharRNNError where the disk is full or the loss stays not finite.
    """
    saved = time.monotonic()
    while True:
        training.tick()
        position = training.position  # a rollback replaces it
        reason = training.finished()
        due = position.step % resolved(training.config.train.eval_every) == 0 or reason is not None
        if due and position.step > position.evaluated:
            yield from _settle(training, run)
            if training.position is not position:
                continue
            try:
                evaluated = _evaluate(training, run, stop)
            except _Stopped:
                yield _save_stopped(training, run)
                return
            if isinstance(evaluated, RolledBack):
                yield evaluated
                continue
            saved = time.monotonic()
            yield evaluated
            reason = training.finished()
        if reason is not None:
            yield Finished(reason, tuple(training.history), position.step, position.startup)
            return
        if stop():
            yield from _settle(training, run)
            yield _save_stopped(training, run)
            return
        try:
            report = training.step()
        except RuntimeError as error:
            if not device.is_out_of_memory(error):
                raise
            raise device.out_of_memory(training.device) from error
        if report is not None:
            yield _recorded(report, training, run)
        if time.monotonic() - saved >= SAVE_SECONDS:
            yield from _settle(training, run)
            training.save_last(run)
            saved = time.monotonic()


def _settle(training: Training, run: Run) -> Iterator[StepDone | RolledBack]:
    for report in training.settle():
        yield _recorded(report, training, run)


def _recorded(report: StepDone | RolledBack, training: Training, run: Run) -> StepDone | RolledBack:
    """Write a line of metrics for every fifth of the steps between evaluations."""
    if isinstance(report, StepDone) and report.step % max(1, resolved(training.config.train.eval_every) // 5) == 0:
        names = ("step", "epoch", "seconds", "bits_per_character", "gradient_norm", "learning_rate")
        run.append_metrics({name: getattr(report, name) for name in names})
    return report


def _evaluate(training: Training, run: Run, stop: Callable[[], bool]) -> Evaluated | RolledBack:
    """Evaluate, record the result and save. Raises _Stopped where `stop` returns true meanwhile."""

    def progress(_: int) -> None:
        if stop():
            raise _Stopped

    evaluated = training.evaluate(progress)
    if isinstance(evaluated, RolledBack):
        return evaluated
    began, position, record = time.perf_counter(), training.position, evaluated.record
    run.append_metrics(_evaluation_line(record))
    bits = Score(record.model_nats, record.characters).bits_per_character
    run.append_sample(f"step {position.step}, {bits:.4f} bits/char", evaluated.text)
    if evaluated.best:
        training.save_best(run)
    training.save_last(run)
    position.evaluation_seconds += time.perf_counter() - began
    return evaluated


def _save_stopped(training: Training, run: Run) -> Finished:
    training.save_last(run)
    return Finished("stopped", tuple(training.history), training.position.step)


def _evaluation_line(record: EvaluationRecord) -> dict[str, Any]:
    score = Score(record.nats, record.characters, record.correct)
    more: dict[str, float] = {}
    if record.cloze is not None and record.backward_nats is not None:
        more = cloze.fields(Score(record.backward_nats, score.characters), record.cloze)
    if record.mixture_bits is not None:
        more["mixture_bits_per_character"] = record.mixture_bits
    return {
        "step": record.step,
        "epoch": record.epoch,
        "seconds": record.seconds,
        "training_bits_per_character": record.training_bits_per_character,
        "validation": {**score.fields, **more},
    }
