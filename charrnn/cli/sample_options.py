"""The options of charrnn sample: what each may be, and which exclude each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from charrnn.cli import ensemble
from charrnn.cli.console import note, stdin_text
from charrnn.cli.options import check_at_least, check_rate, check_together, dashed, unescaped
from charrnn.errors import MisuseError

if TYPE_CHECKING:
    from charrnn.data.decoding import Errors
    from charrnn.models.held_units import Hold

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
    ("network", "mixture", "--network leaves the counts out"),
    ("mixture", "infill suffix beam", "--mixture draws with counts, which searches use anyway"),
    ("infill", "hold", "--infill fills gaps, and a unit is held while a text is written on"),
    ("suffix", "hold", "--suffix ends the text, and a unit is held while a text is written on"),
    ("ensemble", "hold", "--hold is about the units of one network"),
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
    network: bool
    mixture: bool
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
    hold: tuple[str, ...]
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


def check(chosen: SampleOptions) -> None:
    """Raise MisuseError for options that exclude each other, or are out of range."""
    if chosen.ensemble:
        ensemble.check(chosen.models, chosen.weights)
    elif len(chosen.models) > 1:
        raise MisuseError("Several models were named, and one writes; name one, or mix them with --ensemble.")
    check_at_least(1, num=chosen.num, length=chosen.length, beam=chosen.beam)
    check_at_least(2, no_copy=chosen.no_copy, no_repeat=chosen.no_repeat)
    check_rate("--adapt-rate", chosen.adapt_rate)
    none_given = {name: getattr(chosen, name) or None for name in ("prime", "until", "hold")}
    given = {**chosen._asdict(), **none_given}
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
        filters(chosen)
    pattern(chosen)  # finds a wrong one before a model is loaded
    if chosen.hold and chosen.device not in {"auto", "cpu"}:
        raise MisuseError(f"--hold writes on the CPU, and --device is {chosen.device}; leave one of them out.")
    holds(chosen)
    if chosen.adapt is not None:
        from charrnn.data.text_files import TextReader

        TextReader([chosen.adapt], chosen.encoding or "utf-8")  # finds a missing file, and an unknown encoding


def with_escapes(chosen: SampleOptions) -> SampleOptions:
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


def filters(chosen: SampleOptions) -> Any:
    """Return what narrows the choice of a character. Raises MisuseError for a number out of range."""
    from charrnn.generation.filters import Filters
    from charrnn.generation.sampling import MIN_P, TEMPERATURE

    return Filters(
        temperature=TEMPERATURE if chosen.temperature is None else chosen.temperature,
        top_k=chosen.top_k,
        top_p=chosen.top_p,
        min_p=MIN_P if chosen.min_p is None else chosen.min_p,
        greedy=chosen.greedy,
    )


def holds(chosen: SampleOptions) -> list[Hold]:
    """Return the units that are held. Raises MisuseError for what names none."""
    if not chosen.hold:
        return []
    from charrnn.models import held_units

    return held_units.parse("--hold", chosen.hold)


def pattern(chosen: SampleOptions) -> Any:
    """Return what the continuation matches. Raises MisuseError for what is no regular expression."""
    from charrnn.generation.patterns import Pattern

    return None if chosen.pattern is None else Pattern(chosen.pattern)
