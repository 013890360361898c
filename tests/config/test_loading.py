"""A field's type decides what a value means; mistakes are reported together, each with the allowed values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import loading
from charrnn.config.schema import Config
from charrnn.errors import CharRNNError, MisuseError

FIELDS = [(section, name) for section, kind in Config.SECTIONS.items() for name in kind.model_fields]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder in which a test can write configs/mine.yaml; return that path."""
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    return Path("configs/mine.yaml")


def rejection(source: str | None = None, *settings: str) -> list[str]:
    with pytest.raises(MisuseError) as caught:
        loading.load(source, settings)
    return [line.strip() for line in str(caught.value).splitlines()]


def value(setting: str) -> Any:
    key = setting.partition("=")[0].strip()
    section, name = key.split(".")
    return getattr(getattr(loading.load(None, [setting]), section), name)


def test_a_separator_and_documents_that_it_ends_need_each_other() -> None:
    (told,) = rejection(None, "data.documents=separator")
    assert told == r"""data.documents=separator needs data.separator, e.g. -s 'data.separator="\n%\n"'."""
    (told,) = rejection(None, "data.separator=%")
    assert told == "data.separator needs data.documents=separator."
    for wrong in (r"\n", "x" * 1_001):
        assert len(rejection(None, f'data.separator="{wrong}"')) == 1


@pytest.mark.parametrize(
    ("written", "meant"), [('"\\n%\\n"', "\n%\n"), ("\n%\n", "\n%\n"), ('"  "', "  "), (" % ", "%"), (r"\n", r"\n")]
)
def test_a_separator_is_the_exact_text(written: str, meant: str) -> None:
    config = loading.load(None, ["data.documents=separator", f"data.separator={written}"])
    assert config.data.separator == config.data.boundary == meant


def test_no_settings_are_the_defaults() -> None:
    defaults = loading.load(None)
    assert defaults == Config()
    assert defaults.data.split == (0.9, 0.05, 0.05)
    assert (defaults.model.cell, defaults.model.hidden_size, defaults.model.leak) == ("lstm", "auto", None)
    assert (defaults.train.sequence_length, defaults.train.clip_norm, defaults.train.seed) == (128, 1.0, None)


@pytest.mark.parametrize(
    ("yaml", "section", "name", "expected"),
    [
        ("train:\n  learning_rate: 1e-3\n", "train", "learning_rate", 0.001),  # PyYAML: the string "1e-3"
        ("train:\n  seed: 0\n", "train", "seed", 0),  # `if seed:` would drop it
        ("train:\n  seed: 0123\n", "train", "seed", 123),  # PyYAML: octal 83
        ("train:\n  time: 1:30\n", "train", "time", None),  # PyYAML: 90, in base 60; here an error
        ("model:\n  tie_weights: no\n", "model", "tie_weights", False),
        ("model:\n  tie_weights: yes\n", "model", "tie_weights", True),
        ("model:\n  tie_weights: on\n", "model", "tie_weights", True),
        ("model:\n  leak: null\n", "model", "leak", None),
        ("model:\n  leak: ~\n", "model", "leak", None),
        ("model:\n  leak:\n", "model", "leak", None),
        ("train:\n  clip_norm: null\n", "train", "clip_norm", None),
        ("data:\n  documents: none\n", "data", "documents", "none"),  # a value here, not null
        ("data:\n  encoding: 1252\n", "data", "encoding", "1252"),
        ("data:\n  texts: [no, 1e3, 2024-01-01, null]\n", "data", "texts", ["no", "1e3", "2024-01-01", "null"]),
        ("data:\n  split: [.8, 1e-1, 0.1]\n", "data", "split", (0.8, 0.1, 0.1)),
        ("train: {steps: 1_000}\n", "train", "steps", 1000),
        ("train:\n", "train", "steps", None),
        ("", "train", "steps", None),
        ("# nothing\n", "train", "steps", None),
    ],
)
def test_a_fields_type_decides_what_yaml_means(
    mine: Path, yaml: str, section: str, name: str, expected: object
) -> None:
    mine.write_text(yaml, encoding="utf-8")
    if "1:30" in yaml:
        assert rejection(str(mine)) == [
            f"{mine}: train.time is '1:30'; it must be a time such as 90s, 10m or 1h30m, or null."
        ]
        return
    found = getattr(getattr(loading.load(str(mine)), section), name)
    assert found == expected
    assert type(found) is type(expected)


