"""Starting a run: from texts and settings to a training ready to go. What it has to say it hands to `say`."""

from __future__ import annotations

import codecs
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch

from charrnn import atomic_files
from charrnn.callbacks import Say, silent
from charrnn.checkpoints import model_file, run_dir
from charrnn.checkpoints.run_dir import Run
from charrnn.config.schema import Config
from charrnn.data import corpus, spool, text_files, token_cache
from charrnn.data.corpus import Corpus, CorpusCard, SplitText
from charrnn.data.spool import TextSpool
from charrnn.data.text_files import STDIN
from charrnn.device import keep_freed_memory
from charrnn.errors import MisuseError
from charrnn.evaluation import baselines
from charrnn.models import ngram
from charrnn.models.factory import Network, make_model, transplant
from charrnn.scores import BaselineScores
from charrnn.training import auto_config
from charrnn.training.fine_tuning import _compared
from charrnn.training.job import TrainingJob, Work
from charrnn.training.ngram_counting import Counting
from charrnn.training.trainer import Training


def start(
    config: Config,
    folder: Path | None,
    device: torch.device,
    *,
    init_from: Path | None = None,
    stdin: BinaryIO | None = None,
    say: Say = silent,
    began: float | None = None,
) -> TrainingJob[Training]:
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

    def started(config: Config, split_text: SplitText, run: Run, shown: str) -> Training:
        return _started(config, split_text, run, shown, device, init_from, start, say)

    known = "" if init_from is None else model_file.read_header(init_from).vocabulary.characters
    return _begun(config, folder, stdin, say, started, known)


def start_counting(
    config: Config, folder: Path | None, *, stdin: BinaryIO | None = None, say: Say = silent
) -> TrainingJob[Counting]:
    """Begin to count an n-gram model in a new run folder; see `fresh`."""
    began = time.perf_counter()

    def started(config: Config, split_text: SplitText, run: Run, shown: str) -> Counting:
        say(f"Read {split_text.read:,} characters. Counting ...")
        card = _card(split_text, shown)
        if card.training > ngram.MOST:
            say(f"The text is long: only the last {ngram.MOST:,} characters of the training part are counted.")
        config, whole = _tokens(config, split_text, run)
        return Counting(config, whole, card, began)

    return _begun(config, folder, stdin, say, started)


def _begun(
    config: Config,
    folder: Path | None,
    stdin: BinaryIO | None,
    say: Say,
    started: Callable[[Config, SplitText, Run, str], Work],
    known: str = "",
) -> TrainingJob[Work]:
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
    above = _above(folder or run_dir.RUNS / text_files.stem(names[0]))
    with spool.read(names, config.data.encoding, shown, say, stdin, above) as source:
        split_text = corpus.build(source, config.data, seed, shown, known=known)
        if folder is None:
            run = run_dir.claim(text_files.stem(names[0]))
        else:
            run = Run(folder)
            run.create()
            run.lock()
        try:
            run.sweep()
            return TrainingJob(started(config, split_text, run, shown), run)
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
    split_text: SplitText,
    run: Run,
    shown: str,
    device: torch.device,
    init_from: Path | None,
    began: float,
    say: Say,
) -> Training:
    """Plan a training and write down what it is."""
    vocabulary, card = split_text.vocabulary, _card(split_text, shown)
    say(f"Read {split_text.read:,} characters.")
    keep_freed_memory()
    start: Network | None = None
    whole: Corpus | None = None
    simpler: BaselineScores | None = None
    known: float | None = None
    if init_from is not None:
        header, old = model_file.read_model(init_from)
        start = make_model(header.config.model, len(vocabulary))
        kept = transplant(old, header.vocabulary.characters, start, vocabulary.characters)
        say(f"Starting from {init_from} and its {kept:,} characters; {len(vocabulary) - kept:,} more are new.")
        # of a longer text no n-gram model is counted: there it does not teach, and learns at a third of the usual rate
        if "auto" in (config.train.distillation, config.train.learning_rate) and card.training <= baselines.SOON:
            say("Comparing it with what can be counted in this text ...")
            config, whole = _tokens(config, split_text, run)
            simpler = baselines.compute(whole)
            config, known = _compared(config, start.to(device), whole, simpler, say)
    say(f"Trying out {device} ...")
    settled = auto_config.plan(
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
        config, whole = _tokens(config, split_text, run)
    run.write_config(config)
    simpler = simpler or baselines.compute(whole)
    spent = time.perf_counter() - began
    return Training(config, whole, card, device, model, spent, simpler, settled.evaluation_seconds, teacher)


def _card(split_text: SplitText, shown: str) -> CorpusCard:
    return CorpusCard(shown, split_text.source.digest, *split_text.layout.characters)


def _tokens(config: Config, split_text: SplitText, run: Run) -> tuple[Config, Corpus]:
    """Encode a text; gives it, and a configuration that names its files where they can be found again."""
    source, seed = split_text.source, config.train.seed
    assert seed is not None
    # the very files, not their folder: it may hold others when the run is resumed
    paths = [str(Path(name).absolute()) if name != STDIN else STDIN for name in source.names]
    if STDIN in paths:
        copy = run.copy.absolute()
        place = paths.index(STDIN)
        _copy(source, place, split_text.read, copy, config.data.encoding)
        paths[place] = str(copy)
    config = config.with_values(data={"texts": paths})
    stamps = [text_files.stamp(path) if seen is None else seen for path, seen in zip(paths, source.stamps, strict=True)]
    return config, token_cache.keep(split_text, config.data, seed, stamps, run.tokens)


def _copy(source: TextSpool, place: int, length: int, path: Path, encoding: str) -> None:
    """Write one file of a text of so many characters, in the encoding that resuming will read it with."""
    start, end = (*source.starts, length + 1)[place : place + 2]
    encoder = codecs.getincrementalencoder(encoding)()
    with atomic_files.writing(path, 4 * (end - 1 - start)) as file:
        for piece in source.pieces(start, end - 1):
            file.write(encoder.encode(piece))
        file.write(encoder.encode("", final=True))
