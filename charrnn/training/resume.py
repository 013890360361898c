"""Resuming a run exactly where it stopped. Messages go to `say`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from charrnn.checkpoints import base_model, model_file, safetensors_file, training_corpus
from charrnn.checkpoints.model_file import Header
from charrnn.checkpoints.run_dir import Run
from charrnn.checkpoints.safetensors_file import TEACHER
from charrnn.config import loading
from charrnn.config.loading import format_value
from charrnn.config.schema import Config, DataConfig, resolved
from charrnn.data import spool, text_files, token_cache
from charrnn.data.corpus import Corpus
from charrnn.data.corpus import build as build_corpus
from charrnn.data.text_files import STDIN
from charrnn.device import bf16_on, choose_device, keep_freed_memory
from charrnn.errors import CharRNNError, MisuseError
from charrnn.messages import Say, counted, silent
from charrnn.models.factory import Network
from charrnn.training import mixing, throughput
from charrnn.training.job import TrainingJob
from charrnn.training.mixing import Counts
from charrnn.training.new_run import writable_parent
from charrnn.training.snapshot import Position, Snapshot, check_tensors, read_position
from charrnn.training.training_step import Training

# another start, or other batch rows, moments or random numbers would make it another training
_FIXED = ("init_from", "batch_size", "sequence_length", "optimizer", "distillation", "seed")
_LENGTHS = {"train.epochs", "train.steps", "train.time"}


def resume(
    run: Run,
    device: torch.device | None,
    *,
    settings: Sequence[str] = (),
    texts: Sequence[str] = (),
    say: Say = silent,
    began: float | None = None,
) -> TrainingJob[Training]:
    """Restore a run on a device, or if None on the type of device where it was trained.

    Its time, with that of the processes before, goes on from `began` (of time.perf_counter).
    `texts` say where its text is now. `settings` may extend it; MisuseError is raised for model.*, data.* and what its
    state depends on, CharRNNError where the text is gone or has changed, or another process trains the run.
    """
    began = time.perf_counter() if began is None else began
    # locked before it is read: what another process saves meanwhile must not be lost
    run.lock()
    try:
        return TrainingJob(_resume(run, device, settings, texts, say, began), run)
    except BaseException:
        run.release()
        raise


def _resume(
    run: Run,
    device: torch.device | None,
    settings: Sequence[str],
    texts: Sequence[str],
    say: Say,
    began: float,
) -> Training:
    keep_freed_memory()
    header, tensors = model_file.read(run.last, training=True)
    if header.position is None:
        raise CharRNNError(f"{run.last} has no training state to resume. Fine-tune it instead, with --init-from.")
    header = replace(header, config=_with_later_settings(header.config))
    config = _extended(header.config, settings)
    config = config.with_values(data={"texts": _find_texts(run, texts, config.data, say)})
    corpus = _load_corpus(run, header, config, say)
    model = model_file.build_model(run.last, header, tensors)
    position = read_position(header)
    if device is None:
        device = choose_device("auto" if position.device == "cuda" else "cpu", say)
    teacher = _take_teacher(run, header, tensors) if config.train.distillation else None
    counts = _count(run, header, config, corpus)
    training = Training(
        config, corpus, header.corpus, device, model, baselines=header.baselines, counts=counts, teacher=teacher
    )
    waited = time.perf_counter() - began
    position = replace(position, seconds=position.seconds + waited, startup=position.startup + waited)
    if config.train != header.config.train:
        _check_length(run, training, position, header.config)
        position = _begin_patience(position, config)
    if "train.learning_rate" in _names(settings):
        position = replace(position, rate_scale=1.0, rollbacks=0)  # the user has mended what failed
    restore(training, run.last, header, position, tensors)
    if config.train.precision == "bf16" and not bf16_on(device).fast:
        say(throughput.SLOW_BF16.format(device=device))
    if position.device != device.type:
        say(f"Trained on {position.device} before, on {device} now: exact up to rounding and dropout's random numbers.")
    run.truncate(training.position.lengths)
    if config != header.config:
        run.write_config(config)
        training.save_last(run)  # or, if this process is killed before it saves, the next one would not know of it
    say(f"Resuming {run.folder} at step {training.position.step:,} (epoch {training.epoch:.2f}).")
    return training


def restore(training: Training, path: Path, header: Header, position: Position, tensors: dict[str, Tensor]) -> None:
    """Restore the weights, moments, generator, carried state and position that a last.safetensors holds.

    Raises CharRNNError for tensors or a position that do not fit.
    """
    optimizer, same = training.config.train.optimizer, position.device == training.device.type
    check_tensors(path, tensors, training.tensors(), training.model, optimizer, same_device=same)
    if position.window >= training.batches.windows:
        raise safetensors_file.damaged(path, "its position is beyond the end of an epoch")
    training.history = list(header.history)
    training.restore_snapshot(Snapshot(tensors, position))
    training.start_clock(position.seconds)
    training.position.device = training.device.type
    training.take_snapshot()


def _find_texts(run: Run, named: Sequence[str], data: DataConfig, say: Say) -> list[str]:
    """List the files of the run's text, `named` by the user now or in its configuration."""
    if STDIN in named:
        raise MisuseError("Standard input cannot be resumed from; leave the text out, the run has a copy.")
    paths = [str(Path(name).absolute()) for name in named]
    paths = paths or [training_corpus.current_path(name, run) for name in data.texts]
    for path in paths:
        reason = None if named else training_corpus.why_unread(path)  # what is named now, finding the files checks
        if reason is not None:
            where = f"Name where it is now: charrnn train TEXT --resume -m {run.folder}"
            raise CharRNNError(f"{path}: the text of this run {reason}. {where}")
    return text_files.find_files(paths, data.glob, say)  # a folder could not show that its files are the same as before


