"""charrnn sample: options to samplers and searches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from charrnn.cli import ensemble
from charrnn.cli.console import note, stdin, stdin_text
from charrnn.cli.open_model import adapted_model, find_model, language_model, training_codes, whole_document
from charrnn.cli.options import (
    CONTEXT,
    COUNT,
    Command,
    check_at_least,
    check_rate,
    check_together,
    complete_files,
    dashed,
    device_option,
    encoding_errors_option,
    encoding_option,
    model_option,
    option,
    unescaped,
)
from charrnn.errors import MisuseError

if TYPE_CHECKING:
    from charrnn.data.decoding import Errors
    from charrnn.data.spool import Codes
    from charrnn.data.vocabulary import Vocabulary
    from charrnn.models.interface import LanguageModel

_FILTERS = "temperature top_k top_p min_p"
_DRAWING = f"{_FILTERS} greedy seed no_copy no_repeat"
_EXCLUDES = (
    ("document", "infill suffix", "-d writes a document to its end"),
    ("greedy", _FILTERS, "--greedy takes the likeliest character"),
    ("infill", f"{_DRAWING} report", "--infill looks for the likeliest and draws nothing"),
    ("infill", "prime no_prime suffix length until pattern", "--infill has its whole text, and its gaps their lengths"),
    ("suffix", f"{_DRAWING} report", "--suffix looks for the likeliest and draws nothing"),
    ("suffix", "until each_line pattern", "--suffix ends the text"),
    ("pattern", "keep_until", "--pattern is of the text before that of --until"),
    ("beam", _DRAWING, "--beam looks for the likeliest and draws nothing"),
    ("ensemble", "adapt", "--adapt changes the weights of one network"),
    ("each_line", "prime until keep_until", "--each-line takes primes from stdin and stops at the newline"),
)
_NEEDS = (
    *ensemble.RULES,
    ("blank", "infill", "--blank marks the gaps of --infill; name a text with gaps, or leave it out."),
    ("suffix", "length", "--suffix needs -n, the characters to write before it."),
    ("keep_until", "until", "--keep-until keeps the text of --until; name one, or leave it out."),
    ("adapt_rate", "adapt", "--adapt-rate is the rate of --adapt; name a text to adapt to, or leave it out."),
    ("encoding_errors", "adapt", "--encoding-errors is about --adapt's text; name one, or leave it out."),
    ("encoding", "adapt", "--encoding is that of --adapt's text, and all else is UTF-8; name one, or leave it out."),
)


class SampleOptions(NamedTuple):
    """Hold the options of the command; None where one is not given."""

    models: tuple[str, ...]
    ensemble: bool
    weights: str | None
    prime: str | None
    no_prime: bool
    document: bool
    length: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    greedy: bool
    beam: int | None
    infill: str | None
    blank: str | None
    suffix: str | None
    until: tuple[str, ...]
    keep_until: bool
    pattern: str | None
    no_copy: int | None
    no_repeat: int | None
    report: bool
    num: int
    each_line: bool
    escapes: bool
    adapt: str | None
    adapt_rate: float | None
    seed: int | None
    as_json: bool
    encoding: str | None
    encoding_errors: Errors | None
    device: str

    @property
    def fills(self) -> bool:
        """Say whether gaps are filled, with text known on both sides."""
        return self.infill is not None or self.suffix is not None

    @property
    def wants_document(self) -> bool | None:
        """Say whether a whole document is asked for; None where the model and -n decide."""
        return True if self.document else False if self.fills or self.each_line else None

    @property
    def prints_lines(self) -> bool:
        """Say whether each line of standard input is answered by one line."""
        return self.each_line and not self.as_json

    @property
    def draws(self) -> bool:
        """Say whether characters are drawn, not searched."""
        return not self.fills and self.beam is None

    @property
    def piped(self) -> list[str]:
        """Name the options of which standard input is the text: those that are '-' as typed, not as an escape."""
        return [name for name in ("prime", "infill", "suffix", "adapt") if getattr(self, name) == "-"]

    def with_texts(self, piped: list[str]) -> SampleOptions:
        """Read from stdin the text that is `piped`. Raises CharRNNError for what is no text, or has no gap to fill."""
        from charrnn.data.decoding import check_characters
        from charrnn.generation import infill
        from charrnn.generation.stop_texts import StopTexts

        texts: dict[str, Any] = {name: getattr(self, name) for name in ("prime", "infill", "suffix")}
        for name in texts:
            if name in piped and not self.each_line:
                texts[name] = stdin_text("primes" if name == "prime" else "texts")
            check_characters(texts[name] or "", name)
        StopTexts(self.until)
        if self.infill is not None and not self.each_line:
            infill.Gapped.parse(texts["infill"], self.blank or infill.BLANKS)
        return self._replace(**texts)


@click.command(
    cls=Command,
    context_settings=CONTEXT,
    short_help="Generate text; search for the likeliest; fill gaps.",
    stray="A text to continue follows -p, and a model follows -m: charrnn sample -p {}",
)
@model_option("Input", "Run folder, model file or name. [default: the newest run]", multiple=True)
@ensemble.ensemble_options("Input")
@option("Input", "-p --prime --prompt prime", "Text to continue; '-' is stdin.", metavar="TEXT|-")
@option("Input", "--each-line", "Every line of stdin is a prime, or with --infill a text with gaps.", is_flag=True)
@option(
    "Input", "-e --escapes", r"Read \n, \t, \\ and \uXXXX in --prime, --until, --suffix and --infill.", is_flag=True
)
@option(
    "Input",
    "--adapt",
    "Learn from a text first; the model file stays.",
    metavar="FILE|-",
    shell_complete=complete_files,
)
@option("Input", "--adapt-rate", "Rate to learn it at. [default: as evaluate --dynamic]", type=float, metavar="X")
@encoding_option("Encoding of --adapt's text.")
@encoding_errors_option()
@option(
    "Sampling",
    "-d --document",
    "Write one whole document, as in training, and stop at its end. [default for models of documents, without -n]",
    is_flag=True,
)
@option(
    "Sampling",
    "-n --length",
    "Characters to write, the prime not counted; of a document the most. [default: 500, or 100,000 of a document]",
    type=int,
    metavar="N",
)
@option("Sampling", "-t --temperature", "Below 1 safer, above 1 more varied. [default: 1]", type=float, metavar="X")
@option("Sampling", "--top-k", "Sample from the K likeliest characters.", type=int, metavar="K")
@option(
    "Sampling",
    "--top-p",
    "Nucleus sampling: from the smallest set of characters with total probability P.",
    type=float,
    metavar="P",
)
@option(
    "Sampling",
    "--min-p",
    "Sample from characters at least P times as likely as the likeliest. [default: 0.02]",
    type=float,
    metavar="P",
)
@option("Sampling", "--greedy", "Always take the likeliest character.", is_flag=True)
@option(
    "Sampling", "-k --num", "Samples to draw; of a search the N best. [default: 1]", type=int, default=1, metavar="N"
)
@option("Sampling", "--seed", "Random seed. [default: drawn]", type=COUNT, metavar="N")
@option("Search and infilling", "--beam", "Beam search with K hypotheses. [infilling: 32]", type=int, metavar="K")
@option(
    "Search and infilling",
    "--infill",
    "Fill every gap of TEXT: each ＿ or _ is one missing character.",
    is_flag=False,
    flag_value="-",
    metavar="TEXT|-",
)
@option("Search and infilling", "--blank", "Character that marks a gap. [default: ＿ and _]", metavar="CHAR")
@option("Search and infilling", "--suffix", "Write -n characters between --prime and TEXT.", metavar="TEXT|-")
@option("Constraints", "--until", "Stop before TEXT would appear; may be repeated.", multiple=True, metavar="TEXT")
@option("Constraints", "--keep-until", "Stop after the TEXT of --until instead.", is_flag=True)
@option("Constraints", "--pattern", "The whole continuation matches this regular expression.", metavar="REGEX")
@option("Constraints", "--no-copy", "Never output N characters in a row of the training text.", type=int, metavar="N")
@option("Constraints", "--no-repeat", "Never output the same N-character sequence twice.", type=int, metavar="N")
@option("Output", "--no-prime", "Print the continuation alone.", is_flag=True)
@option("Output", "--json as_json", "Print one JSON object a line.", is_flag=True)
@option("Output", "--report", "Report the longest copied and the longest repeated run on stderr.", is_flag=True)
@device_option("the CPU")
def sample(**given: Any) -> None:
    """Generate text, streamed as it is generated; or search for the likeliest text, or for what fills gaps.

    \b
    Example:
      charrnn sample --prime 我爱北京 -n 100
      charrnn sample -k 5 -e --until '\\n' -t 0.7
      charrnn sample -m poems -d -k 5
      charrnn sample --pattern '(\\w{5}，\\w{5}。\\n){2}'
      head -n 5 primes.txt | charrnn sample --each-line
      charrnn sample --infill 我爱北京＿＿＿ -k 3
      charrnn sample --beam 20 --prime 我爱 --until $'\\n'
      charrnn sample --ensemble -m poems -m poems-2
      charrnn sample --adapt letters.txt --prime "Dear "
    """
    chosen = SampleOptions(**given)
    device = "cpu" if chosen.device == "auto" else chosen.device
    if chosen.draws and chosen.num == 1 and not chosen.each_line and device == "cpu":
        # one text waits for memory, not for arithmetic: more threads gain little, and on a busy machine lose much
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _check(chosen)
    piped, chosen = chosen.piped, _with_escapes(chosen)
    paths = [find_model(name) for name in chosen.models or (None,)]
    path, how = paths[0], {"pattern": chosen.pattern is not None, "one_line": chosen.prints_lines}
    document, length = whole_document(path, chosen.wants_document, chosen.length, **how)
    chosen = chosen._replace(document=document, length=chosen.length if chosen.fills else length).with_texts(piped)
    # before a text is adapted to, which takes long
    learned = None if chosen.no_copy is None else training_codes(paths, needed=True)
    model: LanguageModel
    if chosen.ensemble:
        model, vocabulary = ensemble.open_mixture(
            chosen.models, paths, lambda each: language_model(each, device), chosen.weights
        )
    elif chosen.adapt is None:
        model, vocabulary = language_model(path, device)
    else:
        encoding, errors = chosen.encoding or "utf-8", chosen.encoding_errors or "strict"
        model, vocabulary = adapted_model(path, device, chosen.adapt, encoding, chosen.adapt_rate, errors)
    if chosen.fills:
        _fill(chosen, model, vocabulary)
    elif chosen.beam is not None:
        _search(chosen, chosen.beam, model, vocabulary, paths)
    else:
        _draw(chosen, model, vocabulary, paths, learned)


def _check(chosen: SampleOptions) -> None:
    """Raise MisuseError for options that exclude each other, or are out of range."""
    if chosen.ensemble:
        ensemble.check(chosen.models, chosen.weights)
    elif len(chosen.models) > 1:
        raise MisuseError("Several models were named, and one writes; name one, or mix them with --ensemble.")
    check_at_least(1, num=chosen.num, length=chosen.length, beam=chosen.beam)
    check_at_least(2, no_copy=chosen.no_copy, no_repeat=chosen.no_repeat)
    check_rate("--adapt-rate", chosen.adapt_rate)
    given = {**chosen._asdict(), "prime": chosen.prime or None, "until": chosen.until or None}
    check_together(given, _EXCLUDES, _NEEDS)
    if "" in chosen.until:
        raise MisuseError("--until is empty; name the text to stop before, or leave it out.")
    if chosen.blank is not None and len(chosen.blank) != 1:
        raise MisuseError(f"--blank is {chosen.blank!r}; it must be one character.")
    if not chosen.fills and chosen.beam is not None and chosen.num > chosen.beam:
        kept = f"--beam {chosen.beam} keeps {chosen.beam} texts and cannot show {chosen.num}"
        raise MisuseError(f"{kept}; name a larger K, or a smaller -k.")
    if chosen.each_line and chosen.infill not in (None, "-"):
        raise MisuseError("--each-line reads the texts from stdin; leave the text of --infill out.")
    if len(chosen.piped) > 1 or (chosen.adapt == "-" and chosen.each_line):
        raise MisuseError("Only one text can be read from stdin; name a file, or give the others as text.")
    if chosen.draws:
        _filters(chosen)
    _pattern(chosen)  # finds a wrong one before a model is loaded
    if chosen.adapt is not None:
        from charrnn.data.text_files import TextReader

        TextReader([chosen.adapt], chosen.encoding or "utf-8")  # finds a missing file, and an unknown encoding


def _with_escapes(chosen: SampleOptions) -> SampleOptions:
    """Read the escapes of the texts that were typed, or give a hint where some may be meant."""
    given: dict[str, str | None] = {"prime": chosen.prime, "infill": chosen.infill, "suffix": chosen.suffix}
    typed = {name: text for name, text in given.items() if text is not None and text != "-"}
    if chosen.escapes and not chosen.until and all(text is None for text in given.values()):
        raise MisuseError("-e reads escapes of --prime, --until, --suffix and --infill; name one, or leave it out.")
    if chosen.escapes:
        read: dict[str, Any] = {name: unescaped(dashed(name), text) for name, text in typed.items()}
        return chosen._replace(until=tuple(unescaped("--until", text) for text in chosen.until), **read)
    for name, text in [*typed.items(), *(("until", text) for text in chosen.until)]:
        if "\\n" in text:
            note(f"{dashed(name)} has a backslash and an n. With -e, \\n is a newline.")
    return chosen


def _filters(chosen: SampleOptions) -> Any:
    from charrnn.generation.filters import Filters
    from charrnn.generation.sampling import MIN_P, TEMPERATURE

    return Filters(
        temperature=TEMPERATURE if chosen.temperature is None else chosen.temperature,
        top_k=chosen.top_k,
        top_p=chosen.top_p,
        min_p=MIN_P if chosen.min_p is None else chosen.min_p,
        greedy=chosen.greedy,
    )


def _pattern(chosen: SampleOptions) -> Any:
    from charrnn.generation.patterns import Pattern

    return None if chosen.pattern is None else Pattern(chosen.pattern)


def _fill(chosen: SampleOptions, model: LanguageModel, vocabulary: Vocabulary) -> None:
    """Fill the gaps of a text, or of every line, or write between a prime and a suffix."""
    from charrnn.cli.sample_output import InfillPrinter

    printer = InfillPrinter(model, vocabulary, chosen.num, chosen.beam, as_json=chosen.as_json)
    if chosen.suffix is not None:
        assert chosen.length is not None
        printer.between(chosen.prime or "", chosen.suffix, chosen.length, no_prime=chosen.no_prime)
    elif chosen.each_line:
        printer.each_line(stdin(), chosen.blank)
    else:
        assert chosen.infill is not None
        printer.text(chosen.infill, chosen.blank)


def _search(chosen: SampleOptions, beam: int, model: LanguageModel, vocabulary: Vocabulary, paths: list[Path]) -> None:
    """Print the likeliest continuations."""
    from charrnn.cli.sample_output import BeamPrinter, report

    assert chosen.length is not None
    shown = {"no_prime": chosen.no_prime, "as_json": chosen.as_json, "report": chosen.report}
    more = {"document": chosen.document, "pattern": _pattern(chosen), "say": note, **shown}
    printer = BeamPrinter(model, vocabulary, beam, chosen.length, **more)
    if chosen.each_line:
        printer.each_line(stdin(), chosen.num)
    else:
        printer.from_prime(chosen.prime or "", chosen.num, chosen.until, keep_until=chosen.keep_until)
    if chosen.report:
        note(report(printer.output.written, training_codes(paths, needed=False)))


def _draw(
    chosen: SampleOptions, model: LanguageModel, vocabulary: Vocabulary, paths: list[Path], learned: Codes | None
) -> None:
    """Print samples, and the seed where one was drawn; `learned` is the training text where it must not be copied."""
    import secrets

    from charrnn.cli.sample_output import SamplePrinter, report

    assert chosen.length is not None
    copies = None
    if learned is not None and chosen.no_copy is not None:
        from charrnn.generation.copying import CopyIndex

        copies = CopyIndex(learned, chosen.no_copy)
    seed = secrets.randbelow(2**31) if chosen.seed is None else chosen.seed
    if chosen.seed is None and not chosen.greedy:
        note(f"Seed: {seed}")
    printer = SamplePrinter(
        model,
        vocabulary,
        _filters(chosen),
        chosen.length,
        seed,
        document=chosen.document,
        no_prime=chosen.no_prime,
        as_json=chosen.as_json,
        no_copy=copies,
        no_repeat=chosen.no_repeat,
        pattern=_pattern(chosen),
        report=chosen.report,
        say=note,
    )
    if chosen.each_line:
        printer.each_line(stdin(), chosen.num)
    else:
        printer.from_prime(chosen.prime or "", chosen.num, chosen.until, keep_until=chosen.keep_until)
    if chosen.report:
        learned = training_codes(paths, needed=False) if learned is None else learned
        note(report(printer.output.written, learned))
