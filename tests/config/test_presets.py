"""Every preset loads, trains and samples; each sets only what differs from the defaults, and says why."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from charrnn.cli.main import cli
from charrnn.config import loading
from charrnn.config.schema import Config

PRESETS = Path(__file__).resolve().parent.parent.parent / "configs"
NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
# twelve paragraphs of several lines: several documents whatever a document is
TEXT = "\n\n".join(f"{number} bottles of beer\non the wall ({number})" for number in range(12)) + "\n"
# small sizes, all different
SMALL = ("model.hidden_size=7", "model.num_layers=1", "model.embedding_size=5", "train.batch_size=2")
SHORT = ("train.sequence_length=11", "train.steps=2", "train.precision=fp32", "train.kernel=torch", "train.seed=0")


def settings() -> list[str]:
    return [word for setting in (*SMALL, *SHORT) for word in ("-s", setting)]


def test_presets_are_the_files_of_configs() -> None:
    assert loading.presets() == NAMES
    assert {"tiny", "small", "base", "gru", "rnn", "irnn", "large", "bidirectional", "poems", "names", "code"} <= set(
        NAMES
    )


@pytest.mark.parametrize("name", NAMES)
def test_preset_trains_and_samples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("beer.txt").write_text(TEXT, encoding="utf-8")
    runner = CliRunner()
    trained = runner.invoke(cli, ["train", "beer.txt", "-q", "-c", name, "--device", "cpu", *settings()])
    assert trained.exit_code == 0, trained.output
    model = trained.stdout.rstrip("\n")
    assert Path(model) == Path("checkpoints/beer/best.safetensors")
    sampled = runner.invoke(cli, ["sample", "-m", model, "-p", "3 b", "-n", "9", "--seed", "0"])
    assert sampled.exit_code == 0, sampled.output
    assert sampled.stdout.startswith("3 b")
    assert len(sampled.stdout.removesuffix("\n")) in {3 + 8, 3 + 9}  # the ninth character may be the last newline


@pytest.mark.parametrize("name", NAMES)
def test_preset_sets_only_what_differs_from_the_defaults(name: str) -> None:
    written = yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    values, defaults = loading.load(name).model_dump(), Config().model_dump()
    same = {"model.cell"}  # a preset with fixed sizes also names the cell that they suit
    repeated = [
        f"{section}.{setting}"
        for section, names in written.items()
        for setting in names
        if values[section][setting] == defaults[section][setting] and f"{section}.{setting}" not in same
    ]
    assert repeated == []


@pytest.mark.parametrize("name", NAMES)
def test_preset_opens_with_a_comment(name: str) -> None:
    lines = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert lines[1].startswith("# ")
    assert max(map(len, lines)) <= 120
