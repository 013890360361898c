"""What the header of a model file may say: the type and bounds of every field, checked before anything is believed.
In plain Python, since sampling loads no pydantic and every reader must accept the same files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from charrnn.config.limits import (
    FILE_BOUNDARY,
    LARGEST,
    MAX_LAYERS,
    MAX_NAME,
    MAX_ORDER,
    MAX_RATE,
    MAX_SECONDS,
    MAX_SEPARATOR,
    MAX_TIME_SKIP,
    applicable,
    boundary,
)
from charrnn.models import cells

Check = Callable[[Any], bool]
Fields = Mapping[str, Check]

BOUNDARY_FORMAT = 3  # of a file that names the boundary of its documents
MIXTURE_FORMAT = 4  # of a file with the counts and weights of a mixture
HALF_FORMAT = 5  # of a file with weights in fp16, with or without a mixture
SETTING = "model.mixture"  # stands beside config, in which earlier versions refuse what they do not know
_MAX_TABLE = MAX_ORDER, 16  # rows and columns of weights
MAX_COUNT = 2**53  # characters, steps, bytes: above, a float no longer holds every number


class Garbled(ValueError):
    """A field of a header that is missing or out of bounds; its name is the message."""


def whole(low: int, high: int = MAX_COUNT) -> Check:
    """Accept an integer from `low` to `high`."""
    return lambda value: type(value) is int and low <= value <= high


def number(low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> Check:
    """Accept a finite number from `low` to `high`, the ends excluded where they are open."""
    return lambda value: (
        type(value) in {int, float}
        and low <= value <= high
        and not (open_low and value == low)
        and not (open_high and value == high)
    )


def one_of(*values: Any) -> Check:
    """Accept one of some strings, booleans or None."""
    return lambda value: any(type(value) is type(other) and value == other for other in values)


def either(*checks: Check) -> Check:
    """Accept what one of some checks accepts."""
    return lambda value: any(check(value) for check in checks)


def name(value: Any) -> bool:
    """Accept a string that can be a file's name: no NUL, not endless."""
    return type(value) is str and len(value) <= MAX_NAME and "\0" not in value


def names(value: Any) -> bool:
    """Accept a list of names with at least one."""
    return type(value) is list and len(value) > 0 and all(name(one) for one in value)


def shares(value: Any) -> bool:
    """Accept three shares that add up to 1."""
    share = number(0.0, 1.0)
    if type(value) is not list or len(value) != 3 or not all(share(one) for one in value):
        return False
    return abs(sum(value) - 1.0) <= 1e-6 and value[0] > 0.0 and value[1] > 0.0


_NONE, _AUTO, _FLAG = one_of(None), one_of("auto"), one_of(True, False)
_POSITIVE = whole(1, LARGEST)
_AMOUNT = number(0.0, MAX_RATE)
_RATE = number(0.0, MAX_RATE, open_low=True)
_SHARE = number(0.0, 1.0, open_high=True)
_SIZE = either(_POSITIVE, _AUTO)
_NATS = number(0.0, 1e300)
_SECONDS = number(0.0, MAX_SECONDS)

DATA: Fields = {
    "texts": names,
    "encoding": name,
    "encoding_errors": one_of("strict", "replace", "skip"),
    "glob": names,
    "max_expansion": _POSITIVE,
    "split": shares,
    "documents": one_of("none", "line", "blank-line", "file", "separator"),
    "separator": either(_NONE, lambda value: name(value) and len(value) <= MAX_SEPARATOR and value.strip("\n") != ""),
    "min_count": _POSITIVE,
}
MODEL: Fields = {
    "cell": one_of(*cells.CELLS, "ngram", "hmm"),
    "activation": one_of(*cells.ACTIVATIONS),
    "hidden_size": _SIZE,
    "order": either(whole(1, MAX_ORDER), _AUTO),
    "num_layers": either(whole(1, MAX_LAYERS), _AUTO),
    "embedding_size": _SIZE,
    "bidirectional": _FLAG,
    "dropout": either(_SHARE, _AUTO),
    "residual": _FLAG,
    "layer_norm": _FLAG,
    "leak": either(_NONE, number(0.0, 1.0, open_low=True)),
    "time_skip": either(_NONE, whole(2, MAX_TIME_SKIP)),
    "tie_weights": either(_FLAG, _AUTO),
    "init": one_of("orthogonal", "identity", "xavier", "torch"),
    "mixture": one_of("auto", "none", "ngram"),
}
TRAIN: Fields = {
    "batch_size": _SIZE,
    "sequence_length": _POSITIVE,
    "epochs": either(_SIZE, _NONE),
    "steps": either(_POSITIVE, _NONE),
    "time": either(number(0.0, MAX_SECONDS, open_low=True), _NONE),
    "learning_rate": either(_RATE, _AUTO),
    "optimizer": one_of("adamw", "rmsprop", "sgd"),
    "schedule": one_of("cosine", "constant", "linear"),
    "warmup_steps": whole(0, LARGEST),
    "weight_decay": either(_AMOUNT, _AUTO),
    "init_from": either(_NONE, name),
    "distillation": either(_SHARE, _AUTO),
    "l1": _AMOUNT,
    "clip_norm": either(_RATE, _NONE),
    "clip_value": either(_RATE, _NONE),
    "precision": one_of("auto", "fp32", "bf16"),
    "kernel": one_of("auto", "torch", "custom", "own"),  # own is custom in files of earlier versions
    "eval_every": _SIZE,
    "patience": either(_SIZE, _NONE),
    "seed": whole(0, 2**63 - 1),
}
_RESOLVED = ("batch_size", "sequence_length", "learning_rate", "weight_decay", "eval_every", "patience", "precision")
_LATER = {"rolled_back": 0, "patience_from": 0}  # fields that earlier versions lack

