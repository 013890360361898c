"""Training from Python is what the command does, silently, and ends as Python expects it to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charrnn import (
    CharRNNError,
    Counted,
    Evaluated,
    MisuseError,
    RolledBack,
    StepDone,
    TrainedRun,
    train,
)
from charrnn.checkpoints import model_file, safetensors_file
from tests.conftest import TINY, Charrnn

SETTINGS = dict(setting.split("=") for setting in TINY)
Reported = StepDone | Evaluated | RolledBack | Counted


def weights(path: Path) -> dict[str, bytes]:
    """Return the bytes of a model's weights."""
    return {name: array.tobytes() for name, array in safetensors_file.read(path, arrays=True).arrays.items()}


def test_training_from_python_gives_the_model_of_the_command(trained: Path) -> None:
    run = train("text.txt", SETTINGS, steps=20)
    assert run.path == Path("checkpoints/text-2/best.safetensors")
    assert weights(run.path) == weights(trained / "best.safetensors")
    assert (run.folder / "config.yaml").read_text() == (trained / "config.yaml").read_text()
    assert weights(run.folder / "last.safetensors") == weights(trained / "last.safetensors")


def test_a_run_holds_its_scores_and_its_model(here: Path, charrnn: Charrnn) -> None:
    run = train([here / "text.txt"], SETTINGS, run=here / "mine", steps=20)
    assert (run.folder, run.path, run.reason) == (here / "mine", here / "mine" / "best.safetensors", "done")
    assert [record.step for record in run.history] == [5, 10, 15, 20]
    assert run.best is not None
    assert run.score is not None
    assert run.score.bits_per_character == run.best.bits_per_character
    assert run.best.bits_per_character == min(record.bits_per_character for record in run.history)
    assert repr(run) == (
        f"<charrnn.TrainedRun: done, validation {run.score.bits_per_character:.4f} bits/char, {run.path}>"
    )
    assert run.model().sample("the", 9, seed=1) + "\n" == (
        charrnn("sample", "-m", "mine", "-p", "the", "-n", "9", "--seed", "1", "--no-prime").stdout
    )


def test_settings_are_values_of_python(here: Path) -> None:
    run = train(
        "text.txt",
        {**SETTINGS, "train.steps": 999, "data.split": (0.8, 0.1, 0.1)},
        steps=5,  # a keyword wins
        learning_rate=1e-2,
        residual=True,
        leak=None,
        layer_norm=False,
    )
    text = (run.folder / "config.yaml").read_text()
    for line in ("steps: 5", "learning_rate: 0.01", "residual: true", "leak: null", "[0.8, 0.1, 0.1]"):
        assert line in text


