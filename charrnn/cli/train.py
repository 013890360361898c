"""charrnn train: options to a run, its reports to the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from charrnn.cli.console import note, stdin
from charrnn.cli.options import (
    CONTEXT,
    COUNT,
    Command,
    check_together,
    complete_files,
    complete_presets,
    complete_runs,
    device_option,
    encoding_errors_option,
    model_option,
    option,
)
from charrnn.errors import MisuseError
from charrnn.messages import Say, silent
from charrnn.paths import is_file, is_folder

if TYPE_CHECKING:
    from charrnn.training.job import TrainingJob


_EXCLUDES = (("resume", "config run init_from", "--resume continues a run as it is"),)
_INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143}


class _TrainCommand(Command):
    """A command that knows which setting an unknown option means."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = list(args)  # click empties the list
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from charrnn.config import loading

            setting = loading.setting_like(error.option_name.lstrip("-"))
            if setting is None:
                raise
            # the value stands behind the option, or behind "="
            pairs = zip(words, [*words[1:], "VALUE"], strict=True)
            given = [word.partition("=")[2] or after for word, after in pairs if word.startswith(error.option_name)]
            advice = f"{error.option_name} is a setting, and no option: -s {setting}={given[0] if given else 'VALUE'}"
            raise MisuseError(advice) from error


@click.command(cls=_TrainCommand, context_settings=CONTEXT, short_help="Train a model on texts.")
@click.argument("texts", nargs=-1, metavar="TEXT...", shell_complete=complete_files)
@option("Input", "--encoding", "Encoding of the texts. [default: utf-8]", metavar="NAME")
@encoding_errors_option()
@option(
    "Input",
    "--glob",
    "Files of a folder to read; repeat it for more. [default: *.txt]",
    multiple=True,
    metavar="'*.py'",
)
@option("Settings", "-c --config", "A preset, or a YAML file.", metavar="NAME|FILE", shell_complete=complete_presets)
@option("Settings", "-s --set settings", "One setting; overrides the file.", multiple=True, metavar="KEY=VALUE")
@option("Settings", "--time budget", "Wall-clock budget. [default: about 15 minutes are planned]", metavar="10m")
@option("Settings", "--seed", "Random seed. [default: drawn and printed]", type=COUNT, metavar="N")
@option("Settings", "--init-from", "Fine-tune a model on a new text.", metavar="MODEL", shell_complete=complete_runs)
@option(
    "Run",
    "-o --run folder",
    "Run folder. [default: checkpoints/<text>]",
    metavar="DIR",
    type=click.Path(path_type=Path),
)
@option("Run", "--resume", "Continue a run exactly where it stopped.", is_flag=True)
@model_option("Run", "With --resume: the run to continue. [default: the newest run]")
@option(
    "Output", "--samples", "Lines of sample shown at each evaluation. [default: 1]", type=COUNT, default=1, metavar="N"
)
@option("Output", "-q --quiet", "Print errors and warnings only.", is_flag=True)
@device_option()
def train(
    texts: tuple[str, ...],
    encoding: str | None,
    encoding_errors: str | None,
    glob: tuple[str, ...],
    config: str | None,
    settings: tuple[str, ...],
    budget: str | None,
    seed: int | None,
    init_from: str | None,
    folder: Path | None,
    resume: bool,
    model: str | None,
    samples: int,
    quiet: bool,
    device: str,
) -> None:
    """Train a model on TEXT: files, folders (every .txt below) or '-' for stdin; .gz, .bz2 and .xz are decompressed.

    The best model's path is printed on stdout.

    \b
    Example:
      charrnn train poems.txt
      charrnn train letters/ -c small -s model.dropout=0.3 --time 10m
      charrnn train --resume
    """
    began = time.perf_counter()  # the user waits while torch is loaded, too
    given = list(settings)
    given += [f"train.time={budget}"] if budget is not None else []
    given += [f"train.seed={seed}"] if seed is not None else []
    given += [f"data.encoding={encoding}"] if encoding is not None else []
    given += [f"data.encoding_errors={encoding_errors}"] if encoding_errors is not None else []
    given += [f"data.glob={json.dumps(glob, ensure_ascii=False)}"] if glob else []
    if model is not None and not resume:
        raise MisuseError("-m names the run to --resume. To start from a model's weights use --init-from.")
    say = silent if quiet else note
    check_together({"resume": resume, "config": config, "run": folder, "init_from": init_from}, _EXCLUDES)
    with _Stopper() as stopper:
        if resume:
            job = resumed_job(texts, model, given, device, say, began)
        else:
            job = new_job(texts, config, given, folder, init_from, device, say, stdin(), began, warn=note)
        stopper.saves = job.saves
        code = _run(job, quiet, samples, stopper)
    if code:
        raise click.exceptions.Exit(code)


