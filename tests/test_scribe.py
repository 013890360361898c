"""Claims about samples on their way to stdout."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from charrnn import modelfile
from charrnn.filters import Filters
from charrnn.scribe import Scribe


class Recorder(io.StringIO):
    """Remembers what was written by the time of each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[str] = []

    def flush(self) -> None:
        self.flushed.append(self.getvalue())


def scribe(run: Path, length: int) -> Scribe:
    header, model = modelfile.read_model(run / "best.safetensors")
    return Scribe(model, header.vocabulary, Filters(), length, 1, no_prime=False, as_json=False)


def test_every_character_is_flushed_as_it_is_made(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr("sys.stdout", recorder)
    scribe(trained, 25).from_prime("the ", 1, None)
    assert [len(text) for text in recorder.flushed[:26]] == list(range(4, 30))


def test_lines_are_answered_in_blocks_and_a_terminal_at_once(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    recorder = Recorder()
    monkeypatch.setattr("sys.stdout", recorder)
    typed = Terminal(b"the\nfox\n")
    scribe(trained, 5).each_line(typed)
    assert recorder.flushed[0].count("\n") == 1
    assert recorder.getvalue().count("\n") == 2


def test_many_samples_come_in_batches_and_read_the_same(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for batch in (2, 256):
        recorder = Recorder()
        monkeypatch.setattr("sys.stdout", recorder)
        monkeypatch.setattr("charrnn.scribe._BATCH", batch)
        scribe(trained, 15).from_prime("the ", 5, None)
        written.append(recorder.getvalue())
    assert written[0] == written[1]
    assert len(written[0].split("\n\n")) >= 5
