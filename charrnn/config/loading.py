"""Settings from YAML, KEY=VALUE and presets; all mistakes are reported at once, with suggestions.
Knows no models."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from charrnn.config.schema import Config, ModelConfig, TrainConfig
from charrnn.errors import CharRNNError, MisuseError

_HERE = Path(__file__).parent.parent
_ABBREVIATIONS = {"lr": "learning_rate", "wd": "weight_decay", "l2": "weight_decay", "bptt": "sequence_length"}
PRESETS = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs"


def format_value(value: object) -> str:
    """Format a setting's value as YAML has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def presets() -> list[str]:
    """List the names of the presets, in order."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(source: str | None, settings: Iterable[str] = (), base: Mapping[str, Any] | None = None) -> Config:
    """Read a preset or YAML file, override it with KEY=VALUE settings, and validate the result.

    Both override `base`. Raises MisuseError that lists every mistake.
    """
    tree = {section: dict(values) for section, values in (base or {}).items()}
    mistakes: list[str] = []
    origins: dict[str, str] = {}  # setting or section -> the file it was last set in
    if source is not None:
        path = _find(source)
        _merge(tree, _read_yaml(path), f"{path}: ", mistakes, origins)
    for assignment in settings:
        key, equals, value = assignment.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or not dot:
            owners = _owners(section)
            example = f"{owners[0]}={value or 'VALUE'}" if owners else "model.hidden_size=512"
            mistakes.append(f"-s {assignment}: settings are written section.name=value, e.g. -s {example}")
            continue
        try:
            _merge(tree, {section: {name: _scalar(value)}}, "", mistakes, origins)
        except yaml.YAMLError:
            mistakes.append(f"-s {assignment}: the value is not valid YAML")
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        mistakes += [_sentence(item, origins) for item in error.errors()]
    if mistakes:
        raise MisuseError(_join(mistakes))
    return config


def setting_like(word: str) -> str | None:
    """Return the setting that a word such as learning-rate, hidden or lr names; None where none or several fit."""
    names = {f"{section}.{name}": name for section, kind in Config.SECTIONS.items() for name in kind.model_fields}
    word = _ABBREVIATIONS.get(word, word.replace("-", "_"))
    found = [key for key, name in names.items() if name == word] or [
        key for key, name in names.items() if f"_{word}_" in f"_{name}_"
    ]
    return found[0] if len(found) == 1 else None


def to_dict(config: Config) -> dict[str, Any]:
    """Return the settings as plain values to store in a file, without those that do not apply to the model."""
    training = {name for name in TrainConfig.model_fields if config.model.counted and name != "seed"}
    return config.model_dump(mode="json", exclude={"model": set(config.model.inapplicable), "train": training})


def from_dict(values: Mapping[str, Any], name: str) -> Config:
    """Validate settings that were stored in the file `name`. Raises CharRNNError naming that file."""
    model, train = (values.get(name) if isinstance(values, Mapping) else None for name in ("model", "train"))
    # earlier versions stored inapplicable settings as well, at the defaults of their time
    if isinstance(model, Mapping) and isinstance(only := ModelConfig.ONLY_SETTING.get(str(model.get("cell"))), str):
        values = {**values, "model": {name: model[name] for name in ("cell", only) if name in model}}
        if isinstance(train, Mapping) and model["cell"] == "ngram":
            values["train"] = {"seed": train.get("seed")}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise CharRNNError(f"{name}: {_join([_sentence(item, {}) for item in error.errors()])}") from error


def dump(config: Config) -> str:
    """Return a configuration as YAML that `load` reads back, without settings that do not apply to the model."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)


def _scalar(value: str) -> Any:
    # BaseLoader leaves every scalar a string: a field's type decides what `1e-3` and `no` mean
    return yaml.load(value, Loader=yaml.BaseLoader) if value.lstrip().startswith("[") else value.strip()


def _find(source: str) -> Path:
    path = Path(source[:200])  # longer than any file's name
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise MisuseError(f"{path}: no such configuration file. Presets are: {', '.join(presets())}.")
        return path
    preset = PRESETS / f"{source}.yaml"
    if source not in presets():
        names = presets()
        hint = _did_you_mean(source, names)
        raise MisuseError(f"{source} is neither a preset nor a file.{hint} Presets are: {', '.join(names)}.")
    return preset


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise MisuseError(f"{path}: not valid YAML at line {line} ({error.problem}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MisuseError(f"{path}: not YAML in UTF-8.") from error
    except OSError as error:
        raise MisuseError(f"{path}: cannot be read ({error.strerror}).") from error
    if tree in (None, ""):
        return {}
    if not isinstance(tree, dict):
        raise MisuseError(f"{path}: expected sections (data:, model:, train:), not a list or a single value.")
    return tree


def _merge(
    tree: dict[str, dict[str, Any]],
    new: Mapping[str, Any],
    where: str,
    mistakes: list[str],
    origins: dict[str, str],
) -> None:
    """Override settings in `tree` with new ones; append each unknown name to `mistakes`, with the nearest valid one."""
    for section, values in new.items():
        if section not in Config.SECTIONS:
            hint = _did_you_mean(section, Config.SECTIONS, _owners(section))
            mistakes.append(f"{where}{section} is not a section.{hint}")
            continue
        if values in (None, ""):
            continue
        if not isinstance(values, Mapping):
            mistakes.append(f"{where}{section} must contain settings, one per line, e.g. {_example(section)}")
            continue
        fields = Config.SECTIONS[section].model_fields
        for name, value in values.items():
            if name in fields:
                tree.setdefault(section, {})[name] = value
                origins[f"{section}.{name}"] = origins[section] = where
            else:
                hint = _did_you_mean(name, fields, _owners(name))
                mistakes.append(f"{where}{section}.{name} is not a setting.{hint}")


def _owners(name: str) -> list[str]:
    return [f"{section}.{name}" for section, kind in Config.SECTIONS.items() if name in kind.model_fields]


def _did_you_mean(word: str, choices: Iterable[str], exact: Sequence[str] = ()) -> str:
    near = exact or difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


def _example(section: str) -> str:
    return {"data": "min_count: 2", "model": "hidden_size: 512"}.get(section, "epochs: 20")


def allowed_values(section: str, name: str) -> str:
    """Return the allowed values of a setting, in words."""
    extra = Config.SECTIONS[section].model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["allowed"])


def _sentence(item: Any, origins: Mapping[str, str]) -> str:
    """Turn one of pydantic's errors into a sentence that names the setting, its value and the allowed values."""
    location = [str(name) for name in item["loc"]]
    key = ".".join(location[:2])
    if item["type"] == "value_error" and len(location) < 2:
        where = origins.get(key, "")
        return f"{where}{item['ctx']['error']}."
    section = Config.SECTIONS.get(location[0]) if location else None
    if section is None or len(location) < 2 or location[1] not in section.model_fields:
        return f"{key or 'the configuration'} is not a setting."
    return f"{origins.get(key, '')}{key} is {item['input']!r}; it must be {allowed_values(*location[:2])}."


def _join(mistakes: Iterable[str]) -> str:
    """Join mistakes into one message, each once (pydantic reports a value for each type of a union)."""
    return "\n       ".join(dict.fromkeys(mistakes))
