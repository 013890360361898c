"""Every `auto` resolved: sizes, kernel and precision by benchmarks on this device, all else by pure functions.
Knows the sizes of a text, not its characters. The tables below were measured: docs/results.md, "What the automatic
settings rest on", has the trials; a comment names the section where it is another one. In tables by size or length
each key is the smallest value that its entry holds for."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from charrnn.config.schema import Config, ModelConfig, TrainConfig, resolved
from charrnn.data.batches import Rows
from charrnn.device import Bf16, bf16_on, out_of_memory
from charrnn.messages import counted, minutes
from charrnn.models.architecture import products
from charrnn.training import throughput
from charrnn.training.fine_tuning import fine_tuning_rate

DEFAULT_MINUTES = 15  # that a training without --time takes, at most
MANY_CHARACTERS = 2_000  # distinct ones: above, most rows of the embedding and of the head are seen seldom

# Model: section "Layers and width", and "Tied weights"
HIDDEN_SIZES = (128, 192, 256, 384, 512, 768, 1024)
MAX_HIDDEN_SIZE_BY_CHARACTERS = {0: 128, 20_000: 192, 100_000: 256, 400_000: 512, 5_000_000: 768, 50_000_000: 1024}
EMBEDDING_SIZE_BY_VOCABULARY = {0: 64, 128: 128, 1024: 256}
MIN_CHARACTERS_PER_ROW, NARROW_EMBEDDING_SIZE = 10, 32  # rows of rarer characters get few gradients: "Short texts"
MAX_TIED_EMBEDDING_BY_HIDDEN_SIZE = {0: 128, 513: 256}  # its work as a head grows with it; short texts need it wider
MIN_TIED_EMBEDDING = 128  # a narrower one makes a poor head
# characters read in all for each weight: with fewer, a smaller model learns more in the time
MIN_CHARACTERS_PER_WEIGHT = 1.5
MIN_CHARACTERS_PER_WEIGHT_ONE_LAYER = 6.0  # where there is no time for a second layer
MIN_CHARACTERS_PER_WEIGHT_TIED = 0.15  # where most weights are rows of a tied head, whatever the hidden size
MIN_CHARACTERS_TWO_LAYERS, MIN_EPOCHS_TWO_LAYERS = 200_000, 2.0
SHORT_TEXT = 400_000  # characters, below which a text is overfitted sooner
DROPOUT_BY_EPOCHS = {0: 0.0, 3: 0.1, 6: 0.3, 25: 0.5}
SHORT_TEXT_MIN_DROPOUT, ONE_LAYER_MIN_DROPOUT = 0.3, 0.5  # the latter from random weights: section "Short texts"
MAX_REGULAR_BITS = 0.7  # of n-grams: there is little to overfit, and dropout would keep it from counting lines
MIN_CHARACTERS_PREDICTABLE, MAX_PREDICTABLE_BITS = 60_000, 4.0  # of n-grams: such a text is overfitted later

# Batch and length
MAX_BATCH_SIZE_CPU, MAX_BATCH_SIZE_CPU_MANY_CHARACTERS, MAX_BATCH_SIZE_GPU = 32, 16, 128
# section "Short texts"; the latter of a fine-tuning, of rare characters, and of more than 1,000 for each second
MIN_STEPS_PER_EPOCH, UNHURRIED = {False: 120, True: 40}, 1_000
MAX_EPOCHS, MIN_STEPS, FEW_STEPS = 40, 200, 600  # if there is no time for more, half the batch is tried,
MIN_SPEED_OF_HALF_BATCH = 0.75  # and taken if it trains at this share of the speed, for half as many steps again
# a text of so many characters overfits after so many epochs; a longer one later, by this power of its length
OVERFITTING_CHARACTERS, OVERFITTING = 9_000, {False: (10, 0.25), True: (5, 0.4)}  # the latter of a fine-tuning

# Optimizer: section "Weight decay", and "Gated recurrent units"
PEAK_LEARNING_RATE_BY_HIDDEN_SIZE = {0: 1.5e-2, 257: 8e-3, 513: 4e-3}  # AdamW's: wide layers take smaller steps
MAX_GENTLE_LEARNING_RATE = 8e-3  # where larger steps do harm
HMM_LEARNING_RATE = 0.1  # of logits, which go far: a character that a hidden state never emits
LEARNING_RATE_FACTOR_BY_OPTIMIZER = {"adamw": 1.0, "rmsprop": 0.5, "sgd": 100.0}  # of AdamW's rate
MAX_WEIGHT_DECAY_BY_EPOCHS = {0: 0.1, 3: 0.3}  # AdamW's
# epochs, or times the whole training, in which decay shrinks a step's effect to 1/e (Wang and Aitchison 2024)
WEIGHT_DECAY_EPOCHS = 1.2
LOW_WEIGHT_DECAY = 0.01  # of logits, which go far; of a recurrence without gates, which struggles to remember anyway

# Evaluations
PATIENCE, MAX_EVALUATIONS, MIN_EVALUATION_SECONDS = 8, 25, 5  # of training between two of them: nobody reads faster

# benchmarks of larger sizes take so many times those of the smallest; of the time left they get this share at most
BENCHMARKS_OF_LARGER_SIZES, MAX_BENCHMARK_SHARE = 10.0, 0.2
MAX_CPU_SPEEDUP = 4.0  # a CPU's operations per second at any hidden size, as a multiple of those at the smallest


@dataclass(frozen=True)
class TrainingPlan:
    """A configuration without `auto`, notes on it for the user, and the seconds an evaluation will take, about."""

    config: Config
    notes: tuple[str, ...]
    evaluation_seconds: float = 0.0


@dataclass(frozen=True)
class _Task:
    """What there is to train on, characters of the splits and of the vocabulary (`distinct` in training), and how."""

    training: int
    validation: int
    vocabulary_size: int
    distinct: int
    device: torch.device
    seconds: float
    fine_tuning: bool

    @property
    def many_characters(self) -> bool:
        return self.distinct > MANY_CHARACTERS

    @property
    def rare_characters(self) -> bool:
        return self.training < MIN_CHARACTERS_PER_ROW * self.distinct


class _Length(NamedTuple):
    """How long to train: the settings `epochs` and `steps`, all steps, those of an epoch, and epochs read in all."""

    epochs: int | None
    steps: int | None
    total: int
    per_epoch: int
    epochs_read: float


def plan(
    config: Config,
    vocabulary_size: int,
    training: int,
    validation: int,
    device: torch.device,
    *,
    fine_tuning: bool = False,
    relative_bits: float | None = None,
    ngram_bits: float | None = None,
    unseen: int = 0,
    spent: float = 0.0,
    bf16: Bf16 | None = None,
) -> TrainingPlan:
    """Resolve every `auto` for splits of so many characters on a device, whose bf16 is probed if None.

    `unseen` characters of the vocabulary are not in the training split: they only cost time. Of a time budget, `spent`
    seconds are over, and benchmarks take more of it. `fine_tuning` explains `relative_bits`; n-grams need `ngram_bits`.
    """
    limit, began = config.train.time, time.perf_counter()
    seconds = max(limit - spent, 0.1 * limit) if limit else DEFAULT_MINUTES * 60.0
    task = _Task(training, validation, vocabulary_size, vocabulary_size - unseen, device, seconds, fine_tuning)
    bf16 = bf16_on(device) if bf16 is None else bf16
    length, batch_size = _choose_windows(config.train, task)
    notes = _window_notes(config, task, length, batch_size, bf16)
    wide = not task.rare_characters if (size := config.model.embedding_size) == "auto" else size >= MIN_TIED_EMBEDDING
    sized = _fill_auto(
        config.with_values(train={"sequence_length": length, "batch_size": batch_size}),
        # rows of rare characters get few gradients, and the head is most of the work: share them
        model={"tie_weights": task.many_characters and wide},
        train={"distillation": 0.0},
    )
    sized, speed = _choose_model(sized, throughput.list_variants(sized, device, bf16), task)
    if config.train.batch_size == "auto":
        sized, speed = _shrink_batch(sized, speed, task)
    if limit is not None:
        task = replace(task, seconds=max(seconds - (time.perf_counter() - began), 0.1 * limit))
    span = _choose_length(sized, task, speed)
    peak = _choose_peak(sized.model, task)
    factor = LEARNING_RATE_FACTOR_BY_OPTIMIZER[config.train.optimizer]
    # a step shrinks weights by rate times decay: by as much with each optimizer
    rate = peak if config.train.learning_rate == "auto" else config.train.learning_rate / factor
    sized = _fill_auto(
        sized.with_values(
            # while benchmarking it was a number
            model={} if config.model.cell == "hmm" else {"dropout": config.model.dropout},
            train={"epochs": span.epochs, "steps": span.steps},
        ),
        model={"dropout": _choose_dropout(span.epochs_read, task, math.inf if ngram_bits is None else ngram_bits)},
        train={
            "eval_every": _choose_interval(sized, task, span, speed),
            "patience": PATIENCE,
            "learning_rate": _adapt_peak(peak * factor, factor, config.model.cell, fine_tuning, relative_bits),
            "weight_decay": _choose_decay(sized.model, span, rate) / factor,
        },
    )
    evaluation_seconds = throughput.longest_evaluation(sized, validation, speed)
    if limit is not None and evaluation_seconds > task.seconds / 2:
        notes.append(throughput.SLOW_EVALUATION.format(minutes(evaluation_seconds)))
    return TrainingPlan(sized, (*notes, _describe(sized, task, span, speed)), evaluation_seconds)


def _fill_auto(config: Config, model: Mapping[str, Any], train: Mapping[str, Any]) -> Config:
    """Replace by these values what is `auto` and means something to this model."""
    model = {name: value for name, value in model.items() if name in config.model.unresolved}
    train = {name: value for name, value in train.items() if getattr(config.train, name) == "auto"}
    return config.with_values(model=model, train=train)


def _look_up(table: Mapping[int, float], value: float) -> float:
    """Return the entry of the largest key that is not above a value."""
    return table[max(key for key in table if key <= value)]


def _choose_windows(train: TrainConfig, task: _Task) -> tuple[int, int]:
    """Return the sequence length and the batch size, which a short text limits."""
    length, batch_size = min(train.sequence_length, max(1, task.training // 2)), train.batch_size
    if batch_size == "auto":
        largest = MAX_BATCH_SIZE_CPU_MANY_CHARACTERS if task.many_characters else MAX_BATCH_SIZE_CPU
        largest = largest if task.device.type == "cpu" else MAX_BATCH_SIZE_GPU
        batch_size = 2
        large = task.fine_tuning or task.rare_characters or task.training > UNHURRIED * task.seconds
        characters = length * MIN_STEPS_PER_EPOCH[large]
        while batch_size < largest and task.training >= 2 * batch_size * characters:
            batch_size *= 2
    return length, batch_size if batch_size * length <= task.training else max(1, task.training // length)


def _window_notes(config: Config, task: _Task, length: int, batch_size: int, bf16: Bf16) -> list[str]:
    """Say what the user does not expect of the windows and of the precision."""
    notes, train = [], config.train
    if length != train.sequence_length:
        notes.append(f"The text is short: windows of {length} characters instead of {train.sequence_length}.")
    if task.validation < length:
        notes.append(f"The validation split has only {counted(task.validation, 'character')}; its scores are noisy.")
    if batch_size < (2 if train.batch_size == "auto" else train.batch_size):
        notes.append(f"The text is short: batch size {batch_size}.")
    if train.precision == "bf16" and not bf16.fast and config.model.cell != "hmm":
        notes.append(throughput.SLOW_BF16.format(device=task.device))
    return notes


def _choose_model(config: Config, variants: list[dict[str, str]], task: _Task) -> tuple[Config, float]:
    """Choose layers, sizes and a variant; return them with their characters per second."""
    model, train = config.model, config.train
    if model.cell == "hmm" or model.num_layers != "auto":
        return _choose_sizes(config, variants, task, MIN_CHARACTERS_PER_WEIGHT)
    # a second layer learns late: it needs text, time, and not too many characters
    one, two = (config.with_values(model={"num_layers": layers}) for layers in (1, 2))
    many = task.vocabulary_size > MANY_CHARACTERS
    if task.training < MIN_CHARACTERS_TWO_LAYERS or many:
        least = MIN_CHARACTERS_PER_WEIGHT_TIED if model.tied and many else MIN_CHARACTERS_PER_WEIGHT
        return _choose_sizes(one, variants, task, least)
    two, speed = _choose_sizes(two, variants, task, MIN_CHARACTERS_PER_WEIGHT)
    if train.epochs == "auto" and train.steps is None and speed * task.seconds < MIN_EPOCHS_TWO_LAYERS * task.training:
        return _choose_sizes(one, variants, task, MIN_CHARACTERS_PER_WEIGHT_ONE_LAYER)
    return two, speed


def _choose_sizes(
    config: Config, variants: list[dict[str, str]], task: _Task, characters_per_weight: float
) -> tuple[Config, float]:
    """Choose sizes and a variant for a number of layers; return them with their characters per second."""
    largest = _look_up(MAX_HIDDEN_SIZE_BY_CHARACTERS, task.training)
    sizes = [size for size in reversed(HIDDEN_SIZES) if size <= largest]
    if config.model.hidden_size != "auto":
        sizes = [config.model.hidden_size]
    vocabulary_size, device = task.vocabulary_size, task.device
    flops_per_second = 0.0  # unknown
    if len(sizes) > 1 and device.type == "cpu":
        # the smallest takes an instant, and shows which are far too large; a GPU is slow at small ones only
        sized = config.with_values(model=_sizes(config.model, sizes[-1], task))
        began = time.perf_counter()
        speed = max(throughput.measure_speeds(throughput.shorten_windows(sized), variants, vocabulary_size, device))
        expected = BENCHMARKS_OF_LARGER_SIZES * (time.perf_counter() - began)
        sizes = sizes if expected <= MAX_BENCHMARK_SHARE * task.seconds else sizes[-1:]
        flops_per_second = MAX_CPU_SPEEDUP * speed * products(sized.model, vocabulary_size)
    for hidden_size in sizes:
        sized = config.with_values(model=_sizes(config.model, hidden_size, task))
        weights = products(sized.model, vocabulary_size)
        # the two halves of a bidirectional model learn from the same characters
        one_direction = sized.model.model_copy(update={"bidirectional": False})
        needed = characters_per_weight * products(one_direction, vocabulary_size)
        last = hidden_size == sizes[-1]
        # only promising sizes are benchmarked: the first benchmark shows what to expect of the others
        if flops_per_second and not last and flops_per_second * task.seconds / weights < 0.8 * needed:
            continue
        sized, speed = throughput.fastest_variant(sized, variants, vocabulary_size, device)
        if speed > 0.0:  # the best precision at one size is the best at others; a size that did not fit shows nothing
            variants = [variant for variant in variants if variant["precision"] == sized.train.precision]
            flops_per_second = speed * weights
        if last and speed == 0.0:
            raise out_of_memory(device)
        if last or speed * task.seconds >= needed:
            return sized, speed
    raise AssertionError("the smallest size is always taken")


def _sizes(model: ModelConfig, hidden_size: int, task: _Task) -> dict[str, Any]:
    """Return the sizes that go with a hidden size, and the dropout to benchmark with."""
    if model.cell == "hmm":
        return {"hidden_size": hidden_size}
    narrow = task.rare_characters and not model.tied
    embedding = NARROW_EMBEDDING_SIZE if narrow else _look_up(EMBEDDING_SIZE_BY_VOCABULARY, task.vocabulary_size)
    if model.tied and task.training >= SHORT_TEXT:
        embedding = min(embedding, _look_up(MAX_TIED_EMBEDDING_BY_HIDDEN_SIZE, hidden_size))
    return {
        "hidden_size": hidden_size,
        "embedding_size": min(embedding, hidden_size) if model.embedding_size == "auto" else model.embedding_size,
        "dropout": 0.1 if model.dropout == "auto" else model.dropout,
    }


def _shrink_batch(config: Config, speed: float, task: _Task) -> tuple[Config, float]:
    """Where there is little time, halve the batch as long as that makes more steps."""
    batch_size = resolved(config.train.batch_size)
    while batch_size > 8 and task.seconds * speed < FEW_STEPS * batch_size * config.train.sequence_length:
        batch_size //= 2
        smaller = config.with_values(train={"batch_size": batch_size})
        (its_speed,) = throughput.measure_speeds(smaller, [{}], task.vocabulary_size, task.device)
        if its_speed < MIN_SPEED_OF_HALF_BATCH * speed:
            break
        config, speed = smaller, its_speed
    return config, speed


def _choose_length(config: Config, task: _Task, speed: float) -> _Length:
    """Train for as long as the time allows and the text supports, unless epochs or steps are set."""
    train, batch_size = config.train, resolved(config.train.batch_size)
    per_epoch = Rows.of(task.training, batch_size, train.sequence_length).windows
    affordable = int(0.9 * task.seconds * speed / task.training * per_epoch)  # a tenth of the time is for evaluations
    # a Markov chain has too few weights to overfit
    useful = max(_epochs_before_overfitting(task) * per_epoch, MIN_STEPS)
    most = math.inf if config.model.cell == "hmm" else useful
    epochs, steps = train.epochs, train.steps
    if train.time is not None:
        if epochs == "auto" and steps is None and affordable > most:
            epochs = max(1, int(most) // per_epoch)  # the rest of the time could only do harm
        total = epochs * per_epoch if isinstance(epochs, int) else affordable
        total = max(1, total if steps is None else min(total, steps))
    elif steps is not None:
        total = steps
    elif isinstance(epochs, int):
        total = epochs * per_epoch
    else:
        total = max(1, int(min(affordable, most, max(MAX_EPOCHS * per_epoch, MIN_STEPS))))
        if total >= 4 * per_epoch:  # with fewer, rounding down to whole epochs would waste much of the time
            epochs = total // per_epoch
            total = epochs * per_epoch
        else:
            steps = total
    return _Length(epochs if isinstance(epochs, int) else None, steps, total, per_epoch, total / per_epoch)


def _epochs_before_overfitting(task: _Task) -> int:
    """Return the epochs after which a network overfits a text of so many characters."""
    epochs, power = OVERFITTING[task.fine_tuning]
    return max(3, round(epochs * math.pow(task.training / OVERFITTING_CHARACTERS, power)))


def _choose_interval(config: Config, task: _Task, length: _Length, speed: float) -> int:
    """Return the steps between evaluations, which together read a few percent of what training reads."""
    read = length.epochs_read * task.training
    faster = 1.5 if config.model.bidirectional else 3.0  # than training; each half on its own first, then both
    affordable = 0.1 * read * faster / max(task.validation, 1)
    readable = read / speed / MIN_EVALUATION_SECONDS
    # five at least, though nobody reads them so fast, to see when overfitting sets in; it does not in the first epoch
    evaluations = max(3 if length.epochs_read >= 1.0 else 1, int(min(MAX_EVALUATIONS, affordable, max(5, readable))))
    return max(1, -(-length.total // evaluations))


def _choose_dropout(epochs: float, task: _Task, ngram_bits: float) -> float:
    """Regularise more, the more often each character is read: what is read once cannot be memorised."""
    dropout = _look_up(DROPOUT_BY_EPOCHS, epochs) if ngram_bits > MAX_REGULAR_BITS else 0.0
    if epochs < 3 or task.training >= SHORT_TEXT or ngram_bits <= MAX_REGULAR_BITS:
        return dropout
    most = MIN_CHARACTERS_PREDICTABLE if ngram_bits <= MAX_PREDICTABLE_BITS else MIN_CHARACTERS_TWO_LAYERS
    often = task.training < most and not task.fine_tuning
    return max(dropout, ONE_LAYER_MIN_DROPOUT if often else SHORT_TEXT_MIN_DROPOUT)


def _choose_peak(model: ModelConfig, task: _Task) -> float:
    """Return AdamW's peak learning rate for a gated network that starts from random weights."""
    if model.cell == "hmm":
        return HMM_LEARNING_RATE
    peak = _look_up(PEAK_LEARNING_RATE_BY_HIDDEN_SIZE, resolved(model.hidden_size))
    # large steps throw rows about that are seen seldom, and a GRU that has little decay
    gentle = task.many_characters or task.rare_characters or model.cell == "gru"
    return min(peak, MAX_GENTLE_LEARNING_RATE) if gentle else peak


