"""The command line: options to calls, errors to sentences. stdout is the product, stderr the conversation.
Imports only click until a command runs, so that --help is there at once."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from charrnn.errors import CharRNNError, MisuseError
from charrnn.version import VERSION

if TYPE_CHECKING:
    from charrnn.begin import Begun
    from charrnn.copying import Codes
    from charrnn.corpus import Part, Tokens
    from charrnn.dynamic import Follower
    from charrnn.modelfile import Header
    from charrnn.reader import Reader
    from charrnn.vocabulary import Vocabulary

_INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143}
_SHORT = 50_000  # characters that are scored line by line sooner than torch is loaded
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Sentence(click.ClickException):
    """A charrnn error on its way to the terminal."""

    def __init__(self, error: CharRNNError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]


class _Commands(click.Group):
    """Turns errors into sentences, Ctrl-C into 130, and a closed pipe into a quiet end."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except CharRNNError as error:
            raise _Sentence(error) from error
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            raise click.exceptions.Exit(130) from None
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            told = "There is not enough memory for this. End what else uses it, ask for less, or name another --device."
            raise _Sentence(CharRNNError(told)) from error
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
                raise _Sentence(CharRNNError(f"The output cannot be written ({error.strerror}).")) from error
            if not isinstance(error, BrokenPipeError):
                raise
            # what the interpreter flushes at its end must find no closed pipe either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(0) from None


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return False
    from charrnn import plan

    return plan.is_out_of_memory(error)


@click.group(cls=_Commands, context_settings=_CONTEXT)
@click.version_option(VERSION, message="charrnn %(version)s")
def cli() -> None:
    """Learn any text one character at a time with a recurrent network, and write more like it.

    \b
    Example:
      charrnn train poems.txt
      charrnn sample --prime 我爱北京
      charrnn evaluate other.txt
    """


def entry() -> None:
    """Run the command line as a program."""
    cli(prog_name="charrnn")


def _silent(_: str) -> None:
    pass


