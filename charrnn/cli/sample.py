"""charrnn sample: options to samplers and searches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli import ensemble
from charrnn.cli.console import note, stdin
from charrnn.cli.open_model import (
    adapted_model,
    find_model,
    language_model,
    training_codes,
    whole_document,
)
from charrnn.cli.options import (
    CONTEXT,
    COUNT,
    Command,
    complete_files,
    device_option,
    encoding_errors_option,
    encoding_option,
    model_option,
    network_option,
    option,
)
from charrnn.cli.sample_options import SampleOptions, check, filters, holds, pattern, with_escapes

if TYPE_CHECKING:
    from charrnn.data.spool import Codes
    from charrnn.data.vocabulary import Vocabulary
    from charrnn.models.interface import LanguageModel


@click.command(
    cls=Command,
    context_settings=CONTEXT,
    short_help="Generate text; search for the likeliest; fill gaps.",
    stray="A text to continue follows -p, and a model follows -m: charrnn sample -p {}",
)
@model_option("Input", "Run folder, model file or name. [default: the newest run]", multiple=True)
@ensemble.ensemble_options("Input")
@network_option("Input")
@option("Sampling", "--mixture", "Draw with the counts of a mixture, too. [default: its network alone]", is_flag=True)
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
@option(
    "Constraints",
    "--hold",
    "Write while a unit, the cell state of an LSTM or else h, is held at VALUE; may be repeated.",
    multiple=True,
    metavar="LAYER:UNIT=VALUE",
)
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
      charrnn sample --hold 0:12=1 --prime "She said: "
    """
    chosen = SampleOptions(**given)
    device = "cpu" if chosen.device == "auto" else chosen.device
    if chosen.draws and chosen.num == 1 and not chosen.each_line and device == "cpu":
        # one text waits for memory, not for arithmetic: more threads gain little, and on a busy machine lose much
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    check(chosen)
    piped, chosen = chosen.piped, with_escapes(chosen)
    paths = [find_model(name) for name in chosen.models or (None,)]
    if chosen.network or chosen.mixture:
        from charrnn.checkpoints import inference

        if chosen.network:
            inference.check_networks("--network", paths)
        else:
            inference.check_counts("--mixture", paths)
    # the counts of one model are not read where they are not drawn from
    alone = chosen.network or (chosen.draws and not chosen.mixture and not chosen.ensemble)
    path, how = paths[0], {"pattern": chosen.pattern is not None, "one_line": chosen.prints_lines}
    document, length = whole_document(path, chosen.wants_document, chosen.length, **how)
    chosen = chosen._replace(document=document, length=chosen.length if chosen.fills else length).with_texts(piped)
    # before a text is adapted to, which takes long
    if chosen.hold and chosen.adapt is not None:
        _held(chosen, language_model(path, device, network_only=True)[0])
    learned = None if chosen.no_copy is None else training_codes(paths, needed=True)
    model: LanguageModel
    if chosen.ensemble:
        model, vocabulary = ensemble.open_mixture(
            chosen.models, paths, lambda each: language_model(each, device, chosen.network), chosen.weights
        )
    elif chosen.adapt is None:
        model, vocabulary = language_model(path, device, alone)
    else:
        encoding, errors = chosen.encoding or "utf-8", chosen.encoding_errors or "strict"
        how_to_read = (chosen.adapt, encoding, chosen.adapt_rate, errors)
        model, vocabulary = adapted_model(path, device, *how_to_read, network_only=alone)
    model = _held(chosen, model)
    if chosen.fills:
        _fill(chosen, model, vocabulary)
    elif chosen.beam is not None:
        _search(chosen, chosen.beam, model, vocabulary, paths)
    else:
        _draw(chosen, model, vocabulary, paths, learned)


def _held(chosen: SampleOptions, model: LanguageModel) -> LanguageModel:
    """Return the model with the units of --hold held."""
    if not chosen.hold:
        return model
    from charrnn.models import held_units

    return held_units.hold(model, holds(chosen), "--hold")


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
    more = {"document": chosen.document, "pattern": pattern(chosen), "say": note, **shown}
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
    from charrnn.models.ngram_mixture import for_sampling

    assert chosen.length is not None
    copies = None
    if learned is not None and chosen.no_copy is not None:
        from charrnn.generation.copying import CopyIndex

        copies = CopyIndex(learned, chosen.no_copy)
    seed = secrets.randbelow(2**31) if chosen.seed is None else chosen.seed
    if chosen.seed is None and not chosen.greedy:
        note(f"Seed: {seed}")
    printer = SamplePrinter(
        for_sampling(model, mixture=chosen.mixture),
        vocabulary,
        filters(chosen),
        chosen.length,
        seed,
        document=chosen.document,
        no_prime=chosen.no_prime,
        as_json=chosen.as_json,
        no_copy=copies,
        no_repeat=chosen.no_repeat,
        pattern=pattern(chosen),
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
