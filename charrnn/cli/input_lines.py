"""Lines of standard input on their way to a batch: as many as have arrived, so that a program that writes one and waits
for its answer gets it. Knows no models."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from queue import Empty, Queue
from threading import Thread
from typing import Any, BinaryIO

from charrnn.data.decoding import decode
from charrnn.errors import CharRNNError

_BYTES = 1 << 16  # read at a time
_POLL = 0.2  # seconds: on Windows nothing interrupts a thread that waits without end
_Arrived = list[bytes] | BaseException | None  # None: the end


def lines(stdin: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield each line and its number, from 0, before the next is read. Raises CharRNNError for what is no text."""
    for number, raw in enumerate(stdin):
        yield number, _decoded(number, raw)


def batches(stdin: BinaryIO, size: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line, from 0, and the lines that have arrived since the last time: at least one,
    which is waited for, and at most `size`.

    Raises CharRNNError for what is no text, and what reading raises, once the lines before have been answered.
    """
    number = 0
    for raw in _arriving(stdin, size):
        batch, error = list[str](), None
        for line in raw:
            try:
                batch.append(_decoded(number + len(batch), line))
            except CharRNNError as found:
                error = found
                break
        if batch:
            yield number, batch
        if error is not None:
            raise error
        number += len(batch)


def _decoded(number: int, raw: bytes) -> str:
    return decode(raw, "utf-8", f"standard input, line {number + 1}", "Lines are read as UTF-8.").rstrip("\n")


def _arriving(stdin: BinaryIO, size: int) -> Iterator[list[bytes]]:
    """Yield the lines that have arrived, read by a thread: not every system can say whether a pipe has something."""
    arrived, waiting, ended = Queue[_Arrived](maxsize=4), deque[bytes](), False
    error: BaseException | None = None
    Thread(target=_read, args=(stdin, arrived), daemon=True).start()
    while waiting or not ended:
        while not ended and len(waiting) < size:
            try:
                found = arrived.get(not waiting, _POLL)
            except Empty:
                if waiting:
                    break
                continue
            if isinstance(found, list):
                waiting.extend(found)
            else:
                ended, error = True, found
        if waiting:
            yield [waiting.popleft() for _ in range(min(size, len(waiting)))]
    if error is not None:
        raise error


def _read(stdin: Any, arrived: Queue[_Arrived]) -> None:
    # a buffered reader would hold its lock when the program ends, and end it with a fatal error
    raw, begun = getattr(stdin, "raw", stdin), list[bytes]()
    try:
        while piece := raw.read(_BYTES):
            *ended, rest = piece.split(b"\n")
            if ended:
                ended[0] = b"".join([*begun, ended[0]])
                arrived.put([line + b"\n" for line in ended])
                begun.clear()
            begun.append(rest)
        if last := b"".join(begun):
            arrived.put([last])
        arrived.put(None)
    except BaseException as error:  # noqa: BLE001 - it is raised again in the other thread, which would wait for ever
        arrived.put(error)
