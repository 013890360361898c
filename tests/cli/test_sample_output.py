"""Claims about samples on their way to stdout."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from charrnn.checkpoints import inference
from charrnn.cli.sample_output import BeamPrinter, InfillPrinter, SamplePrinter
from charrnn.generation.filters import Filters
from tests.conftest import count_characters


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


def test_the_prime_of_many_samples_is_read_once(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was once encoded and read again for each batch."""
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setattr("charrnn.cli.sample_output._BATCH", 2)
    sampling = printer(trained, 3)
    read = [0]
    count_characters(sampling.model, read, monkeypatch)
    sampling.from_prime("the quick brown fox", 5, None)
    assert read[0] == len("\nthe quick brown fox") + 5 * 2  # the first character of a sample needs no step
    sampling.each_line(io.BytesIO(b"the\nfox\nthe\n"), 2)
    assert read[0] <= 20 + 5 * 2 + len("\nthe\nfox") + 6 * 2


def test_texts_are_kept_for_a_report_alone(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were once kept all the same, of however many lines."""
    monkeypatch.setattr("sys.stdout", io.StringIO())
    reader, vocabulary = inference.load(trained / "best.safetensors")
    for report, count in ((False, 0), (True, 6)):
        settings: dict[str, Any] = {"no_prime": False, "as_json": False, "report": report}
        drawn = SamplePrinter(reader, vocabulary, Filters(), 4, 1, **settings)
        drawn.from_prime("the", 1, None)
        drawn.from_prime("the", 2, None)
        drawn.each_line(io.BytesIO(b"the\nfox\njug\n"))
        assert len(drawn.output.written) == count
        best = BeamPrinter(reader, vocabulary, 3, 4, **settings)
        best.from_prime("the", 3, None)
        best.each_line(io.BytesIO(b"the\nfox\njug\n"))
        assert len(best.output.written) == count


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