def _note(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # no one listens any more: no reason to stop
        click.echo(text, err=True)


@cli.command(context_settings=_CONTEXT)
@click.argument("texts", nargs=-1, metavar="TEXT...")
@click.option("-c", "--config", metavar="NAME|FILE", help="A preset by name, or a YAML file of settings.")
@click.option("-s", "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting; wins over the file.")
@click.option(
    "-o", "--run", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Run folder [checkpoints/<text>]."
)
@click.option("--resume", is_flag=True, help="Go on exactly where a run stopped (-m, or the newest).")
@click.option("-m", "--model", metavar="RUN", help="With --resume: the run to go on with.")
@click.option("--init-from", metavar="MODEL", help="Fine-tune: start from a model's weights on a new text.")
@click.option("--time", "budget", metavar="10m", help="Wall-clock budget; without it about 15 minutes are planned.")
@click.option("--encoding", metavar="NAME", help="Encoding of the texts [utf-8].")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N|mps", help="Where to learn.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", help="Seed; drawn and printed if unset.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors and warnings.")
def train(
    texts: tuple[str, ...],
    config: str | None,
    settings: tuple[str, ...],
    folder: Path | None,
    resume: bool,
    model: str | None,
    init_from: str | None,
    budget: str | None,
    encoding: str | None,
    device: str,
    seed: int | None,
    quiet: bool,
) -> None:
    """Learn texts: files, folders (every .txt below) or '-'; .gz, .bz2 and .xz are read through.

    The best model's path is printed on stdout.

    \b
    Example:
      charrnn train poems.txt
      charrnn train letters/ -c small -s model.dropout=0.3 --time 10m
      charrnn train --resume
    """
    given = list(settings)
    given += [f"train.time={budget}"] if budget is not None else []
    given += [f"train.seed={seed}"] if seed is not None else []
    given += [f"data.encoding={encoding}"] if encoding is not None else []
    if model is not None and not resume:
        raise MisuseError("-m names the run to --resume. To start from a model's weights use --init-from.")
    say = _silent if quiet else _note
    if resume:
        for value, name in ((config, "-c"), (folder, "-o"), (init_from, "--init-from")):
            if value is not None:
                raise MisuseError(f"--resume goes on with a run as it is; leave out {name}.")
    with _Stopper() as stopper:
        if resume:
            begun = _resumed(texts, model, given, device, say)
        else:
            begun = _fresh(texts, config, given, folder, init_from, device, say)
        stopper.saves = begun.saves
        code = _run(begun, quiet, stopper)
    if code:
        raise click.exceptions.Exit(code)


def _fresh(
    texts: tuple[str, ...],
    source: str | None,
    settings: list[str],
    folder: Path | None,
    init_from: str | None,
    device: str,
    say: Callable[[str], None],
) -> Begun[Any]:
    began = time.perf_counter()  # loading torch is part of the time that a user waits
    from charrnn import config as configuration

    base, start = {}, None
    if init_from is not None:
        from charrnn import begin, checkpoint

        start = checkpoint.find_model(init_from)
        base = begin.fine_tuning_base(start)
    try:
        config = configuration.load(source, settings, base)
    except MisuseError:
        other = [setting for setting in settings if setting.replace(" ", "") in {"model.cell=ngram", "model.cell=hmm"}]
        if start is not None and other:  # what it complains of are settings of the other model
            raise MisuseError(f"--init-from keeps the architecture of {start}; leave out {other[0]}.") from None
        raise
    if texts:
        config = config.with_values(data={"texts": list(texts)})
    if not config.data.texts:
        raise MisuseError("No text to learn. Name one: charrnn train TEXT")
    from charrnn import begin

    if start is not None:
        begin.check_fine_tuning(start, config)
    if config.model.counted:
        if device not in {"auto", "cpu"}:
            raise MisuseError(f"An n-gram model is counted on the CPU; leave out --device {device}.")
        return begin.fresh_count(config, folder, stdin=_stdin(), say=say)
    return begin.fresh(
        config, folder, begin.choose_device(device, say), init_from=start, stdin=_stdin(), say=say, began=began
    )


def _resumed(
    texts: tuple[str, ...], model: str | None, settings: list[str], device: str, say: Callable[[str], None]
) -> Begun[Any]:
    from charrnn import begin, checkpoint

    run = checkpoint.find_run(model)
    chosen = None if device == "auto" else begin.choose_device(device)
    return begin.resume(run, chosen, settings=settings, texts=texts, say=say)


def _run(begun: Begun[Any], quiet: bool, stopper: _Stopper) -> int:
    """Draw a training to its end; gives the exit code."""
    from charrnn import display
    from charrnn.train import Finished

    training, run = begun.training, begun.run
    screen = display.Display(quiet=quiet, began_at=training.progress)
    finished: Finished | None = None
    try:
        for report in begun.learn(stopper.stopped):
            screen.show(report)
            if isinstance(report, Finished):
                finished = report
    finally:
        screen.close()
        run.release()
    assert finished is not None
    best = run.best if run.best.exists() else run.last
    if not quiet:
        _note(display.closing(finished, training.config, best))
        if finished.reason == "stopped":
            _note(f"Go on with: charrnn train --resume -m {run.folder}")
    click.echo(str(best))
    return stopper.exit_code if finished.reason == "stopped" else 0


class _Stopper:
    """Catches the first Ctrl-C or SIGTERM, so that what has begun is undone, or once there is something to save,
    training saves and ends; the second ends at once."""

    def __init__(self) -> None:
        self.exit_code = 0
        self.saves = False
        self._before: dict[int, Any] = {}

    def stopped(self) -> bool:
        return self.exit_code != 0

    def __enter__(self) -> _Stopper:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._catch) for number in _INTERRUPTED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        code = _INTERRUPTED[signal.Signals(number)]
        if self.exit_code:
            os._exit(code)
        self.exit_code = code
        if not self.saves:
            # no Exception: someone on the way might take it for a device's failure
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(code)
        # a bare write: the handler may have interrupted a print
        with contextlib.suppress(OSError):
            os.write(2, b"\nSaving and stopping; once more ends at once.\n")


