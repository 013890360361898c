"""How a training looks on a terminal or in a log. Writes to stderr only."""

from __future__ import annotations

import math
import sys
import time

from tqdm import tqdm

from charrnn.cli.summary import _training
from charrnn.training.events import Evaluated, Report, RolledBack, StepDone
from charrnn.training.ngram_counting import Counted

_SMOOTHING = 0.95
_LOG_SECONDS = 10.0  # between the lines of a log


class Display:
    """Draw reports: a bar on a terminal, a line a report elsewhere, nothing but warnings if quiet."""

    def __init__(self, *, quiet: bool, began_at: float = 0.0) -> None:
        self.quiet = quiet
        self.bar = None
        if not quiet and sys.stderr.isatty():
            self.bar = tqdm(
                total=1.0,
                initial=began_at,
                bar_format="{percentage:3.0f}%|{bar:20}| {desc} [{elapsed}<{remaining}]",
                dynamic_ncols=True,
                file=sys.stderr,
            )
        self._bits: float | None = None
        self._speed: float | None = None
        self._seconds: float | None = None
        self._said = -math.inf
        self._closed = False
        self._first: tuple[float, float] | None = None

    def say(self, text: str) -> None:
        """Say something between reports."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def show(self, report: Report | Counted) -> None:
        """Draw one report. When stderr is closed, drawing ends, not training."""
        if self._closed:
            return
        try:
            self._show(report)
        except BrokenPipeError:
            self._closed = True

    def _show(self, report: Report | Counted) -> None:
        if isinstance(report, StepDone):
            self._stepped(report)
        elif isinstance(report, Counted):
            evaluated, note = report.evaluated, " (best)" if report.best else ""
            if self.bar is not None:
                self.bar.update(report.progress - self.bar.n)
            self.say(
                f"order {evaluated.step}: validation {evaluated.bits_per_character:.4f} bits/char{note}"
                f"{_training(evaluated)}"
            )
        elif isinstance(report, Evaluated):
            self._seconds = None  # an evaluation's seconds are not training's
            evaluated = report.evaluated
            note = " (best)" if report.best else ""
            sides = evaluated.cloze
            both = f"; given both sides {sides.bits_per_character:.4f}, {sides.accuracy:.1%} right" if sides else ""
            self.say(
                f"step {evaluated.step:,}, epoch {evaluated.epoch:.2f}: validation"
                f" {evaluated.bits_per_character:.4f} bits/char{note}{_training(evaluated)}{both}"
            )
            if report.needs_single_pass:
                self.say("  (this model does not forget what it read: validation takes a single pass)")
            self.say("\n".join(f"  | {line}" for line in report.text.strip("\n").split("\n")))
        elif isinstance(report, RolledBack):
            text = (
                f"The loss was not finite: back at step {report.step:,} with learning rate {report.learning_rate:.2g}"
                f" ({report.times} of 3 times)."
            )
            if self.bar is not None:
                self.bar.write(text, file=sys.stderr)
            else:
                print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None and not self._closed:
            self.bar.close()

    def _stepped(self, report: StepDone) -> None:
        if self._seconds is not None and report.seconds > self._seconds:
            speed = report.characters / (report.seconds - self._seconds)
            self._speed = speed if self._speed is None else _SMOOTHING * self._speed + (1 - _SMOOTHING) * speed
        self._seconds = report.seconds
        self._first = self._first or (report.seconds, report.progress)
        bits = report.bits_per_character
        self._bits = bits if self._bits is None else _SMOOTHING * self._bits + (1 - _SMOOTHING) * bits
        speed_text = f"{self._speed:,.0f} char/s" if self._speed else "- char/s"
        steps = f"{report.step:,}/{report.total:,}" if report.total is not None else f"{report.step:,}"
        text = f"{steps} {self._bits:.3f} bits/char {speed_text} grad {report.gradient_norm:.2f}"
        if self.bar is not None:
            self.bar.set_description_str(text, refresh=False)
            self.bar.update(report.progress - self.bar.n)
        elif not self.quiet and time.monotonic() - self._said >= _LOG_SECONDS:
            self._said = time.monotonic()
            left = self._left(report)
            self.say(f"{report.progress:4.0%} {text} lr {report.learning_rate:.2g}, {left} left")

    def _left(self, report: StepDone) -> str:
        """Reckon the time left from what was done since the first report: getting ready does not count."""
        seconds, progress = self._first or (0.0, 0.0)
        if report.progress <= progress:
            return "?"
        return _duration((report.seconds - seconds) / (report.progress - progress) * (1 - report.progress))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s"