def test_booleans_are_not_numbers(mine: Path) -> None:
    mine.write_text("train:\n  batch_size: yes\n  l1: !!bool no\n  steps: !!bool yes\n", encoding="utf-8")
    assert rejection(str(mine)) == [
        f"{mine}: train.batch_size is 'yes'; it must be a positive integer, or auto.",
        f"{mine}: train.l1 is 'no'; it must be a number from 0 to 1,000,000.",
        f"{mine}: train.steps is 'yes'; it must be a positive integer, or null.",
    ]


def test_a_misspelt_setting_gets_a_suggestion(mine: Path) -> None:
    mine.write_text("train:\n  learning_rte: 0.1\n", encoding="utf-8")
    assert rejection("configs/mine.yaml") == [
        f"{mine}: train.learning_rte is not a setting. Did you mean learning_rate?"
    ]


def test_all_mistakes_are_reported_at_once_each_with_its_file(mine: Path) -> None:
    mine.write_text(
        "modl:\n  cell: lstm\nmodel:\n  cell: ltsm\n  epochs: 3\n  hidden_size: 1e3\nhidden_size: 5\ndata: 7\n",
        encoding="utf-8",
    )
    found = rejection(
        str(mine), "train.optimizr=sgd", "cell=gru", "nonsense", "train.seed=-1", "data.split=[0.5,0.6,0]"
    )
    assert found == [
        f"{mine}: modl is not a section. Did you mean model?",
        f"{mine}: model.cell is 'ltsm'; it must be lstm, gru, rnn, ngram or hmm.",
        f"{mine}: model.epochs is not a setting. Did you mean train.epochs?",
        f"{mine}: model.hidden_size is '1e3'; it must be a positive integer, or auto.",
        f"{mine}: hidden_size is not a section. Did you mean model.hidden_size?",
        f"{mine}: data must contain settings, one per line, e.g. min_count: 2",
        "train.optimizr is not a setting. Did you mean optimizer?",
        "-s cell=gru: settings are written section.name=value, e.g. -s model.cell=gru",
        "-s nonsense: settings are written section.name=value, e.g. -s model.hidden_size=512",
        "train.seed is '-1'; it must be a non-negative integer, or null.",
        "data.split must add up to 1, with training and validation shares, e.g. [0.9,0.05,0.05].",
    ]


def test_settings_that_do_not_fit_together_are_told_with_those_that_are_wrong_alone(mine: Path) -> None:
    mine.write_text(
        "train: {epochs: 3, l1: -1, steps: 4, seeed: 1}\n"
        "model: {activation: relu, dropout: 2, order: 5}\n"
        "data: {split: [1, 0, 0], min_count: 0}\n",
        encoding="utf-8",
    )
    own = "model.activation is for model.cell=rnn; lstm has its own. Leave it out, or set rnn."
    assert rejection(str(mine)) == [
        f"{mine}: train.epochs and train.steps are both set; set one of them.",
        f"{mine}: train.l1 is '-1'; it must be a number from 0 to 1,000,000.",
        f"{mine}: train.seeed is not a setting. Did you mean seed?",
        f"{mine}: {own}",
        f"{mine}: model.dropout is '2'; it must be a number from 0 to below 1, or auto.",
        f"{mine}: model.order is for model.cell=ngram; leave it out, or set ngram.",
        f"{mine}: data.split must add up to 1, with training and validation shares, e.g. [0.9,0.05,0.05].",
        f"{mine}: data.min_count is '0'; it must be a positive integer.",
    ]


def test_settings_of_two_sections_that_do_not_fit_are_told_too() -> None:
    found = rejection(None, "model.cell=ngram", "model.num_layers=2", "train.epochs=3", "model.order=11")
    assert found == [
        "model.cell=ngram has no recurrent layers; its only setting is model.order. Leave out model.num_layers.",
        "model.cell=ngram counts the text once; its only train setting is the seed. Leave out train.epochs.",
        "model.order is '11'; it must be an integer from 1 to 10, or auto.",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        ("model.cell=nragm", "model.order=5"),
        ("model.cell=rnnn", "model.activation=relu"),
        ("train.epochs=null", "train.steps=many"),
        ("train.epochs=null", "train.time=soon"),
    ],
    ids=" ".join,
)
def test_the_default_in_the_place_of_a_wrong_value_is_blamed_for_nothing(wrong: tuple[str, str]) -> None:
    (line,) = rejection(None, *wrong)
    assert "; it must be " in line


