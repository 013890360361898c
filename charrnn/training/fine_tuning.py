"""Fine-tuning: the settings that the base model fixes, the weight of distillation from it, and the learning rate.
The numbers below were measured for LSTMs: docs/results.md, "Fine-tuning"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charrnn.checkpoints import model_file
from charrnn.config.loading import format_value
from charrnn.config.schema import Config
from charrnn.data.corpus import Corpus
from charrnn.errors import MisuseError
from charrnn.evaluation import scoring
from charrnn.messages import Say
from charrnn.models.factory import Network
from charrnn.scores import NATS_PER_BIT, BaselineScores

MAX_DISTILLATION = 0.3  # weight in the loss of what the base model predicts
# the weight falls from the first on and is 0 from the second, where the base model needs so many times the bits of an
# n-gram model
FULL_DISTILLATION, NO_DISTILLATION = 1.2, 1.4
# AdamW's highest peak rate where both need as many bits; its logarithm falls in proportion to the base model's bits, to
# a ninth for so many fewer, and is constant below the last. A plain RNN's or a wide layer's lower rate stays as it is
MAX_LEARNING_RATE, BITS_FOR_A_NINTH, MIN_RELATIVE_BITS = 5e-3, 0.22, 0.75
_FREE = {"dropout", "mixture"}  # settings that no weight depends on
COMPARED_CHARACTERS = 20_000  # of the validation split, at most, to compare both on


def distillation_weight(bits: float, ngram_bits: float) -> float:
    """Return the weight of distillation, 0 to 1, for a base model that needs `bits` per character of the new text's
    validation split, where the best n-gram model of the new text needs `ngram_bits`.

    A base model that needs far more was trained on another kind of text.
    """
    left = NO_DISTILLATION * ngram_bits - bits
    falling = (NO_DISTILLATION - FULL_DISTILLATION) * ngram_bits
    return round(MAX_DISTILLATION * min(1.0, left / falling), 2) if left > 0.0 else 0.0


def fine_tuning_rate(relative_bits: float) -> float:
    """Return AdamW's highest peak learning rate for a base model that needs `relative_bits` times as many bits of the
    new text as an n-gram model of it: the better it predicts the text, the less there is to change."""
    exponent = (min(max(relative_bits, MIN_RELATIVE_BITS), 1.0) - 1.0) / BITS_FOR_A_NINTH
    return float(f"{MAX_LEARNING_RATE * 9**exponent:.2g}")


def compare_with_ngrams(
    config: Config, base: Network, corpus: Corpus, baselines: BaselineScores, say: Say
) -> tuple[Config, float | None]:
    """Score the base model on the new text; return the configuration with distillation resolved, and the model's bits
    as a multiple of an n-gram model's (None if that needs none)."""
    tokens = corpus.validation.tokens[:COMPARED_CHARACTERS]
    bits = scoring.evaluate(base, corpus.vocabulary, tokens).score.bits_per_character
    ngram_nats = baselines.validation.ngram
    assert ngram_nats is not None
    ngram_bits = ngram_nats / NATS_PER_BIT / baselines.validation.characters
    note = ""
    if config.train.distillation == "auto":
        weight = distillation_weight(bits, ngram_bits)
        config = config.with_values(train={"distillation": weight})
        note = f": distillation weight {weight:g}" if weight else ": no distillation"
    say(f"The base model needs {bits:.4f} bits/char of this text, an n-gram model {ngram_bits:.4f}{note}.")
    return config, bits / ngram_bits if ngram_bits > 0.0 else None


def fine_tuning_base(path: Path) -> dict[str, Any]:
    """Return the settings that a base model's weights fix, to lie below the user's; dropout and mixture are not among
    them.

    Raises MisuseError for a model without weights.
    """
    model = model_file.read_header(path).config.model
    if model.counted:
        raise MisuseError(
            f"{path} is an n-gram model and has no weights to start from; leave out --init-from (train.init_from), or"
            " name a network."
        )
    return {"model": model.model_dump(exclude=_FREE)}


def check_fine_tuning(path: Path, config: Config) -> None:
    """Raise MisuseError where the architecture is not the base model's."""
    fixed = fine_tuning_base(path)["model"]
    asked = config.model.model_dump(exclude=_FREE)
    other = [f"model.{name}={format_value(asked[name])}" for name in fixed if asked[name] != fixed[name]]
    if other:
        raise MisuseError(
            f"--init-from keeps the architecture of {path}; leave out {', '.join(other)}. Only dropout and mixture may"
            " differ."
        )