def new_job(
    texts: tuple[str, ...],
    source: str | None,
    settings: list[str],
    folder: Path | None,
    init_from: str | None,
    device: str,
    say: Say,
    stdin: BinaryIO | None = None,
    began: float | None = None,
    *,
    warn: Say | None = None,
) -> TrainingJob[Any]:
    """Start a run as the options say: of `texts`, by a preset or file `source` and KEY=VALUE `settings`.

    A time budget counts from `began` (of time.perf_counter), by default from now. Warnings go to `warn`, by default to
    `say` like all messages.
    """
    began = time.perf_counter() if began is None else began
    from charrnn.checkpoints import base_model
    from charrnn.checkpoints.run_dir import Run, find_model
    from charrnn.config import loading
    from charrnn.data.text_files import TextReader

    base = {}
    start = find_model(init_from) if init_from is not None else None
    start = start or base_model.find(loading.load(source, settings), warn or say)
    if start is not None:
        from charrnn.training.fine_tuning import fine_tuning_base

        base = fine_tuning_base(start)
    try:
        config = loading.load(source, settings, base)
    except MisuseError:
        other = [setting for setting in settings if setting.replace(" ", "") in {"model.cell=ngram", "model.cell=hmm"}]
        if start is not None and other:  # the settings that do not fit belong to the other model
            raise MisuseError(f"--init-from keeps the architecture of {start}; leave out {other[0]}.") from None
        raise
    named = texts or tuple(config.data.texts)
    if not named:
        raise MisuseError("No text to learn. Name one: charrnn train TEXT")
    # before torch, which takes seconds to load, a text that is missing is told, and a folder that is taken
    TextReader(named, config.data.encoding, globs=config.data.glob)
    chosen = any(setting.partition("=")[0].strip() == "data.glob" for setting in settings)
    if chosen and not any(is_folder(Path(name)) for name in named):
        raise MisuseError("--glob chooses the files of a folder, and no folder is named.")
    config = config.with_values(data={"texts": list(named)})
    if folder is not None:
        Run(folder).check_free()
    from charrnn.device import choose_device
    from charrnn.training import fine_tuning, new_run

    if start is not None:
        fine_tuning.check_fine_tuning(start, config)
    if config.model.counted:
        if device not in {"auto", "cpu"}:
            raise MisuseError(f"An n-gram model is counted on the CPU; leave out --device {device}.")
        return new_run.start_counting(config, folder, stdin=stdin, say=say)
    return new_run.start(config, folder, choose_device(device, say), init_from=start, stdin=stdin, say=say, began=began)


def resumed_job(
    texts: tuple[str, ...], model: str | None, settings: list[str], device: str, say: Say, began: float | None = None
) -> TrainingJob[Any]:
    """Resume the run that `model` names, or the newest; KEY=VALUE `settings` may extend it."""
    from charrnn.checkpoints import run_dir

    run = run_dir.find_run(model)
    from charrnn.device import choose_device
    from charrnn.training import resume

    chosen = None if device == "auto" else choose_device(device)
    return resume.resume(run, chosen, settings=settings, texts=texts, say=say, began=began)


def _run(job: TrainingJob[Any], quiet: bool, samples: int, stopper: _Stopper) -> int:
    """Run a training to its end and show it; returns the exit code."""
    from charrnn.cli import progress, summary
    from charrnn.training.events import Finished

    training, run = job.training, job.run
    screen = progress.Display(quiet=quiet, began_at=training.progress, samples=samples)
    finished: Finished | None = None
    try:
        for report in job.learn(stopper.stopped):
            screen.show(report)
            if isinstance(report, Finished):
                finished = report
    except BaseException:
        run.discard()  # unless something was saved: what is half made would be in the way of another start
        raise
    finally:
        screen.close()
        run.release()
    assert finished is not None
    best = run.best if is_file(run.best) else run.last
    if not quiet:
        note(summary.closing(finished, training.config, best))
        if finished.reason == "stopped":
            note(f"Continue with: charrnn train --resume -m {run.folder}", wrap=False)
    click.echo(str(best))
    return stopper.exit_code if finished.reason == "stopped" else 0


class _Stopper:
    """Catch the first Ctrl-C or SIGTERM: what has begun is undone, or once there is something to save, training saves
    and ends. The second one ends at once."""

    def __init__(self) -> None:
        self.exit_code = 0
        self.saves = False
        self._before: dict[int, Any] = {}

    def stopped(self) -> bool:
        return self.exit_code != 0

    def __enter__(self) -> _Stopper:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._catch) for number in _INTERRUPTED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        code = _INTERRUPTED[signal.Signals(number)]
        if self.exit_code:
            os._exit(code)
        self.exit_code = code
        if not self.saves:
            # not an Exception: code on the way might take it for a failing device
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(code)
        # a bare write: the handler may have interrupted a print
        with contextlib.suppress(OSError):
            os.write(2, b"\nSaving and stopping; once more ends at once.\n")