def test_training_is_silent_unless_it_is_asked(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    reports: list[Reported] = []
    train("text.txt", SETTINGS, steps=10)
    train("text.txt", SETTINGS, steps=10, say=heard.append, on_report=reports.append)
    assert capfd.readouterr() == ("", "")
    assert heard
    steps = [(type(report), report.step) for report in reports if isinstance(report, StepDone)]
    assert steps == [(StepDone, step) for step in range(1, 11)]
    evaluated = [report for report in reports if isinstance(report, Evaluated)]
    assert [(report.record.step, len(report.text)) for report in evaluated] == [(5, 20), (10, 20)]
    assert len(reports) == 12


def test_a_finished_run_is_extended_and_fine_tuned(here: Path) -> None:
    first = train("text.txt", SETTINGS, run="first", steps=5)
    more = train(resume=first.folder, steps=15)
    assert more.folder == first.folder
    assert [record.step for record in more.history] == [5, 10, 15]
    (here / "other.txt").write_text("the dog\n" * 90, encoding="utf-8")
    tuned = train("other.txt", init_from=more.path, steps=5, learning_rate=0.01, eval_every=5, batch_size=3, seed=1)
    assert tuned.folder == Path("checkpoints/other")
    assert [record.step for record in tuned.history] == [0, 5]
    assert train(resume=True, steps=10).folder == tuned.folder  # the newest run


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """Handle Ctrl-C as Python does; in the background of a script it would be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
def test_ctrl_c_saves_and_interrupts_and_the_run_goes_on_as_if_it_had_not_been(here: Path) -> None:
    whole = train("text.txt", SETTINGS, run="whole", steps=20)

    def interrupt(report: Reported) -> None:
        if isinstance(report, StepDone) and report.step == 7:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"saved; continue with charrnn\.train\(resume='broken'\)"):
        train("text.txt", SETTINGS, run="broken", steps=20, on_report=interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run = train(resume="broken")
    assert weights(run.folder / "last.safetensors") == weights(whole.folder / "last.safetensors")
    assert [record.nats for record in run.history] == [record.nats for record in whole.history]


@pytest.mark.usefixtures("_ctrl_c")
def test_a_second_ctrl_c_interrupts_at_once(here: Path) -> None:
    seen: list[int] = []

    def interrupt(report: Reported) -> None:
        if isinstance(report, StepDone):
            seen.append(report.step)
            if report.step == 7:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        train("text.txt", SETTINGS, run="broken", steps=20, on_report=interrupt)
    assert "saved" not in str(caught.value)
    assert seen[-1] == 7
    assert train(resume="broken").reason == "done"  # from the save at step 5; the lock is free


def test_a_handler_of_the_caller_stays(here: Path) -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        train("text.txt", SETTINGS, steps=5, on_report=lambda _: signal.raise_signal(signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(caught) == 6


def test_training_runs_in_any_thread(here: Path) -> None:
    runs: list[TrainedRun] = []
    thread = threading.Thread(target=lambda: runs.append(train("text.txt", SETTINGS, steps=5)))
    thread.start()
    thread.join()
    assert runs[0].reason == "done"


def test_a_caller_may_stop_a_training(here: Path) -> None:
    reports: list[Reported] = []
    run = train("text.txt", SETTINGS, steps=20, on_report=reports.append, stop=lambda: len(reports) >= 3)
    assert (run.reason, run.path.name, run.history) == ("stopped", "last.safetensors", ())
    assert run.best is None
    assert run.score is None
    assert "stopped, not evaluated" in repr(run)
    assert run.model().sample(length=3) != ""
    assert [record.step for record in train(resume=run.folder).history] == [5, 10, 15, 20]


def test_an_n_gram_model_is_counted(here: Path) -> None:
    orders: list[int] = []
    run = train("text.txt", cell="ngram", seed=1, on_report=lambda report: orders.append(counted(report)))
    assert orders[:2] == [1, 2]
    assert run.best is not None
    assert repr(run.model()).startswith(f"<charrnn.TextModel: ngram of order {run.best.step},")


def counted(report: Reported) -> int:
    assert isinstance(report, Counted)
    return report.record.step


@pytest.mark.parametrize("kind", ["lstm", "ngram"])
def test_an_error_of_the_callback_leaves_no_empty_run(kind: str, here: Path) -> None:
    given: dict[str, Any] = SETTINGS if kind == "lstm" else {"train.seed": 1}
    with pytest.raises(ZeroDivisionError):
        train("text.txt", given, run="mine", cell=kind, on_report=lambda report: 1 // 0)
    assert not Path("mine").exists()


def test_an_error_of_the_callback_leaves_what_was_saved(here: Path) -> None:
    def fail(report: Reported) -> None:
        if isinstance(report, StepDone) and report.step > 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train("text.txt", SETTINGS, run="mine", steps=10, on_report=fail)
    assert [record.step for record in train(resume="mine").history] == [5, 10]  # and nobody holds the lock


MISTAKES: dict[str, tuple[Any, dict[str, Any]]] = {
    r"model\.hiden_size is not a setting\. Did you mean hidden_size\?": ("text.txt", {"hiden_size": 5}),
    r"model\.hidden_size is '2\.5'; it must be a positive integer, or auto": ("text.txt", {"hidden_size": 2.5}),
    r"model\.hidden_size is 'true'": ("text.txt", {"hidden_size": True}),
    r"model\.dropout is 'nan'": ("text.txt", {"dropout": float("nan")}),
    r"train\.seed is '-1'": ("text.txt", {"seed": -1}),
    r"train\.time is 'soon'": ("text.txt", {"time": "soon"}),
    r"train\.foo is not a setting": ("text.txt", {"foo": 1}),
    "neither a preset nor a file": ("text.txt", {"config": "smal"}),
    "a text is 5; it must be a path": (5, {}),
    "a text is 116; it must be a path": ([116], {}),
    "a text is b'text.txt'; it must be a path": (b"text.txt", {}),
    "a text is ''": ("", {}),
    "run is 5; it must be a path": ("text.txt", {"run": 5}),
    "resume is None; it must be a path": ((), {"resume": None}),
    "resume continues a run as it is; leave out config, init_from": (
        (),
        {"resume": True, "config": "small", "init_from": "x"},
    ),
    "device is 0; it must be a str": ("text.txt", {"device": 0}),
    "settings is 5; it must be a dict of names and values": ("text.txt", {"settings": 5}),
    "settings is {3: 4}; it must be a dict of names and values": ("text.txt", {"settings": {3: 4}}),
    r"settings is \['train.steps=3'\]; it must be a dict": ("text.txt", {"settings": ["train.steps=3"]}),
    "on_report is 3; it must be a function": ("text.txt", {"on_report": 3}),
    "say is 3; it must be a function": ("text.txt", {"say": 3}),
    "say is None; it must be a function": ("text.txt", {"say": None}),
    "stop is True; it must be a function": ("text.txt", {"stop": True}),
    r"train\.seed is '.*'; it must be": ("text.txt", {"seed": 10**5000}),
    r"^train\.lr is not a setting\. Did you mean train\.learning_rate\?$": ("text.txt", {"lr": 1}),
    r"^model\.hidden is not a setting\. Did you mean hidden_size\?$": ("text.txt", {"hidden": 1}),
    "No text to learn": ((), {}),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_told_before_anything_is_made(message: str, here: Path) -> None:
    texts, given = MISTAKES[message]
    with pytest.raises(MisuseError, match=message):
        train(texts, **given)
    assert [path.name for path in here.iterdir()] == ["text.txt"]


def test_arrays_and_numbers_of_numpy_are_settings(here: Path) -> None:
    given: dict[str, Any] = {"split": np.array([0.8, 0.1, 0.1]), "residual": np.True_, "batch_size": np.int64(3)}
    text = (train("text.txt", SETTINGS, **given, steps=2).folder / "config.yaml").read_text()
    for line in ("[0.8, 0.1, 0.1]", "residual: true", "batch_size: 3"):
        assert line in text


def test_mistakes_in_settings_are_told_together(here: Path) -> None:
    with pytest.raises(MisuseError, match=r"(?s)hiden_size.*foo"):
        train("text.txt", hiden_size=5, foo=3)
    with pytest.raises(CharRNNError, match=r"nothing\.txt: no such file"):
        train("nothing.txt", steps=5)


def test_a_base_model_that_has_changed_is_told_to_the_caller_and_to_nobody_else(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    old = train("text.txt", SETTINGS, steps=5, run="old").path
    train("text.txt", SETTINGS, steps=5, run="tuned", init_from="old")
    header, tensors = model_file.read(old)
    model_file.write(old, header, {name: tensor * 1.01 for name, tensor in tensors.items()})
    said: list[str] = []
    train(config="tuned/config.yaml", run="again", say=said.append)
    assert any("has changed since these settings were written" in message for message in said)
    assert capfd.readouterr() == ("", "")
