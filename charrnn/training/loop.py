"""The training loop: steps, evaluations, saves, and when to end. Yields reports and knows no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from charrnn import device
from charrnn.checkpoints.model_file import EvaluationRecord
from charrnn.checkpoints.run_dir import Run
from charrnn.evaluation import cloze
from charrnn.scores import Score
from charrnn.training.events import Finished, Report, RolledBack, StepDone
from charrnn.training.trainer import Training

SAVE_SECONDS = 60.0


class _Stopped(Exception):
    """Leaves an evaluation in the middle."""


def train(training: Training, run: Run, stop: Callable[[], bool] = lambda: False) -> Iterator[Report]:
    """Train to the end, or until `stop` says so, and save as it goes; yields a report a step and an evaluation.

    Evaluations come every eval_every steps and at the end. The last state is saved at each, once a minute, and when
    stopped; the best is saved first. Raises CharRNNError where the disk is full or the loss stays not finite.
    """
    eval_every = training.config.train.eval_every
    assert isinstance(eval_every, int)

    def progress(_: int) -> None:
        if stop():
            raise _Stopped

    def recorded(report: StepDone | RolledBack) -> StepDone | RolledBack:
        if isinstance(report, StepDone) and report.step % max(1, eval_every // 5) == 0:
            run.append_metrics(_step_line(report))
        return report

    saved = time.monotonic()
    while True:
        position = training.position  # going back makes another
        reason = training.finished()
        due = position.step % eval_every == 0 or reason is not None
        if due and position.step > position.evaluated:
            yield from map(recorded, training.settle())
            if training.position is not position:
                continue
            try:
                reported = training.evaluate(progress)
            except _Stopped:
                training.save_last(run)
                yield Finished("stopped", tuple(training.history), position.step)
                return
            if isinstance(reported, RolledBack):
                yield reported
                continue
            began = time.perf_counter()
            run.append_metrics(_line(reported.evaluated))
            run.append_sample(
                f"step {position.step}, {reported.evaluated.bits_per_character:.4f} bits/char", reported.text
            )
            if reported.best:
                training.save_best(run)
            training.save_last(run)
            position.seconds += time.perf_counter() - began
            position.evaluation_seconds += time.perf_counter() - began
            if position.step == 0:
                position.startup = position.seconds
            saved = time.monotonic()
            yield reported
            reason = training.finished()
        if reason is not None:
            yield Finished(reason, tuple(training.history), position.step)
            return
        if stop():
            yield from map(recorded, training.settle())
            training.save_last(run)
            yield Finished("stopped", tuple(training.history), training.position.step)
            return
        try:
            report = training.step()
        except RuntimeError as error:
            if not device.is_out_of_memory(error):
                raise
            raise device.out_of_memory(training.device) from error
        if report is not None:
            yield recorded(report)
        if time.monotonic() - saved >= SAVE_SECONDS:
            yield from map(recorded, training.settle())
            training.save_last(run)
            saved = time.monotonic()


def _step_line(report: StepDone) -> dict[str, Any]:
    return {
        "step": report.step,
        "epoch": report.epoch,
        "seconds": report.seconds,
        "bits_per_character": report.bits_per_character,
        "gradient_norm": report.gradient_norm,
        "learning_rate": report.learning_rate,
    }


def _line(evaluated: EvaluationRecord) -> dict[str, Any]:
    score = Score(evaluated.nats, evaluated.characters, evaluated.correct)
    sides: dict[str, Any] = {}
    if evaluated.cloze is not None and evaluated.backward_nats is not None:
        backward = Score(evaluated.backward_nats, score.characters)
        sides = cloze.fields(backward, evaluated.cloze)
    return {
        "step": evaluated.step,
        "epoch": evaluated.epoch,
        "seconds": evaluated.seconds,
        "training_bits_per_character": evaluated.training_bits_per_character,
        "validation": {**score.fields, **sides},
    }
