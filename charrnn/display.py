"""How a training looks on a terminal, in a log, and in one closing paragraph. Writes to stderr only."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from charrnn.config import Config
from charrnn.modelfile import Evaluated
from charrnn.train import Finished, Report, Reported, Stepped, WentBack

_SMOOTHING = 0.95


class Display:
    """Draw reports: a bar on a terminal, a line a report elsewhere, nothing but warnings if quiet."""

    def __init__(self, *, quiet: bool, every: int, began_at: float = 0.0) -> None:
        self.quiet, self.every = quiet, every
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

    def say(self, text: str) -> None:
        """Say something between reports."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def show(self, report: Report) -> None:
        """Draw one report."""
        if isinstance(report, Stepped):
            self._stepped(report)
        elif isinstance(report, Reported):
            self._seconds = None  # an evaluation's seconds are not training's
            evaluated = report.evaluated
            note = " (best)" if report.best else ""
            self.say(
                f"step {evaluated.step:,}, epoch {evaluated.epoch:.2f}: validation"
                f" {evaluated.bits_per_character:.4f} bits/char{note},"
                f" training {evaluated.training_bits_per_character:.4f}"
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
        if self.bar is not None:
            self.bar.close()

    def _stepped(self, report: Stepped) -> None:
        if self._seconds is not None and report.seconds > self._seconds:
            speed = report.characters / (report.seconds - self._seconds)
            self._speed = speed if self._speed is None else _SMOOTHING * self._speed + (1 - _SMOOTHING) * speed
        self._seconds = report.seconds
        bits = report.bits_per_character
        self._bits = bits if self._bits is None else _SMOOTHING * self._bits + (1 - _SMOOTHING) * bits
        speed_text = f"{self._speed:,.0f} char/s" if self._speed else "- char/s"
        steps = f"{report.step:,}/{report.total:,}" if report.total is not None else f"{report.step:,}"
        text = f"{steps} {self._bits:.3f} bits/char {speed_text} grad {report.gradient_norm:.2f}"
        if self.bar is not None:
            self.bar.set_description_str(text, refresh=False)
            self.bar.update(report.progress - self.bar.n)
        elif not self.quiet and report.step % self.every == 0:
            left = report.seconds / report.progress * (1 - report.progress) if report.progress else 0.0
            self.say(f"{report.progress:4.0%} {text} lr {report.learning_rate:.2g}, {_duration(left)} left")


def _duration(seconds: float) -> str:
    return f"{int(seconds // 60)}m{int(seconds % 60):02d}s"


def closing(finished: Finished, config: Config, best: Path) -> str:
    """Say in one paragraph how the training went and the one setting to try next."""
    history = finished.history
    if not history:
        return f"Stopped at step {finished.step:,}, before the first evaluation."
    top = min(history, key=lambda evaluated: evaluated.bits_per_character)
    first = {
        "done": "Done",
        "time": "The time is used up",
        "patience": f"Stopped early: no better for {config.train.patience} evaluations",
        "stopped": "Stopped and saved",
    }[finished.reason]
    score = f"best validation score {top.bits_per_character:.4f} bits/char (epoch {top.epoch:.2f})"
    return f"{first}: {score}, in {best}. {_advice(history, top, config)}"


def _advice(history: tuple[Evaluated, ...], top: Evaluated, config: Config) -> str:
    model, train = config.model, config.train
    last = history[-1]
    gap = top.bits_per_character - top.training_bits_per_character
    relative_gap = gap / max(top.bits_per_character, 1e-9)
    earlier = history[max(0, len(history) - 1 - max(1, len(history) // 5))]
    gained = 1 - last.bits_per_character / earlier.bits_per_character if len(history) > 1 else 1.0
    assert isinstance(model.hidden_size, int)
    assert not isinstance(model.dropout, str)
    if last.bits_per_character > 1.01 * top.bits_per_character or (relative_gap > 0.2 and gained < 0.01):
        stronger = min(round(model.dropout + 0.15, 2), 0.7)
        return (
            f"It was overfitting (training {last.training_bits_per_character:.4f}, validation"
            f" {last.bits_per_character:.4f} at the end): try -s model.dropout={stronger:g}, or more text."
        )
    if gained > 0.005:
        longer = (
            f"--time {2 * train.time / 60:g}m"
            if train.time is not None
            else f"-s train.steps={2 * train.steps}"
            if train.steps is not None
            else f"-s train.epochs={2 * int(train.epochs or 1)}"
        )
        return f"It was still improving: try {longer}."
    if relative_gap < 0.08:
        return (
            "It learnt all that it could hold (training and validation agree):"
            f" a larger one should do better, try -s model.hidden_size={2 * model.hidden_size}."
        )
    return f"It has levelled off: try -s model.hidden_size={model.hidden_size * 3 // 2} with the same dropout."
