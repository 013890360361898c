"""How a training looks: one line that is drawn again on a terminal, and a table of evaluations that grows above it;
in a log a line now and then. Writes to stderr only."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from charrnn.checkpoints.model_file import EvaluationRecord
from charrnn.cli import console
from charrnn.showable import showable
from charrnn.training.events import Evaluated, Report, RolledBack, StepDone
from charrnn.training.ngram_counting import Counted

_SMOOTHING = 0.95
_LOG_SECONDS = 10.0  # between the lines of a log
_LOG_COLUMNS = 200  # of a row where stderr is no terminal
_LEAST_SAMPLE = 16  # columns: with fewer, a sample stands below its row

Row = list[tuple[str, str]]  # heading and cell


class Display:
    """Draw reports on stderr; warnings alone if quiet. `samples` lines of text are shown with each evaluation."""

    def __init__(self, *, quiet: bool, began_at: float = 0.0, samples: int = 1) -> None:
        self.quiet, self.samples = quiet, samples
        self.bar: Any = None
        if not quiet and console.is_live(sys.stderr):
            from tqdm import tqdm

            self.bar = tqdm(
                total=1.0, initial=began_at, bar_format="{desc}", leave=False, file=sys.stderr, dynamic_ncols=True
            )
        self._bits: float | None = None
        self._speed: float | None = None
        self._seconds: float | None = None
        self._logged = -math.inf
        self._closed = False
        self._first: tuple[float, float] | None = None
        self._headings: list[str] = []  # of the table, once it has begun

    def say(self, text: str, **style: Any) -> None:
        """Write a line above the one that is drawn again."""
        if self.quiet:
            return
        text = console.styled(showable(text), sys.stderr, **style)
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def show(self, report: Report | Counted) -> None:
        """Draw one report. When stderr can no longer be written, drawing ends, not training."""
        if self._closed:
            return
        try:
            self._show(report)
        except OSError:
            self._closed = True

    def close(self) -> None:
        """Remove the line that is drawn again, and leave the table."""
        if self.bar is not None and not self._closed:
            self.bar.close()

    def _show(self, report: Report | Counted) -> None:
        if isinstance(report, StepDone):
            self._step(report)
        elif isinstance(report, Counted):
            if self.bar is not None:
                self.bar.set_description_str(f"{report.progress:4.0%}", refresh=False)
                self.bar.update(report.progress - self.bar.n)
            self._row(_counted(report), "", report.best)
        elif isinstance(report, Evaluated):
            self._seconds = None  # the time of an evaluation is not training's
            self._row(_evaluated(report), report.text, report.best)
            if report.needs_single_pass:
                self.say("  (this model does not forget what it read: validation takes a single pass)")
        elif isinstance(report, RolledBack):
            quiet, self.quiet = self.quiet, False  # a warning
            self.say(
                f"The loss was not finite: rolled back to step {report.step:,}, learning rate halved to"
                f" {report.learning_rate:.2g} ({report.times} of 3 times).",
                fg="yellow",
            )
            self.quiet = quiet

    def _row(self, cells: Row, text: str, best: bool) -> None:
        """Add a row to the table, with the first lines of a sample beside it, or below where that is too narrow."""
        columns = console.width(sys.stderr) if sys.stderr.isatty() else _LOG_COLUMNS
        for least in ("time", "epoch", "training"):
            if sum(_size(heading) + 2 for heading, _ in cells) - 2 > columns:
                cells = [cell for cell in cells if cell[0] != least]
        row = "  ".join(console.padded(cell, -_size(heading)) for heading, cell in cells)
        capacity, indent = columns - len(row) - 2, " " * (len(row) + 2)
        beside = capacity >= _LEAST_SAMPLE and text != "" and self.samples > 0
        if [heading for heading, _ in cells] != self._headings:
            self._headings = [heading for heading, _ in cells]
            head = "  ".join(console.padded(heading, -_size(heading)) for heading in self._headings)
            self.say(f"{head}  sample" if beside else head, dim=True)
        found = [showable(line) for line in text.split("\n") if line.strip()][: self.samples]
        if not beside:
            indent, capacity = "  ", columns - 2
        elif found:
            row = f"{row}  {console.clipped(found.pop(0), capacity)}"
        self.say(row, **({"bold": True} if best else {}))
        for line in found:
            self.say(indent + console.clipped(line, capacity), dim=True)

    def _step(self, report: StepDone) -> None:
        if self._seconds is not None and report.seconds > self._seconds:
            speed = report.characters / (report.seconds - self._seconds)
            self._speed = speed if self._speed is None else _SMOOTHING * self._speed + (1 - _SMOOTHING) * speed
        self._seconds = report.seconds
        self._first = self._first or (report.seconds, report.progress)
        bits = report.bits_per_character
        self._bits = bits if self._bits is None else _SMOOTHING * self._bits + (1 - _SMOOTHING) * bits
        if self.bar is not None:
            line = fitted(self._fields(report), console.width(sys.stderr) - 1)
            self.bar.set_description_str(line, refresh=False)
            self.bar.update(report.progress - self.bar.n)
        elif not self.quiet and time.monotonic() - self._logged >= _LOG_SECONDS:
            self._logged = time.monotonic()
            self.say("  ".join(self._fields(report)))

    def _fields(self, report: StepDone) -> list[str]:
        """Describe a step, the most important fields first."""
        steps = f"{report.step:,}/{report.total:,}" if report.total is not None else f"{report.step:,}"
        return [
            f"{report.progress:4.0%}",
            f"{self._left(report)} left",
            f"step {steps}",
            f"{self._bits:.3f} bits/char",
            f"{_short(self._speed)} char/s" if self._speed else "- char/s",
            f"lr {report.learning_rate:.2g}",
            f"grad {report.gradient_norm:.2f}",
        ]

    def _left(self, report: StepDone) -> str:
        """Estimate the time left from what was done since the first report: getting ready does not count."""
        seconds, progress = self._first or (0.0, 0.0)
        if report.progress <= progress:
            return "?"
        return duration((report.seconds - seconds) / (report.progress - progress) * (1 - report.progress))


def fitted(fields: list[str], columns: int) -> str:
    """Join fields as far as they fit, dropping the last ones first; the time left, the second, stays the longest."""
    for count in range(len(fields), 1, -1):
        line = "  ".join(fields[:count])
        if console.columns(line) <= columns:
            return line
    return console.clipped(fields[1], columns)


def duration(seconds: float) -> str:
    """Write 42 seconds as 0:42, and two hours as 2:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _short(number: float) -> str:
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{letter}"
    return f"{number:.0f}"


