"""Starting a run: from texts and settings to a training that is ready to go. Messages go to `say`."""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import torch

from charrnn import atomic_files
from charrnn.checkpoints import base_model, model_file, run_dir
from charrnn.checkpoints.run_dir import Run
from charrnn.config.limits import FILE_BOUNDARY
from charrnn.config.schema import Config, resolved
from charrnn.data import duplicates, spool, text_files, token_cache
from charrnn.data.corpus import Corpus, CorpusCard, Split, SplitText
from charrnn.data.corpus import build as build_corpus
from charrnn.data.corpus import warnings as corpus_warnings
from charrnn.data.splits import SPLITS
from charrnn.data.text_files import STDIN
from charrnn.device import keep_freed_memory
from charrnn.errors import MisuseError
from charrnn.evaluation import baselines
from charrnn.messages import Say, counted, silent
from charrnn.models import ngram
from charrnn.models.factory import Network, make_model, transplant
from charrnn.paths import is_folder
from charrnn.scores import BaselineScores
from charrnn.training import auto_config, mixing
from charrnn.training.fine_tuning import compare_with_ngrams
from charrnn.training.job import TrainingJob
from charrnn.training.ngram_counting import Counting
from charrnn.training.optimizer import load_torch
from charrnn.training.training_step import Training

MAX_BASELINES_SHARE = 0.05  # of a time budget; if xz and n-grams would take more, they are left to evaluate
MEASURED_CHARACTERS = 20_000  # of the training split, to estimate that
GROWTH = 2.0  # the time for a character of a long text, as a multiple of that of a short one: 0.6 to 2.8 in trials


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
    """Start training in a new run folder, from random weights or from a base model's: `init_from`, or else the one that
    the configuration names.

    A time budget counts from `began` (of time.perf_counter). Raises CharRNNError for texts that cannot be trained on,
    MisuseError for a folder that is taken.
    """
    began = time.perf_counter() if began is None else began
    init_from = init_from or base_model.find(config, say)
    config, inherited = _name_base(config, init_from)
    with _prepared(config, folder, stdin, say, inherited) as ready:
        card, vocabulary = ready.card, ready.text.vocabulary
        say(_what_was_read(ready.text))
        keep_freed_memory()
        base = None if init_from is None else _load_base(init_from, vocabulary.characters, say)
        if not ready.affords_ngrams:
            say(_what_is_left_out(config))
        config, relative_bits = _compare(ready, base, device, say)
        corpus, scores = ready.corpus, ready.baselines  # before the plan, which divides the time that is left
        counts = mixing.count(config, corpus, ready.ngram, base=init_from)
        load_torch()
        say(f"Benchmarking kernels and precisions on {device} ...")
        plan = auto_config.plan(
            config,
            len(vocabulary),
            card.training,
            card.validation,
            device,
            fine_tuning=base is not None,
            relative_bits=relative_bits,
            ngram_bits=scores.validation.ngram_bits,
            unseen=vocabulary.unseen,
            spent=time.perf_counter() - began,
        )
        for note in plan.notes:
            say(note)
        model = None if base is None else _copy(base, plan.config, len(vocabulary))
        ready.run.write_config(plan.config)
        training = Training(
            plan.config,
            corpus,
            card,
            device,
            model,
            seconds=time.perf_counter() - began,
            baselines=scores,
            counts=counts,
            evaluation_seconds=plan.evaluation_seconds,
            teacher=base if plan.config.train.distillation else None,
        )
        return TrainingJob(training, ready.run)


def _name_base(config: Config, base: Path | None) -> tuple[Config, str]:
    """Return the configuration with the name of its base model, and the characters of that model's vocabulary."""
    if base is not None:
        characters = model_file.read_header(base).vocabulary.characters
        if config.data.boundary != FILE_BOUNDARY:  # then no text has it
            characters = characters.replace(FILE_BOUNDARY, "")
        return config.with_values(train={"init_from": base_model.reference(base)}), characters
    if config.train.distillation not in ("auto", 0.0):
        raise MisuseError(
            f"train.distillation={config.train.distillation:g} needs a model to learn from: name it with --init-from,"
            " or set train.distillation=0."
        )
    return config, ""


def start_counting(
    config: Config, folder: Path | None, *, stdin: BinaryIO | None = None, say: Say = silent
) -> TrainingJob[Counting]:
    """Start counting an n-gram model in a new run folder; errors as in `start`."""
    began = time.perf_counter()
    with _prepared(config, folder, stdin, say) as ready:
        say(f"{_what_was_read(ready.text)} Counting n-grams ...")
        if ready.card.training > ngram.MAX_CHARACTERS:
            say(f"Only the last {ngram.MAX_CHARACTERS:,} characters of the training split are counted.")
        return TrainingJob(Counting(ready.config, ready.corpus, ready.card, began), ready.run)


