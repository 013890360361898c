"""Claims about files of mixtures: one file holds the network, the counts and the weights, and neither is trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from charrnn.checkpoints import inference, model_file
from charrnn.checkpoints.model_file import EvaluationRecord
from charrnn.errors import CharRNNError
from charrnn.models.interface import LanguageModel
from charrnn.models.ngram_mixture import NgramMixture
from charrnn.models.torch_mixture import TorchMixture
from charrnn.training.resume import _with_later_settings
from tests.checkpoints.test_model_file import parts, rewrite
from tests.conftest import close
from tests.mixture_files import WEIGHTS, write_mixture

TABLES: list[Any] = [[], [[]], [[0.5], [0.5, 0.5]], [[1.1]], [[-0.1]], [[float("nan")]], [["0.5"]], [[True]], [0.5]]
FIXTURES = Path(__file__).parent.parent / "fixtures" / "0.1.0"


@pytest.fixture(params=["causal", "bidirectional"])
def network(request: pytest.FixtureRequest, runs: dict[str, Path]) -> Path:
    return runs[request.param] / "best.safetensors"


@pytest.fixture
def mixture(network: Path, runs: dict[str, Path], tmp_path: Path) -> Path:
    """Write a mixture into a folder of its own."""
    write_mixture(network, runs["ngram"] / "best.safetensors", tmp_path / "best.safetensors")
    return tmp_path / "best.safetensors"


def test_a_mixture_is_read_back_as_written(network: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    written, counted = write_mixture(network, runs["ngram"] / "best.safetensors", path)
    header, model = model_file.read_mixture(path)
    assert replace(header, shapes=written.shapes, mixture_size=(0, 0)) == written
    tables = counted.tables()
    counts = sum(len(table) for name, table in tables.items() if name.endswith("counts"))
    assert header.mixture_size == (counts, sum(table.nbytes for table in tables.values()))
    assert (
        header.parameters == written.parameters == sum(map(torch.numel, model_file.read_model(network)[1].parameters()))
    )
    assert isinstance(model, TorchMixture)
    before = model_file.read_model(network)[1].state_dict()
    assert all(torch.equal(weights, before[name]) for name, weights in model.network.state_dict().items())
    assert model.ngram.tables().keys() == counted.tables().keys()
    assert all(np.array_equal(table, counted.tables()[name]) for name, table in model.ngram.tables().items())
    assert model.weights.table.tolist() == [list(row) for row in WEIGHTS]


def test_numpy_reads_the_mixture_or_its_network_alone(network: Path, mixture: Path) -> None:
    model, vocabulary = inference.load(mixture)
    alone, _ = inference.load(mixture, network_only=True)
    before, known = inference.load(network)
    assert isinstance(model, NgramMixture)
    assert type(alone) is type(before)
    assert vocabulary == known
    tokens = vocabulary.encode("the quick")[None].astype(np.int64)
    logits, network_logits, alone_logits, counted_logits = (
        each.logits(each.read(tokens, each.initial_state(1))[0])
        for each in (cast(LanguageModel, one) for one in (model, before, alone, model.ngram))
    )
    close(alone_logits, network_logits, 1e-5)
    p, known_p, counted = (
        np.exp(each) / np.exp(each).sum(-1, keepdims=True) for each in (logits, network_logits, counted_logits)
    )
    shares = np.median((p - known_p) / (counted - known_p), -1).ravel().round(3).tolist()
    assert set(shares) <= {weight for row in WEIGHTS for weight in row}
    assert len(set(shares)) > 1


def test_the_network_alone_is_read_by_what_knows_no_mixtures(network: Path, mixture: Path) -> None:
    header, tensors = model_file.read(mixture)
    assert header.mixture is not None
    assert tensors.keys() == model_file.read(network)[1].keys()
    _, model = model_file.read_model(mixture)
    assert not isinstance(model, TorchMixture)


def test_the_last_file_of_a_mixture_resumes_without_its_counts(runs: dict[str, Path], tmp_path: Path) -> None:
    last, path = runs["causal"] / "last.safetensors", tmp_path / "last.safetensors"
    write_mixture(last, runs["ngram"] / "best.safetensors", path)
    assert model_file.read(path, training=True)[1].keys() == model_file.read(last, training=True)[1].keys()
    assert isinstance(model_file.read_mixture(path)[1], TorchMixture)


def test_a_file_is_of_the_oldest_format_that_can_say_what_it_holds(
    runs: dict[str, Path], mixture: Path, tmp_path: Path
) -> None:
    """Earlier versions read a network alone, and say of a mixture that a newer version wrote it."""
    header, tensors = model_file.read(runs["causal"] / "best.safetensors")
    auto, path = header.config.with_values(model={"mixture": "auto"}), tmp_path / "auto.safetensors"
    model_file.write(path, replace(header, config=auto), tensors)
    _, content, _ = parts(path)
    assert content["format"] == 2
    assert "mixture" not in {*content, *content["config"]["model"]}
    assert content["model.mixture"] == "auto"
    assert parts(mixture)[1]["format"] == 4


@pytest.mark.parametrize("boundary", ["\n", "\n\n"])
def test_a_mixture_of_documents_names_their_boundary(boundary: str, runs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    header, counted = write_mixture(runs["causal"] / "best.safetensors", runs["ngram"] / "best.safetensors", path)
    kind = "line" if boundary == "\n" else "blank-line"
    documents = replace(
        header,
        config=header.config.with_values(data={"documents": kind}),
        vocabulary=replace(header.vocabulary, boundary=boundary),
    )
    model_file.write(path, documents, model_file.read(path)[1], counted.tables())
    assert model_file.read_header(path).vocabulary.boundary == boundary
    tree, content, tensors = parts(path)
    assert content.get("boundary", "\n") == boundary
    rewrite(path, tree, {key: value for key, value in content.items() if key != "boundary"}, tensors)
    if boundary == "\n":
        assert model_file.read_header(path).vocabulary.boundary == "\n"
    else:
        assert_both_refuse(path, "lacks or garbles boundary")


def test_a_file_of_an_earlier_version_is_no_mixture_and_resumes_as_none() -> None:
    for folder in ("lstm", "hmm", "bidirectional"):
        header = model_file.read_header(FIXTURES / folder / "last.safetensors")
        assert header.mixture is None
        assert header.config.model.mixture == "none"
        assert _with_later_settings(header.config).model.mixture == "none"


def test_the_setting_is_kept_as_the_user_set_it(runs: dict[str, Path], tmp_path: Path) -> None:
    header, tensors = model_file.read(runs["causal"] / "best.safetensors")
    for chosen in ("auto", "none", "ngram"):
        path = tmp_path / f"{chosen}.safetensors"
        model_file.write(path, replace(header, config=header.config.with_values(model={"mixture": chosen})), tensors)
        assert model_file.read_header(path).config.model.mixture == chosen


def test_the_best_checkpoint_is_judged_by_the_mixture() -> None:
    record = EvaluationRecord(1, 1.0, 1.0, None, nats=300.0, characters=100, correct=9)
    assert replace(record, mixture_nats=200.0).judged_bits == pytest.approx(2 / np.log(2))
    both = replace(record, backward_nats=400.0, cloze_nats=150.0, cloze_correct=5)
    assert replace(both, mixture_nats=200.0).judged_bits == pytest.approx(2.5 / np.log(2))
    assert replace(both, mixture_nats=200.0).bits_per_character == pytest.approx(3 / np.log(2))


def assert_both_refuse(path: Path, match: str) -> None:
    """Check that torch's reader and NumPy's refuse a file for the same reason."""
    for read in (model_file.read_mixture, inference.load):
        with pytest.raises(CharRNNError, match=match):
            read(path)


@pytest.mark.parametrize(
    ("mixture_record", "match"),
    [
        (None, r"lacks or garbles mixture\)"),
        (5, r"lacks or garbles mixture\)"),
        ({"order": 0, "weights": [[0.5]]}, r"garbles mixture\.order"),
        ({"order": 11, "weights": [[0.5]]}, r"garbles mixture\.order"),
        ({"order": 2, "weights": [[0.5]]}, "promises other counts than it holds"),
        ({"weights": [[0.5]]}, r"garbles mixture\.order"),
        *(({"order": 4, "weights": table}, r"garbles mixture\.weights") for table in TABLES),
        ({"order": 4, "weights": [[0.5]] * 11}, r"garbles mixture\.weights"),
        ({"order": 4, "weights": [[0.5] * 17]}, r"garbles mixture\.weights"),
        ({"order": 4}, r"garbles mixture\.weights"),
    ],
    ids=str,
)
def test_a_table_that_is_none_is_refused(mixture_record: Any, match: str, mixture: Path) -> None:
    tree, content, tensors = parts(mixture)
    rewrite(mixture, tree, content | {"mixture": mixture_record}, tensors)
    assert_both_refuse(mixture, match)


def test_a_network_of_format_2_with_counts_is_refused(mixture: Path) -> None:
    tree, content, tensors = parts(mixture)
    rewrite(mixture, tree, {**content, "mixture": None, "format": 2}, tensors)
    assert_both_refuse(mixture, "holds the counts of a mixture, and its header names none")


@pytest.mark.parametrize("table", ["starts", "tokens"])
def test_damaged_counts_are_named(table: str, mixture: Path) -> None:
    tree, content, tensors = parts(mixture)
    begin, end = tree[f"ngram/grams/2/{table}"]["data_offsets"]
    rewrite(mixture, tree, content, tensors[:begin] + b"\xff" * (end - begin) + tensors[end:])
    assert_both_refuse(mixture, rf"garbles ngram/grams/2/{table}")
    model_file.read_model(mixture)  # nothing is said of what is not read
    inference.load(mixture, network_only=True)


def test_an_ngram_model_is_no_mixture(runs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    path.write_bytes((runs["ngram"] / "best.safetensors").read_bytes())
    tree, content, tensors = parts(path)
    rewrite(path, tree, {**content, "format": 4, "mixture": {"order": 2, "weights": [[0.5]]}}, tensors)
    assert_both_refuse(path, r"garbles mixture\.order")


def test_a_setting_that_is_none_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    path.write_bytes((runs["causal"] / "best.safetensors").read_bytes())
    tree, content, tensors = parts(path)
    rewrite(path, tree, {**content, "model.mixture": "hmm"}, tensors)
    assert_both_refuse(path, r"garbles model\.mixture")