@cli.command(context_settings=_CONTEXT)
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
    from charrnn.filters import Filters

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
    from charrnn.sample import MIN_P, TEMPERATURE
    from charrnn.scribe import Filler, Scribe, Searcher

    device = "cpu" if device == "auto" else device
    path = _found(model)
    reader, vocabulary = _reader(path, device) if adapt is None else _adapted(path, device, adapt, encoding, adapt_rate)
    if gaps:
        text = infill if infill is not None else suffix
        assert text is not None
        if text == "-" and not each_line:
            text = _stdin_text("texts")
        filler = Filler(reader, vocabulary, num, beam, as_json=as_json)
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
        from charrnn import copying, repetition

        learnt = _learnt(path, needed=no_copy is not None)
        copies = copying.Copies(learnt, no_copy) if learnt is not None and no_copy is not None else None
    length = 500 if length is None else length
    if beam is not None:
        scribe: Scribe | Searcher = Searcher(reader, vocabulary, beam, length, no_prime=no_prime, as_json=as_json)
    else:
        seed = secrets.randbelow(2**31) if seed is None else seed
        scribe = Scribe(
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
        _note(repetition.report(scribe.printer.written, learnt))


def _learnt(path: Path, *, needed: bool) -> Codes | None:
    """Read the code points that a model learnt; if they are gone and not needed, say so and do without."""
    from charrnn import modelfile, origin

    lost = "Put it back, or leave out --no-copy" if needed else "So nothing can be said of what was copied"
    try:
        return origin.find(modelfile.read_header(path), path, f"{lost}.", say=_note).training.codes
    except CharRNNError as error:
        if needed:
            raise
        _note(str(error))
        return None


@cli.command(context_settings=_CONTEXT)
@click.argument("texts", nargs=-1, metavar="[TEXT...]")
@click.option("-m", "--model", "models", multiple=True, metavar="MODEL", help="Repeatable: one table for all.")
@click.option("--per-line", is_flag=True, help="TSV: bits/char, bits, characters, line; each line alone.")
@click.option("--per-char", is_flag=True, help="TSV: character, bits, rank of the right answer.")
@click.option("--exact", is_flag=True, help="One pass from beginning to end, however long it takes.")
@click.option("--dynamic", is_flag=True, help="The weights follow the text: each character is scored, then learnt.")
@click.option("--dynamic-rate", type=float, metavar="X", help="How fast they follow [chosen on the validation part].")
@click.option("--dynamic-decay", type=float, metavar="X", help="How fast they go back to what they were [likewise].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each model and text.")
@click.option("--encoding", default="utf-8", show_default=True, metavar="NAME", help="Encoding of the texts.")
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto is CUDA where there is one.")
def evaluate(
    texts: tuple[str, ...],
    models: tuple[str, ...],
    per_line: bool,
    per_char: bool,
    exact: bool,
    dynamic: bool,
    dynamic_rate: float | None,
    dynamic_decay: float | None,
    as_json: bool,
    encoding: str,
    device: str,
) -> None:
    """Score texts in bits per character; without TEXT, the held-out part of the model's own corpus.

    \b
    Example:
      charrnn evaluate other.txt
      charrnn evaluate -m small -m large other.txt
      charrnn evaluate --per-line names.txt | sort -n | head
      charrnn evaluate --dynamic other.txt
    """
    if per_line + per_char + as_json > 1:
        raise MisuseError("--per-line, --per-char and --json are three outputs; name one.")
    if exact and per_line:
        raise MisuseError("--per-line is always exact; leave out --exact.")
    if not dynamic and (dynamic_rate is not None or dynamic_decay is not None):
        raise MisuseError("--dynamic-rate and --dynamic-decay say how the weights follow the text; add --dynamic.")
    if dynamic and exact:
        raise MisuseError("--dynamic is always one exact pass; leave out --exact.")
    if dynamic and per_line:
        raise MisuseError(
            "--dynamic learns one text from beginning to end, and --per-line scores each line alone; leave one out."
            " What each character costs on the way is shown by --per-char."
        )
    _check_rate("--dynamic-rate", dynamic_rate)
    if dynamic_decay is not None and not 0 <= dynamic_decay <= 1:
        raise MisuseError(f"--dynamic-decay is {dynamic_decay:g}; it must be between 0 and 1.")
    from charrnn import text

    sources: list[tuple[str, str | Part]] = [(name, text.read([name], encoding, _stdin())) for name in texts]
    if per_line and sources and device in {"auto", "cpu"} and sum(len(given) for _, given in sources) <= _SHORT:
        for name in models or (None,):
            path = _found(name)
            reader, vocabulary = _reader(path, "cpu")
            for _, given in sources:
                assert isinstance(given, str)
                _put_lines(reader, vocabulary, given, _column(name, path, models))
        return
    from charrnn import begin, checkpoint, modelfile, tables
    from charrnn import evaluate as scoring
    from charrnn.metrics import NATS_PER_BIT
    from charrnn.ondevice import reader as reading

    if dynamic:  # before any is scored, which takes long
        for name in models:
            _check_follows("--dynamic", modelfile.read_header(checkpoint.find_model(name)))
    rows: list[dict[str, Any]] = []
    for name in models or (None,):
        path = _found(name)
        header, model = _opened(path, device)
        shown, prefix = str(name or path.parent), _column(name, path, models)
        follower = None
        if dynamic:
            # a model without a test part is scored on its validation part, which must not choose its rate then
            follower = _follower(
                path, header, model, dynamic_rate, dynamic_decay, choose=bool(sources or header.corpus.test)
            )
        simpler = begin.Simpler(header, path, _note)
        for source, given in sources or [_held_out(header, path)]:
            if isinstance(given, str):
                tokens, content = header.vocabulary.encode(given), given
            else:  # a score alone needs no text
                tokens, content = given.tokens, given.text if per_line or per_char else ""
            if per_line:
                _put_lines(reading(model), header.vocabulary, content, prefix)
            elif per_char:
                place = 0
                blocks = scoring.characters(model, header.vocabulary, tokens)
                for block in blocks if follower is None else follower.characters(tokens):
                    for nats, rank in zip(block.nats.tolist(), block.ranks.tolist(), strict=True):
                        cells = (text.escaped(content[place]), f"{nats / NATS_PER_BIT:.4f}", f"{rank}")
                        _put("\t".join((*prefix, *cells)))
                        place += 1
            else:
                rows.append(_scored(shown, source, header, model, tokens, exact, follower))
                needs = simpler.needs(tokens, given if isinstance(given, str) else None)
                if needs is not None:
                    rows[-1]["baselines"] = needs.fields()
                if as_json:
                    click.echo(json.dumps(rows[-1], ensure_ascii=False))
    if rows and not as_json:
        _put(tables.table(rows))
        if any("cloze_accuracy" in row for row in rows):
            _put("")
            _put(tables.two_sided_table(rows))


def _scored(
    shown: str, source: str, header: Header, model: Any, tokens: Tokens, exact: bool, follower: Follower | None
) -> dict[str, Any]:
    from charrnn import cloze
    from charrnn import evaluate as scoring

    both = header.config.model.bidirectional and follower is None
    sides = None
    with _bar(len(tokens) * (3 if both else 1)) as bar:
        if follower is not None:
            score, mode = follower.evaluate(tokens, bar.update), follower.fields
        else:
            result = scoring.evaluate(model, header.vocabulary, tokens, exact=exact, progress=bar.update)
            score, mode = result.score, {"mode": "static"}
            if both:
                sides = cloze.score(model, header.vocabulary, tokens, result, exact=exact, progress=bar.update)
    if follower is None and result.never_forgets:
        _note(f"{shown} does not forget what it read, so that lanes would not agree: read in a single pass.")
    return {
        "model": shown,
        "text": source,
        **mode,
        **score.fields,
        **(cloze.fields(sides.backward, sides.cloze) if sides else {}),
    }


def _follower(
    path: Path, header: Header, model: Any, rate: float | None, decay: float | None, choose: bool
) -> Follower:
    """Make what --dynamic scores with; `choose` says whether the validation part may choose its rule."""
    from dataclasses import replace

    from charrnn import dynamic, tuning

    _check_follows("--dynamic", header)
    follower, chosen = dynamic.Follower.of(model, header.vocabulary), None
    if header.config.model.bidirectional:
        _note("--dynamic scores the forward half alone.")
    if rate is None:
        if choose:
            with _bar(None) as bar:
                chosen = tuning.choose(path, header, follower, say=_note, progress=bar.update)
        if chosen is None:
            why = "There is no validation part at hand that is long enough to choose the rate on"
            why = why if choose else "What is scored is the validation part itself, which must not choose the rate"
            _note(f"{why}: the default is taken. --dynamic-rate names another.")
    rule = chosen or follower.rule
    rule = replace(rule, rate=rule.rate if rate is None else rate, decay=rule.decay if decay is None else decay)
    _note(f"The weights follow the text at rate {rule.rate:g}, with decay {rule.decay:g}.")
    return replace(follower, rule=rule)


def _bar(total: int | None) -> Any:
    """Make a bar that counts characters, on a terminal, of what takes more than a moment."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty()
    return tqdm(total=total, unit=" char", unit_scale=True, leave=False, delay=2.0, disable=hidden)


def _check_rate(option: str, rate: float | None) -> None:
    if rate is not None and not 0 <= rate < float("inf"):
        raise MisuseError(f"{option} is {rate:g}; it must be 0 or more.")


def _held_out(header: Header, path: Path) -> tuple[str, Part]:
    from charrnn import begin

    kind, part = begin.held_out(header, path, say=_note)
    _note(f"Scoring the {kind} of {header.corpus.name} ({len(part):,} characters).")
    return f"{header.corpus.name} ({kind})", part


@cli.command(context_settings=_CONTEXT)
@click.option("-m", "--model", metavar="MODEL", help="Run folder, model file or name [the newest run].")
def info(model: str | None) -> None:
    """Say what a model file is: architecture, vocabulary, corpus, scores, loss curve.

    \b
    Example:
      charrnn info
      charrnn info -m checkpoints/poems
    """
    from charrnn import checkpoint, modelfile, tables

    if model is None and len(runs := checkpoint.find_runs()) > 0:
        click.echo("runs under ./checkpoints, newest first:")
        width = max(tables.columns(run.name) for run in runs)
        for run in runs:
            click.echo(f"  {run.name}{' ' * (width - tables.columns(run.name))}  {tables.summary(run)}")
        click.echo()
    path = checkpoint.find_model(model)
    click.echo(tables.page(path, modelfile.read_header(path)))


def _opened(path: Path, device: str) -> tuple[Header, Any]:
    from charrnn import begin, decoder, modelfile
    from charrnn.allocator import keep_freed_memory

    keep_freed_memory()
    chosen = begin.choose_device(device, _note)
    header = modelfile.read_header(path)
    if header.config.model.counted:
        return header, decoder.load(path)[0]
    header, model = modelfile.read_model(path)
    return header, model.to(chosen)


def _found(name: str | None) -> Path:
    from charrnn import checkpoint

    path = checkpoint.find_model(name)
    if name is None:
        _note(f"Model: {path}")
    return path


def _reader(path: Path, device: str) -> tuple[Reader, Vocabulary]:
    """Open a model to read with: on the CPU without torch, which takes seconds to load."""
    if device == "cpu":
        from charrnn import decoder

        return decoder.load(path)
    from charrnn.ondevice import reader

    header, model = _opened(path, device)
    return reader(model), header.vocabulary


def _check_follows(option: str, header: Header) -> None:
    model = header.config.model
    if model.cell in model.OWN:
        raise MisuseError(f"{option} lets a network's weights follow a text; this model is no network: {model.kind}.")


def _adapted(path: Path, device: str, name: str, encoding: str, rate: float | None) -> tuple[Reader, Vocabulary]:
    """Open a model, and let it read a text and learn from it before anyone else reads with it."""
    from charrnn import decoder, dynamic, text, tuning
    from charrnn.ondevice import reader

    header, model = _opened(path, device)
    _check_follows("--adapt", header)
    content = text.read([name], encoding, _stdin())
    rule = tuning.kept(path) or dynamic.Rule()
    rule = rule if rate is None else dynamic.Rule(rate, rule.decay)
    with _bar(len(content)) as bar:
        model, score = dynamic.adapt(model, header.vocabulary, header.vocabulary.encode(content), rule, bar.update)
    bits = score.bits_per_character
    _note(f"Adapted to {name}: {len(content):,} characters, {bits:.4f} bits/char on the way (rate {rule.rate:g}).")
    if model.embedding.device.type != "cpu":
        return reader(model), header.vocabulary
    architecture = decoder.Architecture.of(header.config.model.model_dump())
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return decoder.make(architecture, arrays), header.vocabulary


def _column(name: str | None, path: Path, models: tuple[str, ...]) -> tuple[str, ...]:
    """Give the column that tells models apart, where there are several."""
    from charrnn.text import escaped

    return (escaped(str(name or path.parent)),) if len(models) > 1 else ()


def _put_lines(reader: Reader, vocabulary: Vocabulary, content: str, prefix: tuple[str, ...]) -> None:
    """Print what each line of a text costs alone."""
    from charrnn import lines, text

    found = list(text.lines(content))
    for line, score in zip(found, lines.score(reader, vocabulary, found), strict=True):
        cells = (f"{score.bits_per_character:.4f}", f"{score.bits:.4f}", f"{score.characters}")
        _put("\t".join((*prefix, *cells, text.escaped(line))))


def _put(line: str) -> None:
    sys.stdout.write(line + "\n")


def _stdin() -> Any:
    return sys.stdin.buffer


def _stdin_text(what: str) -> str:
    """Read a text; the one newline that `echo` adds is no part of it, as in the shell's own $(...)."""
    from charrnn.text import decode

    return decode(_stdin().read(), "utf-8", "standard input", f"The {what} are read as UTF-8.").removesuffix("\n")
