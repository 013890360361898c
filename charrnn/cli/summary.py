"""What to say when a training ends: how it went, and the one setting to try next."""

from __future__ import annotations

import math
from pathlib import Path

from charrnn.checkpoints.model_file import EvaluationRecord
from charrnn.config.schema import Config, resolved
from charrnn.scores import Score
from charrnn.training.events import Finished
from charrnn.training.selection import best_of


def closing(finished: Finished, config: Config, best: Path) -> str:
    """Say in one paragraph how the training went and the one setting to try next."""
    history = finished.history
    if not history:
        return f"Stopped at step {finished.step:,}, before the first evaluation."
    top = best_of(history)
    assert top is not None
    if config.model.counted:
        return f"Done: order {top.step}, validation {top.bits_per_character:.4f} bits/char, in {best}."
    first = {
        "done": "Done",
        "time": "The time is used up",
        "patience": f"Stopped early, after {config.train.patience} evaluations without a better one",
        "stopped": "Stopped and saved",
    }[finished.reason]
    scores = [f"{top.bits_per_character:.4f} bits/char"]
    if top.mixture_bits is not None:
        scores = [f"{top.mixture_bits:.4f} bits/char, mixed with n-grams", f"{top.bits_per_character:.4f} without"]
    if top.cloze is not None:
        scores.append(f"{top.cloze.bits_per_character:.4f} given both sides")
    best_score = f"best validation score {', '.join(scores)} (epoch {top.epoch:.2f})"
    advice = "" if finished.reason == "stopped" else _advice(history, top, config, finished)
    return f"{first}: {best_score}, in {best}.{' ' if advice else ''}{advice}"


def _advice(history: tuple[EvaluationRecord, ...], top: EvaluationRecord, config: Config, finished: Finished) -> str:
    """Tell too little time, underfitting, overfitting and levelling off apart, and name one setting to try; say nothing
    where the evaluations cannot show it.

    The gap is judged at the best evaluation; the training score is with dropout, and so too high. Where the rate has
    annealed the curve is flat whatever the reason: few epochs and no gap, or very few and the best at the end, mean
    that more time would have helped.
    """
    train, last = config.train, history[-1]
    if last.step == 0:
        return "It has not been trained yet."
    if finished.reason == "time" and train.time is not None and finished.startup > train.time / 2:
        enough = math.ceil(train.time + 2 * finished.startup)  # for as long a training as was wanted, and more
        advice = f"{enough}s" if enough < 60 else f"{math.ceil(enough / 60)}m"
        return f"Getting ready took {finished.startup:.0f} seconds of that: try --time {advice}."
    if len(history) < 2:
        return ""
    if top.step == 0:
        return (
            f"The model it started from is still the best; fine-tuning made it worse ({_bits(last):.4f} at"
            " the end). Try more text, or a lower -s train.learning_rate."
        )
    training = top.training_bits_per_character
    gap = 1 - training / top.bits_per_character if top.nats and training is not None else 0.0
    if last.judged_bits > 1.01 * top.judged_bits:
        return _after_a_rise(top, last, config)
    earlier = history[-1 - max(1, len(history) // 5)]
    gained = 1 - last.judged_bits / earlier.judged_bits if earlier.judged_bits else 0.0
    # patience would end a longer training, too
    short = (gap < 0.05 and last.epoch < 10) or (top.step == last.step and last.epoch < 3)
    if finished.reason != "patience" and (gained > 0.005 or short):
        return f"Validation loss was still falling, or would with a longer schedule: try {_longer(config, finished)}."
    return _after_levelling_off(history, gap, config)


def _after_a_rise(top: EvaluationRecord, last: EvaluationRecord, config: Config) -> str:
    """Tell overfitting, where the training loss went on falling, from a rate that is too high."""
    before, after = top.training_bits_per_character, last.training_bits_per_character
    if before is None or after is None or after >= before:
        rate = resolved(config.train.learning_rate)
        return f"Both losses have risen since the best evaluation: try -s train.learning_rate={rate / 2:.2g}."
    scores = f"validation {_bits(last):.4f}, training {after:.4f}"
    return f"The model was overfitting ({scores} at the end): try {_regularised(config)}, or more text."


def _after_levelling_off(history: tuple[EvaluationRecord, ...], gap: float, config: Config) -> str:
    """Name a larger model, or more regularisation if training is far ahead of validation."""
    model, hidden_size = config.model, resolved(config.model.hidden_size)
    if gap > 0.25:
        return f"Validation loss has levelled off far above training loss: try {_regularised(config)}, or more text."
    if history[0].step == 0:  # fine-tuned: what it starts from fixes its size
        return "Validation loss has levelled off: try more text, or a larger model to start from."
    if gap < 0.05:
        return (
            "The model is underfitting (training and validation agree): try a larger one,"
            f" -s model.hidden_size={2 * hidden_size}."
        )
    same = "" if isinstance(model.dropout, str) else " with the same dropout"
    return f"Validation loss has levelled off: try -s model.hidden_size={hidden_size * 3 // 2}{same}."


def _bits(record: EvaluationRecord) -> float:
    """Return the bits/char of the whole model, as the first score of the paragraph has them."""
    return Score(record.model_nats, record.characters).bits_per_character


def _regularised(config: Config) -> str:
    dropout = config.model.dropout
    if isinstance(dropout, str):  # a model without
        return f"-s model.hidden_size={max(1, resolved(config.model.hidden_size) // 2)}"
    return f"-s model.dropout={min(round(dropout + 0.15, 2), 0.7):g}"


def _longer(config: Config, finished: Finished) -> str:
    train = config.train
    if train.time is not None and (finished.reason == "time" or (train.steps is None and train.epochs is None)):
        return f"--time {2 * train.time / 60:g}m" if train.time >= 60 else f"--time {2 * train.time:g}s"
    if train.steps is not None:
        return f"-s train.steps={2 * train.steps}"
    assert isinstance(train.epochs, int)
    return f"-s train.epochs={2 * train.epochs}"
