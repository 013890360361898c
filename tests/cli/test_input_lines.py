"""Claims about lines that come through a pipe, as from a program that waits for each answer."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from charrnn.cli import input_lines
from charrnn.errors import CharRNNError

PATIENCE = 60  # seconds until a program that hangs is given up: nothing here takes one


@pytest.fixture
def sampling(trained: Path) -> subprocess.Popen[bytes]:
    """Start a program that continues every line of a pipe, which stays open."""
    command = [sys.executable, "-m", "charrnn", "sample", "-m", "text", "--each-line", "-n", "5", "--seed", "1"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def answer(program: subprocess.Popen[bytes]) -> bytes:
    """Read one line of its answers; a program that gives none is killed, and the line empty."""
    assert program.stdout is not None
    timer = threading.Timer(PATIENCE, program.kill)
    timer.start()
    line = program.stdout.readline()
    timer.cancel()
    return line


def test_a_line_from_a_pipe_is_answered_while_the_pipe_is_open(sampling: subprocess.Popen[bytes]) -> None:
    """A coprocess once hung: the first answer came after 64 lines, or at the end."""
    with sampling as program:
        assert program.stdin is not None
        for line in (b"the", b"fox", b""):
            program.stdin.write(line + b"\n")
            program.stdin.flush()
            assert answer(program).startswith(line)
        program.stdin.write(b"jug")  # no newline at the end
        program.stdin.close()
        assert answer(program).startswith(b"jug")
        assert program.wait(PATIENCE) == 0


def test_a_bad_line_ends_it_although_the_pipe_is_open(sampling: subprocess.Popen[bytes]) -> None:
    with sampling as program:
        assert program.stdin is not None
        program.stdin.write(b"the\n\xff\n")
        program.stdin.flush()
        assert answer(program).startswith(b"the")
        assert program.wait(PATIENCE) == 1
        assert program.stderr is not None
        assert program.stderr.read().splitlines() == [
            b"Error: standard input, line 2: not UTF-8 at byte 0 (0xff). Lines are read as UTF-8."
        ]


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_it_while_it_waits(sampling: subprocess.Popen[bytes]) -> None:
    with sampling as program:
        assert program.stdin is not None
        program.stdin.write(b"the\n")
        program.stdin.flush()
        assert answer(program)
        program.send_signal(signal.SIGINT)
        assert program.wait(PATIENCE) == 130
        assert program.stderr is not None
        assert program.stderr.read() == b"Interrupted.\n"


class Pieces(io.BytesIO):
    """Gives pieces as a pipe does; before the last one it waits until all before it have been taken."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__()
        self.pieces, self.taken = list(pieces), threading.Event()

    def read(self, size: int | None = -1, /) -> bytes:
        if len(self.pieces) == 1:
            self.taken.wait(PATIENCE)
        return self.pieces.pop(0) if self.pieces else b""


def test_a_batch_is_what_has_arrived_and_no_more_than_its_size() -> None:
    pipe = Pieces(b"a\nb\r\n\n\xe9\xb8", b"\x9f", b"c\nd\ne")
    found = []
    for first, batch in input_lines.batches(pipe, 2):
        found.append((first, batch))
        if first == 2:
            pipe.taken.set()
    assert found == [(0, ["a", "b"]), (2, [""]), (3, ["鸟c", "d"]), (5, ["e"])]
    assert list(input_lines.batches(io.BytesIO(), 2)) == []


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError(), ValueError("closed")], ids=repr)
def test_what_ends_the_reading_is_told_after_the_lines_before_it(error: Exception) -> None:
    """Two good lines were once lost, and of other errors the reader died in silence while the program waited."""

    class Breaking(io.BytesIO):
        pieces = iter([b"a\nb\nc"])

        def read(self, size: int | None = -1, /) -> bytes:
            for piece in self.pieces:
                return piece
            raise error

    batches = input_lines.batches(Breaking(), 1)
    assert [next(batches), next(batches)] == [(0, ["a"]), (1, ["b"])]
    with pytest.raises(type(error)):  # c may be half a line
        next(batches)


@pytest.mark.skipif(os.name != "posix", reason="a redirection of a POSIX shell")
@pytest.mark.parametrize(
    "how", ["sample --each-line", "sample --beam 2 --each-line", "sample -p -", "evaluate -", "train -"]
)
def test_an_input_that_cannot_be_read_is_not_an_output_that_cannot_be_written(trained: Path, how: str) -> None:
    program = [sys.executable, "-m", "charrnn", *how.split()]
    done = subprocess.run(
        ["sh", "-c", '"$@" 0>out', "sh", *program], capture_output=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.splitlines()[-1] == b"Error: standard input: cannot be read (Bad file descriptor)."


@pytest.mark.skipif(os.name != "posix", reason="pipes that do not block")
def test_an_empty_pipe_that_does_not_block_is_not_the_end(trained: Path) -> None:
    output, written = os.pipe()
    os.set_blocking(output, False)
    command = [sys.executable, "-m", "charrnn", "sample", "-m", "text", "--each-line", "-n", "5", "--seed", "1"]
    with subprocess.Popen(command, stdin=output, stdout=subprocess.PIPE) as program, open(written, "wb", 0) as pipe:
        for line in (b"the", b"fox"):
            pipe.write(line + b"\n")
            assert answer(program).startswith(line)
        pipe.close()
        assert program.wait(PATIENCE) == 0
    os.close(output)


def test_an_error_comes_after_the_lines_before_it() -> None:
    batches = input_lines.batches(io.BytesIO(b"a\nb\nc\0\nd\n"), 64)
    assert next(batches) == (0, ["a", "b"])
    with pytest.raises(CharRNNError, match="line 3: a NUL"):
        next(batches)