VOCABULARY: Fields = {"seen": whole(1), "novel": whole(0), "unseen": whole(0)}
CORPUS: Fields = {
    "name": name,
    "sha256": lambda value: type(value) is str and len(value) == 64,
    "training": whole(1),
    "validation": whole(0),
    "test": whole(0),
}
REPEATED: Fields = {"documents": whole(0), "repeated": whole(0)}
RECORD: Fields = {
    "step": whole(0),
    "epoch": number(0.0, MAX_COUNT),
    "seconds": _SECONDS,
    "training_bits_per_character": either(_NONE, _NATS),
    "nats": _NATS,
    "characters": whole(1),
    "correct": whole(0),
}
LATER: Fields = {  # of a record, which earlier versions lack
    "mixture_nats": either(_NONE, _NATS),
    "backward_nats": either(_NONE, _NATS),
    "cloze_nats": either(_NONE, _NATS),
    "cloze_correct": either(_NONE, whole(0)),
}
POSITION: Fields = {
    "step": whole(0),
    "epoch": whole(0),
    "window": whole(0),
    "seconds": _SECONDS,
    "startup": _SECONDS,
    "rate_scale": number(0.0, 1.0, open_low=True),
    "rollbacks": whole(0),
    "rolled_back": whole(0),
    "evaluated": whole(-1),
    "best_bits": either(_NONE, _NATS),
    "stale": whole(0),
    "patience_from": whole(0),
    "warmup": whole(1),
    "backward_warmup": whole(1),
    "evaluation_seconds": _SECONDS,
    "nats": _NATS,
    "characters": whole(0),
    "lengths": lambda value: type(value) is dict and all(name(key) and whole(0)(value[key]) for key in value),
    "device": one_of("cpu", "cuda", "mps"),
}
BASELINES: Fields = {
    "characters": whole(0),
    "uniform": _NATS,
    "unigram": _NATS,
    "xz": either(_NONE, _NATS),
    "ngram": either(_NONE, _NATS),
    "order": either(_NONE, whole(1, MAX_ORDER)),
}


def settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a record; earlier versions made no mixtures. Raises Garbled."""
    config = _part(content, "config", "")
    return {**config, "model": {**_part(config, "model", "config."), "mixture": content.get(SETTING, "none")}}


def check(content: Mapping[str, Any]) -> None:
    """Raise Garbled, naming the field, where the record in a header is not one that charrnn writes.

    `content` is the record as JSON gives it. Of settings only those that reading depends on must be there.
    """
    config = applicable(settings(content))
    model, train, data = (_part(config, section, "config.") for section in ("model", "train", "data"))
    counted = model.get("cell") == "ngram"
    _check_settings(data, DATA, "data.", ("texts",))
    _check_settings(model, MODEL, "model.", ("cell",))
    _check_settings(train, TRAIN, "train.", ("seed",) if counted else ("seed", *_RESOLVED))
    for section, key in [*(("model", key) for key in model), *(("train", key) for key in _RESOLVED)]:
        if config[section].get(key) == "auto" and key != "mixture":
            raise Garbled(f"{section}.{key}")
    vocabulary, corpus = _part(content, "vocabulary", ""), _part(content, "corpus", "")
    _check_vocabulary(vocabulary)
    _check_boundary(content, data, vocabulary["characters"])
    _check_mixture(content, counted=counted)
    _check_fields(corpus, CORPUS, "corpus.")
    _check_repeated(corpus.get("repeated"))
    if vocabulary["seen"] != corpus["training"]:
        raise Garbled("vocabulary.seen")
    if not counted and train["batch_size"] * train["sequence_length"] > corpus["training"]:
        raise Garbled("train.batch_size")
    _check_history(content.get("history"))
    if "position" not in content:
        raise Garbled("position")
    if content["position"] is not None:
        _check_fields({**_LATER, **_part(content, "position", "")}, POSITION, "position.")
    if content.get("baselines") is not None:
        _check_baselines(_part(content, "baselines", ""), vocabulary)


def _check_settings(values: Mapping[str, Any], fields: Fields, prefix: str, needed: Sequence[str]) -> None:
    wrong = [key for key in values if key not in fields] + [key for key in needed if key not in values]
    if wrong:
        raise Garbled(f"{prefix}{wrong[0]}")
    _check_fields(values, {key: valid for key, valid in fields.items() if key in values}, prefix)


def _check_fields(values: Mapping[str, Any], fields: Fields, prefix: str) -> None:
    for key, valid in fields.items():
        if key not in values or not valid(values[key]):
            raise Garbled(f"{prefix}{key}")


def _check_vocabulary(vocabulary: Mapping[str, Any]) -> None:
    characters = vocabulary.get("characters")
    if type(characters) is not str or "\n" not in characters or len(set(characters)) != len(characters):
        raise Garbled("vocabulary.characters")
    if any("\ud800" <= character <= "\udfff" for character in characters):
        raise Garbled("vocabulary.characters")
    _check_fields({"unseen": 0, **vocabulary}, VOCABULARY, "vocabulary.")
    if vocabulary["novel"] > vocabulary["seen"]:
        raise Garbled("vocabulary.novel")
    if vocabulary.get("unseen", 0) >= len(characters):
        raise Garbled("vocabulary.unseen")


def _check_boundary(content: Mapping[str, Any], data: Mapping[str, Any], characters: str) -> None:
    """Refuse a boundary that is not that of the settings, or cannot be written; earlier versions had none."""
    documents, separator = data.get("documents", "none"), data.get("separator")
    if (documents == "separator") != (separator is not None):
        raise Garbled("data.separator")
    if ("boundary" in content or documents == "separator") and content.get("boundary") != boundary(
        documents, separator
    ):
        raise Garbled("boundary")
    named = boundary(documents, separator) != "\n" if content["format"] >= MIXTURE_FORMAT else None
    if ("boundary" in content) != (content["format"] >= BOUNDARY_FORMAT if named is None else named):
        raise Garbled("boundary")
    boundary_text = content.get("boundary", "\n")
    if not set(boundary_text) <= set(characters):
        raise Garbled("boundary")
    if FILE_BOUNDARY in characters and boundary_text != FILE_BOUNDARY:
        raise Garbled("vocabulary.characters")


def _check_mixture(content: Mapping[str, Any], *, counted: bool) -> None:
    """Refuse a table of weights that is none, and a mixture in a file of another format."""
    if counted and content["format"] >= HALF_FORMAT:
        raise Garbled("format")
    mixed = content.get("mixture") is not None
    if content["format"] < HALF_FORMAT and mixed != (content["format"] >= MIXTURE_FORMAT):
        raise Garbled("mixture")
    if content.get("mixture") is None:
        return
    mixture = _part(content, "mixture", "")
    if counted or not whole(1, MAX_ORDER)(mixture.get("order")):
        raise Garbled("mixture.order")
    table, weight = mixture.get("weights"), number(0.0, 1.0)
    rows, columns = _MAX_TABLE
    if type(table) is not list or not 1 <= len(table) <= rows or not all(type(row) is list for row in table):
        raise Garbled("mixture.weights")
    if not 1 <= len(table[0]) <= columns or any(
        len(row) != len(table[0]) or not all(map(weight, row)) for row in table
    ):
        raise Garbled("mixture.weights")


def _check_repeated(repeated: Any) -> None:
    if repeated is None:
        return
    if type(repeated) is not dict or not repeated.keys() <= {"validation", "test"}:
        raise Garbled("corpus.repeated")
    for split in repeated:
        found = _part(repeated, split, "corpus.repeated.")
        _check_fields(found, REPEATED, f"corpus.repeated.{split}.")
        if found["repeated"] > found["documents"]:
            raise Garbled(f"corpus.repeated.{split}.repeated")


def _check_history(history: Any) -> None:
    if type(history) is not list:
        raise Garbled("history")
    for index, record in enumerate(history):
        where = f"history.{index}."
        _check_fields(_part(history, index, "history."), RECORD, where)
        _check_fields({**dict.fromkeys(LATER), **record}, LATER, where)
        if record["correct"] > record["characters"] or (record.get("cloze_correct") or 0) > record["characters"]:
            raise Garbled(f"{where}correct")


def _check_baselines(baselines: Mapping[str, Any], vocabulary: Mapping[str, Any]) -> None:
    counts, count = baselines.get("counts"), whole(0)
    if type(counts) is not list or len(counts) != len(vocabulary["characters"]) or not all(map(count, counts)):
        raise Garbled("baselines.counts")
    if sum(counts) > vocabulary["seen"]:
        raise Garbled("baselines.counts")
    for split in ("validation", *(["test"] if baselines.get("test") is not None else [])):
        found = _part(baselines, split, "baselines.")
        _check_fields(found, BASELINES, f"baselines.{split}.")
        if (found["ngram"] is None) != (found["order"] is None):
            raise Garbled(f"baselines.{split}.order")


def _part(values: Any, key: Any, prefix: str) -> Any:
    """Return a record within a record."""
    try:
        found = values[key]
    except KeyError as error:
        raise Garbled(f"{prefix}{key}") from error
    if type(found) is not dict:
        raise Garbled(f"{prefix}{key}")
    return found