def _size(heading: str) -> int:
    """Return the columns that a column's cells take at most, as a rule."""
    return {"step": 7, "epoch": 6, "time": 7, "best": 4}.get(heading, max(8, len(heading)))


def _evaluated(report: Evaluated) -> Row:
    record = report.record
    cells = [
        ("step", f"{record.step:,}"),
        ("epoch", f"{record.epoch:.2f}"),
        ("training", _training(record)),
        ("validation", f"{record.bits_per_character:.4f}"),
        ("best", "*" if report.best else ""),
        ("time", duration(record.seconds)),
    ]
    if report.counted:
        cells.insert(4, ("mixture", "-" if record.mixture_bits is None else f"{record.mixture_bits:.4f}"))
    if record.cloze is not None:
        cells[-2:-2] = [
            ("both sides", f"{record.cloze.bits_per_character:.4f}"),
            ("right", f"{record.cloze.accuracy:.1%}"),
        ]
    return cells


def _counted(report: Counted) -> Row:
    record = report.record
    return [
        ("order", f"{record.step}"),
        ("training", _training(record)),
        ("validation", f"{record.bits_per_character:.4f}"),
        ("best", "*" if report.best else ""),
        ("time", duration(record.seconds)),
    ]


def _training(record: EvaluationRecord) -> str:
    bits = record.training_bits_per_character
    return "" if bits is None else f"{bits:.4f}"
