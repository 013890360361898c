"""Claims about training: exact resume, rollbacks, schedules, optimizers."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from charrnn.checkpoints import model_file
from charrnn.checkpoints.model_file import read_header, write
from charrnn.checkpoints.run_dir import Run
from charrnn.config import loading
from charrnn.data.loader import Batch
from charrnn.errors import CharRNNError, MisuseError
from charrnn.evaluation import cloze, scoring
from charrnn.models import losses
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.char_rnn import CharRNN
from charrnn.models.losses import target_nats as nats_of_model
from charrnn.scores import Score
from charrnn.training import events, loop, new_run, optimizer, resume, training_step
from charrnn.training.events import Evaluated, Finished, RolledBack, StepDone
from charrnn.training.job import TrainingJob
from tests.conftest import TINY

CPU = torch.device("cpu")
VARIANTS = (
    ("model.cell=lstm",),
    ("model.cell=gru",),
    ("model.cell=rnn",),
    ("model.cell=rnn", "model.activation=leaky_relu"),
    ("model.cell=rnn", "model.activation=relu", "model.init=identity"),
    ("model.cell=lstm", "model.leak=0.5", "model.time_skip=3", "model.residual=true", "model.layer_norm=true"),
    ("model.cell=gru", "model.tie_weights=true", "train.optimizer=rmsprop", "train.l1=0.0001"),
    ("model.cell=lstm", "train.optimizer=sgd", "train.schedule=linear", "train.clip_value=0.1"),
    ("model.cell=lstm", "data.documents=line", "train.precision=bf16"),
    ("model.cell=lstm", "train.kernel=custom"),
    ("model.bidirectional=true", "model.cell=gru", "train.kernel=custom", "train.precision=bf16"),
    ("model.bidirectional=true", "model.cell=lstm", "model.layer_norm=true"),
    ("model.bidirectional=true", "model.cell=gru", "model.tie_weights=true", "train.precision=bf16"),
    ("model.bidirectional=true", "model.cell=rnn", "model.time_skip=2", "data.documents=line"),
    ("model.bidirectional=true", "model.cell=lstm", "data.documents=separator", "data.separator=. "),
    ("model.cell=lstm", "data.documents=separator", "data.separator=jugs", "model.dropout=0.3"),
)


def started(folder: str, *settings: str, steps: int = 23) -> TrainingJob[training_step.Training]:
    options = loading.load(None, [*TINY, f"train.steps={steps}", *settings]).with_values(data={"texts": ["text.txt"]})
    return new_run.start(options, Path(folder), CPU)


def network(job: TrainingJob[training_step.Training]) -> CharRNN:
    assert isinstance(job.training.model, CharRNN)
    return job.training.model


def run_until(job: TrainingJob[training_step.Training], step: int | None = None) -> list[events.Report]:
    """Train, asking to stop once `step` steps are done."""

    def stop() -> bool:
        return step is not None and job.training.position.step >= step

    reports = list(loop.train(job.training, job.run, stop))
    job.run.release()
    return reports


def without_seconds(path: Path) -> list[Any]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    first, second = (model_file.read(folder / "last.safetensors", training=True)[1] for folder in (one, other))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert without_seconds(one / "metrics.jsonl") == without_seconds(other / "metrics.jsonl")
    assert (one / "samples.txt").read_bytes() == (other / "samples.txt").read_bytes()
    best, other_best = (model_file.read(folder / "best.safetensors", training=True)[1] for folder in (one, other))
    assert all(torch.equal(best[name], other_best[name]) for name in best)


@pytest.mark.parametrize(
    "settings",
    [pytest.param(each, marks=[pytest.mark.bf16] if "train.precision=bf16" in each else []) for each in VARIANTS],
    ids=" ".join,
)
def test_resume_is_bit_exact(here: Path, settings: tuple[str, ...]) -> None:
    run_until(started("whole", *settings))
    run_until(started("parts", *settings), 4)
    for step in (10, 17, None):  # mid-epoch, at different distances from an evaluation
        resumed = resume.resume(Run(Path("parts")), CPU)
        run_until(resumed, step)
    assert_same_run(here / "whole", here / "parts")


# A GPU's figures come some steps late. A CPU can be given such a lag, too


def lagging(job: TrainingJob[training_step.Training], lag: int = 2) -> TrainingJob[training_step.Training]:
    job.training.lag = lag
    return job


@pytest.mark.parametrize("lag", [1, 2, 7])
@pytest.mark.parametrize("settings", [(), VARIANTS[-1]], ids=" ".join)
def test_late_figures_change_nothing(here: Path, settings: tuple[str, ...], lag: int) -> None:
    prompt = run_until(started("whole", *settings))
    run_until(lagging(started("parts", *settings), lag), 4)
    for step in (10, 17):
        run_until(lagging(resume.resume(Run(Path("parts")), CPU), lag), step)
    last = run_until(lagging(resume.resume(Run(Path("parts")), CPU), lag))
    assert_same_run(here / "whole", here / "parts")
    # reports come in the same order, an evaluation after all steps before it
    assert [type(report) for report in last] == [type(report) for report in prompt][-len(last) :]
    steps = [report.step for report in last if isinstance(report, StepDone)]
    assert steps == list(range(18, 24))


def test_a_step_reports_the_one_taken_lag_steps_before(here: Path) -> None:
    job = lagging(started("run"))
    training = job.training
    assert [training.step() for _ in range(2)] == [None, None]
    for step in (1, 2, 3):
        report = training.step()
        assert isinstance(report, StepDone)
        assert report.step == step
        assert math.isfinite(report.bits_per_character)
    assert [report.step for report in training.settle() if isinstance(report, StepDone)] == [4, 5]
    assert list(training.settle()) == []
    job.run.release()


@pytest.mark.parametrize("lag", [0, 2])
def test_a_rollback_after_late_figures_is_the_same_as_at_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    monkeypatch.setattr(training_step, "SNAPSHOT_EVERY", 3)  # for a snapshot between evaluations
    every = "train.eval_every=11"
    for folder, late in (("prompt", 0), ("late", lag)):
        job = lagging(started(folder, every), late)
        with monkeypatch.context() as patch:
            poison(patch, lambda call: call == 9)
            reports = run_until(job)
        # the snapshot before step 7 is the state after step 6, which was finite
        assert [report.step for report in reports if isinstance(report, RolledBack)] == [6]
    assert_same_run(here / "prompt", here / "late")


def test_a_snapshot_counts_only_once_its_own_step_was_finite(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_step, "SNAPSHOT_EVERY", 4)
    job = lagging(started("run", "train.eval_every=100"))
    poison(monkeypatch, lambda call: call == 9)  # the step before which a snapshot is taken
    reports = run_until(job)
    assert [report.step for report in reports if isinstance(report, RolledBack)] == [4]
    assert bool(network(job).head_bias.isfinite().all())


@pytest.mark.parametrize("lag", [0, 2])
def test_there_is_one_snapshot_whose_memory_the_next_one_takes(
    here: Path, monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    monkeypatch.setattr(training_step, "SNAPSHOT_EVERY", 3)
    job = lagging(started("run"), lag)
    training, places, steps = job.training, set(), set()
    for _ in loop.train(training, job.run):
        tensors = training.last_good.tensors
        if training.last_good.position.step:  # before the first there are no moments
            places.add(tuple((name, tensors[name].data_ptr()) for name in sorted(tensors)))
            steps.add(training.last_good.position.step)
    job.run.release()
    assert steps == {3, 5, 6, 9, 10, 12, 15, 18, 20, 21, 23}
    assert len(places) == 1
    own = {tensor.data_ptr() for tensor in training.tensors().values()}
    assert not own & {place for _, place in places.pop()}


def test_what_is_saved_is_not_copied_first(here: Path) -> None:
    job = started("run", "train.optimizer=sgd")
    run_until(job, 3)
    tensors = job.training.tensors()
    for name, weights in network(job).named_parameters():
        assert tensors[name].data_ptr() == weights.data_ptr()
    moments = job.training.optimizer.state_dict()["state"]
    assert tensors["training/optimizer/0/momentum_buffer"].data_ptr() == moments[0]["momentum_buffer"].data_ptr()


@pytest.mark.parametrize("stopped", ["at an evaluation", "by hand", "at the end"])
def test_pending_steps_are_settled_before_anything_is_saved(
    here: Path, monkeypatch: pytest.MonkeyPatch, stopped: str
) -> None:
    job = lagging(started("run"))
    bad = {"at an evaluation": 10, "by hand": 12, "at the end": 23}[stopped]
    poison(monkeypatch, lambda call: call == bad)
    reports = run_until(job, 12 if stopped == "by hand" else None)
    assert sum(isinstance(report, RolledBack) for report in reports) == 1
    assert all(math.isfinite(evaluated.judged_bits) for evaluated in job.training.history)
    for file in ("last", "best"):
        tensors = model_file.read(here / "run" / f"{file}.safetensors", training=True)[1]
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values() if tensor.is_floating_point())
    assert job.training.position.step == (10 if stopped == "by hand" else 23)


def test_saving_once_a_minute_settles_pending_steps(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    run_until(started("prompt"))
    run_until(lagging(started("late")))
    assert_same_run(here / "prompt", here / "late")


def test_resume_after_a_kill_continues_from_the_last_save(here: Path) -> None:
    run_until(started("whole"))
    job = started("parts")
    reports = loop.train(job.training, job.run)
    for report in reports:
        if isinstance(report, StepDone) and report.step == 13:
            break  # three steps after the save at 10, some lines in metrics.jsonl already
    reports.close()  # type: ignore[attr-defined]
    job.run.release()
    resumed = resume.resume(Run(Path("parts")), CPU)
    assert resumed.training.position.step == 10
    run_until(resumed)
    assert_same_run(here / "whole", here / "parts")


def test_stopping_within_an_evaluation_loses_nothing(here: Path) -> None:
    run_until(started("whole"))
    job = started("parts")
    asked = 0

    def stop() -> bool:
        nonlocal asked
        if job.training.position.step == 5:
            asked += 1
            return True  # first asked from within the evaluation that is due at 5
        return False

    reports = list(loop.train(job.training, job.run, stop))
    job.run.release()
    assert asked
    assert isinstance(reports[-1], Finished)
    assert reports[-1].reason == "stopped"
    assert not any(isinstance(report, Evaluated) for report in reports)
    run_until(resume.resume(Run(Path("parts")), CPU))
    assert_same_run(here / "whole", here / "parts")


def test_a_finished_run_is_extended_with_its_moments(here: Path) -> None:
    run_until(started("run", "train.schedule=constant", steps=10))
    resumed = resume.resume(Run(Path("run")), CPU, settings=["train.steps=23"])
    run_until(resumed)
    run_until(started("whole", "train.schedule=constant", "train.warmup_steps=1"))
    assert resumed.training.position.step == 23
    assert len(resumed.training.history) == 5


@pytest.mark.parametrize("two_sided", ["false", "true"])
def test_validation_never_disturbs_training(here: Path, two_sided: str) -> None:
    both = f"model.bidirectional={two_sided}"
    often, rarely = started("often", both, "train.eval_every=2"), started("rarely", both, "train.eval_every=1000")
    run_until(often)
    run_until(rarely)
    for name, weights in often.training.model.state_dict().items():
        assert torch.equal(weights, rarely.training.model.state_dict()[name]), name


def poison(monkeypatch: pytest.MonkeyPatch, when: Callable[[int], bool]) -> None:
    """Make the loss nan in chosen steps (counted from 1)."""
    calls, sound = 0, nats_of_model

    def target_nats(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return sound(*arguments) * (math.nan if when(calls) else 1.0)

    monkeypatch.setattr(losses, "target_nats", target_nats)


def test_a_loss_that_is_not_finite_never_stays_in_the_weights(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = started("run")
    poison(monkeypatch, lambda call: call == 8)
    reports = run_until(job)
    back = [report for report in reports if isinstance(report, RolledBack)]
    assert [(report.step, report.times) for report in back] == [(5, 1)]  # the evaluation at 5 was the last good state
    assert job.training.position.rate_scale == 0.5
    assert job.training.position.step == 23
    assert all(bool(weights.isfinite().all()) for weights in job.training.model.state_dict().values())


def test_a_gradient_that_is_not_finite_never_stays_in_the_weights(here: Path) -> None:
    job = started("run")
    weights = network(job).head
    assert weights is not None
    calls = 0

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gradient * math.inf if calls == 3 else gradient

    weights.register_hook(spoil)  # type: ignore[no-untyped-call]
    reports = run_until(job)
    assert sum(isinstance(report, RolledBack) for report in reports) == 1
    assert bool(weights.isfinite().all())


def test_training_gives_up_after_three_rollbacks(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = started("run")
    poison(monkeypatch, lambda call: call > 7)
    seen: list[events.Report] = []
    with pytest.raises(CharRNNError, match=r"not finite again at step .*Set a lower train\.learning_rate"):
        seen.extend(loop.train(job.training, job.run))
    job.run.release()
    assert bool(network(job).head_bias.isfinite().all())
    assert job.run.best.exists()


def test_a_learning_rate_named_on_resume_starts_clean(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was once halved for each rollback before."""
    job = started("run")
    with monkeypatch.context() as patch:
        poison(patch, lambda call: call == 8)
        run_until(job, 12)
    for settings, expected in (([], (0.5, 1)), (["train.learning_rate=0.01"], (1.0, 0))):
        resumed = resume.resume(Run(Path("run")), CPU, settings=settings)
        resumed.run.release()
        assert (resumed.training.position.rate_scale, resumed.training.position.rollbacks) == expected


