"""Claims about what a person sees of a training."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest

from charrnn.checkpoints.model_file import EvaluationRecord
from charrnn.cli import progress, summary
from charrnn.config import loading
from charrnn.config.schema import Config
from charrnn.scores import NATS_PER_BIT
from charrnn.training.events import Evaluated, Finished, RolledBack, StepDone


def settled(*settings: str) -> Config:
    sizes = ["model.hidden_size=64", "model.num_layers=2", "model.embedding_size=16", "model.dropout=0.1"]
    return loading.load(None, [*sizes, "train.epochs=8", "train.patience=5", *settings])


def history(*bits: tuple[float, float]) -> tuple[EvaluationRecord, ...]:
    """Make evaluations of (validation, training) bits per character."""
    return tuple(
        EvaluationRecord(10 * place, 0.5 * place, float(place), training, validation * NATS_PER_BIT * 100, 100, 40)
        for place, (validation, training) in enumerate(bits, 1)
    )


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        ([(3.0, 3.0), (2.5, 2.5), (2.2, 2.2), (2.0, 2.0)], ["still improving", "-s train.epochs=16"]),
        ([(3.0, 3.0), (2.0, 2.2), (2.0, 2.2), (2.0, 2.2)], ["still improving", "-s train.epochs=16"]),  # annealed
        ([(3.0, 3.0), (2.0, 1.9), (2.1, 1.5), (2.3, 1.2)], ["overfitting", "-s model.dropout=0.25"]),
        ([(3.0, 3.0), *[(2.0, 1.99)] * 20], ["all that it could hold", "-s model.hidden_size=128"]),
        ([(3.0, 3.0), (2.0, 1.8), (2.0, 1.75), (2.0, 1.75)], ["levelled off"]),
    ],
)
def test_the_closing_paragraph_names_one_setting_to_try(bits: list[tuple[float, float]], words: list[str]) -> None:
    text = summary.closing(Finished("done", history(*bits), 40), settled(), Path("run/best.safetensors"))
    assert "\n" not in text
    assert "run/best.safetensors" in text
    assert f"{min(validation for validation, _ in bits):.4f} bits/char" in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("training", [1.99, 1.75])
def test_a_fine_tuned_model_is_not_told_to_be_larger(training: float) -> None:
    """--init-from would refuse that."""
    made = history((3.0, 3.0), *[(2.0, training)] * 20)
    made = (replace(made[0], step=0, epoch=0.0), *made[1:])
    text = summary.closing(Finished("done", made, 40), settled(), Path("best"))
    assert text.endswith("It has levelled off: more text would make it better, or a larger model to start from.")


def test_longer_means_more_of_what_limits() -> None:
    improving = history((3.0, 3.0), (2.0, 2.0))
    for setting, advice in (("train.time=10m", "--time 20m"), ("train.steps=70", "-s train.steps=140")):
        chosen = settled("train.epochs=null", setting)
        assert advice in summary.closing(Finished("done", improving, 40), chosen, Path("best"))


def test_of_two_bounds_the_one_that_was_reached_is_to_be_moved() -> None:
    improving, chosen = history((3.0, 3.0), (2.0, 2.0)), settled("train.epochs=7", "train.time=10m")
    assert "-s train.epochs=14" in summary.closing(Finished("done", improving, 40), chosen, Path("best"))
    assert "--time 20m" in summary.closing(Finished("time", improving, 40), chosen, Path("best"))


def test_the_closing_paragraph_says_why_it_ended() -> None:
    reasons = {"patience": "no better for 5 evaluations", "stopped": "Stopped and saved", "time": "time is used up"}
    for reason, words in reasons.items():
        finished = Finished(reason, history((2.0, 2.0)), 10)  # type: ignore[arg-type]
        assert words in summary.closing(finished, settled(), Path("best"))
    assert "before the first evaluation" in summary.closing(Finished("stopped", (), 3), settled(), Path("best"))


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.0, 103.0, 106.0, 112.0, 112.0])  # asked at each step, and when a line is written
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    screen = progress.Display(quiet=False)
    for step in range(1, 5):
        screen.show(StepDone(step, 10, step / 5, float(step), step / 10, 2.5, 0.75, 0.003, 1_000))
    screen.show(Evaluated(history((2.0, 2.1))[0], True, "床前\n明月", 0.1, False))
    screen.show(RolledBack(3, 0.0015, 1))
    screen.close()
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2 + 3 + 1
    assert "1/10 2.500 bits/char - char/s grad 0.75" in lines[0]
    assert "4/10 2.500 bits/char 1,000 char/s grad 0.75" in lines[1]
    assert "6s left" in lines[1]
    assert "validation 2.0000 bits/char (best), training 2.1000" in lines[2]
    assert lines[3:5] == ["  | 床前", "  | 明月"]
    assert "not finite: back at step 3 with learning rate 0.0015 (1 of 3 times)" in lines[5]


def test_quiet_says_only_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    screen = progress.Display(quiet=True)
    screen.show(StepDone(1, 10, 0.2, 1.0, 0.1, 2.5, 0.75, 0.003, 1_000))
    screen.show(Evaluated(history((2.0, 2.1))[0], True, "text", 0.1, True))
    assert capsys.readouterr() == ("", "")
    screen.show(RolledBack(3, 0.0015, 1))
    assert "not finite" in capsys.readouterr().err


def test_a_closed_stderr_ends_the_drawing_not_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Closed())
    screen = progress.Display(quiet=False)
    for step in range(1, 4):
        screen.show(StepDone(step, 10, 0.2, 1.0, 0.1, 2.5, 0.75, 0.003, 1_000))
    screen.show(Evaluated(history((2.0, 2.1))[0], True, "text", 0.1, False))
    screen.close()
