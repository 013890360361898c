"""Standing again where a run stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from charrnn.callbacks import Say, silent
from charrnn.checkpoints import model_file, safetensors_file, training_corpus
from charrnn.checkpoints.run_dir import Run
from charrnn.config import loading
from charrnn.config.loading import _shown
from charrnn.config.schema import Config
from charrnn.data import corpus, spool, text_files, token_cache
from charrnn.data.text_files import STDIN
from charrnn.device import bf16_on, choose_device, keep_freed_memory
from charrnn.errors import CharRNNError, MisuseError
from charrnn.models.factory import Network
from charrnn.training import throughput
from charrnn.training.job import TrainingJob
from charrnn.training.new_run import _above
from charrnn.training.state import read_position
from charrnn.training.trainer import Training

# what a saved state is tied to: other lanes, moments or draws would make it another training
_FIXED = ("batch_size", "sequence_length", "optimizer", "distillation", "seed")


def resume(
    run: Run,
    device: torch.device | None,
    *,
    settings: Sequence[str] = (),
    texts: Sequence[str] = (),
    say: Say = silent,
) -> TrainingJob[Training]:
    """Stand where a run stopped, on a device, or if None where it was trained.

    `settings` may extend it; model.*, data.* and what its state is tied to are refused.

    Raises CharRNNError where the text is gone or has changed, or another process trains the run.
    """
    # locked before it is read: what another process saves meanwhile must not be lost
    run.lock()
    try:
        return TrainingJob(_resumed(run, device, settings, texts, say), run)
    except BaseException:
        run.release()
        raise


def _resumed(
    run: Run, device: torch.device | None, settings: Sequence[str], texts: Sequence[str], say: Say
) -> Training:
    keep_freed_memory()
    header = model_file.read_header(run.last)
    if header.position is None:
        raise CharRNNError(f"{run.last} has no training state to resume. Fine-tune it instead, with --init-from.")
    header = replace(header, config=_as_settled_now(header.config))
    config = _extended(header.config, settings)
    if STDIN in texts:
        raise MisuseError("Standard input cannot be resumed from; leave the text out, the run keeps a copy.")
    named = [str(Path(name).absolute()) for name in texts] or [
        training_corpus.where_now(name, run) for name in config.data.texts
    ]
    for path in named:
        if not Path(path).exists():
            raise CharRNNError(
                f"{path}: the text of this run is gone. Name where it is now:"
                f" charrnn train TEXT --resume -m {run.folder}"
            )
    # the very files here as well: a folder cannot show that they are the same as before
    paths = text_files.files(named)
    config = config.with_values(data={"texts": paths})
    seed = config.train.seed
    assert seed is not None
    whole = token_cache.find(run.tokens, config.data, seed, header.corpus, header.vocabulary)
    if whole is None:
        with spool.read(paths, config.data.encoding, header.corpus.name, say, folder=_above(run.folder)) as source:
            if source.digest != header.corpus.sha256:
                raise CharRNNError(
                    f"{paths[0]}: the text has changed since {run.folder} was begun, so it cannot be resumed exactly."
                    f" Restore it, or go on with the new text by --init-from {run.folder}"
                )
            split_text = corpus.build(source, config.data, seed, header.corpus.name, vocabulary=header.vocabulary)
            whole = token_cache.keep(split_text, config.data, seed, source.stamps, run.tokens)
    tensors = model_file.read_tensors(run.last)
    model = model_file.build_model(run.last, header, tensors)
    position = read_position(run.last, header)
    if device is None:
        device = choose_device("auto" if position.device == "cuda" else "cpu", say)
    teacher: Network | None = None
    if config.train.distillation:
        names = {name: name.removeprefix(model_file.TEACHER) for name in tensors if name.startswith(model_file.TEACHER)}
        if not names:
            raise safetensors_file.damaged(run.last, "the model that it learns from is missing")
        teacher = model_file.build_model(run.last, header, {names[name]: tensors.pop(name) for name in names})
    training = Training(config, whole, header.corpus, device, model, baselines=header.baselines, teacher=teacher)
    training.restore(run.last, header, position, tensors)
    if config.train.precision == "bf16" and not bf16_on(device).fast:
        say(throughput.SLOW_BF16.format(device=device))
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
    new = loading.load(None, settings, base)
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