def test_a_long_good_stretch_forgives_rollbacks(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four separate events once ended a long run."""
    monkeypatch.setattr(training_step, "FORGIVING_STEPS", 9)
    job = started("run", steps=40)
    poison(monkeypatch, lambda call: call in {8, 18, 22, 38, 44})
    reports = run_until(job)
    assert [(report.step, report.times) for report in reports if isinstance(report, RolledBack)] == [
        (5, 1),
        (10, 1),
        (10, 2),
        (25, 1),
        (30, 2),
    ]
    assert job.training.position.step == 40
    assert job.training.position.rate_scale == 1 / 8  # it stays low, but no lower


def test_patience_stops_early_and_keeps_the_best(here: Path) -> None:
    job = started("run", "train.patience=2", "train.learning_rate=10", "train.eval_every=2", steps=200)
    finished = run_until(job)[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "patience"
    assert finished.step < 200
    bits = [evaluated.bits_per_character for evaluated in finished.history]
    assert min(bits) == bits[-3]


def score_forwards(monkeypatch: pytest.MonkeyPatch, *nats: float) -> None:
    """Let evaluations find these nats, in turn."""
    found = iter(nats)

    def evaluate(*_: Any, **__: Any) -> scoring.Evaluation:
        return scoring.Evaluation(Score(next(found), 10, 3), None, scoring.WARMUP)

    monkeypatch.setattr(scoring, "evaluate", evaluate)


def test_extending_counts_patience_from_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The annealed best was once compared with evaluations at the full rate, and the extended run ended on patience."""
    # the first two after the extension still profit from the rate that was low before; then patience compares
    score_forwards(monkeypatch, 10, 20, 21, 30, 29, 28, 29, 28, 9)
    run_until(started("run", "train.patience=2", steps=5))
    extended = resume.resume(Run(Path("run")), CPU, settings=["train.steps=50"])
    run_until(extended, 27)
    finished = run_until(resume.resume(Run(Path("run")), CPU))[-1]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.step) == ("patience", 40)
    assert read_header(here / "run" / "best.safetensors").history[-1].step == 5