def _adapt_peak(peak: float, factor: float, cell: str, fine_tuning: bool, relative_bits: float | None) -> float:
    """Lower an optimizer's peak learning rate, `factor` times AdamW's, for what larger steps would destroy."""
    if cell == "rnn":
        peak /= 5  # without gates it is unstable at the same rate
    if fine_tuning:
        peak /= 3
        if relative_bits is not None and cell != "hmm":
            peak = min(peak, fine_tuning_rate(relative_bits) * factor)
    return peak


def _choose_decay(model: ModelConfig, length: _Length, rate: float) -> float:
    """Return AdamW's weight decay at a peak learning rate."""
    if model.cell in {"hmm", "rnn"} or model.init == "identity":
        return LOW_WEIGHT_DECAY
    decay = 1 / (WEIGHT_DECAY_EPOCHS * min(length.per_epoch, length.total) * rate)
    return min(_look_up(MAX_WEIGHT_DECAY_BY_EPOCHS, length.epochs_read), float(f"{decay:.2g}"))


def _describe(config: Config, task: _Task, length: _Length, speed: float) -> str:
    """Say what is trained, how, and for how long."""
    model, train = config.model, config.train
    network = model.kind
    if model.cell != "hmm":
        network += f", {'tied ' if model.tied else ''}embedding {model.embedding_size}, dropout {model.dropout:g}"
    kernel = " (custom kernel)" if train.kernel == "custom" else ""
    seconds = (length.steps / length.per_epoch if length.steps else length.epochs or 0) * task.training / speed
    amount = counted(length.steps or length.epochs or 0, "step" if length.steps else "epoch")
    duration = f"{amount}, about {minutes(seconds)}"
    if train.time and 0 < seconds < 0.9 * train.time:
        duration += f" of the {minutes(train.time)} given"
    elif train.time:
        duration = minutes(train.time)
    return (
        f"Training on {task.training:,} characters ({task.distinct:,} distinct): {network},"
        f" batch {train.batch_size} x {train.sequence_length}, {train.precision}{kernel} on {task.device}: {duration}."
    )
