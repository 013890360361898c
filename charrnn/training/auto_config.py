"""Settling every `auto`: sizes from the text, epochs and precision from what this device does in the time given.
Tries steps of the very training it plans; the figures behind the rules are in docs/results.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from charrnn.config.schema import Config, ModelConfig
from charrnn.device import Bf16, bf16_on, out_of_memory
from charrnn.models.architecture import products
from charrnn.training.fine_tuning import fine_tuning_rate
from charrnn.training.throughput import _fastest, _rates, _shortened, _ways

MINUTES = 15  # what a training without --time is planned to take, at most
_LADDER = (128, 192, 256, 384, 512, 768, 1024)
# the largest hidden size that a training part of so many characters can feed
_FED = ((20_000, 128), (100_000, 192), (400_000, 256), (5_000_000, 512), (50_000_000, 768))
# fewer characters read in all than so many a weight and a smaller model learns more in the time; the second where one
# layer is all that there is time for, the third where most weights are rows of a tied head, whatever the layer's size
_CHARACTERS_PER_WEIGHT, _SHALLOW, _MOSTLY_HEAD = 1.5, 6.0, 0.15
# the embedding that is a head as well, at most, by hidden size: its work grows by it; but short texts need it wider
_TIED = ((512, 128), (10**9, 256))
_DEEP = 2.0  # epochs that there must be time for, or a single layer learns more
_DROPOUTS = ((3, 0.0), (6, 0.1), (25, 0.3), (float("inf"), 0.5))  # by epochs
_SMALL, _SMALL_DROPOUT = 400_000, 0.3  # a text below so many characters is overfitted sooner: so much at least
# so many characters are known by heart after so many epochs; longer texts later, by this power
_ENOUGH = (9_000, 5, 0.4)
_MOST_EPOCHS = 40
_FEWEST_STEPS = 200
_RATES = ((256, 1.5e-2), (512, 8e-3), (10**9, 4e-3))  # AdamW peaks, by hidden size: wide layers take smaller steps
_GENTLE = 8e-3  # the highest peak where larger steps do harm
_HMM_RATE = 0.1  # of logits, which go far: a character that a hidden state never writes
_DECAYS = ((3, 0.1), (float("inf"), 0.3))  # AdamW's weight decay at most, by epochs
# epochs (or times the whole training, if that is less) over which it fades what a step has done to a third: the weights
# are an average of the steps of that time (Wang and Aitchison 2024)
_FADED = 1.2
_HARDLY = 0.01  # of logits, which go far; of a recurrence without gates, which has enough to do to remember
_BY_OPTIMIZER = {"adamw": 1.0, "rmsprop": 0.5, "sgd": 100.0}  # their rates, as multiples of AdamW's
_STEPS = 600  # fewer than this and it pays to read fewer lanes at a time
_NARROWER = 0.75  # of the rate, at least, with half the lanes: half as many steps again in the same time
_MANY_CHARACTERS = 2_000
_SERVES_A_HEAD = 128  # an embedding of so many numbers
_PATIENCE = 8
_EVALUATION_SECONDS = 5  # of training between evaluations, at least: no one reads faster
_EVALUATIONS = 25
_GROWTH = 4.0  # a CPU's operations per second at any width, at most, as a multiple of those at the smallest


@dataclass(frozen=True)
class Plan:
    """Hold a configuration without a single `auto`, and what to tell the user about it."""

    config: Config
    notes: tuple[str, ...]
    evaluation_seconds: float = 0.0  # of one, about


def plan(
    config: Config,
    vocabulary_size: int,
    training: int,
    validation: int,
    device: torch.device,
    *,
    fine_tuning: bool = False,
    known: float | None = None,
    unseen: int = 0,
    spent: float = 0.0,
    bf16: Bf16 | None = None,
) -> Plan:
    """Settle every `auto` for a training part and a validation part of so many characters on a device, which is asked
    what it does in `bf16` unless that is given.

    The model that a fine-tuning starts from needs `known` times as many bits of the validation part as an n-gram model
    of the text, if that was compared.

    So many characters of the vocabulary are `unseen` in the training part: they cost time, and teach nothing. Of a
    time budget so many seconds are `spent`.
    """
    notes: list[str] = []
    distinct = vocabulary_size - unseen
    train = config.train
    sequence_length = train.sequence_length
    if sequence_length > training // 2:
        sequence_length = max(1, training // 2)
        notes.append(f"The text is short: windows of {sequence_length} characters instead of {train.sequence_length}.")
    if validation < sequence_length:
        notes.append(f"The validation part has only {validation} characters; its scores are rough.")
    batch_size = train.batch_size
    if batch_size == "auto":
        batch_size, most = 2, 128 if device.type != "cpu" else 32 if distinct <= _MANY_CHARACTERS else 16
        while batch_size < most and training >= 2 * batch_size * sequence_length * 40:
            batch_size *= 2
    if batch_size * sequence_length > training:
        batch_size = max(1, training // sequence_length)
        notes.append(f"The text is short: {batch_size} lanes.")
    config = config.with_values(train={"sequence_length": sequence_length, "batch_size": batch_size})

    if config.model.cell != "hmm" and config.model.tie_weights == "auto":
        # most rows are seen seldom: what they learn as inputs serves them in the head, which is most of the work
        size = config.model.embedding_size
        tied = distinct > _MANY_CHARACTERS and (size == "auto" or int(size) >= _SERVES_A_HEAD)
        config = config.with_values(model={"tie_weights": tied})
    if train.distillation == "auto":
        config = config.with_values(train={"distillation": 0.0})
    seconds, dropout = max(train.time - spent, 0.1 * train.time) if train.time else MINUTES * 60.0, config.model.dropout
    ways = _ways(config, device, bf16_on(device) if bf16 is None else bf16, notes)
    config, rate = _fit_model(config, ways, vocabulary_size, training, device, seconds)
    if train.batch_size == "auto":
        # little time: narrower steps, but more of them, where they take less time for it
        batches = int(config.train.batch_size)
        while batches > 8 and seconds * rate < _STEPS * batches * sequence_length:
            batches //= 2
            narrower = config.with_values(train={"batch_size": batches})
            (rate_there,) = _rates(narrower, [{}], vocabulary_size, device)
            if rate_there < _NARROWER * rate:
                break
            config, rate = narrower, rate_there
    config = _fit_steps(config, dropout, distinct, training, validation, rate, seconds, fine_tuning, known)
    model, train = config.model, config.train
    stack = (
        ""
        if model.cell == "hmm"
        else f", {'tied ' if model.tied else ''}embedding {model.embedding_size}, dropout {model.dropout:g}"
    )
    length = train.sequence_length
    span = f"{train.steps} steps" if train.steps else f"{train.epochs} epochs"
    reading = _reading(config, training)
    told = f"{span}, about {_minutes(reading / rate)} here"
    if train.time and 0 < reading / rate < 0.9 * train.time:
        told += f", of the {_minutes(train.time)} given"
    elif train.time:
        told = _minutes(train.time)
    notes.append(
        f"Learning {training:,} characters ({distinct:,} distinct) with {model.kind}{stack},"
        f" {train.batch_size} lanes of {length}, {train.precision}"
        f"{' by the custom kernel' if train.kernel == 'custom' else ''} on {device}: {told}."
    )
    return Plan(config, tuple(notes), validation / (rate * _scoring_speed(model)))


def _scoring_speed(model: ModelConfig) -> float:
    """Say how many times faster than it is trained a model is evaluated, about."""
    return 1.5 if model.bidirectional else 3.0  # each half is read for itself first, and then both together


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} seconds"
    return f"{minutes:.0f} minutes" if minutes >= 10 else f"{minutes:.2g} minutes"


def _reading(config: Config, training: int) -> float:
    """Count the characters that a training reads in all."""
    train = config.train
    if train.steps is not None:
        return train.steps * float(train.batch_size) * train.sequence_length
    return float(train.epochs) * training if isinstance(train.epochs, int) else 0.0


def _fit_model(
    config: Config,
    ways: list[dict[str, str]],
    vocabulary_size: int,
    training: int,
    device: torch.device,
    seconds: float,
) -> tuple[Config, float]:
    """Choose layers, sizes and one of the ways to run; gives characters per second as tried."""
    model, train = config.model, config.train
    if model.cell == "hmm" or model.num_layers != "auto":
        return _fit_sizes(config, ways, vocabulary_size, training, device, seconds, _CHARACTERS_PER_WEIGHT)
    # a second layer learns late: it pays where there is text and time enough for all characters there are
    flat = config.with_values(model={"num_layers": 1})
    if training < 200_000 or vocabulary_size > _MANY_CHARACTERS:
        least = _MOSTLY_HEAD if model.tied and vocabulary_size > _MANY_CHARACTERS else _CHARACTERS_PER_WEIGHT
        return _fit_sizes(flat, ways, vocabulary_size, training, device, seconds, least)
    deep = config.with_values(model={"num_layers": 2})
    deep, rate = _fit_sizes(deep, ways, vocabulary_size, training, device, seconds, _CHARACTERS_PER_WEIGHT)
    if train.epochs != "auto" or train.steps is not None or rate * seconds >= _DEEP * training:
        return deep, rate
    return _fit_sizes(flat, ways, vocabulary_size, training, device, seconds, _SHALLOW)


def _fit_sizes(
    config: Config,
    ways: list[dict[str, str]],
    vocabulary_size: int,
    training: int,
    device: torch.device,
    seconds: float,
    characters_per_weight: float,
) -> tuple[Config, float]:
    """Choose sizes and one of the ways to run for a number of layers; gives characters per second as tried."""
    wanted = next((size for limit, size in _FED if training < limit), _LADDER[-1])
    ladder = [size for size in _LADDER if size <= wanted][::-1]
    if config.model.hidden_size != "auto":
        ladder = [int(config.model.hidden_size)]
    flops_per_second = 0.0  # not known
    if len(ladder) > 1 and device.type == "cpu":
        # the smallest takes an instant, and tells which are far out of reach; a GPU is slow at small ones alone
        sized = config.with_values(model=_sizes(config.model, ladder[-1], vocabulary_size, training))
        rate = max(_rates(_shortened(sized), ways, vocabulary_size, device))
        flops_per_second = _GROWTH * rate * products(sized.model, vocabulary_size)
    for place, hidden_size in enumerate(ladder):
        sized = config.with_values(model=_sizes(config.model, hidden_size, vocabulary_size, training))
        weights = products(sized.model, vocabulary_size)
        # each half learns for itself
        learnt = products(sized.model.model_copy(update={"bidirectional": False}), vocabulary_size)
        last = place == len(ladder) - 1
        # a first trial tells what to expect of the others: only promising ones are tried themselves
        if (
            flops_per_second
            and not last
            and flops_per_second * seconds / weights < (0.8 * characters_per_weight * learnt)
        ):
            continue
        sized, rate = _fastest(sized, ways, vocabulary_size, device)
        if rate > 0.0:  # the format best at one size will do for the others; of what did not fit nothing is known
            ways = [way for way in ways if way["precision"] == sized.train.precision]
            flops_per_second = rate * weights
        if last and rate == 0.0:
            raise out_of_memory(device)
        if last or rate * seconds >= characters_per_weight * learnt:
            return sized, rate
    raise AssertionError("the last rung is always taken")


def _sizes(model: ModelConfig, hidden_size: int, vocabulary_size: int, training: int) -> dict[str, int | float | str]:
    if model.cell == "hmm":
        return {"hidden_size": hidden_size}
    embedding = 64 if vocabulary_size < 128 else 128 if vocabulary_size < 1024 else 256
    if model.tied and training >= _SMALL:
        embedding = min(embedding, next(most for limit, most in _TIED if hidden_size <= limit))
    return {
        "hidden_size": hidden_size,
        "embedding_size": min(embedding, hidden_size) if model.embedding_size == "auto" else model.embedding_size,
        "dropout": 0.1 if model.dropout == "auto" else model.dropout,  # for the trial
    }


def _dropout(epochs: float, training: int) -> float:
    """Regularise the more, the more often each character is seen: what is seen once cannot be learnt by heart."""
    dropout = next((dropout for limit, dropout in _DROPOUTS if epochs < limit), _DROPOUTS[-1][1])
    return max(dropout, _SMALL_DROPOUT) if training < _SMALL and epochs >= _DROPOUTS[0][0] else dropout


def _enough(training: int) -> int:
    """Choose the epochs after which a text of so many characters is known by heart, and a network only gets worse."""
    characters, epochs, power = _ENOUGH
    return max(3, round(epochs * math.pow(training / characters, power)))


def _fit_steps(
    config: Config,
    dropout: float | str,
    distinct: int,
    training: int,
    validation: int,
    rate: float,
    seconds: float,
    fine_tuning: bool,
    known: float | None,
) -> Config:
    """Choose epochs or steps, the learning rate, weight decay, dropout (if auto), and when to evaluate."""
    train = config.train
    batches, length = int(train.batch_size), train.sequence_length
    per_epoch = -(-(training // batches) // length)
    affordable = int(0.9 * seconds * rate / training * per_epoch)  # steps; a tenth of the time goes to evaluations
    epochs, steps = train.epochs, train.steps
    # a Markov chain has too few weights to know a text by heart
    most = math.inf if config.model.cell == "hmm" else max(_enough(training) * per_epoch, _FEWEST_STEPS)
    if train.time is not None:
        if epochs == "auto" and steps is None and affordable > most:
            epochs = max(1, int(most) // per_epoch)  # the rest of the time could only do harm
        total = int(epochs) * per_epoch if isinstance(epochs, int) else affordable
        total = max(1, min(total, steps) if steps is not None else total)
    elif steps is not None:
        total = steps
    elif isinstance(epochs, int):
        total = epochs * per_epoch
    else:
        total = max(1, int(min(affordable, most, max(_MOST_EPOCHS * per_epoch, _FEWEST_STEPS))))
        if total >= 4 * per_epoch:  # below, a whole number of epochs would waste much of the time
            epochs = total // per_epoch
            total = epochs * per_epoch
        else:
            steps = total
    if not isinstance(epochs, int):
        epochs = None
    # epochs: named ones as they are, since a window that is not whole would decide at the border of three
    read = float(epochs) if steps is None and isinstance(epochs, int) else total * batches * length / training
    # evaluations read a few percent of what training reads
    affordable_evaluations = 0.1 * total * batches * length * _scoring_speed(config.model) / max(validation, 1)
    readable_evaluations = total * batches * length / rate / _EVALUATION_SECONDS
    # a short training is over before anyone has read five, and yet has to be seen when it turns to overfitting; which
    # is not before all has been read once
    fewest = 3 if read >= 1.0 else 1
    evaluations = max(fewest, int(min(_EVALUATIONS, affordable_evaluations, max(5, readable_evaluations))))
    peak = next(peak for limit, peak in _RATES if int(config.model.hidden_size) <= limit)
    if config.model.cell == "hmm":
        peak = _HMM_RATE
    elif distinct > _MANY_CHARACTERS or config.model.cell == "gru":
        # most rows are seen seldom, and larger steps throw them about; as they do a GRU, where decay is little
        peak = min(peak, _GENTLE)
    rate_by_adamw = peak if train.learning_rate == "auto" else train.learning_rate / _BY_OPTIMIZER[train.optimizer]
    fading = 1 / (_FADED * min(per_epoch, total) * rate_by_adamw)
    most_decay = next(decay for limit, decay in _DECAYS if read < limit)
    decay = min(most_decay, float(f"{fading:.2g}"))
    if config.model.cell in {"hmm", "rnn"} or config.model.init == "identity":
        decay = _HARDLY
    # a step shrinks weights by rate times decay: by as much with each optimizer
    peak, decay = peak * _BY_OPTIMIZER[train.optimizer], decay / _BY_OPTIMIZER[train.optimizer]
    if config.model.cell == "rnn":
        peak /= 5  # without gates the same rate makes it jump
    if fine_tuning:
        peak /= 3  # what was learnt before is worth keeping
        if known is not None and config.model.cell != "hmm":
            peak = min(peak, fine_tuning_rate(known) * _BY_OPTIMIZER[train.optimizer])
    if dropout == "auto":
        dropout = _dropout(read, training)
    return config.with_values(
        model={} if config.model.cell == "hmm" else {"dropout": dropout},
        train={
            "epochs": epochs,
            "steps": steps,
            "eval_every": max(1, -(-total // evaluations)) if train.eval_every == "auto" else train.eval_every,
            "patience": _PATIENCE if train.patience == "auto" else train.patience,
            "learning_rate": peak if train.learning_rate == "auto" else train.learning_rate,
            "weight_decay": decay if train.weight_decay == "auto" else train.weight_decay,
        },
    )
