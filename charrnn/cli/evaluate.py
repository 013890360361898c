"""charrnn evaluate: options to scores."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click

from charrnn.cli import ensemble
from charrnn.cli.console import bar, note, put, put_page, stdin, width
from charrnn.cli.dynamic_options import dynamic_evaluator
from charrnn.cli.evaluate_parts import Rows, put_characters, put_parts
from charrnn.cli.open_model import check_trainable, find_model, held_out, language_model, open_model
from charrnn.cli.options import (
    CONTEXT,
    Command,
    check_at_least,
    check_rate,
    check_together,
    complete_files,
    device_option,
    encoding_errors_option,
    encoding_option,
    model_option,
    network_option,
    option,
)
from charrnn.errors import MisuseError
from charrnn.strict_json import to_json

if TYPE_CHECKING:
    from charrnn.checkpoints.model_file import Header
    from charrnn.data.corpus import Split, Tokens
    from charrnn.data.decoding import Errors
    from charrnn.data.vocabulary import Vocabulary
    from charrnn.evaluation.baselines import BaselineScorer
    from charrnn.evaluation.dynamic import DynamicEvaluator
    from charrnn.models.interface import LanguageModel

_SHORT = 50_000  # characters that are scored line by line sooner than torch is loaded

_EXCLUDES = (
    ("per_line", "exact", "--per-line is always exact"),
    ("per_document", "exact", "--per-document is always exact"),
    ("dynamic", "exact", "--dynamic is always one exact pass"),
    ("baselines", "per_line per_char per_document", "--baselines score whole texts"),
    ("ensemble", "dynamic", "--dynamic trains one network"),
    ("ensemble", "exact", "--ensemble is always exact"),
    (
        "dynamic",
        "per_line per_document",
        "--dynamic learns one text from beginning to end (--per-char shows its scores), and --per-line and"
        " --per-document score each part alone",
    ),
)
_NEEDS = (
    *ensemble.RULES,
    ("dynamic_rate", "dynamic", "--dynamic-rate and --dynamic-decay belong to --dynamic; add it."),
    ("dynamic_decay", "dynamic", "--dynamic-rate and --dynamic-decay belong to --dynamic; add it."),
    ("top", "per_char", "--top N lists what was likeliest beside each character of --per-char; add it."),
    ("encoding_errors", "texts", "--encoding-errors is about TEXT; name one, or leave it out."),
    ("encoding", "texts", "--encoding is that of TEXT; name one, or leave it out."),
)

Source = tuple[str, "str | Split"]  # the name of a text and its characters, or a split of a model's corpus


class EvaluateOptions(NamedTuple):
    """Hold the options of the command; None where one is not given."""

    texts: tuple[str, ...]
    models: tuple[str, ...]
    ensemble: bool
    weights: str | None
    network: bool
    per_line: bool
    per_char: bool
    per_document: bool
    exact: bool
    dynamic: bool
    dynamic_rate: float | None
    dynamic_decay: float | None
    baselines: bool | None
    top: int | None
    as_json: bool
    encoding: str | None
    encoding_errors: Errors | None
    device: str

    @property
    def in_parts(self) -> bool:
        """Say whether parts of texts are scored."""
        return self.per_line or self.per_char or self.per_document


@click.command(cls=Command, context_settings=CONTEXT, short_help="Score texts in bits per character.")
@click.argument("texts", nargs=-1, metavar="[TEXT...]", shell_complete=complete_files)
@model_option("Input", "Run folder, model file or name; repeat it to compare. [default: the newest run]", multiple=True)
@ensemble.ensemble_options("Input")
@network_option("Input")
@encoding_option("Encoding of the texts.")
@encoding_errors_option()
@option("Scoring", "--exact", "Read each text in a single pass, however long that takes.", is_flag=True)
@option("Scoring", "--dynamic", "Dynamic evaluation: score each character, then learn from it.", is_flag=True)
@option("Scoring", "--dynamic-rate", "Its learning rate. [default: chosen on validation]", type=float, metavar="X")
@option("Scoring", "--dynamic-decay", "Its decay to the trained weights. [default: likewise]", type=float, metavar="X")
@option(
    "Scoring",
    "--baselines/--no-baselines",
    "Compare with xz and the best n-gram model too, or with nothing. [default: with both, from 5,000 characters on]",
    default=None,
)
@option("Output", "--per-line", "TSV: bits/char, bits, characters, line; each line scored alone.", is_flag=True)
@option("Output", "--per-char", "TSV: character, bits, rank of the right answer.", is_flag=True)
@option(
    "Output", "--top", "Add the N likeliest characters to --per-char, each with its probability.", type=int, metavar="N"
)
@option("Output", "--per-document", "TSV: bits/char, bits, characters, document; each one scored alone.", is_flag=True)
@option(
    "Output",
    "--json as_json",
    "Print one JSON object for each model and text, line, document or character.",
    is_flag=True,
)
@device_option()
def evaluate(**given: Any) -> None:
    """Score texts in bits per character; without TEXT, the held-out split of the model's own corpus.

    \b
    Example:
      charrnn evaluate other.txt
      charrnn evaluate -m small -m large other.txt
      charrnn evaluate --ensemble -m small -m large other.txt
      charrnn evaluate --per-line names.txt | sort -n | head
      charrnn evaluate --per-document poems.txt | sort -n | head
      charrnn evaluate --dynamic other.txt
    """
    chosen = EvaluateOptions(**given)
    _check(chosen)
    from charrnn.config.limits import FILE_BOUNDARY
    from charrnn.data.text_files import TextReader, find_files

    # every text and every model is found before the first is read, which may take long
    encoding, errors = chosen.encoding or "utf-8", chosen.encoding_errors or "strict"
    names = find_files(chosen.texts, say=note) if chosen.per_document else chosen.texts  # a file may be a document
    # files stay apart: each model joins them as its training text was joined
    apart = FILE_BOUNDARY
    readers = [TextReader([n], encoding, stdin(), errors=errors, boundary=apart, say=note) for n in names]
    models = [(name, find_model(name)) for name in chosen.models or (None,)]
    if chosen.network:
        from charrnn.checkpoints import inference

        inference.check_networks("--network", [path for _, path in models])
    sources: list[Source] = [
        (name, "".join(reader.pieces(may_be_empty=chosen.in_parts)))
        for name, reader in zip(names, readers, strict=True)
    ]
    short = sum(len(given) for _, given in sources) <= _SHORT
    if chosen.per_document:
        _check_documents(models)
    if chosen.ensemble:
        rows = list(_score_ensemble(chosen, [path for _, path in models], sources))
        _put_table(chosen, rows)
        return
    if chosen.in_parts and not chosen.per_char and sources and chosen.device in {"auto", "cpu"} and short:
        _score_short_texts(chosen, models, sources)
        return
    from charrnn.checkpoints import model_file, training_corpus

    for _, path in models:
        header = model_file.read_header(path)
        if chosen.dynamic:
            check_trainable("--dynamic", header)
        if not sources:
            training_corpus.check_held_out(header, path)
    rows = [row for name, path in models for row in _score(chosen, name, path, sources)]
    _put_table(chosen, rows)


def _put_table(chosen: EvaluateOptions, rows: list[dict[str, Any]]) -> None:
    if rows and not chosen.as_json:
        from charrnn.cli import tables

        put_page(tables.table(rows, width(sys.stdout)))


def _check(chosen: EvaluateOptions) -> None:
    """Raise MisuseError for options that exclude each other, or are out of range."""
    outputs = {"--per-line": chosen.per_line, "--per-char": chosen.per_char, "--per-document": chosen.per_document}
    if len(named := [name for name, on in outputs.items() if on]) > 1:
        raise MisuseError(f"{named[0]} and {named[1]} are two outputs; name one.")
    check_together({**chosen._asdict(), "texts": chosen.texts or None}, _EXCLUDES, _NEEDS)
    if chosen.ensemble:
        ensemble.check(chosen.models, chosen.weights)
    if chosen.texts.count("-") > 1:
        raise MisuseError("Standard input (-) is named twice; it can be read once.")
    check_at_least(1, top=chosen.top)
    check_rate("--dynamic-rate", chosen.dynamic_rate)
    if chosen.dynamic_decay is not None and not 0 <= chosen.dynamic_decay <= 1:
        raise MisuseError(f"--dynamic-decay is {chosen.dynamic_decay:g}; it must be between 0 and 1.")


def _check_documents(models: list[tuple[str | None, Path]]) -> None:
    """Raise MisuseError for a model that knows no documents."""
    from charrnn.checkpoints import inference

    for name, path in models:
        request = "--per-document scores each document alone"
        inference.documents(path).check(request, "Use --per-line.", name or str(path.parent))


def _rows(chosen: EvaluateOptions, model: str | Path, text: str) -> Rows:
    """Return what prints the scores of a text's parts."""
    several = len(chosen.models) > 1 and not chosen.ensemble
    return Rows(str(model), text, several=several, as_json=chosen.as_json)


