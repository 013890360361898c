"""charrnn sample: options to samplers and searches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charrnn.cli.console import CONTEXT, _note, _stdin, _stdin_text
from charrnn.cli.open_model import _adapted, _check_rate, _found, _reader
from charrnn.errors import CharRNNError, MisuseError

if TYPE_CHECKING:
    from charrnn.generation.copying import Codes


@click.command(context_settings=CONTEXT)
@click.option("-m", "--model", metavar="MODEL", help="Run folder, model file or name [the newest run].")
@click.option("-p", "--prime", default="", metavar="TEXT|-", help="Text to go on from; '-' reads it from stdin.")
@click.option("--no-prime", is_flag=True, help="Print what was written alone, not what was given.")
@click.option("-n", "--length", type=int, metavar="N", help="Characters to write [500]; --suffix needs it.")
@click.option("-t", "--temperature", type=float, metavar="X", help="Below 1 safer, above 1 wilder [1].")
@click.option("--top-k", type=int, metavar="K", help="Choose from the K likeliest.")
@click.option("--top-p", type=float, metavar="P", help="Choose from the likeliest that hold P together.")
@click.option(
    "--min-p", type=float, metavar="P", help="Choose from those at least P times as likely as the likeliest [0.02]."
)
@click.option("--greedy", is_flag=True, help="Always take the likeliest.")
@click.option("--beam", type=int, metavar="K", help="Search for the likeliest text, K at a time; gaps take 32.")
@click.option(
    "--infill",
    is_flag=False,
    flag_value="-",
    metavar="TEXT|-",
    help="Fill every gap of TEXT: each ＿ or _ is one missing character.",
)
@click.option("--blank", metavar="CHAR", help="With --infill: what marks a missing character, instead of ＿ and _.")
@click.option("--suffix", metavar="TEXT|-", help="Write -n characters between --prime and TEXT.")
@click.option("--until", metavar="TEXT", help="Stop before TEXT would appear.")
@click.option("--no-copy", type=int, metavar="N", help="Write no N characters as they stand in the training text.")
@click.option("--no-repeat", type=int, metavar="N", help="Write no N characters a second time.")
@click.option("--report", is_flag=True, help="Say afterwards what was copied and repeated, the longest run of each.")
@click.option(
    "-k", "--num", default=1, show_default=True, metavar="N", help="How many samples; of a search the N best."
)
@click.option("--each-line", is_flag=True, help="Every line of stdin is a prime, or with --infill a text with gaps.")
@click.option("--adapt", metavar="FILE|-", help="Read a text first and learn from it; the model file stays as it is.")
@click.option("--adapt-rate", type=float, metavar="X", help="How fast to learn from it [as for evaluate --dynamic].")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", help="Seed; drawn if unset.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--encoding", default="utf-8", show_default=True, metavar="NAME", help="Encoding of --adapt's text.")
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto is the CPU.")
def sample(
    model: str | None,
    prime: str,
    no_prime: bool,
    length: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    greedy: bool,
    beam: int | None,
    infill: str | None,
    blank: str | None,
    suffix: str | None,
    until: str | None,
    no_copy: int | None,
    no_repeat: int | None,
    report: bool,
    num: int,
    each_line: bool,
    adapt: str | None,
    adapt_rate: float | None,
    seed: int | None,
    as_json: bool,
    encoding: str,
    device: str,
) -> None:
    """Write text, character by character as it is made; or search for the likeliest, or for what fills gaps.

    \b
    Example:
      charrnn sample --prime 我爱北京 -n 100
      charrnn sample -k 5 --until $'\\n' -t 0.7
      head -n 5 primes.txt | charrnn sample --each-line
      charrnn sample --infill 我爱北京＿＿＿ -k 3
      charrnn sample --beam 20 --prime 我爱 --until $'\\n'
      charrnn sample --adapt letters.txt --prime "Dear "
    """
    import secrets

    alone = num == 1 and not each_line and beam is None and infill is None and suffix is None
    if alone and device in {"auto", "cpu"}:
        # one text waits for memory, not for arithmetic: more threads gain little, and on a busy machine lose much
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from charrnn.generation.filters import Filters

    drawing = {"temperature": temperature, "top-k": top_k, "top-p": top_p, "min-p": min_p}
    named = [name for name, value in drawing.items() if value is not None]
    searching = "--infill" if infill is not None else "--suffix" if suffix is not None else "--beam"
    gaps = searching != "--beam"
    if num < 1:
        raise MisuseError(f"num is {num}; it must be at least 1.")
    if length is not None and length < 1:
        raise MisuseError(f"length is {length}; it must be at least 1.")
    if beam is not None and beam < 1:
        raise MisuseError(f"beam is {beam}; it must be at least 1.")
    if greedy and named:
        raise MisuseError("--greedy takes the likeliest; leave out temperature, top-k, top-p and min-p.")
    if until == "":
        raise MisuseError("--until is empty; name the text to stop before, or leave it out.")
    if beam is not None or gaps:
        ruled = {"greedy": greedy, "seed": seed is not None, "no-copy": no_copy is not None}
        ruled |= {"no-repeat": no_repeat is not None, "report": report and gaps}
        named += [name for name, on in ruled.items() if on]
        if named:
            raise MisuseError(f"{searching} looks for the likeliest and draws nothing; leave out {', '.join(named)}.")
    if infill is not None:
        given = {"prime": prime != "", "no-prime": no_prime, "suffix": suffix is not None, "length": length is not None}
        named = [name for name, on in (*given.items(), ("until", until is not None)) if on]
        if named:
            raise MisuseError(f"--infill has its whole text, and its gaps their lengths; leave out {', '.join(named)}.")
        if each_line and infill != "-":
            raise MisuseError("--each-line reads the texts from stdin; leave the text of --infill out.")
    elif blank is not None:
        raise MisuseError("--blank marks the gaps of --infill; name a text with gaps, or leave it out.")
    elif suffix is not None and (length is None or until is not None or each_line):
        raise MisuseError("--suffix needs -n, the characters to write before it, and neither --until nor --each-line.")
    elif each_line and (num > 1 or prime or until is not None):
        raise MisuseError("--each-line takes primes from stdin and stops at the newline; leave out -p, -k and --until.")
    if prime == "-" and suffix == "-":
        raise MisuseError("-p and --suffix cannot both be read from stdin; give one of them as text.")
    for option, size in (("no-copy", no_copy), ("no-repeat", no_repeat)):
        if size is not None and size < 2:
            raise MisuseError(f"{option} is {size}; it must be at least 2.")
    if blank is not None and len(blank) != 1:
        raise MisuseError(f"--blank is {blank!r}; it must be one character.")
    if beam is not None and not gaps and num > beam:
        raise MisuseError(f"--beam {beam} keeps {beam} texts and cannot show {num}; name a larger K, or a smaller -k.")
    if adapt is None and adapt_rate is not None:
        raise MisuseError("--adapt-rate says how fast to learn from the text of --adapt; name one, or leave it out.")
    if adapt == "-" and (each_line or "-" in {prime, infill, suffix}):
        raise MisuseError("--adapt and what is to be written cannot both be read from stdin; name a file to --adapt.")
    _check_rate("--adapt-rate", adapt_rate)
    from charrnn.cli.sample_output import BeamPrinter, InfillPrinter, SamplePrinter
    from charrnn.generation.sampling import MIN_P, TEMPERATURE

    device = "cpu" if device == "auto" else device
    path = _found(model)
    reader, vocabulary = _reader(path, device) if adapt is None else _adapted(path, device, adapt, encoding, adapt_rate)
    if gaps:
        text = infill if infill is not None else suffix
        assert text is not None
        if text == "-" and not each_line:
            text = _stdin_text("texts")
        filler = InfillPrinter(reader, vocabulary, num, beam, as_json=as_json)
        if suffix is not None:
            assert length is not None
            filler.between(_stdin_text("primes") if prime == "-" else prime, text, length, no_prime=no_prime)
        elif each_line:
            filler.each_line(_stdin(), blank)
        else:
            filler.whole(text, blank)
        return
    temperature, min_p = TEMPERATURE if temperature is None else temperature, MIN_P if min_p is None else min_p
    filters = Filters(temperature, top_k, top_p, min_p, greedy)
    learnt, copies = None, None
    if no_copy is not None or report:
        from charrnn.cli import sample_output
        from charrnn.generation import copying

        learnt = _learnt(path, needed=no_copy is not None)
        copies = copying.Copies(learnt, no_copy) if learnt is not None and no_copy is not None else None
    length = 500 if length is None else length
    if beam is not None:
        scribe: SamplePrinter | BeamPrinter = BeamPrinter(
            reader, vocabulary, beam, length, no_prime=no_prime, as_json=as_json
        )
    else:
        seed = secrets.randbelow(2**31) if seed is None else seed
        scribe = SamplePrinter(
            reader,
            vocabulary,
            filters,
            length,
            seed,
            no_prime=no_prime,
            as_json=as_json,
            no_copy=copies,
            no_repeat=no_repeat,
            say=_note,
        )
    if each_line:
        scribe.each_line(_stdin())
    else:
        scribe.from_prime(_stdin_text("primes") if prime == "-" else prime, num, until)
    if report:
        _note(sample_output.report(scribe.printer.written, learnt))


def _learnt(path: Path, *, needed: bool) -> Codes | None:
    """Read the code points that a model learnt; if they are gone and not needed, say so and do without."""
    from charrnn.checkpoints import model_file, training_corpus

    lost = "Put it back, or leave out --no-copy" if needed else "So nothing can be said of what was copied"
    try:
        return training_corpus.find(model_file.read_header(path), path, f"{lost}.", say=_note).training.codes
    except CharRNNError as error:
        if needed:
            raise
        _note(str(error))
        return None
