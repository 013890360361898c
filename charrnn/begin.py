"""Beginning, resuming and fine-tuning: from texts, settings and files to a training ready to run.
Knows every room below; knows no terminal. What it has to say it hands to `say`."""

from __future__ import annotations

import codecs
import contextlib
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import torch

from charrnn import baselines, checkpoint, corpus, evaluate, modelfile, ngram, origin, plan, tensorfile, text, tokenfile
from charrnn import config as configuration
from charrnn.allocator import keep_freed_memory
from charrnn.baselines import Baselines, Reckoned
from charrnn.bidirectional import Network, make_model
from charrnn.checkpoint import Run
from charrnn.config import Config
from charrnn.corpus import Corpus, Dealt, Part, Tokens
from charrnn.counting import Counted, Counting, count
from charrnn.device import bf16_on, let_round
from charrnn.errors import CharRNNError, MisuseError
from charrnn.metrics import NATS_PER_BIT
from charrnn.model import transplant
from charrnn.modelfile import CorpusCard, Header
from charrnn.origin import Say, silent
from charrnn.source import Source
from charrnn.text import STDIN
from charrnn.train import Report, Training, read_position, train

_COMPARED = 20_000  # characters of the validation part, at most, that show how well a model knows a text
# what a saved state is tied to: other lanes, moments or draws would make it another training
_FIXED = ("batch_size", "sequence_length", "optimizer", "distillation", "seed")


Work = TypeVar("Work", Training, Counting)


@dataclass(frozen=True)
class Begun(Generic[Work]):
    """Hold a training, or a counting, and its run folder, whose lock is held."""

    training: Work
    run: Run

    @property
    def saves(self) -> bool:
        """Say whether it saves as it goes, so that it may be stopped and resumed."""
        return isinstance(self.training, Training)

    def learn(self, stop: Callable[[], bool]) -> Iterator[Report | Counted]:
        """Learn to the end, or until `stop` says so; yields reports."""
        if isinstance(self.training, Training):
            return train(self.training, self.run, stop)
        return count(self.training, self.run)