def test_a_setting_overridden_on_the_command_line_no_longer_blames_the_file(mine: Path) -> None:
    mine.write_text("model:\n  cell: ltsm\n", encoding="utf-8")
    assert rejection(str(mine), "model.cell=lsmt") == ["model.cell is 'lsmt'; it must be lstm, gru, rnn, ngram or hmm."]
    assert loading.load(str(mine), ["model.cell=gru"]).model.cell == "gru"


def test_the_command_line_overrides_the_file_and_the_file_the_base(mine: Path) -> None:
    mine.write_text("model:\n  hidden_size: 20\n  num_layers: 2\n", encoding="utf-8")
    loaded = loading.load(
        str(mine),
        ["model.hidden_size=30", "model.hidden_size=31"],
        base={"model": {"hidden_size": 10, "num_layers": 1, "embedding_size": 3}},
    )
    assert (loaded.model.hidden_size, loaded.model.num_layers, loaded.model.embedding_size) == (31, 2, 3)


def test_spaces_around_a_setting_do_not_matter() -> None:
    assert value(" model.hidden_size = 512 ") == 512


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("model: [\n", "not valid YAML at line 2"),
        ("model:\n  cell: a: b\n", "not valid YAML at line 2"),
        ("- model\n", "expected sections (data:, model:, train:), not a list or a single value."),
        ("lstm\n", "expected sections (data:, model:, train:), not a list or a single value."),
        ("model:\n  cell: \x00\n", "not YAML in UTF-8."),
    ],
)
def test_a_file_that_is_not_a_configuration_is_rejected(mine: Path, yaml: str, message: str) -> None:
    mine.write_text(yaml, encoding="utf-8")
    (line,) = rejection(str(mine))
    assert line.startswith(f"{mine}: {message}")


def test_a_file_in_another_encoding_is_rejected(mine: Path) -> None:
    mine.write_bytes("data:\n  texts: [月.txt]\n".encode("gb18030"))
    assert rejection(str(mine)) == [f"{mine}: not YAML in UTF-8."]


@pytest.fixture
def two_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PRESETS", tmp_path)
    (tmp_path / "small.yaml").write_text("model: {hidden_size: 7}\n", encoding="utf-8")
    (tmp_path / "poems.yaml").write_text("data: {documents: line}\n", encoding="utf-8")


@pytest.mark.usefixtures("two_presets")
def test_presets_are_named_without_their_folder() -> None:
    assert loading.presets() == ["poems", "small"]
    assert loading.load("small").model.hidden_size == 7


@pytest.mark.usefixtures("two_presets")
def test_an_unknown_preset_lists_the_existing_ones() -> None:
    assert rejection("smal") == ["smal is neither a preset nor a file. Did you mean small? Presets are: poems, small."]
    assert rejection("xyz") == ["xyz is neither a preset nor a file. Presets are: poems, small."]
    assert rejection("../x") == ["../x is neither a preset nor a file. Presets are: poems, small."]
    assert rejection("my.yaml") == ["my.yaml: no such configuration file. Presets are: poems, small."]


def test_every_shipped_preset_loads_and_differs_from_the_others_and_the_defaults() -> None:
    loaded = {name: loading.load(name) for name in loading.presets()}
    assert len(loaded) > 1
    assert len({loading.dump(values) for values in [Config(), *loaded.values()]}) == len(loaded) + 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("90s", 90.0),
        ("10m", 600.0),
        ("1.5h", 5400.0),
        ("1h30m", 5400.0),
        ("1h 30m 5s", 5405.0),
        ("10 M", 600.0),
        ("null", None),
        ("", None),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, seconds: float | None) -> None:
    assert value(f"train.time={text}") == seconds


@pytest.mark.parametrize("text", ["ten", "10d", "-5m", "m", "1:30", "10m!", "0", "inf", "nan"])
def test_invalid_times_are_rejected(text: str) -> None:
    (line,) = rejection(None, f"train.time={text}")
    assert line.startswith("train.time is ")
    assert line.endswith("; it must be a time such as 90s, 10m or 1h30m, or null.")


