"""The Python interface to training: the command `charrnn train` as a function. Loads torch when it is called."""

from __future__ import annotations

import difflib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from charrnn.api import TextModel
from charrnn.api_arguments import function, mapping, path, shortened, text
from charrnn.errors import MisuseError
from charrnn.messages import Say, silent
from charrnn.scores import Score

if TYPE_CHECKING:
    from charrnn.checkpoints.model_file import EvaluationRecord
    from charrnn.training.events import Evaluated, RolledBack, StepDone
    from charrnn.training.job import TrainingJob
    from charrnn.training.ngram_counting import Counted


@dataclass(frozen=True, repr=False)
class TrainedRun:
    """A run that has ended: its folder, the file of its best model, why it ended, and all its evaluations, of which
    each has `step` (of an n-gram model the order), `epoch`, `seconds`, `training_bits_per_character` and
    `bits_per_character` of the validation split."""

    folder: Path
    path: Path
    reason: Literal["done", "time", "patience", "stopped"]
    history: tuple[EvaluationRecord, ...]

    @property
    def best(self) -> EvaluationRecord | None:
        """The evaluation of the best model; None if training was stopped before the first."""
        from charrnn.training.selection import best_of

        return best_of(self.history)

    @property
    def score(self) -> Score | None:
        """The best model's score on the validation split; None if training was stopped before the first evaluation. The
        nats of a mixture are its own, and its accuracy is that of its network."""
        return None if self.best is None else Score(self.best.model_nats, self.best.characters, self.best.correct)

    def model(self) -> TextModel:
        """Load the best model."""
        return TextModel(self.path)

    def __repr__(self) -> str:
        score = "not evaluated" if self.score is None else f"validation {self.score.bits_per_character:.4f} bits/char"
        return f"<charrnn.TrainedRun: {self.reason}, {score}, {self.path}>"


def train(
    texts: str | PathLike[str] | Iterable[str | PathLike[str]] = (),
    settings: Mapping[str, Any] | None = None,
    *,
    config: str | PathLike[str] | None = None,
    run: str | PathLike[str] | None = None,
    resume: str | PathLike[str] | bool = False,
    init_from: str | PathLike[str] | None = None,
    device: str = "auto",
    on_report: Callable[[StepDone | Evaluated | RolledBack | Counted], object] | None = None,
    stop: Callable[[], bool] | None = None,
    say: Say = silent,
    **keywords: Any,
) -> TrainedRun:
    """Train a model on text files or folders, as `charrnn train` does, and return the run when it has ended.

    Settings are those of docs/settings.md: `settings` by their full names, {"model.hidden_size": 128}, or keywords
    without the section, hidden_size=128, time="10m", seed=1; they win over `config`, a preset or a YAML file. `run` is
    the run folder, by default checkpoints/<text>. `resume` continues a run, or with True the newest one, which settings
    may extend; `init_from` fine-tunes a model.

    Nothing is printed: `say` hears the messages of the command, and `on_report` each step (StepDone), evaluation
    (Evaluated, or Counted for an n-gram model) and roll-back (RolledBack). When `stop` returns true, training saves and
    ends. So does Ctrl-C, which then raises KeyboardInterrupt; a second one interrupts at once. Raises MisuseError for
    mistakes in the arguments, and CharRNNError where a text or a file is at fault, in the words of the command.
    """
    from charrnn.cli.train import new_job, resumed_job

    function("say", say)
    for argument, called in {"on_report": on_report, "stop": stop}.items():
        if called is not None:
            function(argument, called)
    names, device = _names(texts), text("device", device)
    given = _assignments({**mapping("settings", settings), **keywords})
    others = {"config": config, "run": run, "init_from": init_from}
    paths = {name: None if value is None else path(name, value) for name, value in others.items()}
    if resume is False:
        folder = None if paths["run"] is None else Path(paths["run"])
        return _learn(new_job(names, paths["config"], given, folder, paths["init_from"], device, say), on_report, stop)
    if named := [name for name, value in paths.items() if value is not None]:
        raise MisuseError(f"resume continues a run as it is; leave out {', '.join(named)}.")
    name = None if resume is True else path("resume", resume)
    return _learn(resumed_job(names, name, given, device, say), on_report, stop)


def _names(texts: object) -> tuple[str, ...]:
    """List the names of one text or several."""
    if isinstance(texts, str | bytes | PathLike) or not isinstance(texts, Iterable):
        texts = [texts]
    return tuple(path("a text", name) for name in texts)


def _assignments(settings: Mapping[str, Any]) -> list[str]:
    """Write settings as the KEY=VALUE of the command; to a name without a section that of the setting is added, or of
    the one that is nearest in spelling, so that the mistake is told with all others."""
    from charrnn.config.loading import setting_like
    from charrnn.config.schema import Config

    owners = {name: section for section, kind in Config.SECTIONS.items() for name in kind.model_fields}
    found = []
    for name, value in settings.items():
        if "." not in name:
            near = difflib.get_close_matches(name, owners, n=1)
            meant = setting_like(name) or (owners[near[0]] if near else "train")
            name = f"{meant.partition('.')[0]}.{name}"
        found.append(f"{name}={_value(value)}")
    return found


def _value(value: object) -> str:
    """Write the value of a setting as YAML has it."""
    from charrnn.config.loading import format_value

    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(each) for each in value)}]"
    try:
        return format_value(value)
    except ValueError:
        return shortened(value)


def _learn(
    job: TrainingJob[Any],
    on_report: Callable[[StepDone | Evaluated | RolledBack | Counted], object] | None,
    stop: Callable[[], bool] | None,
) -> TrainedRun:
    """Run a training to its end. A run that fails before its first save leaves no folder behind."""
    from charrnn.training.events import Finished

    finished: Finished | None = None
    with _first_interrupt_saves(job.saves) as interrupted:
        try:
            for report in job.learn(lambda: interrupted() or (stop is not None and stop())):
                if isinstance(report, Finished):
                    finished = report
                elif on_report is not None:
                    on_report(report)
        except BaseException:
            job.run.discard()
            raise
        job.run.release()
        if interrupted():
            raise KeyboardInterrupt(f"saved; continue with charrnn.train(resume={str(job.run.folder)!r})")
    assert finished is not None
    best = job.run.best if job.run.best.exists() else job.run.last
    return TrainedRun(job.run.folder, best, finished.reason, finished.history)


@contextmanager
def _first_interrupt_saves(saves: bool) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C only be noted, if training saves and ends then; yield what says whether it came.

    Handlers belong to the main thread, and one that the caller has set stays.
    """
    pressed, before = False, signal.getsignal(signal.SIGINT)

    def catch(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)  # the second one interrupts at once

    main = threading.current_thread() is threading.main_thread()
    if not (saves and main and before is signal.default_int_handler):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, catch)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
