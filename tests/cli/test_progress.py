"""Claims about what a person sees of a training."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import click
import pytest

from charrnn.checkpoints.model_file import EvaluationRecord
from charrnn.cli import console, progress, summary
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
        ([(3.0, 3.0), (2.5, 2.5), (2.2, 2.2), (2.0, 2.0)], ["Validation loss was still falling", "-s train.epochs=16"]),
        (
            [(3.0, 3.0), (2.0, 2.2), (2.0, 2.2), (2.0, 2.2)],
            ["Validation loss was still falling", "-s train.epochs=16"],
        ),  # annealed
        ([(3.0, 3.0), (2.0, 1.9), (2.1, 1.5), (2.3, 1.2)], ["overfitting", "-s model.dropout=0.25"]),
        ([(3.0, 3.0), *[(2.0, 1.99)] * 20], ["underfitting", "-s model.hidden_size=128"]),
        ([(3.0, 3.0), (2.0, 1.8), (2.0, 1.75), (2.0, 1.75)], ["levelled off", "-s model.hidden_size=96"]),
        # far ahead on training, but validation never rose
        ([(3.0, 3.0), (2.0, 1.3), (2.0, 1.2), (2.0, 1.2)], ["levelled off far above", "-s model.dropout=0.25"]),
        ([(3.0, 3.0), (2.0, 1.9), (2.1, 2.0), (2.3, 2.2)], ["Both losses have risen", "-s train.learning_rate=0.002"]),
    ],
)
def test_the_closing_paragraph_names_one_setting_to_try(bits: list[tuple[float, float]], words: list[str]) -> None:
    chosen = settled("train.learning_rate=0.004")
    text = summary.closing(Finished("done", history(*bits), 40), chosen, Path("run/best.safetensors"))
    assert "\n" not in text
    assert "run/best.safetensors" in text
    assert f"{min(validation for validation, _ in bits):.4f} bits/char" in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("reason", "bits"),
    [
        ("done", [(2.0, 2.0)]),  # was told that the loss was still falling
        ("time", [(2.0, 1.0)]),  # or that it was overfitting
        ("stopped", [(3.0, 3.0), (2.0, 2.0)]),
        ("stopped", [(3.0, 3.0), (2.0, 1.9), (2.3, 1.2)]),
    ],
)
def test_no_advice_is_given_after_a_single_evaluation_or_ctrl_c(
    reason: Literal["done", "time", "stopped"], bits: list[tuple[float, float]]
) -> None:
    text = summary.closing(Finished(reason, history(*bits), 40), settled("train.time=10m"), Path("best"))
    assert text.endswith("0), in best.")


def test_who_ran_out_of_patience_is_not_told_to_train_longer() -> None:
    """Patience would end that as well."""
    flat = history((3.0, 3.0), *[(2.0, 2.01)] * 6)
    text = summary.closing(Finished("patience", flat, 40), settled(), Path("best"))
    assert text.endswith(
        "The model is underfitting (training and validation agree): try a larger one, -s model.hidden_size=128."
    )


def test_a_time_that_went_into_getting_ready_is_told() -> None:
    """After 7 seconds of 4 it was 8 seconds that were advised, which left a single one to train."""
    made = history((4.8, 4.9))
    for budget, startup, told in (
        ("10s", 6.0, " Getting ready took 6 seconds of that: try --time 22s."),
        ("4s", 7.0, " Getting ready took 7 seconds of that: try --time 18s."),
        ("30s", 17.2, " Getting ready took 17 seconds of that: try --time 2m."),
        ("10s", 4.0, ""),
    ):
        text = summary.closing(Finished("time", made, 1, startup), settled(f"train.time={budget}"), Path("best"))
        assert text.endswith(f"in best.{told}")


@pytest.mark.parametrize("training", [1.99, 1.75])
def test_a_fine_tuned_model_is_not_told_to_be_larger(training: float) -> None:
    """--init-from would refuse that."""
    made = history((3.0, 3.0), *[(2.0, training)] * 20)
    made = (replace(made[0], step=0, epoch=0.0), *made[1:])
    text = summary.closing(Finished("done", made, 40), settled(), Path("best"))
    assert text.endswith("has levelled off: try more text, or a larger model to start from.")


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
    reasons = {
        "patience": "after 5 evaluations without a better one",
        "stopped": "Stopped and saved",
        "time": "time is used up",
    }
    for reason, words in reasons.items():
        finished = Finished(reason, history((2.0, 2.0)), 10)  # type: ignore[arg-type]
        assert words in summary.closing(finished, settled(), Path("best"))
    assert "before the first evaluation" in summary.closing(Finished("stopped", (), 3), settled(), Path("best"))


def test_the_score_of_a_mixture_stands_before_that_of_its_network() -> None:
    top, last = history((2.0, 1.9), (1.9, 1.8))
    mixed = (replace(top, mixture_nats=1.7 * NATS_PER_BIT * 100), replace(last, mixture_nats=1.8 * NATS_PER_BIT * 100))
    text = summary.closing(Finished("stopped", mixed, 20), settled(), Path("best"))
    assert text == (
        "Stopped and saved: best validation score 1.7000 bits/char, mixed with n-grams, 2.0000 without (epoch 0.50), in"
        " best."
    )


class Terminal(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self) -> bool:
        return True


def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal. Not a fixture: pytest captures stderr anew after those."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    made = Terminal()
    monkeypatch.setattr("sys.stderr", made)
    return made


def a_step(step: int = 31, *, total: int | None = 55) -> StepDone:
    return StepDone(step, total, step / 5, float(step), step / 55, 5.58, 0.75, 0.004, 8_600)


def evaluated(place: int = 0, text: str = "床前\n明月", *, best: bool = True) -> Evaluated:
    return Evaluated(history((2.0, 2.1), (1.9, 1.95))[place], best, text, 0.1, False)


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.0, 103.0, 106.0, 112.0, 112.0])  # asked at each step, and when a line is written
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    screen = progress.Display(quiet=False)
    for step in range(1, 5):
        screen.show(StepDone(step, 10, step / 5, float(step), step / 10, 2.5, 0.75, 0.003, 1_000))
    screen.show(evaluated())
    screen.show(RolledBack(3, 0.0015, 1))
    screen.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        " 10%  ? left  step 1/10  2.500 bits/char  - char/s  lr 0.003  grad 0.75",
        " 40%  0:06 left  step 4/10  2.500 bits/char  1k char/s  lr 0.003  grad 0.75",
        "   step   epoch  training  validation  best     time  sample",
        "     10    0.50    2.1000      2.0000     *     0:01  床前",
        "The loss was not finite: rolled back to step 3, learning rate halved to 0.0015 (1 of 3 times).",
    ]
    assert "\r" not in err


def test_on_a_terminal_a_line_is_drawn_again_below_a_table_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    screen = progress.Display(quiet=False)
    screen.show(a_step(1))
    screen.show(a_step(31))
    screen.show(evaluated())
    screen.show(evaluated(1, "x" * 200, best=False))
    screen.close()
    drawn = terminal.getvalue()
    assert "\r" in drawn
    assert " 56%  0:24 left  step 31/55  5.580 bits/char  287 char/s" in drawn
    assert drawn.count("validation") == 1  # one heading for all rows
    lines = [click.unstyle(line) for line in drawn.replace("\r", "\n").split("\n")]
    assert all(console.columns(line) <= 80 for line in lines)
    assert any(line.endswith("x...") for line in lines)


def test_the_table_has_a_column_for_the_mixture_where_there_are_counts(capsys: pytest.CaptureFixture[str]) -> None:
    screen = progress.Display(quiet=False)
    plain, other = history((2.0, 2.1), (1.9, 1.95))
    screen.show(Evaluated(plain, True, "", 0.1, False, True))
    screen.show(Evaluated(replace(other, mixture_nats=1.7 * NATS_PER_BIT * 100), True, "", 0.1, False, True))
    head, first, second = (line.split() for line in capsys.readouterr().err.splitlines())
    assert head == ["step", "epoch", "training", "validation", "mixture", "best", "time"]
    assert first[3:5] == ["2.0000", "-"]
    assert second[3:5] == ["1.9000", "1.7000"]


@pytest.mark.parametrize("columns", [20, 34, 52, 60, 80, 120])
def test_the_table_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = progress.Display(quiet=False)
    both = replace(history((2.0, 2.1))[0], backward_nats=140.0, cloze_nats=70.0, cloze_correct=80)
    screen.show(Evaluated(both, True, "床前\x1b[31m明月\r\t光" * 20, 0.1, False))
    screen.close()
    lines = [click.unstyle(line) for line in terminal.getvalue().replace("\r", "\n").split("\n")]
    assert all(console.columns(line) <= max(columns, 52) for line in lines)
    assert "床前\\x1b[31m明月\\r\\t光" in click.unstyle(terminal.getvalue()) or columns < 80
    assert "2.0000" in terminal.getvalue()


@pytest.mark.parametrize(("samples", "expected"), [(0, []), (1, ["床前"]), (2, ["床前", "明月"])])
def test_so_many_lines_of_a_sample_are_shown(
    samples: int, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    progress.Display(quiet=False, samples=samples).show(evaluated(text="\n床前\n\n明月\n光"))
    found = capsys.readouterr().err
    assert [line for line in ("床前", "明月", "光") if line in found] == expected


def test_a_dumb_terminal_gets_no_carriage_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    screen = progress.Display(quiet=False)
    screen.show(a_step())
    screen.show(evaluated())
    screen.close()
    assert "\r" not in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()
    assert "bits/char" in terminal.getvalue()


@pytest.mark.parametrize("variable", ["NO_COLOR", None])
def test_colours_can_be_switched_off(variable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    if variable:
        monkeypatch.setenv(variable, "1")
    progress.Display(quiet=False).show(RolledBack(3, 0.0015, 1))
    assert ("\x1b[33m" in terminal.getvalue()) is (variable is None)


@pytest.mark.parametrize("columns", [0, 5, 9, 14, 30, 48, 200])
def test_fields_are_dropped_from_the_right_and_the_time_left_goes_last(columns: int) -> None:
    fields = [" 56%", "0:07 left", "step 31/55", "5.580 bits/char", "8.6k char/s"]
    line = progress.fitted(fields, columns)
    assert console.columns(line) <= columns
    assert line in {"  ".join(fields[:count]) for count in range(2, 6)} | {
        "0:07 left",
        "0:...",
        "0:07...",
        "..."[:columns],
    }
    if columns >= 9:
        assert "0:07 left" in line


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (7, "0:07"), (61, "1:01"), (7_300, "2:01:40")])
def test_a_duration_is_written_as_a_clock_would(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_quiet_says_only_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    screen = progress.Display(quiet=True)
    screen.show(a_step())
    screen.show(evaluated())
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
        screen.show(a_step(step))
    screen.show(evaluated())
    screen.close()


# Messages


@pytest.mark.parametrize("columns", [20, 33, 80])
def test_messages_wrap_at_the_terminals_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(columns))
    text = "训练 done: the best validation score is 2.1 bits/char, in checkpoints/a-long-name/best.safetensors."
    wrapped = console.wrapped(text)
    assert wrapped.replace("\n", " ") == text
    words = max(console.columns(word) for word in text.split(" "))
    assert all(console.columns(line) <= max(columns, words) for line in wrapped.split("\n"))


def test_an_indented_line_keeps_its_indentation(monkeypatch: pytest.MonkeyPatch) -> None:
    a_terminal(monkeypatch)
    assert console.wrapped("Error: one\n       two") == "Error: one\n       two"
    assert console.broken("    one two", 8) == ["    one", "    two"]
    assert console.broken("name  one two", 9, " " * 6) == ["name  one", "      two"]


def test_in_a_pipe_messages_stay_on_one_line() -> None:
    assert console.wrapped("word " * 100) == "word " * 100


@pytest.mark.parametrize(("size", "expected"), [(9, "床前明月"), (8, "床前明月"), (7, "床前..."), (3, "..."), (0, "")])
def test_a_text_is_cut_to_columns_not_characters(size: int, expected: str) -> None:
    assert console.clipped("床前明月", size) == expected