@pytest.mark.parametrize("text", ["1h30", "1h 30", "10m30", "90 10", "30m1h", "1m1m"])
def test_a_time_of_two_meanings_is_rejected(text: str) -> None:
    """1h30 is an hour and a half to whoever writes it; its last number has no unit."""
    (line,) = rejection(None, f"train.time={text}")
    assert line == f"train.time is '{text}'; it must be a time such as 90s, 10m or 1h30m, or null."


@pytest.mark.parametrize(
    "setting",
    [
        "data.split=[0.9,0.1]",
        "data.split=0.9",
        "data.split=[0.9,0.2,-0.1]",
        "data.documents=word",
        "data.min_count=0",
        "data.texts=a.txt",
        "model.hidden_size=0",
        "model.hidden_size=2.5",
        "model.dropout=1",
        "model.dropout=-0.1",
        "model.leak=0",
        "model.leak=1.01",
        "model.time_skip=1",
        "model.tie_weights=perhaps",
        "train.epochs=0",
        "train.steps=auto",
        "train.learning_rate=0",
        "train.learning_rate=nan",
        "train.learning_rate=.inf",
        "train.clip_norm=0",
        "train.clip_value=inf",
        "train.weight_decay=-1",
        "train.warmup_steps=-1",
        "train.seed=9223372036854775808",
        "train.seed=true",
        "train.patience=0",
        "train.precision=fp16",
    ],
)
def test_a_value_out_of_range_is_reported_with_the_allowed_values(setting: str) -> None:
    key = setting.partition("=")[0]
    (line,) = rejection(None, setting)
    assert line.startswith(f"{key} is ")
    assert line.endswith(f"; it must be {loading.allowed_values(*key.split('.'))}.")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("model.leak=1", 1.0),
        ("model.time_skip=2", 2),
        ("model.dropout=0", 0.0),
        ("model.dropout=auto", "auto"),
        ("train.seed=9223372036854775807", 2**63 - 1),
        ("train.warmup_steps=0", 0),
        ("train.patience=none", None),
        ("data.split=[0.9, 0.1, 0]", (0.9, 0.1, 0.0)),
        ("data.texts=[a b.txt, 诗.txt]", ["a b.txt", "诗.txt"]),
    ],
)
def test_values_at_the_limits_are_accepted(setting: str, expected: object) -> None:
    assert value(setting) == expected


def test_epochs_and_steps_exclude_each_other(mine: Path) -> None:
    both = "train.epochs and train.steps are both set; set one of them."
    assert rejection(None, "train.epochs=3", "train.steps=4") == [both]
    mine.write_text("train: {epochs: 3, steps: 4}\n", encoding="utf-8")
    assert rejection(str(mine)) == [f"{mine}: {both}"]
    assert loading.load(None, ["train.steps=4"]).train.epochs == "auto"
    assert loading.load(None, ["train.steps=4", "train.epochs=null"]).train.steps == 4


def test_a_training_must_have_a_length() -> None:
    none = "train.epochs is null, and so are train.steps and train.time; set one of them."
    assert rejection(None, "train.epochs=null") == [none]
    assert loading.load(None, ["train.epochs=null", "train.time=1m"]).train.time == 60.0


def test_an_activation_is_for_the_rnn_cell_only() -> None:
    (line,) = rejection(None, "model.activation=relu")
    assert line.startswith("model.activation is for model.cell=rnn; lstm has its own.")
    assert value("model.cell=rnn") == "rnn"
    assert loading.load(None, ["model.cell=rnn", "model.activation=relu"]).model.activation == "relu"


@pytest.mark.parametrize(("split", "fits"), [("[1,0,0]", False), ("[0,1,0]", False), ("[0.5,0.5,0]", True)])
def test_a_split_has_a_training_and_a_validation_share(split: str, fits: bool) -> None:
    if fits:
        assert value(f"data.split={split}") == (0.5, 0.5, 0.0)
    else:
        assert rejection(None, f"data.split={split}") == [
            "data.split must add up to 1, with training and validation shares, e.g. [0.9,0.05,0.05]."
        ]


