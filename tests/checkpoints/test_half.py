"""Claims about model files with weights in fp16: they are rounded once, computed with in fp32, and trusted no more than
others."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from charrnn.checkpoints import half, inference, model_file, safetensors_file
from charrnn.errors import CharRNNError
from charrnn.models.ngram_mixture import NgramMixture
from tests.checkpoints.test_model_file import parts, rewrite
from tests.conftest import Charrnn, settings
from tests.mixture_files import write_mixture

FIXTURES = Path(__file__).parent.parent / "fixtures" / "0.1.0"
KINDS = ["lstm", "gru-tied", "bidirectional", "hmm", "rnn-skip"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Write a copy of a network in fp16."""
    half.write(FIXTURES / "lstm" / "best.safetensors", tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    path = tmp_path / "mixture.safetensors"
    write_mixture(FIXTURES / "lstm" / "last.safetensors", FIXTURES / "ngram" / "best.safetensors", path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_gets_the_rounded_weights_in_fp32(kind: str, tmp_path: Path) -> None:
    source, target = FIXTURES / kind / "best.safetensors", tmp_path / "small.safetensors"
    half.write(source, target)
    before = model_file.read(source)[1]
    stored = safetensors.numpy.load_file(target)
    found = model_file.read_model(target)[1].state_dict()
    assert stored.keys() == found.keys() == before.keys()
    for name, weights in before.items():
        rounded = weights.numpy().astype(np.float16)
        assert stored[name].dtype == np.float16
        np.testing.assert_array_equal(stored[name], rounded)
        np.testing.assert_array_equal(found[name].numpy(), rounded.astype(np.float32))
    arrays = safetensors_file.read(target, arrays=True).arrays
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert target.stat().st_size < source.stat().st_size


def test_the_library_would_write_the_same_bytes(small: Path) -> None:
    """It sorts tensors by type and name, so that each begins where its type may."""
    library = safetensors.numpy.save(safetensors.numpy.load_file(small))
    assert small.read_bytes().endswith(library[8 + int.from_bytes(library[:8], "little") :])


def test_a_largest_weight_fits_and_a_larger_one_is_refused() -> None:
    weights = {"head": np.array([-65504.0, 65519.0, 1e-9], np.float32)}
    assert half.rounded(weights)["head"].tolist() == [-65504.0, 65504.0, 0.0]
    with pytest.raises(CharRNNError, match="head has a weight of 65520, and fp16 holds at most 65504"):
        half.rounded({"head": np.array([1.0, -65520.0], np.float32)})


def test_what_does_not_fit_leaves_no_file(tmp_path: Path) -> None:
    header, tensors = model_file.read(FIXTURES / "lstm" / "best.safetensors")
    tensors["head_bias"][0] = 1e5
    model_file.write(tmp_path / "large.safetensors", header, tensors)
    with pytest.raises(CharRNNError, match="head_bias has a weight of 100000"):
        half.write(tmp_path / "large.safetensors", tmp_path / "small.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["large.safetensors"]


def test_what_only_resuming_needs_is_left_out(tmp_path: Path) -> None:
    source, target = FIXTURES / "taught" / "last.safetensors", tmp_path / "small.safetensors"
    half.write(source, target)
    contents = safetensors_file.read(target)
    assert contents.shapes == safetensors_file.read(source).weights
    header, before = model_file.read_header(target), model_file.read_header(source)
    assert before.position is not None
    assert header.position is None
    assert (header.history, header.baselines, header.vocabulary) == (
        before.history,
        before.baselines,
        before.vocabulary,
    )


def test_a_mixture_keeps_its_counts_and_its_network_does_without(mixture: Path, tmp_path: Path) -> None:
    whole, alone = tmp_path / "whole.safetensors", tmp_path / "alone.safetensors"
    half.write(mixture, whole)
    half.write(mixture, alone, network_only=True)
    assert isinstance(inference.load(whole)[0], NgramMixture)
    assert not isinstance(inference.load(alone)[0], NgramMixture)
    header, found = model_file.read_header(mixture), model_file.read_header(whole)
    assert (found.mixture, found.mixture_size) == (header.mixture, header.mixture_size)
    network = model_file.read_header(alone)
    assert (network.mixture, network.mixture_size, network.config.model.mixture) == (None, (0, 0), "none")
    assert network.latest is not None
    assert network.latest.mixture_nats is None
    written = model_file.network_alone(header)
    assert replace(network, half=False, config=written.config, corpus=written.corpus) == replace(
        written, position=None, shapes=network.shapes
    )


def test_half_of_a_half_is_the_same_file(small: Path, tmp_path: Path) -> None:
    half.write(small, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == small.read_bytes()


def test_no_folder_of_the_machine_that_trained_it_is_named(here: Path, charrnn: Charrnn) -> None:
    shutil.copy(here / "text.txt", here / "other.txt")
    for arguments in (["./text.txt"], [str(here / "other.txt"), "--init-from", "text", "-o", "tuned"]):
        result = charrnn("train", *arguments, "-q", *settings("train.steps=2"))
        assert result.exit_code == 0, result.output
    assert str(here).encode() in (here / "tuned" / "best.safetensors").read_bytes()
    half.write(here / "tuned" / "best.safetensors", here / "small.safetensors")
    assert str(here).encode() not in (here / "small.safetensors").read_bytes()
    header = model_file.read_header(here / "small.safetensors")
    assert header.config.data.texts == [header.corpus.name] == ["other.txt"]
    assert str(header.config.train.init_from).startswith("best.safetensors#sha256=")


@pytest.mark.parametrize(
    ("path", "name"),
    [("/home/me/a b.txt", "a b.txt"), (r"C:\texts\poem.txt", "poem.txt"), ("poem.txt", "poem.txt"), ("/", "/")],
)
def test_the_name_of_a_path_of_any_system_is_its_last_part(path: str, name: str, tmp_path: Path) -> None:
    header, tensors = model_file.read(FIXTURES / "lstm" / "best.safetensors")
    header = replace(header, config=header.config.with_values(data={"texts": [path]}))
    model_file.write(tmp_path / "with.safetensors", header, tensors)
    half.write(tmp_path / "with.safetensors", tmp_path / "small.safetensors")
    assert model_file.read_header(tmp_path / "small.safetensors").config.data.texts == [name]


# Files that are not trusted


def both_refuse(path: Path, message: str) -> None:
    for read in (inference.load, model_file.read_model):
        with pytest.raises(CharRNNError, match=message):
            read(path)


def test_the_format_of_a_file_says_the_type_of_its_weights(small: Path, tmp_path: Path) -> None:
    tree, content, tensors = parts(small)
    assert content["format"] == 5
    rewrite(small, tree, content | {"format": 2}, tensors)
    both_refuse(small, "is of type F16")
    whole = tmp_path / "whole.safetensors"
    tree, content, tensors = parts(FIXTURES / "lstm" / "best.safetensors")
    rewrite(whole, tree, content | {"format": 5}, tensors)
    both_refuse(whole, "is of type F32")


def test_counts_are_not_in_fp16(tmp_path: Path) -> None:
    path = tmp_path / "ngram.safetensors"
    tree, content, tensors = parts(FIXTURES / "ngram" / "best.safetensors")
    rewrite(path, tree, content | {"format": 5}, tensors)
    both_refuse(path, "its header lacks or garbles format")


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E00], ids=["inf", "-inf", "nan"])
def test_a_weight_that_is_not_finite_is_refused(bits: int, small: Path) -> None:
    tree, content, tensors = parts(small)
    name, entry = next((name, entry) for name, entry in tree.items() if name != "__metadata__")
    at = entry["data_offsets"][0]
    rewrite(small, tree, content, tensors[:at] + bits.to_bytes(2, "little") + tensors[at + 2 :])
    both_refuse(small, f"{name} has values that are not finite")


@pytest.mark.parametrize("change", [{"mixture": {"order": 2, "weights": [[0.5]]}}, {"boundary": "\n"}], ids=str)
def test_a_mixture_or_a_boundary_that_is_none_is_refused(change: dict[str, Any], small: Path) -> None:
    tree, content, tensors = parts(small)
    rewrite(small, tree, content | change, tensors)
    both_refuse(small, "is damaged")


def test_a_mixture_without_its_counts_is_refused(mixture: Path, tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    half.write(mixture, path)
    tree, content, tensors = parts(path)
    rewrite(path, tree, {name: value for name, value in content.items() if name != "mixture"}, tensors)
    both_refuse(path, "it holds the counts of a mixture, and its header names none")
