"""Generated text on its way to stdout: streamed, in batches, line by line or as JSON.
Each piece is flushed as it is generated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, BinaryIO

from charrnn.cli import input_lines
from charrnn.cli.console import escaped, put
from charrnn.config.limits import FILE_BOUNDARY
from charrnn.data.vocabulary import Vocabulary
from charrnn.generation import beam_search, infill
from charrnn.generation.copying import CopyIndex
from charrnn.generation.filters import Filters
from charrnn.generation.infill import Filling, Gapped
from charrnn.generation.memorization import Codes, longest_repeated, longest_shared
from charrnn.generation.patterns import Pattern
from charrnn.generation.primes import ReadPrimes
from charrnn.generation.sampling import Sample, Sampler, check_request
from charrnn.generation.stop_texts import Until
from charrnn.messages import counted, silent
from charrnn.models.interface import LanguageModel
from charrnn.strict_json import to_json

_SHOWN = 60  # characters of a run
_ROWS = 64  # lines continued side by side
_BATCH = 256  # more samples than this come in several batches, so that memory is bounded


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
    """Print samples as text or as JSON, and keep the texts where they are to be reported on.

    Documents are set apart by their `boundary`, other samples, where it is empty, by an empty line.
    """

    def __init__(self, *, no_prime: bool, as_json: bool, report: bool = False, boundary: str = "") -> None:
        self.no_prime, self.as_json, self.report, self.boundary = no_prime, as_json, report, boundary
        self.written: list[str] = []

    def keep(self, samples: Iterable[Sample]) -> None:
        """Keep texts, if they are to be reported on."""
        if self.report:
            self.written += [made.text for made in samples]

    def batch(self, samples: Sequence[Sample], count: int) -> None:
        """Print samples whole and in order, of `count` in all."""
        self.keep(samples)
        for made in samples:
            put(_json(_fields(made)) if self.as_json else self._apart(made, last=made.index == count - 1))

    def lines(self, samples: Sequence[Sample]) -> None:
        """Print samples that end where their line does."""
        self.keep(samples)
        for made in samples:
            put(_json(_fields(made)) if self.as_json else self._text(made) + "\n")

    def _apart(self, made: Sample, *, last: bool) -> str:
        """Return a sample with what sets it apart from the next; the boundary of files cannot be printed."""
        text = self._text(made)
        if last or self.boundary == "\n":
            return _ended(text)
        return _ended(text) + "\n" if self.boundary in {"", "\n\n", FILE_BOUNDARY} else text + self.boundary

    def _text(self, made: Sample) -> str:
        return made.text if self.no_prime else made.prime + made.text


class SamplePrinter:
    """Print samples as they are drawn; `say` hears which of them ended early, or did not end."""

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
        document: bool = False,
        no_copy: CopyIndex | None = None,
        no_repeat: int | None = None,
        pattern: Pattern | None = None,
        report: bool = False,
        say: Callable[[str], object] = silent,
    ) -> None:
        self.model, self.vocabulary, self.filters = model, vocabulary, filters
        self.length, self.seed, self.document = length, seed, document
        boundary = vocabulary.boundary if document else ""
        self.output = _Output(no_prime=no_prime, as_json=as_json, report=report, boundary=boundary)
        self.no_copy, self.no_repeat, self.pattern, self.say = no_copy, no_repeat, pattern, say

    def from_prime(self, prime: str, num: int, until: Until, *, keep_until: bool = False) -> None:
        """Write one sample as it is made, or several as a batch, whole and in order."""
        if self.output.as_json or num > 1:
            for samples in self._batches([prime], num, until, keep_until=keep_until):
                self.output.batch(samples, num)
            return
        sampler = self._sampler([prime], [0], until, keep_until=keep_until, keep_text=self.output.report)
        last = "" if self.output.no_prime else prime
        put(last)
        for (shown,) in sampler:
            if shown:
                put(shown)
                last = shown
        if not last.endswith("\n"):
            put("\n")
        samples = sampler.samples
        self._report_ends(samples)
        self.output.keep(samples)

    def each_line(self, stdin: BinaryIO, num: int = 1) -> None:
        """Continue every line `num` times: those that have arrived side by side, in order; from a terminal each."""
        from_terminal = ((first, [line]) for first, line in input_lines.lines(stdin))
        for first, primes in from_terminal if stdin.isatty() else input_lines.batches(stdin, _ROWS):
            for samples in self._batches(primes, num, None if self.document else "\n", first):
                self.output.lines(samples)

    def _batches(
        self, primes: list[str], num: int, until: Until, first_line: int | None = None, *, keep_until: bool = False
    ) -> Iterator[list[Sample]]:
        """Draw `num` samples of each prime, which is read once; of lines, where the first one's number is given."""
        check_request(primes, self.length)
        read = ReadPrimes(self.model, self.vocabulary, primes, self.no_repeat)
        wanted = ((row, index) for row in range(len(primes)) for index in range(num))
        while batch := list(islice(wanted, _BATCH)):
            sampler = self._sampler(
                [primes[row] for row, _ in batch],
                [index for _, index in batch],
                until,
                lines=None if first_line is None else [first_line + row for row, _ in batch],
                keep_until=keep_until,
                read=read,
            )
            for _ in sampler:
                pass
            samples = sampler.samples
            self._report_ends(samples, of_lines=first_line is not None)
            yield samples

    def _sampler(self, primes: list[str], indices: list[int], until: Until, **more: Any) -> Sampler:
        return Sampler(
            self.model,
            self.vocabulary,
            primes,
            self.length,
            self.filters,
            seed=self.seed,
            indices=indices,
            until=until,
            document=self.document,
            no_copy=self.no_copy,
            no_repeat=self.no_repeat,
            pattern=self.pattern,
            **more,
        )

    def _report_ends(self, samples: list[Sample], *, of_lines: bool = False) -> None:
        if self.document and self.pattern is None:
            _report_unended(samples, self.say, of_lines=of_lines)
        for made in samples:
            if made.ended_by == "exhausted":
                name = _name(made, of_lines=of_lines)
                self.say(
                    f"{name} ended early, after {counted(made.characters, 'character')}:"
                    " every continuation is excluded by --no-copy or --no-repeat. A larger number excludes less."
                )


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
        document: bool = False,
        report: bool = False,
        pattern: Pattern | None = None,
        say: Callable[[str], object] = silent,
    ) -> None:
        self.model, self.vocabulary, self.width, self.length = model, vocabulary, width, length
        self.document, self.pattern, self.say = document, pattern, say
        boundary = vocabulary.boundary if document else ""
        self.output = _Output(no_prime=no_prime, as_json=as_json, report=report, boundary=boundary)

    def from_prime(self, prime: str, num: int, until: Until, *, keep_until: bool = False) -> None:
        """Write the `num` best continuations, best first."""
        found = self._search(prime, until, keep_until=keep_until)[:num]
        self.output.batch(found, len(found))
        if self.document and self.pattern is None:
            _report_unended(found, self.say)

    def each_line(self, stdin: BinaryIO, num: int = 1) -> None:
        """Continue every line in the `num` best ways, best first, as it comes."""
        for number, prime in input_lines.lines(stdin):
            found = self._search(prime, None if self.document else "\n")[:num]
            self.output.lines(found := [replace(made, line=number) for made in found])
            if self.document and self.pattern is None:
                _report_unended(found, self.say, of_lines=True)

    def _search(self, prime: str, until: Until, *, keep_until: bool = False) -> list[Sample]:
        ends: dict[str, Any] = {
            "until": until,
            "keep_until": keep_until,
            "document": self.document,
            "pattern": self.pattern,
        }
        return beam_search.search(self.model, self.vocabulary, prime, self.length, self.width, **ends)


def _report_unended(samples: Iterable[Sample], say: Callable[[str], object], *, of_lines: bool = False) -> None:
    """Say which documents do not end within the most characters."""
    for made in samples:
        if made.ended_by == "length":
            name = _name(made, of_lines=of_lines)
            say(f"{name} is no whole document: it did not end within {made.characters:,} characters (-n).")


def _name(made: Sample, *, of_lines: bool) -> str:
    return f"Sample {made.index + 1}" + f" of line {made.line + 1}" * of_lines


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
        for number, line in input_lines.lines(stdin):
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
        "line": made.line,
        "ended_by": made.ended_by,
    }


def _json(fields: dict[str, Any]) -> str:
    return to_json(fields) + "\n"


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"
