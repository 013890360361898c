"""charrnn train: options to a run, its reports to the terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from charrnn.callbacks import silent
from charrnn.cli.console import CONTEXT, _note, _stdin
from charrnn.errors import MisuseError

if TYPE_CHECKING:
    from charrnn.training.job import TrainingJob


_INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143}


@click.command(context_settings=CONTEXT)
@click.argument("texts", nargs=-1, metavar="TEXT...")
@click.option("-c", "--config", metavar="NAME|FILE", help="A preset by name, or a YAML file of settings.")
@click.option("-s", "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting; wins over the file.")
@click.option(
    "-o", "--run", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Run folder [checkpoints/<text>]."
)
@click.option("--resume", is_flag=True, help="Go on exactly where a run stopped (-m, or the newest).")
@click.option("-m", "--model", metavar="RUN", help="With --resume: the run to go on with.")
@click.option("--init-from", metavar="MODEL", help="Fine-tune: start from a model's weights on a new text.")
@click.option("--time", "budget", metavar="10m", help="Wall-clock budget; without it about 15 minutes are planned.")
@click.option("--encoding", metavar="NAME", help="Encoding of the texts [utf-8].")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N|mps", help="Where to learn.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", help="Seed; drawn and printed if unset.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors and warnings.")
def train(
    texts: tuple[str, ...],
    config: str | None,
    settings: tuple[str, ...],
    folder: Path | None,
    resume: bool,
    model: str | None,
    init_from: str | None,
    budget: str | None,
    encoding: str | None,
    device: str,
    seed: int | None,
    quiet: bool,
) -> None:
    """Learn texts: files, folders (every .txt below) or '-'; .gz, .bz2 and .xz are read through.

    The best model's path is printed on stdout.

    \b
    Example:
      charrnn train poems.txt
      charrnn train letters/ -c small -s model.dropout=0.3 --time 10m
      charrnn train --resume
    """
    given = list(settings)
    given += [f"train.time={budget}"] if budget is not None else []
    given += [f"train.seed={seed}"] if seed is not None else []
    given += [f"data.encoding={encoding}"] if encoding is not None else []
    if model is not None and not resume:
        raise MisuseError("-m names the run to --resume. To start from a model's weights use --init-from.")
    say = silent if quiet else _note
    if resume:
        for value, name in ((config, "-c"), (folder, "-o"), (init_from, "--init-from")):
            if value is not None:
                raise MisuseError(f"--resume goes on with a run as it is; leave out {name}.")
    with _Stopper() as stopper:
        if resume:
            job = _resumed(texts, model, given, device, say)
        else:
            job = _fresh(texts, config, given, folder, init_from, device, say)
        stopper.saves = job.saves
        code = _run(job, quiet, stopper)
    if code:
        raise click.exceptions.Exit(code)


def _fresh(
    texts: tuple[str, ...],
    source: str | None,
    settings: list[str],
    folder: Path | None,
    init_from: str | None,
    device: str,
    say: Callable[[str], None],
) -> TrainingJob[Any]:
    began = time.perf_counter()  # loading torch is part of the time that a user waits
    from charrnn.config import loading

    base, start = {}, None
    if init_from is not None:
        from charrnn.checkpoints import run_dir
        from charrnn.training.fine_tuning import fine_tuning_base

        start = run_dir.find_model(init_from)
        base = fine_tuning_base(start)
    try:
        config = loading.load(source, settings, base)
    except MisuseError:
        other = [setting for setting in settings if setting.replace(" ", "") in {"model.cell=ngram", "model.cell=hmm"}]
        if start is not None and other:  # what it complains of are settings of the other model
            raise MisuseError(f"--init-from keeps the architecture of {start}; leave out {other[0]}.") from None
        raise
    if texts:
        config = config.with_values(data={"texts": list(texts)})
    if not config.data.texts:
        raise MisuseError("No text to learn. Name one: charrnn train TEXT")
    from charrnn.device import choose_device
    from charrnn.training import fine_tuning, new_run

    if start is not None:
        fine_tuning.check_fine_tuning(start, config)
    if config.model.counted:
        if device not in {"auto", "cpu"}:
            raise MisuseError(f"An n-gram model is counted on the CPU; leave out --device {device}.")
        return new_run.start_counting(config, folder, stdin=_stdin(), say=say)
    return new_run.start(
        config, folder, choose_device(device, say), init_from=start, stdin=_stdin(), say=say, began=began
    )


def _resumed(
    texts: tuple[str, ...], model: str | None, settings: list[str], device: str, say: Callable[[str], None]
) -> TrainingJob[Any]:
    from charrnn.checkpoints import run_dir
    from charrnn.device import choose_device
    from charrnn.training import resume

    run = run_dir.find_run(model)
    chosen = None if device == "auto" else choose_device(device)
    return resume.resume(run, chosen, settings=settings, texts=texts, say=say)


def _run(job: TrainingJob[Any], quiet: bool, stopper: _Stopper) -> int:
    """Draw a training to its end; gives the exit code."""
    from charrnn.cli import progress, summary
    from charrnn.training.events import Finished

    training, run = job.training, job.run
    screen = progress.Display(quiet=quiet, began_at=training.progress)
    finished: Finished | None = None
    try:
        for report in job.learn(stopper.stopped):
            screen.show(report)
            if isinstance(report, Finished):
                finished = report
    finally:
        screen.close()
        run.release()
    assert finished is not None
    best = run.best if run.best.exists() else run.last
    if not quiet:
        _note(summary.closing(finished, training.config, best))
        if finished.reason == "stopped":
            _note(f"Go on with: charrnn train --resume -m {run.folder}")
    click.echo(str(best))
    return stopper.exit_code if finished.reason == "stopped" else 0


class _Stopper:
    """Catches the first Ctrl-C or SIGTERM, so that what has begun is undone, or once there is something to save,
    training saves and ends; the second ends at once."""

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
            # no Exception: someone on the way might take it for a device's failure
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(code)
        # a bare write: the handler may have interrupted a print
        with contextlib.suppress(OSError):
            os.write(2, b"\nSaving and stopping; once more ends at once.\n")
