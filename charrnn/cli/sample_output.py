"""Generated text on its way to stdout: streamed, in batches, line by line or as JSON.
Each piece is flushed as it is generated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from charrnn.cli.console import escaped, put
from charrnn.data.decoding import decode
from charrnn.data.vocabulary import Vocabulary
from charrnn.generation import beam_search, infill
from charrnn.generation.copying import CopyIndex
from charrnn.generation.filters import Filters
from charrnn.generation.infill import Filling, Gapped
from charrnn.generation.memorization import Codes, longest_repeated, longest_shared
from charrnn.generation.primes import ReadPrimes
from charrnn.generation.sampling import Sample, Sampler, check_request
from charrnn.messages import silent
from charrnn.models.interface import LanguageModel

_SHOWN = 60  # characters of a run
_ROWS = 64  # lines continued side by side
_BATCH = 256  # more samples than this come in several batches, so that memory is bounded
_UTF8 = "Lines are read as UTF-8."


def report(samples: Sequence[str], codes: Codes | None) -> str:
    """Describe the longest run that samples share with a text, if that is known, and the longest that one repeats."""
    found = [] if codes is None else [_run("copied from the training text", longest_shared(codes, samples))]
    repeated = max((longest_repeated(sample) for sample in samples), key=len, default="")
    return "\n".join([*found, _run("repeated within a sample", repeated)])


def _run(what: str, run: str) -> str:
    if not run:
        return f"Longest run {what}: none"
    half = _SHOWN // 2
    text = run if len(run) <= _SHOWN else f"{run[:half]}...{run[-half:]}"
    return f"Longest run {what}: {len(run):,} character{'s' * (len(run) > 1)}: {escaped(text)}"


class _Output:
    """Print samples as text or as JSON, and keep the texts where they are to be reported on."""

    def __init__(self, *, no_prime: bool, as_json: bool, report: bool = False) -> None:
        self.no_prime, self.as_json, self.report = no_prime, as_json, report
        self.written: list[str] = []

    def keep(self, made: Sample) -> None:
        """Keep a text, if it is to be reported on."""
        if self.report:
            self.written.append(made.text)

    def batch(self, samples: Iterable[Sample]) -> None:
        """Print samples whole and in order, an empty line between."""
        for made in samples:
            self.keep(made)
            between = "" if made.index == 0 else "\n"
            put(_json(_fields(made)) if self.as_json else between + _ended(self._text(made)))

    def lines(self, samples: Iterable[Sample]) -> None:
        """Print samples that end where their line does."""
        for made in samples:
            self.keep(made)
            put(_json(_fields(made)) if self.as_json else self._text(made) + "\n")

    def _text(self, made: Sample) -> str:
        return made.text if self.no_prime else made.prime + made.text


class SamplePrinter:
    """Print samples as they are drawn; `say` hears which of them ended early."""

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
        no_copy: CopyIndex | None = None,
        no_repeat: int | None = None,
        report: bool = False,
        say: Callable[[str], object] = silent,
    ) -> None:
        self.model, self.vocabulary, self.filters = model, vocabulary, filters
        self.length, self.seed = length, seed
        self.output = _Output(no_prime=no_prime, as_json=as_json, report=report)
        self.no_copy, self.no_repeat, self.say = no_copy, no_repeat, say

    def from_prime(self, prime: str, num: int, until: str | None) -> None:
        """Write one sample as it is made, or several as a batch, whole and in order."""
        if self.output.as_json or num > 1:
            check_request([prime], self.length)
            read = ReadPrimes(self.model, self.vocabulary, [prime], self.no_repeat)
            for first in range(0, num, _BATCH):
                indices = range(first, min(first + _BATCH, num))
                self.output.batch(self._finished(self._sampler([prime] * len(indices), indices, until, read=read)))
            return
        sampler = self._sampler([prime], [0], until, keep_text=self.output.report)
        last = "" if self.output.no_prime else prime
        put(last)
        for (shown,) in sampler:
            if shown:
                put(shown)
                last = shown
        if not last.endswith("\n"):
            put("\n")
        for made in self._reported(sampler.samples):
            self.output.keep(made)

    def each_line(self, stdin: BinaryIO) -> None:
        """Continue every line, in blocks side by side, printed in order; from a terminal one at a time."""
        rows = 1 if stdin.isatty() else _ROWS
        for first, primes in _blocks(stdin, rows):
            self.output.lines(self._finished(self._sampler(primes, range(first, first + len(primes)), "\n")))

    def _sampler(
        self,
        primes: list[str],
        indices: Iterable[int],
        until: str | None,
        *,
        keep_text: bool = True,
        read: ReadPrimes | None = None,
    ) -> Sampler:
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
            keep_text=keep_text,
            read=read,
        )

    def _finished(self, sampler: Sampler) -> list[Sample]:
        for _ in sampler:
            pass
        return self._reported(sampler.samples)

    def _reported(self, samples: list[Sample]) -> list[Sample]:
        for made in samples:
            if made.ended_by == "exhausted":
                self.say(
                    f"Sample {made.index + 1} ended early, {made.characters:,} of {self.length:,} characters long:"
                    " every continuation is excluded by --no-copy or --no-repeat. A larger number excludes less."
                )
        return samples


class BeamPrinter:
    """Print the likeliest continuations, found by beam search."""

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        width: int,
        length: int,
        *,
        no_prime: bool,
        as_json: bool,
        report: bool = False,
    ) -> None:
        self.model, self.vocabulary, self.width, self.length = model, vocabulary, width, length
        self.output = _Output(no_prime=no_prime, as_json=as_json, report=report)

    def from_prime(self, prime: str, num: int, until: str | None) -> None:
        """Write the `num` best continuations, best first."""
        self.output.batch(beam_search.search(self.model, self.vocabulary, prime, self.length, self.width, until)[:num])

    def each_line(self, stdin: BinaryIO) -> None:
        """Continue every line in the best way, as it comes."""
        for first, (prime,) in _blocks(stdin, 1):
            best = beam_search.search(self.model, self.vocabulary, prime, self.length, self.width, "\n")[0]
            self.output.lines([replace(best, index=first)])


class InfillPrinter:
    """Print texts whose gaps are filled: the best one as it is, or several with their bits per character."""

    def __init__(
        self, model: LanguageModel, vocabulary: Vocabulary, num: int, width: int | None, *, as_json: bool
    ) -> None:
        self.model, self.vocabulary, self.num, self.as_json = model, vocabulary, num, as_json
        self.width = infill.WIDTH if width is None else width

    def text(self, text: str, blank: str | None) -> None:
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