def _score_short_texts(chosen: EvaluateOptions, models: list[tuple[str | None, Path]], sources: list[Source]) -> None:
    """Print the score of every line or document without loading torch."""
    from charrnn.data.documents import join_files

    for name, path in models:
        model, vocabulary = language_model(path, "cpu", chosen.network)
        for source, content in sources:
            assert isinstance(content, str)
            content = join_files(content, "\n" if chosen.per_line else vocabulary.boundary)
            rows = _rows(chosen, name or path.parent, source)
            put_parts(rows, model, vocabulary, content, documents=chosen.per_document)


def _score(chosen: EvaluateOptions, name: str | None, path: Path, sources: list[Source]) -> Iterator[dict[str, Any]]:
    """Score all texts with one model; yields the rows of a table, and prints every other output."""
    from charrnn.data.documents import join_files
    from charrnn.evaluation import baselines, scoring
    from charrnn.models import torch_model

    header, model = open_model(path, chosen.device, chosen.network)
    label = str(name or path.parent)
    evaluator = None
    if chosen.dynamic:
        # a model without a test split is scored on its validation split, which must not choose its rate then
        rate, decay = chosen.dynamic_rate, chosen.dynamic_decay
        evaluator = dynamic_evaluator(path, header, model, rate, decay, tune=bool(sources or header.corpus.test))
    scorer = baselines.BaselineScorer(header, path, note)
    boundary = "\n" if chosen.per_line else header.vocabulary.boundary
    mixtures = {} if chosen.network else {label: header}
    for source, given in sources or [held_out(header, path, mixtures)]:
        given = join_files(given, boundary) if isinstance(given, str) else given
        rows = _rows(chosen, label, source)
        if chosen.per_line or chosen.per_document:
            content = given if isinstance(given, str) else given.text
            reader = torch_model.language_model(model)
            put_parts(rows, reader, header.vocabulary, content, documents=chosen.per_document)
            continue
        tokens = header.vocabulary.encode(given) if isinstance(given, str) else given.tokens
        if chosen.per_char:
            content = given if isinstance(given, str) else given.text
            if evaluator is None:
                blocks = scoring.characters(model, header.vocabulary, tokens, top=chosen.top)
            else:
                blocks = evaluator.characters(tokens, top=chosen.top)
            put_characters(rows, blocks, header.vocabulary, content)
            continue
        row = _row(label, source, header, model, tokens, chosen.exact, evaluator)
        yield _put_row(chosen, row, scorer, tokens, given)