def choose_device(name: str, say: Say = silent) -> torch.device:
    """Turn auto, cpu, cuda, cuda:N or mps into a device; auto is CUDA, or where that does not compute, the CPU.

    Raises MisuseError where there is no device of that name that computes.
    """
    # read when CUDA starts up: with room of one fixed size cuBLAS, and cuDNN by it, does the same thing every time
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # older versions have no other name for what torch 2.9 warns of
    warnings.filterwarnings("ignore", "Please use the new API settings to control TF32")
    auto = name == "auto"
    if auto:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MisuseError(f"{name} is no device; name auto, cpu, cuda, cuda:N or mps.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        there = f"there are {count} CUDA devices here, from cuda:0" if count else "there is no CUDA device here"
        raise MisuseError(f"{name}: {there}. Leave --device out, or name cpu.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise MisuseError("mps: there is no such device here. Leave --device out, or name cpu.")
    if device.type not in {"cpu", "cuda", "mps"}:
        raise MisuseError(f"{name}: charrnn knows the devices cpu, cuda and mps.")
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # streams and graphs are made where one stands
        refusal = _refusal(device)
        if refusal is not None and auto:
            say(f"cuda does not compute here ({refusal}); taking the CPU.")
            return torch.device("cpu")
        if refusal is not None:
            raise MisuseError(f"{name} does not compute here ({refusal}). Leave --device out, or name cpu.")
        let_round(False)  # fp32 means fp32; who wants speed has bf16
    return device


def _refusal(device: torch.device) -> str | None:
    """Say why a device does not compute: it may be too old for this torch, taken by others or full. None if it does."""
    try:
        return None if float(torch.ones(1, device=device) + 1) == 2.0 else "it miscalculates"
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        return str(error).partition("\n")[0]


def fresh(
    config: Config,
    folder: Path | None,
    device: torch.device,
    *,
    init_from: Path | None = None,
    stdin: BinaryIO | None = None,
    say: Say = silent,
    began: float | None = None,
) -> Begun[Training]:
    """Begin a training in a new run folder, from fresh weights or from a model's.

    A time budget counts from `began` (of time.perf_counter). Raises CharRNNError for texts that cannot be learnt,
    MisuseError for a folder that is taken.
    """
    start = time.perf_counter() if began is None else began
    if init_from is None and config.train.distillation not in ("auto", 0.0):
        raise MisuseError(
            f"train.distillation={config.train.distillation:g} takes a model to learn from: name it with --init-from,"
            " or set train.distillation=0."
        )

    def started(config: Config, dealt: Dealt, run: Run, shown: str) -> Training:
        return _started(config, dealt, run, shown, device, init_from, start, say)

    known = "" if init_from is None else modelfile.read_header(init_from).vocabulary.characters
    return _begun(config, folder, stdin, say, started, known)


def fresh_count(
    config: Config, folder: Path | None, *, stdin: BinaryIO | None = None, say: Say = silent
) -> Begun[Counting]:
    """Begin to count an n-gram model in a new run folder; see `fresh`."""
    began = time.perf_counter()

    def started(config: Config, dealt: Dealt, run: Run, shown: str) -> Counting:
        say(f"Read {dealt.read:,} characters. Counting ...")
        card = _card(dealt, shown)
        if card.training > ngram.MOST:
            say(f"The text is long: only the last {ngram.MOST:,} characters of the training part are counted.")
        config, whole = _tokens(config, dealt, run)
        return Counting(config, whole, card, began)

    return _begun(config, folder, stdin, say, started)


def _begun(
    config: Config,
    folder: Path | None,
    stdin: BinaryIO | None,
    say: Say,
    started: Callable[[Config, Dealt, Run, str], Work],
    known: str = "",
) -> Begun[Work]:
    """Draw a seed, read and deal the text, claim a run folder and start there; characters `known` stay known."""
    if not config.data.texts:
        raise MisuseError("No text to learn. Name one: charrnn train TEXT")
    names = config.data.texts
    if folder is not None:
        Run(folder).check_free()
    if config.train.seed is None:
        config = config.with_values(train={"seed": secrets.randbelow(2**31)})
        say(f"Seed {config.train.seed}.")
    seed = config.train.seed
    assert seed is not None
    shown = "standard input" if names[0] == STDIN else names[0]
    above = _above(folder or checkpoint.RUNS / text.stem(names[0]))
    with origin.read(names, config.data.encoding, shown, say, stdin, above) as source:
        dealt = corpus.build(source, config.data, seed, shown, known=known)
        if folder is None:
            run = checkpoint.claim(text.stem(names[0]))
        else:
            run = Run(folder)
            run.create()
            run.lock()
        try:
            run.sweep()
            return Begun(started(config, dealt, run, shown), run)
        except BaseException:
            run.discard()
            raise


def _above(folder: Path) -> Path | None:
    """Find the nearest folder above a run's that can be written to, most likely on the same disk; None if there is
    none. Not the run folder itself: where a temporary file has a name, it would look taken."""
    parents = folder.absolute().parents
    return next((parent for parent in parents if parent.is_dir() and os.access(parent, os.W_OK)), None)


def _started(
    config: Config,
    dealt: Dealt,
    run: Run,
    shown: str,
    device: torch.device,
    init_from: Path | None,
    began: float,
    say: Say,
) -> Training:
    """Plan a training and write down what it is."""
    vocabulary, card = dealt.vocabulary, _card(dealt, shown)
    say(f"Read {dealt.read:,} characters.")
    keep_freed_memory()
    start: Network | None = None
    whole: Corpus | None = None
    simpler: Reckoned | None = None
    known: float | None = None
    if init_from is not None:
        header, old = modelfile.read_model(init_from)
        start = make_model(header.config.model, len(vocabulary))
        kept = transplant(old, header.vocabulary.characters, start, vocabulary.characters)
        say(f"Starting from {init_from} and its {kept:,} characters; {len(vocabulary) - kept:,} more are new.")
        # of a longer text no n-gram model is counted: there it does not teach, and learns at a third of the usual rate
        if "auto" in (config.train.distillation, config.train.learning_rate) and card.training <= baselines.SOON:
            say("Comparing it with what can be counted in this text ...")
            config, whole = _tokens(config, dealt, run)
            simpler = baselines.reckon(whole)
            config, known = _compared(config, start.to(device), whole, simpler, say)
    say(f"Trying out {device} ...")
    settled = plan.plan(
        config,
        len(vocabulary),
        card.training,
        card.validation,
        device,
        fine_tuning=init_from is not None,
        known=known,
        unseen=vocabulary.unseen,
        spent=time.perf_counter() - began,
    )
    config = settled.config
    for note in settled.notes:
        say(note)

    # what may fail comes before a long text is encoded, which takes minutes
    model: Network | None = None
    if start is not None:
        model = make_model(config.model, len(vocabulary))
        model.load_state_dict(start.state_dict())
    teacher = start if config.train.distillation else None
    if whole is None:
        config, whole = _tokens(config, dealt, run)
    run.write_config(config)
    simpler = simpler or baselines.reckon(whole)
    spent = time.perf_counter() - began
    return Training(config, whole, card, device, model, spent, simpler, settled.evaluation_seconds, teacher)


def _compared(
    config: Config, start: Network, whole: Corpus, simpler: Reckoned, say: Say
) -> tuple[Config, float | None]:
    """Find out what the model that a fine-tuning starts from knows of the text: how many times as many bits it needs as
    an n-gram model of it. Settles how much of the fine-tuning it is to teach, unless that is named."""
    tokens = whole.validation.tokens[:_COMPARED]
    bits = evaluate.evaluate(start, whole.vocabulary, tokens).score.bits_per_character
    ngram_nats = simpler.validation.ngram
    assert ngram_nats is not None
    ngram_bits = ngram_nats / NATS_PER_BIT / simpler.validation.characters
    told = ""
    if config.train.distillation == "auto":
        share = plan.taught(bits, ngram_bits)
        config = config.with_values(train={"distillation": share})
        told = f": what it expects counts for {100 * share:g}% of what is learnt" if share else ": it does not teach"
    say(f"It needs {bits:.4f} bits/char here, an n-gram model of this text {ngram_bits:.4f}{told}.")
    return config, bits / ngram_bits if ngram_bits > 0.0 else None


def _card(dealt: Dealt, shown: str) -> CorpusCard:
    return CorpusCard(shown, dealt.source.digest, *dealt.layout.characters)


def _tokens(config: Config, dealt: Dealt, run: Run) -> tuple[Config, Corpus]:
    """Encode a text; gives it, and a configuration that names its files where they can be found again."""
    source, seed = dealt.source, config.train.seed
    assert seed is not None
    # the very files, not their folder: it may hold others when the run is resumed
    paths = [str(Path(name).absolute()) if name != STDIN else STDIN for name in source.names]
    if STDIN in paths:
        copy = run.copy.absolute()
        place = paths.index(STDIN)
        _copy(source, place, dealt.read, copy, config.data.encoding)
        paths[place] = str(copy)
    config = config.with_values(data={"texts": paths})
    stamps = [text.stamp(path) if seen is None else seen for path, seen in zip(paths, source.stamps, strict=True)]
    return config, tokenfile.keep(dealt, config.data, seed, stamps, run.tokens)


def _copy(source: Source, place: int, length: int, path: Path, encoding: str) -> None:
    """Write one file of a text of so many characters, in the encoding that resuming will read it with."""
    start, end = (*source.starts, length + 1)[place : place + 2]
    encoder = codecs.getincrementalencoder(encoding)()
    with tensorfile.writing(path, 4 * (end - 1 - start)) as file:
        for piece in source.pieces(start, end - 1):
            file.write(encoder.encode(piece))
        file.write(encoder.encode("", final=True))


def fine_tuning_base(path: Path) -> dict[str, Any]:
    """Give the settings that a model's weights fix, to lie below what the user sets; dropout is free.

    Raises MisuseError for a model that has no weights.
    """
    model = modelfile.read_header(path).config.model
    if model.counted:
        raise MisuseError(
            f"{path} was made by counting and has no weights to start from; leave out --init-from, or name a network."
        )
    return {"model": model.model_dump(exclude={"dropout"})}


def check_fine_tuning(path: Path, config: Config) -> None:
    """Raise MisuseError where settings ask for another architecture than the model to start from has."""
    fixed = fine_tuning_base(path)["model"]
    asked = config.model.model_dump(exclude={"dropout"})
    other = [f"model.{name}={_shown(asked[name])}" for name in fixed if asked[name] != fixed[name]]
    if other:
        raise MisuseError(
            f"--init-from keeps the architecture of {path}; leave out {', '.join(other)}. Only dropout may differ."
        )


def resume(
    run: Run,
    device: torch.device | None,
    *,
    settings: Sequence[str] = (),
    texts: Sequence[str] = (),
    say: Say = silent,
) -> Begun[Training]:
    """Stand where a run stopped, on a device, or if None where it was trained.

    `settings` may extend it; model.*, data.* and what its state is tied to are refused.

    Raises CharRNNError where the text is gone or has changed, or another process trains the run.
    """
    # locked before it is read: what another process saves meanwhile must not be lost
    run.lock()
    try:
        return Begun(_resumed(run, device, settings, texts, say), run)
    except BaseException:
        run.release()
        raise


def _resumed(
    run: Run, device: torch.device | None, settings: Sequence[str], texts: Sequence[str], say: Say
) -> Training:
    keep_freed_memory()
    header = modelfile.read_header(run.last)
    if header.position is None:
        raise CharRNNError(f"{run.last} has no training state to resume. Fine-tune it instead, with --init-from.")
    header = replace(header, config=_as_settled_now(header.config))
    config = _extended(header.config, settings)
    if STDIN in texts:
        raise MisuseError("Standard input cannot be resumed from; leave the text out, the run keeps a copy.")
    named = [str(Path(name).absolute()) for name in texts] or [
        origin.where_now(name, run) for name in config.data.texts
    ]
    for path in named:
        if not Path(path).exists():
            raise CharRNNError(
                f"{path}: the text of this run is gone. Name where it is now:"
                f" charrnn train TEXT --resume -m {run.folder}"
            )
    # the very files here as well: a folder cannot show that they are the same as before
    paths = text.files(named)
    config = config.with_values(data={"texts": paths})
    seed = config.train.seed
    assert seed is not None
    whole = tokenfile.find(run.tokens, config.data, seed, header.corpus, header.vocabulary)
    if whole is None:
        with origin.read(paths, config.data.encoding, header.corpus.name, say, folder=_above(run.folder)) as source:
            if source.digest != header.corpus.sha256:
                raise CharRNNError(
                    f"{paths[0]}: the text has changed since {run.folder} was begun, so it cannot be resumed exactly."
                    f" Restore it, or go on with the new text by --init-from {run.folder}"
                )
            dealt = corpus.build(source, config.data, seed, header.corpus.name, vocabulary=header.vocabulary)
            whole = tokenfile.keep(dealt, config.data, seed, source.stamps, run.tokens)
    tensors = modelfile.read_tensors(run.last)
    model = modelfile.build_model(run.last, header, tensors)
    position = read_position(run.last, header)
    if device is None:
        device = choose_device("auto" if position.device == "cuda" else "cpu", say)
    teacher: Network | None = None
    if config.train.distillation:
        names = {name: name.removeprefix(modelfile.TEACHER) for name in tensors if name.startswith(modelfile.TEACHER)}
        if not names:
            raise tensorfile.damaged(run.last, "the model that it learns from is missing")
        teacher = modelfile.build_model(run.last, header, {names[name]: tensors.pop(name) for name in names})
    training = Training(config, whole, header.corpus, device, model, baselines=header.baselines, teacher=teacher)
    training.restore(run.last, header, position, tensors)
    if config.train.precision == "bf16" and not bf16_on(device).fast:
        say(plan.SLOW_BF16.format(device=device))
    if position.device != device.type:
        say(f"Trained on {position.device} before and on {device} from here: exact up to rounding and dropout's draws.")
    spent = training.position.seconds
    if config.train.time is not None and config.train.time != header.config.train.time and spent >= config.train.time:
        raise MisuseError(f"{run.folder} has trained for {spent:.0f} seconds; --time counts them, so name more.")
    if training.total is not None and config.train != header.config.train and training.total <= training.position.step:
        raise MisuseError(
            f"{run.folder} has done {training.position.step:,} steps already, and this would be {training.total:,};"
            " name more."
        )
    if config.train != header.config.train:
        training.position.stale = 0
    if config != header.config:
        run.write_config(config)
    run.cut_back(training.position.lengths)
    say(f"Resuming {run.folder} at step {training.position.step:,} (epoch {training.epoch:.2f}).")
    return training


def held_out(header: Header, path: Path, *, say: Say = silent) -> tuple[str, Part]:
    """Read the held-out part of a model's own corpus: the test part, else validation; gives its name and itself.

    Raises CharRNNError where the text is gone or has changed.
    """
    whole = origin.find(header, path, "Its held-out part is unknown; name a text: charrnn evaluate TEXT", say=say)
    return ("test part", whole.test) if len(whole.test) else ("validation part", whole.validation)


class Simpler:
    """Reckons what simpler models need, as far as the text that a model learnt from is at hand, unchanged, and not too
    long: it is read and counted once, and only if need be."""

    def __init__(self, header: Header, path: Path, say: Say = silent) -> None:
        self.header, self.path, self.say = header, path, say

    @cached_property
    def corpus(self) -> Corpus | None:
        """Read what the model learnt from; None where that cannot be."""
        if self.header.corpus.training <= baselines.MOST:
            with contextlib.suppress(CharRNNError):
                return origin.find(self.header, self.path, "")
        return None

    @cached_property
    def model(self) -> ngram.Ngram | None:
        """Count the best n-gram model."""
        known = self.header.baselines
        order = None if known is None else known.validation.order
        if self.corpus is None:
            return None
        if len(self.corpus.training) > baselines.SOON:
            self.say("Counting what the model learnt from, for the n-gram model to compare it with ...")
        return baselines.chosen(self.corpus, order)

    def needs(self, tokens: Tokens, content: str | None = None) -> Baselines | None:
        """Give what they need for N tokens: of the text `content`, or if None of the model's held-out part."""
        known, vocabulary = self.header.baselines, self.header.vocabulary
        kept = None if known is None or content is not None else known.test or known.validation
        if kept is not None and kept.whole:
            return kept
        whole = self.corpus
        if whole is None:
            return None if known is None else kept or baselines.measure(vocabulary, known.counts, tokens)
        counts = baselines.count(whole) if known is None else known.counts
        if content is None:
            content = (whole.test if len(whole.test) else whole.validation).text
        return baselines.measure(vocabulary, counts, tokens, self.model, (whole.training, content))


def _as_settled_now(config: Config) -> Config:
    """Settle what a run was begun without: there was a single kernel at first, and no teacher."""
    unsettled = {"kernel": "torch", "distillation": 0.0}
    return config.with_values(train={n: v for n, v in unsettled.items() if getattr(config.train, n) == "auto"})


def _extended(old: Config, settings: Sequence[str]) -> Config:
    base = old.model_dump()
    named = {assignment.partition("=")[0].strip() for assignment in settings}
    # how long to go on is one choice: naming one way takes back the others
    lengths = {"train.epochs", "train.steps", "train.time"}
    if named & lengths:
        base["train"].update({key.removeprefix("train."): None for key in lengths})
    new = configuration.load(None, settings, base)
    before, after = old.model_dump(), new.model_dump()
    for section, values in after.items():
        for name, value in values.items():
            if value == before[section][name] or f"{section}.{name}" in lengths:
                continue
            if section != "train" or name in _FIXED:
                shown, was = _shown(value), _shown(before[section][name])
                advice = "Begin a new run" + (
                    "." if section == "model" else ", or fine-tune this one with --init-from."
                )
                raise MisuseError(f"{section}.{name}={shown} cannot be changed on resume (it is {was}). {advice}")
            if value == "auto":
                raise MisuseError(f"{section}.{name}=auto was settled when the run began; name a value.")
    if new.train.epochs == "auto":
        raise MisuseError("train.epochs=auto was settled when the run began; name a number.")
    return new


def _shown(value: object) -> str:
    """Write a setting's value as a user would."""
    return str(value).lower() if isinstance(value, bool) else str(value)
