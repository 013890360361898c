"""Starting from the weights of another model: what must agree, how much it goes on teaching, how fast to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charrnn.callbacks import Say
from charrnn.checkpoints import model_file
from charrnn.config.loading import _shown
from charrnn.config.schema import Config
from charrnn.data.corpus import Corpus
from charrnn.errors import MisuseError
from charrnn.evaluation import scoring
from charrnn.models.factory import Network
from charrnn.scores import NATS_PER_BIT, BaselineScores

_TAUGHT = 0.3  # the share of what a fine-tuning learns that the model teaches that it starts from, at most
# it teaches less from the first on and nothing from the second, of what it needs of the new text, as a multiple of what
# an n-gram model of that text needs
_LESS, _NOTHING = 1.2, 1.4
# the highest peak for a model that needs as much of a new text as an n-gram model of it, and a ninth for one that needs
# so much less: the rate's logarithm falls in proportion to what it needs, down to so many times as much, and stays
# there. Measured for LSTMs; steps that are smaller anyway, a plain RNN's or a wide layer's, stay as they are
_TUNED, _NINTH, _MOST_KNOWN = 5e-3, 0.22, 0.75
_COMPARED = 20_000  # characters of the validation part, at most, that show how well a model knows a text


def distillation_weight(bits: float, simpler_bits: float) -> float:
    """Say what share of a fine-tuning the model that it starts from is to teach.

    It needs `bits` per character of the new text's validation part, the best n-gram model of the new text
    `simpler_bits`. A model that needs far more than that knows another kind of text.
    """
    left = _NOTHING * simpler_bits - bits
    return round(_TAUGHT * min(1.0, left / ((_NOTHING - _LESS) * simpler_bits)), 2) if left > 0.0 else 0.0


def fine_tuning_rate(known: float) -> float:
    """Say at which of AdamW's rates a fine-tuning is to learn at most, from a model that needs `known` times as many
    bits of the new text as an n-gram model of it."""
    return float(f"{_TUNED * 9 ** ((min(max(known, _MOST_KNOWN), 1.0) - 1.0) / _NINTH):.2g}")


def _compared(
    config: Config, start: Network, whole: Corpus, simpler: BaselineScores, say: Say
) -> tuple[Config, float | None]:
    """Find out what the model that a fine-tuning starts from knows of the text: how many times as many bits it needs as
    an n-gram model of it. Settles how much of the fine-tuning it is to teach, unless that is named."""
    tokens = whole.validation.tokens[:_COMPARED]
    bits = scoring.evaluate(start, whole.vocabulary, tokens).score.bits_per_character
    ngram_nats = simpler.validation.ngram
    assert ngram_nats is not None
    ngram_bits = ngram_nats / NATS_PER_BIT / simpler.validation.characters
    told = ""
    if config.train.distillation == "auto":
        share = distillation_weight(bits, ngram_bits)
        config = config.with_values(train={"distillation": share})
        told = f": what it expects counts for {100 * share:g}% of what is learnt" if share else ": it does not teach"
    say(f"It needs {bits:.4f} bits/char here, an n-gram model of this text {ngram_bits:.4f}{told}.")
    return config, bits / ngram_bits if ngram_bits > 0.0 else None


def fine_tuning_base(path: Path) -> dict[str, Any]:
    """Give the settings that a model's weights fix, to lie below what the user sets; dropout is free.

    Raises MisuseError for a model that has no weights.
    """
    model = model_file.read_header(path).config.model
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