def _score_ensemble(chosen: EvaluateOptions, paths: list[Path], sources: list[Source]) -> Iterator[dict[str, Any]]:
    """Score all texts with a mixture of models, in a single pass; yields and prints what `_score` does."""
    from charrnn.checkpoints import model_file, shared_corpus
    from charrnn.data.documents import join_files
    from charrnn.evaluation import baselines
    from charrnn.evaluation.ensemble import characters
    from charrnn.models import torch_model
    from charrnn.scores import Score

    headers, label = [model_file.read_header(path) for path in paths], " + ".join(chosen.models)
    if not sources and not shared_corpus.same_splits(headers):
        raise MisuseError("The models were trained on different texts or splits, and share no held-out one; name TEXT.")
    tune = bool(sources or headers[0].corpus.test)

    def load(path: Path) -> tuple[LanguageModel, Vocabulary]:
        # torch reads a long text in three quarters of NumPy's time
        header, model = open_model(path, chosen.device, chosen.network)
        return torch_model.language_model(model), header.vocabulary

    model, vocabulary = ensemble.open_mixture(chosen.models, paths, load, chosen.weights, tune=tune)
    scorer = baselines.BaselineScorer(headers[0], paths[0], note)
    mixtures = {} if chosen.network else dict(zip(chosen.models, headers, strict=True))
    for source, given in sources or [held_out(headers[0], paths[0], mixtures)]:
        given = join_files(given, "\n" if chosen.per_line else vocabulary.boundary) if isinstance(given, str) else given
        rows, content = _rows(chosen, label, source), given if isinstance(given, str) else given.text
        tokens = vocabulary.encode(content)
        if chosen.per_line or chosen.per_document:
            put_parts(rows, model, vocabulary, content, documents=chosen.per_document)
        elif chosen.per_char:
            put_characters(rows, characters(model, vocabulary, tokens, top=chosen.top), vocabulary, content)
        else:
            with bar(len(tokens)) as shown:
                blocks = characters(model, vocabulary, tokens, shown.update)
                score = sum((block.score for block in blocks), Score())
            row = {"model": label, "weights": model.weights.tolist(), "text": source, "mode": "static", **score.fields}
            yield _put_row(chosen, row, scorer, tokens, given)


