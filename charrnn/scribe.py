"""Samples on their way to stdout: streamed, in batches, line by line or as JSON. Each is flushed as it is made."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from charrnn.filters import Filters
from charrnn.model import CharRNN
from charrnn.sample import Sample, Writer
from charrnn.text import decode
from charrnn.vocabulary import Vocabulary

_LANES = 64
_BATCH = 256  # more samples than this come in several batches, so that memory is bounded
_UTF8 = "Primes are read as UTF-8."


class Scribe:
    """Writes samples to stdout as the options ask."""

    def __init__(
        self,
        model: CharRNN,
        vocabulary: Vocabulary,
        filters: Filters,
        length: int,
        seed: int,
        *,
        no_prime: bool,
        as_json: bool,
    ) -> None:
        self.model, self.vocabulary, self.filters = model, vocabulary, filters
        self.length, self.seed, self.no_prime, self.as_json = length, seed, no_prime, as_json

    def _writer(self, primes: list[str], indices: Iterable[int], until: str | None) -> Writer:
        return Writer(
            self.model,
            self.vocabulary,
            primes,
            self.length,
            self.filters,
            seed=self.seed,
            indices=list(indices),
            until=until,
        )

    def from_prime(self, prime: str, num: int, until: str | None) -> None:
        """Write one sample as it is made, or several as a batch, whole and in order."""
        if self.as_json or num > 1:
            for first in range(0, num, _BATCH):
                writer = self._writer([prime] * min(_BATCH, num - first), range(first, min(first + _BATCH, num)), until)
                self._put_all(writer, lambda made: ("" if made.index == 0 else "\n") + _ended(self._whole(made)))
            return
        writer = self._writer([prime], [0], until)
        last = "" if self.no_prime else prime
        self._put(last)
        for (shown,) in writer:
            if shown:
                self._put(shown)
                last = shown
        if not last.endswith("\n"):
            self._put("\n")

    def each_line(self, stdin: BinaryIO) -> None:
        """Continue every line, in blocks side by side, printed in order; from a terminal one at a time."""
        lanes = 1 if stdin.isatty() else _LANES
        for first, primes in _blocks(stdin, lanes):
            writer = self._writer(primes, range(first, first + len(primes)), "\n")
            self._put_all(writer, lambda made: self._whole(made) + "\n")

    def _put_all(self, writer: Writer, shown: Callable[[Sample], str]) -> None:
        """Write to the end and print every sample, as JSON or as `shown` has it."""
        for _ in writer:
            pass
        for made in writer.samples:
            self._put(self._object(made) if self.as_json else shown(made))

    def _whole(self, made: Sample) -> str:
        return made.text if self.no_prime else made.prime + made.text

    def _object(self, made: Sample) -> str:
        fields = {
            "prime": made.prime,
            "text": made.text,
            "bits_per_character": made.bits_per_character,
            "seed": made.seed,
            "index": made.index,
        }
        return json.dumps(fields, ensure_ascii=False) + "\n"

    def _put(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _blocks(stdin: BinaryIO, size: int) -> Iterator[tuple[int, list[str]]]:
    first, block = 0, []
    for number, raw in enumerate(stdin):
        block.append(decode(raw, "utf-8", f"standard input, line {number + 1}", _UTF8).rstrip("\n"))
        if len(block) == size:
            yield first, block
            first, block = number + 1, []
    if block:
        yield first, block


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"
