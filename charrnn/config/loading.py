"""Settings from YAML, KEY=VALUE and presets; all mistakes are reported at once, with suggestions.
Knows no models."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from charrnn.config import yaml_text
from charrnn.config.conflicts import Conflict, Conflicts
from charrnn.config.limits import applicable
from charrnn.config.schema import Config, TrainConfig
from charrnn.errors import CharRNNError, MisuseError
from charrnn.paths import is_file
from charrnn.showable import shown

_HERE = Path(__file__).parent.parent
_HINTS = 50  # mistakes that get one: to find what may be meant takes time
_ABBREVIATIONS = {"lr": "learning_rate", "wd": "weight_decay", "l2": "weight_decay", "bptt": "sequence_length"}
PRESETS = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs"


def format_value(value: object) -> str:
    """Format a setting's value as YAML has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def presets() -> list[str]:
    """List the names of the presets, in order."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(source: str | None, settings: Iterable[str] = (), base: Mapping[str, Any] | None = None) -> Config:
    """Read a preset or YAML file, override it with KEY=VALUE settings, and validate the result.

    Both override `base`. Raises MisuseError that lists every mistake, in the order of the settings.
    """
    given = _Given(base or {})
    if source is not None:
        path = _find(source)
        given.merge(yaml_text.read(path), f"{path}: ")
    for assignment in settings:
        key, equals, value = assignment.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or not dot:
            owners = _owners(section) or [key for key in [setting_like(section)] if key]
            example = f"{owners[0]}={value or 'VALUE'}" if owners else "model.hidden_size=512"
            given.add_mistake(f"-s {assignment}: settings are written section.name=value, e.g. -s {example}")
            continue
        try:
            given.merge({section: {name: _scalar(value)}}, "")
        except yaml.YAMLError:
            given.add_mistake(f"-s {assignment}: the value is not valid YAML")
    return given.validated()


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
    # which earlier versions did not know
    later = {"separator"} if config.data.separator is None else set[str]()
    left_out = {"model": set(config.model.inapplicable), "train": training, "data": later}
    return config.model_dump(mode="json", exclude=left_out)


def from_dict(values: Mapping[str, Any], name: str) -> Config:
    """Validate settings that were stored in the file `name`. Raises CharRNNError naming that file."""
    try:
        return Config.model_validate(applicable(values))
    except ValidationError as error:
        sentences = (f"{mistake.sentence}." for mistake in _mistakes(error))
        raise CharRNNError(f"{name}: {joined(sentences)}") from error


def dump(config: Config) -> str:
    """Return a configuration as YAML that `load` reads back, without settings that do not apply to the model."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)


def _scalar(value: str) -> Any:
    """Read a value as YAML where it is a list or in double quotes, in which \\n is a newline; else as it stands, but
    for spaces around it."""
    return yaml_text.parse(value) if value.lstrip().startswith(("[", '"')) else value.strip(" ")


def _find(source: str) -> Path:
    path = Path(source)
    if path.suffix in {".yaml", ".yml"} or is_file(path):
        if not is_file(path):
            raise MisuseError(f"{shown(source)}: no such configuration file. Presets are: {', '.join(presets())}.")
        return path
    preset = PRESETS / f"{source}.yaml"
    if source not in presets():
        names = presets()
        hint = _did_you_mean(source, names)
        raise MisuseError(f"{shown(source)} is neither a preset nor a file.{hint} Presets are: {', '.join(names)}.")
    return preset