def _put_row(
    chosen: EvaluateOptions, row: dict[str, Any], scorer: BaselineScorer, tokens: Tokens, given: str | Split
) -> dict[str, Any]:
    """Add the baselines of a text to its row, print it where that is JSON, and return it."""
    if chosen.baselines is not False:
        other = given if isinstance(given, str) else None
        found = scorer.score(tokens, other, requested=chosen.baselines is True)
        row |= {"baselines": found.fields()} if found is not None else {}
        if chosen.baselines and (found is None or not found.complete) and (missing := scorer.missing(found)):
            note(f"{row['model']}: {missing}")
    if chosen.as_json:
        put(to_json(row) + "\n")
    return row


def _row(
    label: str, source: str, header: Header, model: Any, tokens: Tokens, exact: bool, evaluator: DynamicEvaluator | None
) -> dict[str, Any]:
    """Score one text with one model; returns what JSON says of it."""
    from charrnn.evaluation import cloze, scoring
    from charrnn.models.likelihood import check_finite
    from charrnn.models.torch_mixture import TorchMixture

    both = header.config.model.bidirectional and evaluator is None
    mixture, network = {}, model
    if isinstance(model, TorchMixture):
        network = cast(Any, model.network)
        mixture = {"mixture": {"order": model.ngram.order, "weights": model.weights.table.tolist()}}
    sides = None
    with bar(len(tokens) * (3 if both else 1)) as shown:
        if evaluator is not None:
            score, mode = evaluator.evaluate(tokens, shown.update), evaluator.fields
        else:
            result = scoring.evaluate(model, header.vocabulary, tokens, exact=exact, progress=shown.update)
            score, mode = result.score, {"mode": "static"}
            if both:
                sides = cloze.score(network, header.vocabulary, tokens, result, exact=exact, progress=shown.update)
    check_finite(score.nats + (sides.backward.nats + sides.cloze.nats if sides else 0.0))
    if evaluator is None and result.needs_single_pass:
        note(f"{label} does not forget what it read, so parallel segments would not agree: it was scored in one pass.")
    return {
        "model": label,
        "text": source,
        **mode,
        **mixture,
        **score.fields,
        **(cloze.fields(sides.backward, sides.cloze) if sides else {}),
    }