def test_a_time_budget_is_kept_and_the_rate_annealed_to_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("charrnn.training.loop.time.perf_counter", lambda: next(ticks) / 200)
    job = started("run", "train.time=1.5", "train.steps=null", "train.epochs=null", "train.eval_every=100000")
    reports = run_until(job)
    steps = [report for report in reports if isinstance(report, StepDone)]
    finished = reports[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "time"
    assert steps[-1].learning_rate < 0.05 * max(report.learning_rate for report in steps)
    assert job.training.position.seconds == pytest.approx(1.5, abs=0.1)


class Clock:
    """A clock that goes on a little whenever it is read, and by what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("time.perf_counter", self.read)

    def read(self) -> float:
        self.now += 1e-5
        return self.now


def test_saves_and_all_else_that_the_user_waits_for_count_for_a_time_budget(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saves once a minute did not count, nor what lay between steps."""
    clock = Clock(monkeypatch)
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    job = started("run", "train.time=20", "train.steps=null", "train.epochs=null", "train.eval_every=1000")
    save = job.training.save_last

    def slow_save(run: Run) -> None:
        clock.now += 2.0
        save(run)

    monkeypatch.setattr(job.training, "save_last", slow_save)
    for report in loop.train(job.training, job.run):
        clock.now += 1.0 if isinstance(report, StepDone) else 0.0  # spent by who draws the report
    job.run.release()
    assert job.training.position.step == 7  # three seconds each
    assert 21.0 <= clock.now < 25.0  # and a last save, for which no evaluation before had shown how long it takes


def test_what_a_resumed_process_needs_to_get_ready_counts_as_time_but_not_as_progress(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    job = started("run", "train.time=100", "train.steps=null", "train.epochs=null")
    job.training.start_clock(10.0)
    run_until(job, 0)
    job.run.release()
    clock.now += 1000.0  # nothing runs meanwhile
    began = clock.now
    clock.now += 30.0
    resumed = resume.resume(Run(Path("run")), CPU, began=began)
    resumed.run.release()
    assert resumed.training.progress == 0.0
    assert resumed.training.position.seconds == pytest.approx(40.0, abs=0.1)
    resumed.training.tick()
    assert resumed.training.position.seconds == pytest.approx(40.0, abs=0.1)
    with pytest.raises(MisuseError, match="has trained for 40 seconds, which --time includes: set more"):
        resume.resume(Run(Path("run")), CPU, settings=["train.time=35s"], began=clock.now - 30.0)


def test_time_before_the_first_step_is_no_progress(here: Path) -> None:
    """Otherwise the learning rate would jump to half its peak at the first step, without a warm-up."""
    job = started("run", "train.time=100", "train.steps=null", "train.epochs=null")
    training = job.training
    assert training.position.seconds > 0.0  # reading the text, if nothing else
    assert training.progress == 0.0
    training.position.seconds = training.position.startup = 20.0
    assert training.progress == 0.0
    training.position.evaluation_seconds = 0.0
    training.position.seconds = 60.0
    assert training.progress == 0.5
    training.position.seconds, training.position.evaluation_seconds = 50.0, 20.0
    assert training.progress == 0.5  # time is left for the last evaluation
    training.start_clock(200.0)  # more than there is: a single step
    training.tick()
    assert training.progress == 0.0
    assert isinstance(run_until(job)[-1], Finished)
    assert training.position.step == 1
    assert training.progress == 1.0


def test_time_is_left_for_the_first_evaluation_if_it_is_the_last(here: Path) -> None:
    """As the plan estimates it, but never more than half, or nothing would be trained."""
    job = started("run", "train.time=100", "train.steps=null", "train.epochs=null")
    training = job.training
    assert 0.0 < training.position.evaluation_seconds < 1.0
    training.position.startup, training.position.seconds = 20.0, 50.0
    for seconds, given in ((5.0, 75.0), (30.0, 50.0), (40.0, 40.0), (70.0, 40.0), (200.0, 40.0)):
        training.position.evaluation_seconds = seconds
        assert training.progress == pytest.approx(30.0 / given)
    training.start_clock(200.0)
    finished = run_until(job)[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "time"


def test_the_learning_rate_rises_then_falls_to_a_hundredth() -> None:
    options = loading.load(None, ["train.learning_rate=2", "train.warmup_steps=4"]).train
    assert [optimizer.rate_at(options, step, 0.0) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert optimizer.rate_at(options, 100, 0.5) == pytest.approx(2 * (0.01 + 0.99 / 2))
    assert optimizer.rate_at(options, 100, 1.0) == pytest.approx(0.02)
    linear = options.model_copy(update={"schedule": "linear"})
    assert optimizer.rate_at(linear, 100, 0.5) == pytest.approx(2 * 0.505)
    constant = options.model_copy(update={"schedule": "constant"})
    assert optimizer.rate_at(constant, 100, 1.0) == 2.0
    # a short training spends a tenth on its warm-up at most
    assert optimizer.rate_at(options.model_copy(update={"warmup_steps": 1000}), 1, 0.1) == optimizer.rate_at(
        options, 9, 0.1
    )


@pytest.mark.parametrize(
    ("model", "tables"),
    [
        ([], {"embedding"}),
        (["model.bidirectional=true"], {"embedding", "joint_width", "joint_trust"}),
        (["model.tie_weights=true", "model.embedding_size=5"], set()),  # it is the head's matrix as well
    ],
    ids=["one direction", "both", "tied"],
)
def test_weight_decay_is_decoupled_as_in_adamw_and_leaves_tables_alone(
    here: Path, model: list[str], tables: set[str]
) -> None:
    job = started(
        "run", "train.weight_decay=0.3", "model.dropout=0", "train.clip_norm=null", "train.warmup_steps=0", *model
    )
    training = job.training
    with torch.no_grad():  # weights of 0 would not show any decay
        for parameter in training.model.parameters():
            parameter.add_(0.5)
    copies = {name: weights.detach().clone() for name, weights in training.model.named_parameters()}
    stepped = training.step()
    assert isinstance(stepped, StepDone)
    gradients = {name: weights.grad for name, weights in training.model.named_parameters()}
    for name, weights in copies.items():
        weights.grad = gradients[name]
        decay = 0.3 if weights.dim() > 1 and name not in tables else 0.0
        torch.optim.AdamW([weights], lr=stepped.learning_rate, betas=(0.9, 0.99), weight_decay=decay).step()
        torch.testing.assert_close(training.model.get_parameter(name).detach(), weights)
    job.run.release()


def test_clipping_by_norm_scales_the_whole_gradient(here: Path) -> None:
    job = started("run", "train.clip_norm=0.01")
    stepped = job.training.step()
    assert isinstance(stepped, StepDone)
    assert stepped.gradient_norm > 0.01
    squares = sum(
        float((weights.grad**2).sum()) for weights in job.training.model.parameters() if weights.grad is not None
    )
    assert math.sqrt(squares) == pytest.approx(0.01, rel=1e-3)
    job.run.release()


def test_clipping_by_value_cuts_each_gradient(here: Path) -> None:
    job = started("run", "train.clip_value=0.001", "train.clip_norm=null")
    job.training.step()
    largest = max(
        float(weights.grad.abs().max()) for weights in job.training.model.parameters() if weights.grad is not None
    )
    assert largest == pytest.approx(0.001)
    job.run.release()


def test_l1_pulls_every_matrix_towards_zero(here: Path) -> None:
    plain, pulled = started("plain", "train.clip_norm=null"), started("pulled", "train.clip_norm=null", "train.l1=0.25")
    plain.training.step()
    start = {name: weights.detach().clone() for name, weights in pulled.training.model.named_parameters()}
    pulled.training.step()
    for name, weights in pulled.training.model.named_parameters():
        other = plain.training.model.get_parameter(name).grad
        assert weights.grad is not None
        assert other is not None
        expected = other + (0.25 * start[name].sign() if weights.dim() > 1 else 0.0)
        torch.testing.assert_close(weights.grad, expected)
    plain.run.release()
    pulled.run.release()


def test_an_epoch_starts_from_the_initial_state_and_windows_carry_it_on(here: Path) -> None:
    job = started("run")
    training = job.training
    windows = training.batches.windows
    seen: list[float] = []
    for _ in range(windows + 1):
        seen.append(float(training.state.hidden.abs().sum()))
        training.step()
    assert seen[0] == 0.0
    assert all(size > 0.0 for size in seen[1:windows])
    job.run.release()


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ((), []),
        (("data.documents=line",), []),  # which runs of earlier versions cannot be told from
        (("data.documents=separator", "data.separator=jugs."), [0, 16]),
    ],
    ids=str,
)
def test_documents_are_begun_from_zeros_every_so_many_steps(
    settings: tuple[str, ...], steps: list[int], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, begun = started("run", *settings), list[int]()
    training, real = job.training, losses.beginning_loss

    def beginning_loss(model: CharRNN, batch: Batch, *others: Any) -> torch.Tensor:
        begun.append(training.position.step)
        boundary = training.vocabulary.boundary_tokens.tolist()
        assert batch.inputs[:, :5].tolist() == [boundary] * training.batches.batch_size
        return real(model, batch, *others)

    monkeypatch.setattr(losses, "beginning_loss", beginning_loss)
    run_until(job)
    assert begun == steps


def test_weights_spoilt_by_an_update_are_never_rolled_back_to(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the update itself overflows, just before a snapshot: only the next loss shows it
    monkeypatch.setattr(training_step, "SNAPSHOT_EVERY", 4)
    job = started("run", "train.eval_every=100")
    optimizer, calls = job.training.optimizer, 0
    sound = optimizer.step

    def step() -> None:
        nonlocal calls
        calls += 1
        sound()
        if calls == 8:
            with torch.no_grad():
                network(job).head_bias.fill_(math.nan)

    monkeypatch.setattr(optimizer, "step", step)
    reports = run_until(job)
    back = [report for report in reports if isinstance(report, RolledBack)]
    assert [report.step for report in back] == [4]
    assert job.training.position.step == 23
    assert all(bool(weights.isfinite().all()) for weights in job.training.model.parameters())


@pytest.mark.parametrize("spoilt", ["head_bias", "backward_bias", "joint_bias"])
def test_a_validation_score_that_is_not_finite_is_rolled_back_and_never_the_best(here: Path, spoilt: str) -> None:
    job = started("run", f"model.bidirectional={'false' if spoilt == 'head_bias' else 'true'}")
    for report in loop.train(job.training, job.run):
        if isinstance(report, StepDone) and report.step == 5 and job.training.position.rollbacks == 0:
            with torch.no_grad():
                job.training.model.get_parameter(spoilt).fill_(math.inf)
    job.run.release()
    assert job.training.position.rollbacks == 1
    assert all(math.isfinite(evaluated.judged_bits) for evaluated in job.training.history)
    assert bool(model_file.read(here / "run" / "best.safetensors", training=True)[1][spoilt].isfinite().all())


def test_stopping_with_spoilt_weights_saves_the_last_good_ones(here: Path) -> None:
    job = started("run")
    run_until(job, 7)
    with torch.no_grad():
        network(job).head_bias.fill_(math.nan)
    job.training.save_last(job.run)
    assert bool(model_file.read(here / "run" / "last.safetensors", training=True)[1]["head_bias"].isfinite().all())
    assert job.training.position.step == 5


def test_a_run_of_another_type_of_device_is_resumed(here: Path) -> None:
    job = started("run")
    run_until(job, 7)
    training = job.training
    training.position.device = "cuda"
    tensors = training.tensors() | {"training/generator": torch.zeros(16, dtype=torch.uint8)}
    write(job.run.last, training.header(resumable=True), tensors)
    said: list[str] = []
    run_until(resume.resume(Run(Path("run")), None, say=said.append))
    assert any("Trained on cuda before, on cpu now" in note for note in said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "many"}, r"garbles position\.step"),
        ({"window": 10**9}, "position is beyond the end of an epoch"),
        ({"step": -1}, r"garbles position\.step"),
        ({"lengths": 3}, r"garbles position\.lengths"),
    ],
    ids=str,
)
def test_a_garbled_position_is_reported(here: Path, change: dict[str, Any], message: str) -> None:
    job = started("run")
    run_until(job, 7)
    header = job.training.header(resumable=True)
    assert header.position is not None
    spoilt = replace(header, position=header.position | change)
    write(job.run.last, spoilt, job.training.tensors())
    with pytest.raises(CharRNNError, match=message):
        resume.resume(Run(Path("run")), CPU)


def test_training_tensors_that_do_not_fit_are_reported(here: Path) -> None:
    job = started("run")
    run_until(job, 7)
    header, tensors = job.training.header(resumable=True), job.training.tensors()
    for spoilt in (
        {name: tensor for name, tensor in tensors.items() if name != "training/generator"},
        tensors | {"training/state/hidden": torch.zeros(1, 1, 1)},
        tensors | {"training/optimizer/0/exp_avg": torch.zeros(3, 1)},
        tensors | {"training/optimizer/99/exp_avg": torch.zeros(3)},
    ):
        write(job.run.last, header, spoilt)
        with pytest.raises(CharRNNError, match="is damaged"):
            resume.resume(Run(Path("run")), CPU)


# A bidirectional model's three scores


def test_an_evaluation_of_a_bidirectional_model_holds_all_three_scores(here: Path) -> None:
    job = started("run", "model.bidirectional=true")
    run_until(job)
    training = job.training
    last = training.history[-1]
    forward = scoring.evaluate(training.model, training.vocabulary, training.validation)
    assert isinstance(training.model, BidirectionalRNN)
    sides = cloze.score(training.model, training.vocabulary, training.validation, forward)
    assert last.nats == pytest.approx(forward.score.nats)
    assert last.backward_nats == pytest.approx(sides.backward.nats)
    assert last.cloze == sides.cloze
    assert last.judged_bits == pytest.approx(
        (forward.score + sides.backward + sides.cloze).bits / 3 / len(training.validation)
    )
    header = read_header(here / "run" / "last.safetensors")
    assert header.history == tuple(training.history)
    line = json.loads((here / "run" / "metrics.jsonl").read_text().splitlines()[-1])["validation"]
    assert line["bits_per_character"] == pytest.approx(forward.score.bits_per_character)
    assert line["backward_bits_per_character"] == pytest.approx(sides.backward.bits_per_character)
    assert line["cloze_bits_per_character"] == pytest.approx(sides.cloze.bits_per_character)
    assert line["cloze_accuracy"] == pytest.approx(sides.cloze.accuracy)


def test_an_evaluation_of_a_causal_model_has_no_other_score(here: Path) -> None:
    job = started("run", steps=5)
    run_until(job)
    (evaluated,) = job.training.history
    assert (evaluated.backward_nats, evaluated.cloze_nats, evaluated.cloze_correct) == (None, None, None)
    assert evaluated.cloze is None
    assert evaluated.judged_bits == evaluated.bits_per_character
    assert "cloze_bits_per_character" not in (here / "run" / "metrics.jsonl").read_text()


def test_the_best_of_a_bidirectional_model_is_judged_by_the_mean_of_its_three_scores(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward score falls all the time, but another of the three outweighs it after the second evaluation."""
    forward, backward, between = (
        iter((40.0, 30.0, 20.0, 10.0)),
        iter((9.0, 8.0, 8.0, 9.0)),
        iter((6.0, 7.0, 18.0, 27.0)),
    )

    def score(*_: Any, **__: Any) -> cloze.TwoSided:
        return cloze.TwoSided(Score(next(backward), 10, 1), Score(next(between), 10, 2), scoring.WARMUP)

    def score_forward(*_: Any, **__: Any) -> scoring.Evaluation:
        return scoring.Evaluation(Score(next(forward), 10, 3), None, scoring.WARMUP)

    monkeypatch.setattr(cloze, "score", score)
    monkeypatch.setattr(scoring, "evaluate", score_forward)
    job = started("run", "model.bidirectional=true", steps=20)
    reports = [report for report in run_until(job) if isinstance(report, Evaluated)]
    assert [report.best for report in reports] == [True, True, False, False]  # 55, 45, 46 and 46 nats
    assert read_header(here / "run" / "best.safetensors").history[-1].step == 10
    assert job.training.position.best_bits == pytest.approx(45 / 3 / 10 / math.log(2))
    assert job.training.position.stale == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.bf16
def test_tf32_is_allowed_throughout_a_bf16_step_and_never_in_fp32(
    here: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The backward pass chooses its kernels again, after autocast has ended."""
    allowed: list[bool | None] = [None]
    seen: dict[str, bool | None] = {}

    @contextmanager
    def tf32(device: torch.device, wanted: bool) -> Iterator[None]:
        allowed.append(wanted)
        yield
        allowed.pop()

    costs = losses.compute_losses

    def watched(*arguments: Any) -> Any:
        found, state = costs(*arguments)
        seen["forwards"] = allowed[-1]
        found.forward.register_hook(lambda gradient: seen.update(backwards=allowed[-1]))  # type: ignore[no-untyped-call]
        return found, state

    monkeypatch.setattr(training_step, "tf32", tf32)
    monkeypatch.setattr(losses, "compute_losses", watched)
    job = started("run", f"train.precision={precision}")
    job.training.step()
    job.run.release()
    assert seen == {"forwards": precision == "bf16", "backwards": precision == "bf16"}
    assert allowed == [None]


def test_an_extension_that_is_killed_before_it_saves_is_not_forgotten(here: Path) -> None:
    run_until(started("run", steps=5))
    resume.resume(Run(Path("run")), CPU, settings=["train.steps=12"]).run.release()  # as a killed process does
    finished = run_until(resume.resume(Run(Path("run")), CPU))[-1]
    assert isinstance(finished, Finished)
    assert finished.step == 12


def test_the_first_evaluation_is_expected_to_take_as_long_as_training_shows(here: Path) -> None:
    """With many characters, on a machine that had become busy, it once took twice the time given."""
    job = started("run", "train.time=100", "train.steps=null", "train.epochs=null")
    job.run.release()
    training, held_out = job.training, len(job.training.validation)
    training.position = replace(training.position, startup=10.0, seconds=20.0, evaluation_seconds=1.0)
    training._read, training._reading = held_out, 8.0
    assert training.progress == pytest.approx(10 / (90 - 4))  # an evaluation takes half of that at most
    training._read = 100 * held_out
    assert training.progress == pytest.approx(10 / (90 - 1))  # what was planned
