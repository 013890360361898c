"""charrnn inspect: what a model remembers, as a page, a table, a picture, or in colours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from charrnn.cli.console import escaped, is_live, note, put_line
from charrnn.cli.open_model import find_model
from charrnn.cli.options import (
    CONTEXT,
    COUNT,
    Command,
    check_at_least,
    check_together,
    complete_files,
    encoding_errors_option,
    encoding_option,
    model_option,
    option,
)
from charrnn.errors import MisuseError
from charrnn.strict_json import to_json

if TYPE_CHECKING:
    from charrnn.cli.inspect_subject import Subject
    from charrnn.data.decoding import Errors

LENGTH = 2_000  # characters
_ANALYSES = ("reach", "units", "gates", "errors", "saliency")
_OUTPUTS = ("page", *_ANALYSES, "colour")
_FILE = click.Path(path_type=Path, dir_okay=False)
_EXCLUDES = (
    ("page", "as_json plot", "-o writes a page with every analysis"),
    ("colour", "as_json plot", "--colour prints the text itself"),
    ("as_json", "plot", "--json and --plot are two outputs"),
)
_NEEDS = (
    ("as_json", " ".join(_ANALYSES), "--json prints an analysis; name one: --reach, --units, --gates, ..."),
    ("plot", " ".join(_ANALYSES), "--plot draws an analysis; name one: --reach, --units, --gates, ..."),
    ("encoding_errors", "text", "--encoding-errors is about TEXT; name one, or leave it out."),
    ("encoding", "text", "--encoding is that of TEXT; name one, or leave it out."),
)


class InspectOptions(NamedTuple):
    """Hold the options of the command; None where one is not given."""

    text: str | None
    models: tuple[str, ...]
    length: int
    encoding: str | None
    encoding_errors: Errors | None
    page: Path | None
    colour: bool
    reach: bool
    units: bool
    gates: bool
    errors: bool
    saliency: bool
    seed: int
    as_json: bool
    plot: Path | None

    @property
    def analysis(self) -> str | None:
        """Name the analysis that is asked for, if there is one."""
        return next((name for name in _ANALYSES if getattr(self, name)), None)


@click.command(cls=Command, context_settings=CONTEXT, short_help="See what a model remembers: a page, tables, plots.")
@click.argument("text", required=False, metavar="[TEXT]", shell_complete=complete_files)
@model_option(
    "Input", "Run folder, model file or name; repeat it to compare reach. [default: the newest run]", multiple=True
)
@option(
    "Input", "--length", f"Characters of the text to read. [default: {LENGTH:,}]", type=int, default=LENGTH, metavar="N"
)
@encoding_option("Encoding of the text.")
@encoding_errors_option()
@option("Output", "-o --output page", "The page to write. [default: NAME.html]", metavar="FILE.html", type=_FILE)
@option("Output", "--colour --color", "Print the text in colours by surprise, also into a pipe.", is_flag=True)
@option(
    "Analysis",
    "--reach",
    "How far back it remembers. TSV: distance, bits/char lost without what is further back,"
    " lost when that is shuffled, gradient norm of h, of c.",
    is_flag=True,
)
@option(
    "Analysis",
    "--units",
    "What single units follow, the ones most worth looking at first. TSV: direction, layer, state, unit, feature,"
    " statistic, its value on one half of the text, on the other.",
    is_flag=True,
)
@option("Analysis", "--gates", "TSV: direction, layer, gate, unit, share of time below 0.1, above 0.9.", is_flag=True)
@option(
    "Analysis",
    "--errors",
    "Where the bits go, and what others would have known. TSV: class or oracle, its name, characters, bits, share.",
    is_flag=True,
)
@option(
    "Analysis",
    "--saliency",
    "Which characters before mattered. TSV: position, character, position before it,"
    " character there, norm of the gradient.",
    is_flag=True,
)
@option("Analysis", "--json as_json", "Print one JSON object for each model instead of TSV.", is_flag=True)
@option("Analysis", "--plot", "Draw it into a .svg, .png or .pdf file instead.", metavar="FILE", type=_FILE)
@option("Analysis", "--seed", "Of what is drawn at random. [default: 1]", type=COUNT, default=1, metavar="N")
def inspect(**given: Any) -> None:
    """See what a model remembers of a text, by default of the held-out split of its own corpus. Writes one page for a
    browser with every view; an analysis alone is printed as TSV, without a header.

    \b
    Example:
      charrnn inspect -m poems
      charrnn inspect other.txt -m poems -o other.html
      charrnn inspect --reach -m lstm -m gru --plot reach.svg
      charrnn inspect --units | head
      charrnn inspect --colour other.txt | less -R
    """
    chosen = InspectOptions(**given)
    _check(chosen)
    paths = [find_model(name) for name in chosen.models or (None,)]
    page = None if chosen.analysis or chosen.colour else _page(chosen.page, paths[0])
    from charrnn.cli.inspect_subject import open_subjects

    encoding, errors = chosen.encoding or "utf-8", chosen.encoding_errors or "strict"
    subjects = open_subjects(chosen.models, paths, chosen.text, chosen.length, encoding, errors)
    if page is not None:
        from charrnn.cli import inspect_page

        inspect_page.write(page, subjects, chosen.seed)
    elif chosen.colour:
        _put_colours(subjects[0])
    else:
        assert chosen.analysis is not None
        _put_analysis(chosen, chosen.analysis, subjects)


def _check(chosen: InspectOptions) -> None:
    """Raise MisuseError for options that exclude each other, or are out of range."""
    given = chosen._asdict()
    named = [("-o" if name == "page" else f"--{name}") for name in _OUTPUTS if given[name]]
    if len(named) > 1:
        raise MisuseError(f"{named[0]} and {named[1]} are two outputs; name one.")
    check_together(given, _EXCLUDES, _NEEDS)
    if len(chosen.models) > 1 and (chosen.colour or chosen.analysis not in {None, "reach"}):
        raise MisuseError(f"{named[0]} is about one model; --reach and the page compare several.")
    if len(set(chosen.models)) < len(chosen.models):
        raise MisuseError("A model is named twice; name each once.")
    check_at_least(1, length=chosen.length)
    if chosen.plot is not None:
        from charrnn.cli.plots import check_file

        check_file(chosen.plot)


def _page(given: Path | None, model: Path) -> Path:
    """Return the page to write. Raises MisuseError for one that is no .html file, or a file that nobody named and that
    is no page of a model."""
    from charrnn.checkpoints.run_dir import model_name
    from charrnn.paths import is_file

    if given is not None:
        if given.suffix not in {".html", ".htm"}:
            raise MisuseError(f"{given}: -o writes a page; name a .html file.")
        return given
    page = Path(f"{model_name(model)}.html")
    if is_file(page):
        with page.open("rb") as file:
            if b"default-src 'none'; script-src 'unsafe-inline'" not in file.read(4_096):
                raise MisuseError(f"{page} is here, and is no page of a model. Name another file: -o FILE.html")
    return page


def _put_colours(subject: Subject) -> None:
    """Print the text in colours, and what they mean on stderr."""
    import sys

    from charrnn.cli import inspect_colour
    from charrnn.scores import NATS_PER_BIT

    bits = (subject.nats / NATS_PER_BIT).tolist()
    for piece in inspect_colour.painted(subject.text, bits):
        sys.stdout.write(piece)
    if not subject.text.endswith("\n"):
        put_line("")
    sys.stdout.flush()
    if is_live(sys.stderr):
        click.echo(f"{inspect_colour.legend()} bits", err=True, color=True)
    note(f"{sum(bits) / len(bits):.4f} bits/char on average.")


def _put_analysis(chosen: InspectOptions, analysis: str, subjects: list[Subject]) -> None:
    """Print or draw one analysis of every model."""
    from charrnn.cli import inspect_tables
    from charrnn.cli.inspect_subject import model_names

    for subject in subjects:  # before the first one takes its time
        if reason := subject.unavailable(analysis):
            raise MisuseError(reason)
    if chosen.plot is not None:
        from charrnn.cli import inspect_plots, plots

        plots.check_library()
        named = zip(model_names(subjects), subjects, strict=True)
        found = {name: subject.analyse(analysis, chosen.seed).fields() for name, subject in named}
        inspect_plots.draw(analysis, found, subjects[0].text, chosen.plot)
        note(f"Drew {chosen.plot}.")
        return
    for subject in subjects:
        fields = subject.analyse(analysis, chosen.seed).fields()
        if chosen.as_json:
            put_line(to_json({"model": subject.label, **fields}))
            continue
        first = [escaped(subject.label)] if len(subjects) > 1 else []
        for cells in inspect_tables.rows(analysis, fields, subject.text):
            put_line("\t".join([*first, *cells]))
