"""What models write on its way to stdout: streamed, in batches, line by line or as JSON.
Each is flushed as it is made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from charrnn.callbacks import silent
from charrnn.cli.console import escaped, put
from charrnn.data.decoding import decode
from charrnn.data.vocabulary import Vocabulary
from charrnn.generation import beam_search, infill
from charrnn.generation.copying import Copies
from charrnn.generation.filters import Filters
from charrnn.generation.infill import Filling, Gapped
from charrnn.generation.memorization import Codes, longest_repeated, longest_shared
from charrnn.generation.sampling import Sample, Sampler
from charrnn.models.interface import LanguageModel

_SHOWN = 60  # characters of a run
_LANES = 64
_BATCH = 256  # more samples than this come in several batches, so that memory is bounded
_UTF8 = "Lines are read as UTF-8."


def report(samples: Sequence[str], codes: Codes | None) -> str:
    """Say what the longest run is that samples have of a text, if it is known, and that one of them has twice."""
    told = [] if codes is None else [_told("copied from the training text", longest_shared(codes, samples))]
    repeated = max((longest_repeated(sample) for sample in samples), key=len, default="")
    return "\n".join([*told, _told("that a sample has twice", repeated)])


def _told(what: str, run: str) -> str:
    if not run:
        return f"Longest run {what}: none"
    half = _SHOWN // 2
    shown = run if len(run) <= _SHOWN else f"{run[:half]}...{run[-half:]}"
    return f"Longest run {what}: {len(run):,} character{'s' * (len(run) > 1)}: {escaped(shown)}"


class _Printer:
    """Prints samples as text or as JSON, and keeps what was written."""

    def __init__(self, *, no_prime: bool, as_json: bool) -> None:
        self.no_prime, self.as_json = no_prime, as_json
        self.written: list[str] = []

    def batch(self, samples: Iterable[Sample]) -> None:
        """Print samples whole and in order, an empty line between."""
        for made in samples:
            self.written.append(made.text)
            between = "" if made.index == 0 else "\n"
            put(_json(_fields(made)) if self.as_json else between + _ended(self.whole(made)))

    def lines(self, samples: Iterable[Sample]) -> None:
        """Print samples that end where their line does."""
        for made in samples:
            self.written.append(made.text)
            put(_json(_fields(made)) if self.as_json else self.whole(made) + "\n")

    def whole(self, made: Sample) -> str:
        return made.text if self.no_prime else made.prime + made.text


class SamplePrinter:
    """Draws samples and writes them to stdout as the options ask; hands to `say` which of them ended early."""

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        filters: Filters,
        length: int,
        seed: int,
        *,
        no_prime: bool,
        as_json: bool,
        no_copy: Copies | None = None,
        no_repeat: int | None = None,
        say: Callable[[str], object] = silent,
    ) -> None:
        self.model, self.vocabulary, self.filters = model, vocabulary, filters
        self.length, self.seed, self.printer = length, seed, _Printer(no_prime=no_prime, as_json=as_json)
        self.no_copy, self.no_repeat, self.say = no_copy, no_repeat, say

    def from_prime(self, prime: str, num: int, until: str | None) -> None:
        """Write one sample as it is made, or several as a batch, whole and in order."""
        if self.printer.as_json or num > 1:
            for first in range(0, num, _BATCH):
                sampler = self._writer(
                    [prime] * min(_BATCH, num - first), range(first, min(first + _BATCH, num)), until
                )
                self.printer.batch(self._finished(sampler))
            return
        sampler = self._writer([prime], [0], until)
        last = "" if self.printer.no_prime else prime
        put(last)
        for (shown,) in sampler:
            if shown:
                put(shown)
                last = shown
        if not last.endswith("\n"):
            put("\n")
        self.printer.written += [made.text for made in self._told(sampler.samples)]

    def each_line(self, stdin: BinaryIO) -> None:
        """Continue every line, in blocks side by side, printed in order; from a terminal one at a time."""
        lanes = 1 if stdin.isatty() else _LANES
        for first, primes in _blocks(stdin, lanes):
            self.printer.lines(self._finished(self._writer(primes, range(first, first + len(primes)), "\n")))

    def _writer(self, primes: list[str], indices: Iterable[int], until: str | None) -> Sampler:
        return Sampler(
            self.model,
            self.vocabulary,
            primes,
            self.length,
            self.filters,
            seed=self.seed,
            indices=list(indices),
            until=until,
            no_copy=self.no_copy,
            no_repeat=self.no_repeat,
        )

    def _finished(self, sampler: Sampler) -> list[Sample]:
        for _ in sampler:
            pass
        return self._told(sampler.samples)

    def _told(self, samples: list[Sample]) -> list[Sample]:
        for made in samples:
            if made.ended_early:
                self.say(
                    f"Sample {made.index + 1} ended early, {len(made.text):,} of {self.length:,} characters long:"
                    " all that it could go on with is barred by --no-copy or --no-repeat. A larger number bars less."
                )
        return samples


class BeamPrinter:
    """Writes the likeliest continuations to stdout, found by beam search."""

    def __init__(
        self, model: LanguageModel, vocabulary: Vocabulary, width: int, length: int, *, no_prime: bool, as_json: bool
    ) -> None:
        self.model, self.vocabulary, self.width, self.length = model, vocabulary, width, length
        self.printer = _Printer(no_prime=no_prime, as_json=as_json)

    def from_prime(self, prime: str, num: int, until: str | None) -> None:
        """Write the `num` best continuations, best first."""
        self.printer.batch(beam_search.search(self.model, self.vocabulary, prime, self.length, self.width, until)[:num])

    def each_line(self, stdin: BinaryIO) -> None:
        """Continue every line in the best way, as it comes."""
        for first, (prime,) in _blocks(stdin, 1):
            best = beam_search.search(self.model, self.vocabulary, prime, self.length, self.width, "\n")[0]
            self.printer.lines([replace(best, index=first)])


class InfillPrinter:
    """Writes texts whose gaps are filled to stdout: the best one whole, or several with their prices."""

    def __init__(
        self, model: LanguageModel, vocabulary: Vocabulary, num: int, width: int | None, *, as_json: bool
    ) -> None:
        self.model, self.vocabulary, self.num, self.as_json = model, vocabulary, num, as_json
        self.width = infill.WIDTH if width is None else width

    def whole(self, text: str, blank: str | None) -> None:
        """Fill all gaps of one text."""
        gapped = Gapped.parse(text, blank or infill.BLANKS)
        self._put(infill.fill(self.model, self.vocabulary, gapped, self.num, self.width))

    def each_line(self, stdin: BinaryIO, blank: str | None) -> None:
        """Fill the gaps of every line as it comes; a line without gaps stays as it is."""
        for number, (line,) in _blocks(stdin, 1):
            gapped = Gapped.parse(line, blank or infill.BLANKS, required=False)
            if gapped.gaps:
                self._put(infill.fill(self.model, self.vocabulary, gapped, self.num, self.width), line=number)
            elif self.as_json:
                put(_json(_filled(Filling(line, (), 0.0, 0), line, number)))
            else:
                put(line + "\n" if self.num == 1 else f"\t{escaped(line)}\n")

    def between(self, prime: str, suffix: str, length: int, *, no_prime: bool) -> None:
        """Write `length` characters between two texts."""
        gapped = Gapped.between(prime, suffix, length)
        self._put(infill.fill(self.model, self.vocabulary, gapped, self.num, self.width), alone=no_prime)

    def _put(self, fillings: Iterable[Filling], *, alone: bool = False, line: int = 0) -> None:
        """Print fillings; `alone` without the known text around them."""
        for filling in fillings:
            text = "".join(filling.gaps) if alone else filling.text
            if self.as_json:
                put(_json(_filled(filling, text, line)))
            else:
                put(_ended(text) if self.num == 1 else f"{filling.bits_per_character:.4f}\t{escaped(text)}\n")


def _filled(filling: Filling, text: str, line: int) -> dict[str, Any]:
    return {
        "text": text,
        "gaps": filling.gaps,
        "bits_per_character": filling.bits_per_character if filling.characters else None,
        "nats": filling.nats,
        "characters": filling.characters,
        "index": filling.index,
        "line": line,
    }


def _fields(made: Sample) -> dict[str, Any]:
    return {
        "prime": made.prime,
        "text": made.text,
        "bits_per_character": made.bits_per_character,
        "seed": made.seed,
        "index": made.index,
    }


def _json(fields: dict[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False) + "\n"


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
