"""Claims about samples on their way to stdout."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from charrnn.checkpoints import inference
from charrnn.cli.sample_output import BeamPrinter, InfillPrinter, SamplePrinter
from charrnn.generation.filters import Filters


class Recorder(io.StringIO):
    """Remembers what was written by the time of each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[str] = []

    def flush(self) -> None:
        self.flushed.append(self.getvalue())


def printer(run: Path, length: int) -> SamplePrinter:
    reader, vocabulary = inference.load(run / "best.safetensors")
    return SamplePrinter(reader, vocabulary, Filters(), length, 1, no_prime=False, as_json=False)


def test_every_character_is_flushed_as_it_is_made(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr("sys.stdout", recorder)
    printer(trained, 25).from_prime("the ", 1, None)
    assert [len(text) for text in recorder.flushed[:26]] == list(range(4, 30))


def test_lines_are_answered_in_blocks_and_a_terminal_at_once(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    recorder = Recorder()
    monkeypatch.setattr("sys.stdout", recorder)
    typed = Terminal(b"the\nfox\n")
    printer(trained, 5).each_line(typed)
    assert recorder.flushed[0].count("\n") == 1
    assert recorder.getvalue().count("\n") == 2


def test_many_samples_come_in_batches_and_read_the_same(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for batch in (2, 256):
        recorder = Recorder()
        monkeypatch.setattr("sys.stdout", recorder)
        monkeypatch.setattr("charrnn.cli.sample_output._BATCH", batch)
        printer(trained, 15).from_prime("the ", 5, None)
        written.append(recorder.getvalue())
    assert written[0] == written[1]
    assert len(written[0].split("\n\n")) >= 5


def test_searches_and_fillings_are_flushed_line_by_line(either: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr("sys.stdout", recorder)
    reader, vocabulary = inference.load(Path(either) / "best.safetensors")
    searcher = BeamPrinter(reader, vocabulary, 3, 5, no_prime=False, as_json=False)
    searcher.each_line(io.BytesIO(b"the\nfox\n"))
    filler = InfillPrinter(reader, vocabulary, 1, None, as_json=False)
    filler.each_line(io.BytesIO(b"th_\nfox\n_\n"), None)
    assert [text.count("\n") for text in recorder.flushed] == [1, 2, 3, 4, 5]


def test_a_line_is_answered_before_the_next_is_read(either: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr("sys.stdout", recorder)

    class Asked(io.BytesIO):
        def __next__(self) -> bytes:
            answered.append(recorder.getvalue().count("\n"))
            return super().__next__()

    reader, vocabulary = inference.load(Path(either) / "best.safetensors")
    answered: list[int] = []
    BeamPrinter(reader, vocabulary, 2, 3, no_prime=True, as_json=False).each_line(Asked(b"a\nb\n"))
    InfillPrinter(reader, vocabulary, 1, 2, as_json=False).each_line(Asked(b"_\nb\n"), None)
    assert answered == [0, 1, 2, 2, 3, 4]
