"""charrnn evaluate: options to scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.console import CONTEXT, _bar, _note, _put, _stdin
from charrnn.cli.open_model import _check_follows, _check_rate, _found, _opened, _reader
from charrnn.errors import MisuseError

if TYPE_CHECKING:
    from charrnn.checkpoints.model_file import Header
    from charrnn.data.corpus import Split, Tokens
    from charrnn.data.vocabulary import Vocabulary
    from charrnn.evaluation.dynamic import DynamicEvaluator
    from charrnn.models.interface import LanguageModel


_SHORT = 50_000  # characters that are scored line by line sooner than torch is loaded


@click.command(context_settings=CONTEXT)
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
    from charrnn.cli import console
    from charrnn.data import text_files

    sources: list[tuple[str, str | Split]] = [(name, text_files.read([name], encoding, _stdin())) for name in texts]
    if per_line and sources and device in {"auto", "cpu"} and sum(len(given) for _, given in sources) <= _SHORT:
        for name in models or (None,):
            path = _found(name)
            reader, vocabulary = _reader(path, "cpu")
            for _, given in sources:
                assert isinstance(given, str)
                _put_lines(reader, vocabulary, given, _column(name, path, models))
        return
    from charrnn.checkpoints import model_file, run_dir
    from charrnn.cli import tables
    from charrnn.evaluation import baselines, scoring
    from charrnn.models.torch_model import reader as reading
    from charrnn.scores import NATS_PER_BIT

    if dynamic:  # before any is scored, which takes long
        for name in models:
            _check_follows("--dynamic", model_file.read_header(run_dir.find_model(name)))
    rows: list[dict[str, Any]] = []
    for name in models or (None,):
        path = _found(name)
        header, model = _opened(path, device)
        shown, prefix = str(name or path.parent), _column(name, path, models)
        evaluator = None
        if dynamic:
            # a model without a test part is scored on its validation part, which must not choose its rate then
            evaluator = _dynamic_evaluator(
                path, header, model, dynamic_rate, dynamic_decay, choose=bool(sources or header.corpus.test)
            )
        simpler = baselines.BaselineScorer(header, path, _note)
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
                for block in blocks if evaluator is None else evaluator.characters(tokens):
                    for nats, rank in zip(block.nats.tolist(), block.ranks.tolist(), strict=True):
                        cells = (console.escaped(content[place]), f"{nats / NATS_PER_BIT:.4f}", f"{rank}")
                        _put("\t".join((*prefix, *cells)))
                        place += 1
            else:
                rows.append(_scored(shown, source, header, model, tokens, exact, evaluator))
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
    shown: str, source: str, header: Header, model: Any, tokens: Tokens, exact: bool, evaluator: DynamicEvaluator | None
) -> dict[str, Any]:
    from charrnn.evaluation import cloze, scoring

    both = header.config.model.bidirectional and evaluator is None
    sides = None
    with _bar(len(tokens) * (3 if both else 1)) as bar:
        if evaluator is not None:
            score, mode = evaluator.evaluate(tokens, bar.update), evaluator.fields
        else:
            result = scoring.evaluate(model, header.vocabulary, tokens, exact=exact, progress=bar.update)
            score, mode = result.score, {"mode": "static"}
            if both:
                sides = cloze.score(model, header.vocabulary, tokens, result, exact=exact, progress=bar.update)
    if evaluator is None and result.needs_single_pass:
        _note(f"{shown} does not forget what it read, so that lanes would not agree: read in a single pass.")
    return {
        "model": shown,
        "text": source,
        **mode,
        **score.fields,
        **(cloze.fields(sides.backward, sides.cloze) if sides else {}),
    }


def _dynamic_evaluator(
    path: Path, header: Header, model: Any, rate: float | None, decay: float | None, choose: bool
) -> DynamicEvaluator:
    """Make what --dynamic scores with; `choose` says whether the validation part may choose its rule."""
    from dataclasses import replace

    from charrnn.evaluation import dynamic, dynamic_tuning

    _check_follows("--dynamic", header)
    evaluator, chosen = dynamic.DynamicEvaluator.of(model, header.vocabulary), None
    if header.config.model.bidirectional:
        _note("--dynamic scores the forward half alone.")
    if rate is None:
        if choose:
            with _bar(None) as bar:
                chosen = dynamic_tuning.choose(path, header, evaluator, say=_note, progress=bar.update)
        if chosen is None:
            why = "There is no validation part at hand that is long enough to choose the rate on"
            why = why if choose else "What is scored is the validation part itself, which must not choose the rate"
            _note(f"{why}: the default is taken. --dynamic-rate names another.")
    rule = chosen or evaluator.rule
    rule = replace(rule, rate=rule.rate if rate is None else rate, decay=rule.decay if decay is None else decay)
    _note(f"The weights follow the text at rate {rule.rate:g}, with decay {rule.decay:g}.")
    return replace(evaluator, rule=rule)


def _held_out(header: Header, path: Path) -> tuple[str, Split]:
    from charrnn.checkpoints import training_corpus

    kind, part = training_corpus.held_out(header, path, say=_note)
    _note(f"Scoring the {kind} of {header.corpus.name} ({len(part):,} characters).")
    return f"{header.corpus.name} ({kind})", part


def _column(name: str | None, path: Path, models: tuple[str, ...]) -> tuple[str, ...]:
    """Give the column that tells models apart, where there are several."""
    from charrnn.cli.console import escaped

    return (escaped(str(name or path.parent)),) if len(models) > 1 else ()


def _put_lines(reader: LanguageModel, vocabulary: Vocabulary, content: str, prefix: tuple[str, ...]) -> None:
    """Print what each line of a text costs alone."""
    from charrnn.cli import console
    from charrnn.evaluation import short_texts

    found = list(console.lines(content))
    for line, score in zip(found, short_texts.score(reader, vocabulary, found), strict=True):
        cells = (f"{score.bits_per_character:.4f}", f"{score.bits:.4f}", f"{score.characters}")
        _put("\t".join((*prefix, *cells, console.escaped(line))))