def _load_corpus(run: Run, header: Header, config: Config, say: Say) -> Corpus:
    """Load the tokens that the run has cached, or encode its text again."""
    data, name, seed = config.data, header.corpus.name, resolved(config.train.seed)
    corpus = token_cache.load(run.tokens, data, seed, header.corpus, header.vocabulary)
    if corpus is not None:
        return corpus
    changed = CharRNNError(
        f"{data.texts[0]}: the text has changed since {run.folder} was started, so it cannot be resumed."
        f" Restore it, or train on the new text with --init-from {run.folder}"
    )
    longest, folder = header.corpus.characters, writable_parent(run.folder)
    boundary = header.vocabulary.boundary  # an earlier version joined files by newlines
    try:
        with spool.read(data, name, say, folder=folder, boundary=boundary, longest=longest) as source:
            if source.digest != header.corpus.sha256:
                raise changed
            text = build_corpus(source, data, seed, name, vocabulary=header.vocabulary)
            training_corpus.check_lengths(text, header, run.last)
            return token_cache.write(text, data, seed, source.stamps, run.tokens)
    except spool.LongerError as error:
        raise changed from error


def _count(run: Run, header: Header, config: Config, corpus: Corpus) -> Counts | None:
    """Return the counts that the run has saved, or where no evaluation has accepted any, count them again as before."""
    if header.mixture is not None:
        return mixing.kept(config, corpus, run.last, header.mixture)
    order, base = None if header.baselines is None else header.baselines.validation.order, None
    with contextlib.suppress(CharRNNError):  # without it only the counts of the new text can be taken
        base = base_model.find(config, silent)
    return mixing.count(config, corpus, order=order, base=base)


def _take_teacher(run: Run, header: Header, tensors: dict[str, Tensor]) -> Network:
    """Build the teacher from its weights, and remove them from the tensors."""
    names = [name for name in tensors if name.startswith(TEACHER)]
    if not names:
        raise safetensors_file.damaged(run.last, "the model that it learns from is missing")
    weights = {name.removeprefix(TEACHER): tensors.pop(name) for name in names}
    return model_file.build_model(run.last, header, weights)


def _check_length(run: Run, training: Training, position: Position, before: Config) -> None:
    """Raise MisuseError where a new length is already over."""
    limit = training.config.train.time
    if limit is not None and limit != before.train.time and position.seconds >= limit:
        raise MisuseError(
            f"{run.folder} has trained for {position.seconds:.0f} seconds, which --time includes: set more."
        )
    if training.total is not None and training.total <= position.step:
        raise MisuseError(
            f"{run.folder} has done {counted(position.step, 'step')} already, and this would be {training.total:,};"
            " set more."
        )


def _begin_patience(position: Position, config: Config) -> Position:
    """Let patience begin anew: evaluations at a rate that has risen again are worse than those before.

    It does so after as many evaluations as it waits for: the first ones still profit from the low rate before.
    """
    waits = resolved(config.train.patience or 0) * resolved(config.train.eval_every)
    return replace(position, stale=0, patience_from=position.step + waits)


def _names(settings: Sequence[str]) -> set[str]:
    return {assignment.partition("=")[0].strip() for assignment in settings}


def _with_later_settings(config: Config) -> Config:
    """Resolve what did not exist when the run was started: it used torch's kernel and no distillation."""
    later = {"kernel": "torch", "distillation": 0.0}
    return config.with_values(train={n: value for n, value in later.items() if getattr(config.train, n) == "auto"})


def _extended(old: Config, settings: Sequence[str]) -> Config:
    """Apply settings to a run's configuration. Raises MisuseError for what cannot be changed."""
    before = old.model_dump()
    base = {section: dict(values) for section, values in before.items()}
    if _names(settings) & _LENGTHS:
        # they exclude each other: setting one unsets the others
        base["train"].update({key.removeprefix("train."): None for key in _LENGTHS})
    new = loading.load(None, settings, base)
    mistakes = []
    for section, values in new.model_dump().items():
        for name, value in values.items():
            if value == before[section][name] or f"{section}.{name}" in _LENGTHS:
                continue
            if section != "train" or name in _FIXED:
                new_value, old_value = format_value(value), format_value(before[section][name])
                advice = "" if section == "model" else ", or fine-tune this one with --init-from"
                fixed = f"{section}.{name}={new_value} cannot be changed on resume (it is {old_value})."
                mistakes.append(f"{fixed} Start a new run{advice}.")
            elif value == "auto":
                mistakes.append(f"{section}.{name}=auto was resolved when the run started; set a value.")
    if new.train.epochs == "auto":
        mistakes.append("train.epochs=auto was resolved when the run started; set a number.")
    if mistakes:
        raise MisuseError(loading.joined(mistakes))
    return new