@dataclass(frozen=True)
class _Preparation:
    """A text that was read and split, and the run folder claimed for it. `config` has a seed, and names the text's
    files: a folder may hold others when the run is resumed."""

    config: Config
    text: SplitText
    card: CorpusCard
    run: Run
    stdin: spool.StreamCopy

    @cached_property
    def affords_ngrams(self) -> bool:
        """Estimate whether xz and n-grams fit in their share of a time budget, if there is one."""
        limit = self.config.train.time
        if limit is None or not MEASURED_CHARACTERS < self.card.training <= self._longest_counted:
            return True
        share = MEASURED_CHARACTERS / self.card.training
        training, validation, test = (_head(self.corpus.split(name), share) for name in SPLITS)
        began = time.perf_counter()
        baselines.compute(replace(self.corpus, training=training, validation=validation, test=test))
        return GROWTH * (time.perf_counter() - began) / share <= MAX_BASELINES_SHARE * limit

    @property
    def _longest_counted(self) -> int:
        """Return the characters of a training split that is counted: a longer one for a mixture than as a baseline."""
        return baselines.MAX_AT_START if self.config.model.mixture == "none" else mixing.MAX_COUNTED

    @cached_property
    def ngram(self) -> ngram.Ngram | None:
        """Count the best n-gram model of the text, if that takes neither too long nor too much memory."""
        wanted = self.affords_ngrams and self.card.training <= self._longest_counted
        return baselines.best_ngram(self.corpus) if wanted else None

    @cached_property
    def baselines(self) -> BaselineScores:
        """Compute the baselines of the held-out splits."""
        return baselines.compute(self.corpus, ngrams=self.affords_ngrams, model=self.ngram)

    @cached_property
    def corpus(self) -> Corpus:
        """Encode the text; of standard input write a copy, to resume from: its bytes, which decode to the same text."""
        source, data = self.text.source, self.config.data
        if STDIN in source.names:
            with atomic_files.atomic_writer(self.run.copy.absolute(), self.stdin.size) as file:
                self.stdin.write(file)
        stamps = [stamp or text_files.stamp(path) for path, stamp in zip(data.texts, source.stamps, strict=True)]
        return token_cache.write(self.text, data, resolved(self.config.train.seed), stamps, self.run.tokens)


@contextmanager
def _prepared(
    config: Config, folder: Path | None, stdin: BinaryIO | None, say: Say, inherited: str = ""
) -> Iterator[_Preparation]:
    """Draw a seed if there is none, read and split the text, and claim a run folder, which is discarded if the body
    fails. The vocabulary keeps `inherited` characters."""
    names, drawn = config.data.texts, config.train.seed is None
    if not names:
        raise MisuseError("No text to learn. Name one: charrnn train TEXT")
    if folder is not None:
        Run(folder).check_free()
    if drawn:
        config = config.with_values(train={"seed": secrets.randbelow(2**31)})
    name, stem = "standard input" if names[0] == STDIN else names[0], text_files.run_name(names[0])
    parent = writable_parent(folder or run_dir.RUNS / stem)
    with (
        spool.StreamCopy(stdin, parent) as copy,
        spool.read(config.data, name, say, copy, parent) as source,
    ):
        text = build_corpus(source, config.data, resolved(config.train.seed), name, inherited=inherited)
        for warning in corpus_warnings(text, config.data):
            say(warning)
        repeated = None if config.data.documents == "none" else duplicates.count(source, text.plan)
        if repeated and (advice := duplicates.advice(repeated, config.data.documents)):
            say(advice)
        if drawn:
            say(f"Seed {config.train.seed}.")
        if folder is None:
            run = run_dir.claim(stem)
        else:
            run = Run(folder)
            run.create()
            run.lock()
        try:
            run.sweep()
            paths = [run.copy if file == STDIN else Path(file) for file in source.names]
            config = config.with_values(data={"texts": [str(path.absolute()) for path in paths]})
            card = CorpusCard(name, source.digest, *text.layout.characters, repeated=repeated)
            yield _Preparation(config, text, card, run, copy)
        except BaseException:
            run.discard()
            raise


def _head(split: Split, share: float) -> Split:
    return replace(split, tokens=split.tokens[: math.ceil(share * len(split))])


def _what_was_read(text: SplitText) -> str:
    """Say how long a text is, and with what its last document was ended."""
    added = sum(text.layout.characters) - text.characters_read
    what = "newline" if set(text.vocabulary.boundary) == {"\n"} else "character"
    ended = f", and added {counted(added, what)} to end the last document" if added else ""
    return f"Read {counted(text.characters_read, 'character')}{ended}."


def _what_is_left_out(config: Config) -> str:
    """Say what a short time is too short for."""
    mixed = " The network will not be mixed with counts." if config.model.mixture == "auto" else ""
    return f"xz and n-grams of this text would take too much of the time; charrnn evaluate computes them.{mixed}"


def _load_base(path: Path, characters: str, say: Say) -> Network:
    """Load the model that a fine-tuning starts from, for the characters of the new text."""
    header, old = model_file.read_model(path)
    base = make_model(header.config.model, len(characters))
    shared = transplant(old, header.vocabulary.characters, base, characters)
    say(f"Starting from {path} and its {shared:,} characters; {len(characters) - shared:,} more are new.")
    return base


def _copy(base: Network, config: Config, vocabulary_size: int) -> Network:
    """Copy a base model into one with the settings of the training."""
    model = make_model(config.model, vocabulary_size)
    model.load_state_dict(base.state_dict())
    return model


def _compare(ready: _Preparation, base: Network | None, device: torch.device, say: Say) -> tuple[Config, float | None]:
    """Compare a base model with an n-gram model of the new text, if an `auto` depends on it; return the configuration
    and the model's bits as a multiple of the n-gram model's, or None if they are not compared."""
    train = ready.config.train
    # without n-grams, of a long text or in a short time, there is no distillation, and a third of the usual rate
    countable = ready.card.training <= baselines.MAX_AT_START and ready.affords_ngrams
    if base is None or not countable or "auto" not in (train.distillation, train.learning_rate):
        return ready.config, None
    say("Comparing it with an n-gram model of this text ...")
    return compare_with_ngrams(ready.config, base.to(device), ready.corpus, ready.baselines, say)


def writable_parent(folder: Path) -> Path | None:
    """Return the nearest writable folder above a run's, most likely on the same disk, or None if there is none.

    Never the run folder itself: a temporary file that has a name would make it look taken.
    """
    parents = folder.absolute().parents
    return next((parent for parent in parents if is_folder(parent) and os.access(parent, os.W_OK)), None)