@pytest.mark.parametrize(("section", "name"), FIELDS)
def test_every_setting_has_a_description_and_allowed_values(section: str, name: str) -> None:
    description = Config.SECTIONS[section].model_fields[name].description
    assert description is not None
    assert description.endswith(".")
    assert description[0].isupper() or description[0].isdigit()
    assert loading.allowed_values(section, name)


def test_every_section_is_a_field_of_the_configuration() -> None:
    assert list(Config.SECTIONS) == list(Config.model_fields) == ["data", "model", "train"]


def reloaded(values: Config, folder: Path) -> Config:
    path = folder / "config.yaml"
    path.write_text(loading.dump(values), encoding="utf-8")
    return loading.load(str(path))


def test_the_defaults_survive_dump_and_load(tmp_path: Path) -> None:
    assert reloaded(Config(), tmp_path) == Config()


def test_a_runs_config_yaml_reproduces_its_configuration(tmp_path: Path) -> None:
    resolved = loading.load(
        None,
        [
            "data.texts=[/a b/唐诗.txt, no, 1e3, 'null', '#x', 'a: b', '- c']",
            "data.split=[0.8,0.2,0]",
            "data.documents=blank-line",
            "model.cell=rnn",
            "model.activation=leaky_relu",
            "model.hidden_size=96",
            "model.dropout=0.1",
            "model.leak=1e-3",
            "model.time_skip=12",
            "model.tie_weights=yes",
            "train.epochs=null",
            "train.steps=1234",
            "train.time=1h30m",
            "train.learning_rate=1e-5",
            "train.clip_norm=null",
            "train.seed=0",
        ],
    )
    assert resolved.data.texts == ["/a b/唐诗.txt", "no", "1e3", "null", "#x", "a: b", "- c"]
    assert reloaded(resolved, tmp_path) == resolved
    assert "唐诗" in loading.dump(resolved)


@given(
    texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)),
    rate=st.floats(1e-9, 10),
    time=st.none() | st.floats(1e-3, 1e6),
    leak=st.none() | st.floats(1e-6, 1),
    seed=st.none() | st.integers(0, 2**63 - 1),
)
def test_any_configuration_survives_dump_and_load(
    texts: list[str], rate: float, time: float | None, leak: float | None, seed: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    values = Config().with_values(
        data={"texts": texts}, train={"learning_rate": rate, "time": time, "seed": seed}, model={"leak": leak}
    )
    assert reloaded(values, tmp_path_factory.getbasetemp()) == values


def test_a_file_in_a_deep_folder_is_read(tmp_path: Path) -> None:
    """The longest name of a file was once taken for that of a path."""
    folder = tmp_path.joinpath(*["a deep folder"] * 20)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("train: {seed: 5}\n")
    assert loading.load(str(folder / "config.yaml")).train.seed == 5
    with pytest.raises(MisuseError, match="is neither a preset nor a file"):
        loading.load("x" * 5_000)


def test_stored_settings_are_validated_and_their_file_is_named() -> None:
    stored = Config().model_dump(mode="json")
    assert loading.from_dict(stored, "best.safetensors") == Config()
    stored["model"]["cell"] = "transformer"
    stored["train"]["surprise"] = 1
    with pytest.raises(CharRNNError) as caught:
        loading.from_dict(stored, "best.safetensors")
    assert str(caught.value).startswith(
        "best.safetensors: model.cell is 'transformer'; it must be lstm, gru, rnn, ngram or hmm."
    )
    assert "train.surprise is not a setting." in str(caught.value)


def test_replaced_values_are_validated_and_the_original_is_unchanged() -> None:
    before = Config()
    after = before.with_values(model={"hidden_size": 9}, train={"epochs": 2})
    assert (after.model.hidden_size, after.train.epochs) == (9, 2)
    assert before == Config()
    with pytest.raises(ValueError, match="both set"):
        after.with_values(train={"steps": 3})


@pytest.mark.parametrize(
    "content", ["model:\n  hidden_size: !!int abc\n", "model: {!!bool no : 3}\n", "data:\n  texts: !!timestamp x\n"]
)
def test_yaml_tags_are_ignored(mine: Path, content: str) -> None:
    mine.write_text(content, encoding="utf-8")
    assert rejection(str(mine))
