"""What several tests share: one thread, small texts, a folder of one's own, the command line in-process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 12
TINY = (
    "model.hidden_size=5",
    "model.num_layers=2",
    "model.embedding_size=4",
    "model.dropout=0.2",
    "model.mixture=none",
    "train.batch_size=3",
    "train.sequence_length=7",
    "train.eval_every=5",
    "train.learning_rate=0.01",
    "train.precision=fp32",
    "train.kernel=torch",
    "train.patience=null",
    "train.seed=1",
)

Charrnn = Callable[..., Result]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fake-cuda", action="store_true", help="run tests of a CUDA device on a fake one")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write little at each evaluation, of which there are many here."""
    monkeypatch.setattr("charrnn.training.evaluation_samples.SAMPLE_LENGTH", 20)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder with text.txt in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


@pytest.fixture
def charrnn() -> Charrnn:
    """Call the command line in-process: charrnn("train", "text.txt", stdin="...")."""
    from charrnn.cli.main import cli

    def call(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(cli, list(arguments), input=stdin, prog_name="charrnn")

    return call


def settings(*more: str) -> list[str]:
    """Give the options of a tiny training, with more settings over them."""
    return [word for setting in (*TINY, *more) for word in ("-s", setting)]


def close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Compare with what is expected, to within a rounding: a share of the largest number, or of 1 if that is less."""
    found, expected = np.asarray(found), np.asarray(expected)
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


@pytest.fixture
def trained(here: Path, charrnn: Charrnn) -> Path:
    """Train a tiny model into checkpoints/text; gives its run folder."""
    result = charrnn("train", "text.txt", "-q", *settings("train.steps=20"))
    assert result.exit_code == 0, result.output
    return here / "checkpoints" / "text"


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train a causal, a bidirectional and an n-gram model once for tests that only read them; gives their folders."""
    from charrnn.cli.main import cli

    folder, folders = tmp_path_factory.mktemp("runs"), {}
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    for kind, both in (("causal", "false"), ("bidirectional", "true")):
        given = settings(
            "train.steps=300",
            "train.eval_every=75",
            "train.learning_rate=0.05",
            "train.weight_decay=0.01",  # a step at this rate would shrink so few weights by a hundredth
            f"model.bidirectional={both}",
        )
        result = CliRunner().invoke(cli, ["train", str(folder / "text.txt"), "-q", "-o", str(folder / kind), *given])
        assert result.exit_code == 0, result.output
        folders[kind] = folder / kind
    given = ["-s", "model.cell=ngram", "--seed", "1"]
    result = CliRunner().invoke(cli, ["train", str(folder / "text.txt"), "-q", "-o", str(folder / "ngram"), *given])
    assert result.exit_code == 0, result.output
    folders["ngram"] = folder / "ngram"
    return folders


@pytest.fixture(params=["causal", "bidirectional"])
def either(request: pytest.FixtureRequest, runs: dict[str, Path]) -> str:
    """Give a causal model's run folder, and then a bidirectional one's; neither is to be changed."""
    return str(runs[request.param])


# every cell with every activation it takes: one that joins this tuple gets every test of cells and model
CELLS = (("rnn", "tanh"), ("rnn", "relu"), ("rnn", "leaky_relu"), ("gru", "tanh"), ("lstm", "tanh"))

# examples of hypothesis: the same ones in every run, and no stop-watch on a shared machine
hypothesis.settings.register_profile("charrnn", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("charrnn")


def count_characters(model: Any, read: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a model add the characters that it reads to the first number of a list."""

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(tokens: Any, state: Any) -> Any:
            read[0] += tokens.size
            return function(tokens, state)

        return counted

    for name in ("read", "step"):
        monkeypatch.setattr(model, name, counting(getattr(model, name)))