class _Given:
    """Settings as they were given: of each its position in their order and the file that set it last; and of each
    mistake its position."""

    def __init__(self, base: Mapping[str, Any]) -> None:
        self._tree = {section: dict(values) for section, values in base.items()}
        self._origins: dict[str, tuple[int, str]] = {}
        self._mistakes: list[tuple[int, str]] = []
        self._positions = itertools.count()

    def add_mistake(self, sentence: str) -> None:
        """Note a mistake at the next position."""
        self._mistakes.append((next(self._positions), sentence))

    def merge(self, new: Mapping[str, Any], where: str) -> None:
        """Override settings with new ones; each unknown name is a mistake, told with the nearest valid one."""
        sections = Config.SECTIONS
        for section, values in new.items():
            if section not in sections:
                self.add_mistake(f"{where}{section} is not a section.{self._hint(section, sections)}")
                continue
            if values in (None, ""):
                continue
            if not isinstance(values, Mapping):
                example = _example(section)
                self.add_mistake(f"{where}{section} must contain settings, one per line, e.g. {example}")
                continue
            fields = Config.SECTIONS[section].model_fields
            for name, value in values.items():
                if name in fields:
                    self._tree.setdefault(section, {})[name] = value
                    self._origins[f"{section}.{name}"] = (next(self._positions), where)
                else:
                    self.add_mistake(f"{where}{section}.{name} is not a setting.{self._hint(name, fields)}")

    def _hint(self, word: str, choices: Iterable[str]) -> str:
        """Say what may be meant, unless there are many mistakes."""
        many = len(self._mistakes) >= _HINTS
        return "" if many else _did_you_mean(word, choices, _owners(word), setting_like(word))

    def validated(self) -> Config:
        """Return the configuration. Raises MisuseError that lists every mistake.

        pydantic compares settings only where each is valid, so wrong ones are left out until nothing more is found.
        """
        tree = {section: dict(values) for section, values in self._tree.items()}
        wrong: set[str] = set()
        while True:
            try:
                config = Config.model_validate(tree)
                break
            except ValidationError as error:
                found = list(_mistakes(error))
            # what is said of a default that stands for a wrong value is no mistake
            self._mistakes += [self._with_position(each) for each in found if not wrong & {*each.names, *each.given}]
            left = {name for each in found for name in each.names} - wrong
            wrong |= left
            if not left:
                break
            for name in left:
                section, _, key = name.partition(".")
                tree.get(section, {}).pop(key, None)
        if self._mistakes:
            raise MisuseError(joined(sentence for _, sentence in sorted(self._mistakes, key=lambda each: each[0])))
        return config

    def _with_position(self, mistake: Conflict) -> tuple[int, str]:
        """Return the position of a mistake, and its sentence with the file that it is in."""
        last = (next(self._positions), "")
        position, where = min((self._origins.get(name, last) for name in mistake.names), default=last)
        return position, f"{where}{mistake.sentence}."


def _owners(name: str) -> list[str]:
    return [f"{section}.{name}" for section, kind in Config.SECTIONS.items() if name in kind.model_fields]


def _did_you_mean(word: str, choices: Iterable[str], exact: Sequence[str] = (), like: str | None = None) -> str:
    near = exact or difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    meant = near[0] if near else like
    return f" Did you mean {meant}?" if meant else ""


def _example(section: str) -> str:
    return {"data": "min_count: 2", "model": "hidden_size: 512"}.get(section, "epochs: 20")


def allowed_values(section: str, name: str) -> str:
    """Return the allowed values of a setting, in words."""
    extra = Config.SECTIONS[section].model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["allowed"])


def _mistakes(error: ValidationError) -> Iterator[Conflict]:
    """Turn pydantic's errors into sentences that name the settings, their values and the allowed values."""
    errors = error.errors()
    largest = {item["loc"][:2]: item["ctx"]["le"] for item in errors if item["type"] == "less_than_equal"}
    for item in errors:
        location = [str(name) for name in item["loc"]]
        key = ".".join(location[:2])
        section = Config.SECTIONS.get(location[0]) if location else None
        if item["type"] == "value_error" and len(location) < 2:
            conflicts = item["ctx"]["error"]
            yield from conflicts.found if isinstance(conflicts, Conflicts) else [Conflict(str(conflicts), ())]
        elif section is None or len(location) < 2 or location[1] not in section.model_fields:
            yield Conflict(f"{key or 'the configuration'} is not a setting", ())
        else:
            allowed = allowed_values(*location[:2])
            limit = largest.get(item["loc"][:2], 0)
            if limit >= 1_000 and f"{limit:,.0f}" not in allowed:  # one that nobody meets but by mistake
                allowed = f"at most {limit:,.0f}"
            yield Conflict(f"{key} is {item['input']!r}; it must be {allowed}", (key,))


def joined(mistakes: Iterable[str]) -> str:
    """Join mistakes into one message, each once (pydantic reports a value for each type of a union)."""
    return "\n       ".join(dict.fromkeys(mistakes))
