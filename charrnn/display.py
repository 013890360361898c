"""How a training looks on a terminal, in a log, and in one closing paragraph. Writes to stderr only."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

from tqdm import tqdm

from charrnn.config import Config
from charrnn.counting import Counted
from charrnn.modelfile import Evaluated
from charrnn.train import Finished, Report, Reported, Stepped, WentBack

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
        if isinstance(report, Stepped):
            self._stepped(report)
        elif isinstance(report, Counted):
            evaluated, note = report.evaluated, " (best)" if report.best else ""
            if self.bar is not None:
                self.bar.update(report.progress - self.bar.n)
            self.say(
                f"order {evaluated.step}: validation {evaluated.bits_per_character:.4f} bits/char{note}"
                f"{_training(evaluated)}"
            )
        elif isinstance(report, Reported):
            self._seconds = None  # an evaluation's seconds are not training's
            evaluated = report.evaluated
            note = " (best)" if report.best else ""
            sides = evaluated.cloze
            both = f"; given both sides {sides.bits_per_character:.4f}, {sides.accuracy:.1%} right" if sides else ""
            self.say(
                f"step {evaluated.step:,}, epoch {evaluated.epoch:.2f}: validation"
                f" {evaluated.bits_per_character:.4f} bits/char{note}{_training(evaluated)}{both}"
            )
            if report.never_forgets:
                self.say("  (this model does not forget what it read: validation takes a single pass)")
            self.say("\n".join(f"  | {line}" for line in report.text.strip("\n").split("\n")))
        elif isinstance(report, WentBack):
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

    def _stepped(self, report: Stepped) -> None:
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

    def _left(self, report: Stepped) -> str:
        """Reckon the time left from what was done since the first report: getting ready does not count."""
        seconds, progress = self._first or (0.0, 0.0)
        if report.progress <= progress:
            return "?"
        return _duration((report.seconds - seconds) / (report.progress - progress) * (1 - report.progress))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s"


def closing(finished: Finished, config: Config, best: Path) -> str:
    """Say in one paragraph how the training went and the one setting to try next."""
    history = finished.history
    if not history:
        return f"Stopped at step {finished.step:,}, before the first evaluation."
    top = min(history, key=lambda evaluated: evaluated.judged_bits)
    if config.model.counted:
        return f"Done: order {top.step}, validation score {top.bits_per_character:.4f} bits/char, in {best}."
    first = {
        "done": "Done",
        "time": "The time is used up",
        "patience": f"Stopped early: no better for {config.train.patience} evaluations",
        "stopped": "Stopped and saved",
    }[finished.reason]
    score = f"best validation score {top.bits_per_character:.4f} bits/char (epoch {top.epoch:.2f})"
    if top.cloze is not None:
        score = (
            f"best validation scores (their mean counts) {top.bits_per_character:.4f} bits/char forwards,"
            f" {top.cloze.bits_per_character:.4f} given both sides (epoch {top.epoch:.2f})"
        )
    return f"{first}: {score}, in {best}. {_advice(history, top, config, finished)}"


def _training(evaluated: Evaluated) -> str:
    """Say what the training part cost, if that is known."""
    bits = evaluated.training_bits_per_character
    return "" if bits is None else f", training {bits:.4f}"


def _advice(history: tuple[Evaluated, ...], top: Evaluated, config: Config, finished: Finished) -> str:
    """Tell too little time, too small, overfitting and levelled off apart, and name one setting to try.

    The gap is judged at the best evaluation; training's cost is with dropout, and so too high. Where the rate has
    annealed the curve is flat whatever the reason: few epochs and no gap mean that more time would have helped.
    """
    model, last = config.model, history[-1]
    if last.step == 0:
        return "It has learnt nothing yet."
    if top.step == 0:
        return (
            "That is the model that it started from: what it learnt made it no better"
            f" ({last.bits_per_character:.4f} at the end). Try more text, or a lower -s train.learning_rate."
        )
    training = top.training_bits_per_character
    gap = 1 - training / top.bits_per_character if top.nats and training is not None else 0.0
    earlier = history[max(0, len(history) - 1 - max(1, len(history) // 5))]
    gained = 1 - last.bits_per_character / earlier.bits_per_character if len(history) > 1 and earlier.nats else 1.0
    assert isinstance(model.hidden_size, int)
    if last.bits_per_character > 1.01 * top.bits_per_character or gap > 0.25:
        other = f"hidden_size={max(1, model.hidden_size // 2)}"
        if not isinstance(model.dropout, str):
            other = f"dropout={min(round(model.dropout + 0.15, 2), 0.7):g}"
        return (
            f"It was overfitting (validation {last.bits_per_character:.4f}{_training(last)} at the end):"
            f" try -s model.{other}, or more text."
        )
    if gained > 0.005 or (gap < 0.05 and last.epoch < 10):
        return f"It was still improving, or would be with a longer schedule: try {_longer(config, finished)}."
    if history[0].step == 0:  # fine-tuned: what it starts from fixes its size
        return "It has levelled off: more text would make it better, or a larger model to start from."
    if gap < 0.05:
        return (
            "It learnt all that it could hold (training and validation agree):"
            f" a larger one should do better, try -s model.hidden_size={2 * model.hidden_size}."
        )
    same = "" if isinstance(model.dropout, str) else " with the same dropout"
    return f"It has levelled off: try -s model.hidden_size={model.hidden_size * 3 // 2}{same}."


def _longer(config: Config, finished: Finished) -> str:
    train = config.train
    if train.time is not None and (finished.reason == "time" or (train.steps is None and train.epochs is None)):
        return f"--time {2 * train.time / 60:g}m" if train.time >= 60 else f"--time {2 * train.time:g}s"
    if train.steps is not None:
        return f"-s train.steps={2 * train.steps}"
    assert isinstance(train.epochs, int)
    return f"-s train.epochs={2 * train.epochs}"
