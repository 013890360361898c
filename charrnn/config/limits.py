"""What settings may be, in plain Python: their largest values, so that nothing overflows, and which of them apply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# of a model without recurrent layers, by its cell
ONLY_SETTINGS = {"ngram": ("order",), "hmm": ("hidden_size", "mixture")}

LARGEST = 10**12  # of counts and sizes
MAX_ORDER = 10  # of an n-gram model
MAX_LAYERS = 1_000
MAX_TIME_SKIP = 1_000_000  # steps: the state holds as many hidden states
MAX_RATE = 1e6  # of learning rates, weight decay, L1 and clipping
MAX_SECONDS = 3.2e8  # ten years
MAX_NAME = 1 << 16  # characters of the name of a file or an encoding
MAX_GLOB = 1_000  # characters
MAX_SEPARATOR = 1_000  # characters
FILE_BOUNDARY = "\0"  # ends each file: no text has it, since decoding refuses it


def boundary(documents: str, separator: str | None) -> str:
    """Return the text that ends each document, given data.documents and data.separator; of a text without documents,
    the newline that stands before it."""
    if documents == "separator":
        assert separator is not None
        return separator
    return {"blank-line": "\n\n", "file": FILE_BOUNDARY}.get(documents, "\n")


def applicable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored settings without those that do not apply to the model: earlier versions stored these as well, at
    the defaults of their time."""
    model, train = config.get("model"), config.get("train")
    cell = model.get("cell") if isinstance(model, Mapping) else None
    if not isinstance(cell, str) or cell not in ONLY_SETTINGS or not isinstance(model, Mapping):
        return dict(config)
    model = {name: model[name] for name in ("cell", *ONLY_SETTINGS[cell]) if name in model}
    if cell == "ngram" and isinstance(train, Mapping):
        train = {"seed": train.get("seed")}
    return {**config, "model": model, "train": train}
