"""Without torch the numbers are the same, and an invalid file is refused in the same words.
Sizes: B=2 batch rows, T=3 steps, E=4 embedding, H=5 hidden, V=7 vocabulary, K=2 the time skip."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
import torch
from torch import Generator, Tensor

from charrnn.checkpoints import inference, model_file, safetensors_file
from charrnn.cli.sample_output import SamplePrinter
from charrnn.config.schema import ModelConfig
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError
from charrnn.generation import beam_search, infill
from charrnn.generation.filters import Filters
from charrnn.generation.infill import Gapped
from charrnn.generation.sampling import Sampler
from charrnn.models import numpy_model
from charrnn.models.architecture import Architecture
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.char_rnn import CharRNN
from charrnn.models.factory import make_model
from charrnn.models.interface import WIDEST, LanguageModel
from charrnn.models.layers import State
from charrnn.models.numpy_model import NumpyModel
from charrnn.models.torch_model import TorchModel
from tests.checkpoints.test_model_file import lie, parts, rewrite
from tests.conftest import CELLS, close
from tests.models.test_bidirectional import LAID_OVER
from tests.models.test_char_rnn import B, E, H, T, V, some_tokens

# options of every cell, at every depth; a new option joins here
OPTIONS: tuple[dict[str, Any], ...] = (
    *LAID_OVER,
    {"residual": True, "embedding_size": H},
    {"residual": True, "layer_norm": True, "tie_weights": True},
    {"residual": True, "embedding_size": H, "tie_weights": True},
)
MODELS = tuple(
    (cell, activation, {**options, "num_layers": depth, "bidirectional": both})
    for (cell, activation), options, depth, both in itertools.product(CELLS, OPTIONS, (1, 2, 3), (False, True))
)
every_model = pytest.mark.parametrize(("cell", "activation", "options"), MODELS, ids=str)
every_option = pytest.mark.parametrize(
    ("cell", "activation", "options"),
    [(*pair, {**options, "bidirectional": True}) for pair in CELLS for options in OPTIONS],
    ids=str,
)
SOME: dict[str, Any] = {"num_layers": 2, "time_skip": 2, "layer_norm": True}

Exactly = tuple[type[np.floating[Any]], float]
DOUBLE: Exactly = (np.float64, 1e-9)
SINGLE: Exactly = (np.float32, 1e-4)


def made(cell: str, activation: str, options: dict[str, Any]) -> CharRNN:
    """Make a torch model in float64 with every weight, biases and norms too, drawn at random."""
    values = {"hidden_size": H, "embedding_size": E, "num_layers": 1, "dropout": 0.5, "tie_weights": False}
    config = ModelConfig.model_validate({"cell": cell, "activation": activation, **values, **options})
    model = make_model(config, V).double().eval()
    assert isinstance(model, CharRNN)
    generator = Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return model


def to_numpy(model: CharRNN, dtype: type[np.floating[Any]] = np.float64) -> NumpyModel:
    """Build a NumPy model from copies of a torch model's weights."""
    weights = {name: tensor.detach().numpy().astype(dtype) for name, tensor in model.state_dict().items()}
    return numpy_model.build(Architecture.of(model.config.model_dump()), weights)


def same(found: npt.NDArray[Any], expected: Tensor | npt.NDArray[Any], exactly: Exactly = DOUBLE) -> None:
    """Compare values, shape and type."""
    assert found.dtype == exactly[0]
    assert found.shape == tuple(expected.shape)
    close(found, expected, exactly[1])


def close_states(found: numpy_model.State, expected: State, exactly: Exactly = DOUBLE) -> None:
    for index, layer in enumerate(found.layers):
        for array, tensor in zip(layer, expected, strict=True):
            assert (array is None) == (tensor is None)
            if tensor is not None:
                same(array, tensor[index], exactly)


def arrays(state: Any) -> list[npt.NDArray[Any]]:
    return [array for layer in state.layers for array in layer if array is not None]


def windows() -> tuple[Tensor, Tensor]:
    """Draw two windows of tokens (B, T), an escape in each: a state is carried from one to the next."""
    return some_tokens(seed=1), some_tokens(seed=2)


# The same numbers


@pytest.mark.parametrize("exactly", [DOUBLE, SINGLE], ids=["double", "single"])
@every_model
@torch.no_grad()
def test_it_equals_the_torch_model(cell: str, activation: str, options: dict[str, Any], exactly: Exactly) -> None:
    model = made(cell, activation, options)
    reader = to_numpy(model, exactly[0])
    expected, found = model.initial_state(B), reader.initial_state(B)
    close_states(found, expected, exactly)
    for tokens in windows():
        after = found
        features, found = reader.read(tokens.numpy(), after)
        last, stepped = reader.step(tokens.numpy(), after)
        direct, _ = model.read(tokens, expected)
        logits, expected = model(tokens, expected)
        same(features, direct, exactly)
        same(reader.logits(features), logits, exactly)
        same(last, logits[:, -1], exactly)
        for state in (found, stepped):
            close_states(state, expected, exactly)
    assert reader.gates == model.layers[0].weights()[0].shape[0]  # type: ignore[operator]


@pytest.mark.parametrize("exactly", [DOUBLE, SINGLE], ids=["double", "single"])
@every_model
@torch.no_grad()
def test_both_other_heads_equal_those_of_the_torch_model(
    cell: str, activation: str, options: dict[str, Any], exactly: Exactly
) -> None:
    model = made(cell, activation, options)
    reader = to_numpy(model, exactly[0])
    if not isinstance(model, BidirectionalRNN):
        assert reader.bidirectional_heads is None
        return
    assert reader.bidirectional_heads is not None
    half, back = model.backward_half, reader.bidirectional_heads.backward
    assert back.bidirectional_heads is None
    expected, found = half.initial_state(B), back.initial_state(B)
    for tokens in windows():
        features, found = back.read(tokens.numpy(), found)
        direct, _ = half.read(tokens, expected)
        logits, expected = half(tokens, expected)
        same(features, direct, exactly)
        same(back.logits(features), logits, exactly)
    # every width that the joint head learns, and wider ones, a different one at each position
    remaining = torch.arange(1, WIDEST + 4)
    before, after = torch.randn(2, len(remaining), model.feature_size, generator=Generator().manual_seed(3)).double()
    given = [side.numpy().astype(exactly[0]) for side in (before, after)]
    joint = model.joint_logits(before, after, remaining)
    same(reader.bidirectional_heads.joint_logits(given[0], given[1], remaining.numpy()), joint, exactly)
    for width in (1, 2, WIDEST, WIDEST + 1, 1000):
        everywhere = reader.bidirectional_heads.joint_logits(given[0], given[1], width)
        same(everywhere, model.joint_logits(before, after, width), exactly)


@every_option
def test_steps_read_at_once_and_one_at_a_time_are_the_same(cell: str, activation: str, options: dict[str, Any]) -> None:
    reader = to_numpy(made(cell, activation, {**options, "num_layers": 2}))
    assert reader.bidirectional_heads is not None
    tokens = torch.cat(windows(), 1).numpy()
    both: tuple[LanguageModel, LanguageModel] = (reader, reader.bidirectional_heads.backward)
    for one in both:
        features, at_once = one.read(tokens, one.initial_state(B))
        state = one.initial_state(B)
        for step in range(2 * T):
            last, state = one.step(tokens[:, step : step + 1], state)
            same(last, one.logits(features[:, step]))
        for left, right in zip(arrays(state), arrays(at_once), strict=True):
            same(left, right)


@every_option
def test_selected_batch_rows_continue_as_they_would_have(cell: str, activation: str, options: dict[str, Any]) -> None:
    reader = to_numpy(made(cell, activation, {**options, "num_layers": 2}))
    first, second = (window.numpy() for window in windows())
    _, state = reader.read(first, reader.initial_state(B))
    for index in ([1, 0, 1], [1], [0, 0]):
        rows = np.array(index, dtype=np.int64)
        features, after = reader.read(second[rows], state.select(rows))
        every, after_all = reader.read(second, state)
        same(features, every[rows])
        for left, right in zip(arrays(after), arrays(after_all.select(rows)), strict=True):
            same(left, right)


@every_option
def test_no_reading_changes_the_state_or_the_tokens_it_was_given(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    reader = to_numpy(made(cell, activation, {**options, "num_layers": 2}))
    first, second = (window.numpy() for window in windows())
    for state in (reader.initial_state(B), reader.read(first, reader.initial_state(B))[1]):
        before, tokens = [array.copy() for array in arrays(state)], second.copy()
        features, after = reader.read(second, state)
        reader.step(second, state)
        again, after_again = reader.read(second, state)
        np.testing.assert_array_equal(second, tokens)
        for left, right in zip(arrays(state), before, strict=True):
            np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(features, again)
        for left, right in zip(arrays(after), arrays(after_again), strict=True):
            np.testing.assert_array_equal(left, right)


def test_results_belong_to_the_caller() -> None:
    reader = to_numpy(made("lstm", "tanh", SOME))
    tokens = windows()[0].numpy()
    features, state = reader.read(tokens, reader.initial_state(B))
    expected = features.copy()
    for array in (features, *arrays(state), reader.logits(features)):
        array[...] = np.nan
    again, _ = reader.read(tokens, reader.initial_state(B))
    np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize("order", [[V, 3, 0, 6, 3, V, 1], [1, 0, 3, V, 6], [6, 6, 6, V]], ids=str)
def test_the_table_of_projected_inputs_does_not_depend_on_the_order_of_filling(order: list[int]) -> None:
    model = made("gru", "tanh", SOME)
    fresh, asked = to_numpy(model), to_numpy(model)
    for token in order:
        (one, _), (alone, _) = (
            reader.step(np.array([[token]]), reader.initial_state(1)) for reader in (asked, to_numpy(model))
        )
        same(one, alone)
    every = np.array([[*range(V + 1)]])
    (left, _), (right, _) = (reader.read(every, reader.initial_state(1)) for reader in (fresh, asked))
    same(left, right)


@pytest.mark.parametrize(("cell", "activation"), CELLS)
@torch.no_grad()
def test_the_escape_is_read_as_the_mean_character(cell: str, activation: str) -> None:
    model = made(cell, activation, SOME)
    reader = to_numpy(model)
    np.testing.assert_allclose(reader.embedding(np.array([V]))[0], model.embedding.mean(0), rtol=0, atol=1e-15)
    features, _ = reader.read(np.array([[V, 2, V]]), reader.initial_state(1))
    same(features, model.read(torch.tensor([[V, 2, V]]), model.initial_state(1))[0])


class Spurious(np.ndarray[Any, Any]):
    """Weights whose products are right, and yet raise the flag of an invalid operation, as OpenBLAS may."""

    def __matmul__(self, other: Any) -> Any:
        np.subtract(np.inf, np.inf)
        return np.asarray(self) @ other

    def __rmatmul__(self, other: Any) -> Any:
        np.subtract(np.inf, np.inf)
        return other @ np.asarray(self)


def test_a_spurious_flag_of_a_product_warns_of_nothing() -> None:
    """OpenBLAS computes with unused lanes as well, where it finds whatever was in memory."""
    model = made("lstm", "tanh", {**SOME, "residual": True, "bidirectional": True})
    expected, reader = to_numpy(model), to_numpy(model)
    states = numpy_model.NumpyHMM({"transition": np.eye(H), "emission": np.ones((V, H))})
    with pytest.warns(RuntimeWarning, match="invalid value"):
        np.eye(H).view(Spurious) @ np.ones(H)
    assert reader.bidirectional_heads is not None
    stacks = [reader, reader.bidirectional_heads.backward]
    for owner in [*stacks, states, *(layer for stack in stacks for layer in stack.layers)]:  # type: ignore[attr-defined]
        spoilt = {name: value.view(Spurious) for name, value in vars(owner).items() if isinstance(value, np.ndarray)}
        vars(owner).update(spoilt)
    heads = reader.bidirectional_heads.weights  # type: ignore[attr-defined]
    reader.bidirectional_heads.weights = {name: each.view(Spurious) for name, each in heads.items()}  # type: ignore[attr-defined]
    tokens = windows()[0].numpy()
    features, _ = reader.read(tokens, reader.initial_state(B))
    same(np.asarray(features), expected.read(tokens, expected.initial_state(B))[0])
    same(np.asarray(reader.logits(features)), expected.logits(features))
    for one in (*stacks, states):
        one.step(tokens, one.initial_state(B))
    states.logits(states.read(tokens, states.initial_state(B))[0])
    reader.bidirectional_heads.joint_logits(features, features, 1)


# Architecture


@every_model
def test_an_architecture_knows_the_shape_of_every_weight(cell: str, activation: str, options: dict[str, Any]) -> None:
    model = made(cell, activation, options)
    shapes = Architecture.of(model.config.model_dump(mode="json")).shapes(V)
    assert shapes == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


GOOD = made("lstm", "tanh", {}).config.model_dump(mode="json")
LIES: list[tuple[str, Any]] = [
    ("cell", "transformer"),
    ("cell", None),
    ("activation", "sigmoid"),
    *itertools.product(
        ("hidden_size", "num_layers", "embedding_size"), ("auto", 0, -1, True, 5.0, math.nan, "5", None)
    ),
    *itertools.product(("bidirectional", "residual", "layer_norm", "tie_weights"), (0, 1, None, "no", "true")),
    *itertools.product(("leak",), (0, 0.0, -0.3, 1.5, math.nan, math.inf, True, False, "0.3")),
    *itertools.product(("time_skip",), (1, 0, -2, 2.0, True, False, math.nan, 1_000_001, 10**30, "2")),
]


@pytest.mark.parametrize(("name", "value"), LIES, ids=str)
def test_an_invalid_setting_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^model\.{name}$"):
        Architecture.of({**GOOD, name: value})


@pytest.mark.parametrize("name", ["cell", "hidden_size", "num_layers", "embedding_size"])
def test_a_missing_size_or_cell_has_no_default(name: str) -> None:
    with pytest.raises(KeyError, match=name):
        Architecture.of({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(
    "setting", [{"leak": None}, {"leak": 1}, {"leak": 1.0}, {"leak": 1e-9}, {"time_skip": 2}, {"time_skip": 1_000_000}]
)
def test_a_setting_at_its_limit_is_accepted(setting: dict[str, Any]) -> None:
    (name,) = setting
    assert getattr(Architecture.of({**GOOD, **setting}), name) == setting[name]


# Files


@pytest.fixture(params=["causal", "bidirectional"])
def copied(request: pytest.FixtureRequest, runs: dict[str, Path], tmp_path: Path) -> Path:
    """Return a copy of a trained model's file, which a test may damage."""
    for name in ("best.safetensors", "last.safetensors"):
        shutil.copy(runs[request.param] / name, tmp_path / name)
    return tmp_path / "best.safetensors"


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
@torch.no_grad()
def test_either_file_of_a_run_is_loaded_as_torch_would_load_it(either: str, name: str) -> None:
    reader, vocabulary = inference.load(Path(either) / name)
    assert isinstance(reader, NumpyModel)
    header, model = model_file.read_model(Path(either) / name)
    assert vocabulary == header.vocabulary
    tokens = np.array([vocabulary.encode("the quick 鸟 fox"), vocabulary.encode("jumps over a dog")[:15]], np.int64)
    features, state = reader.read(tokens, reader.initial_state(2))
    logits, expected = model(torch.from_numpy(tokens), model.initial_state(2))
    same(reader.logits(features), logits, SINGLE)
    close_states(state, expected, SINGLE)
    assert (reader.bidirectional_heads is None) == ("causal" in either)


def tree(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the header of all tensors."""

    def damage(path: Path) -> None:
        header, content, tensors = parts(path)
        change(header)
        rewrite(path, header, content, tensors)

    return damage


def record(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    """Change charrnn's own record in the header."""

    def damage(path: Path) -> None:
        header, content, tensors = parts(path)
        rewrite(path, header, change(content), tensors)

    return damage


def infinite_offset(path: Path) -> None:
    """Make an offset a number that JSON can write and no integer is."""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = re.sub(rb'("data_offsets":\s*\[\d+,\s*)\d+', rb"\g<1>1e999", raw[8 : 8 + size], count=1)
    path.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + size :])


def model_lies(**settings: Any) -> Callable[[Path], None]:
    return record(lambda content: lie(content, **settings))


def weights(change: Callable[[dict[str, npt.NDArray[Any]]], Any]) -> Callable[[Path], None]:
    """Change the tensors, and describe them truly."""

    def damage(path: Path) -> None:
        _, content, _ = parts(path)
        tensors = safetensors.numpy.load_file(path)
        change(tensors)
        path.write_bytes(safetensors.numpy.save(tensors, {"charrnn": json.dumps(content)}))

    return damage


def cut(length: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:length])

    return damage


def without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Leave out what stands at the end of a path of keys."""
    first, *rest = keys
    if rest:
        return content | {first: without(content[first], *rest)}
    return {key: value for key, value in content.items() if key != first}


def vocabulary_lies(**fields: Any) -> Callable[[Path], None]:
    return record(lambda content: content | {"vocabulary": content["vocabulary"] | fields})


TIED = ('"tie_weights": false', '"tie_weights": true')
# what both readers refuse in the same words: files of other programs, and headers that do not match the tensors
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gone": (Path.unlink, "no such model file"),
    "empty": (cut(0), "is not a charrnn model"),
    "cut in its length": (cut(5), "is not a charrnn model"),
    "cut in its header": (cut(200), r"is damaged \(its header ends at byte"),
    "cut in its tensors": (cut(-1), r"is damaged \(its tensors need"),
    "grown": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), r"is damaged \(its tensors need"),
    "another format": (lambda path: path.write_bytes(b"PK\x03\x04 and so on"), "is not a charrnn model"),
    "header no JSON": (lambda path: path.write_bytes(struct.pack("<Q", 4) + b"{]{]"), "its header is not JSON"),
    "another program's": (
        lambda path: path.write_bytes(safetensors.numpy.save({"x": np.zeros(3)})),
        "a safetensors file but not a charrnn model",
    ),
    "newer": (record(lambda content: content | {"format": 6}), r"newer charrnn \(format 6;"),
    "older, tied": (
        record(lambda content: json.loads(json.dumps(content | {"format": 1}).replace(*TIED))),
        "written by an older charrnn, whose tied weights",
    ),
    "without format": (record(lambda content: without(content, "format")), "lacks or garbles format"),
    "format of nothing": (record(lambda content: content | {"format": None}), "lacks or garbles"),
    "tensor longer than its bytes": (
        tree(lambda header: header["head_bias"].update(shape=[2**40])),
        "gives head_bias another size than its bytes",
    ),
    "tensor of negative size": (
        tree(lambda header: header["head_bias"].update(shape=[-1])),
        "head_bias an impossible shape",
    ),
    "offset of infinity": (infinite_offset, "its header does not describe tensors"),
    "tensors overlap": (tree(lambda header: header.update(copy=header["head_bias"])), "leaves gaps between tensors"),
    "tensor of no known type": (
        tree(lambda header: header["head_bias"].update(dtype="C64")),
        "head_bias is of type C64",
    ),
    "tensor of integer type": (
        tree(lambda header: header["head_bias"].update(dtype="I32")),
        "head_bias is of type I32",
    ),
    "tensor missing": (weights(lambda tensors: tensors.pop("head_bias")), r"promises head_bias as \(\d+,\), .* None"),
    "tensor too many": (weights(lambda tensors: tensors.update(more=np.zeros(3, np.float32))), "promises more as None"),
    "tensor turned": (
        weights(lambda tensors: tensors.update(head=np.ascontiguousarray(tensors["head"].T))),
        "promises head as",
    ),
    "num_layers 999": (model_lies(num_layers=999), "promises other sizes"),
    "cell": (model_lies(cell="gru"), r"promises .*layers\.0\.kernel\.bias_hh_l0 as"),
    "layer_norm": (model_lies(layer_norm=True), r"promises .*norms\.0\.bias as"),
    "tie_weights": (model_lies(tie_weights=True), "promises .* as"),
    "time_skip": (model_lies(time_skip=2), "promises .*skip_weight as"),
    "without config": (record(lambda content: without(content, "config")), "lacks or garbles config"),
    "without vocabulary": (record(lambda content: without(content, "vocabulary")), "lacks or garbles vocabulary"),
    "without seen": (
        record(lambda content: without(content, "vocabulary", "seen")),
        r"lacks or garbles vocabulary\.seen",
    ),
    "characters twice": (vocabulary_lies(characters="aab\n"), "lacks or garbles vocabulary"),
    "no newline": (vocabulary_lies(characters="ab"), "lacks or garbles vocabulary"),
    "surrogates": (vocabulary_lies(characters="\ud800\n"), "lacks or garbles"),
    "counts": (vocabulary_lies(seen=5, novel=9), r"lacks or garbles vocabulary\.novel"),
}
# what both readers refuse, the one without torch naming the setting or the tensor
LIED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "first tensor missing": (weights(lambda tensors: tensors.pop("embedding")), "promises embedding as"),
    "hidden_size": (model_lies(hidden_size=10**12), "promises .* as"),
    "hidden_size false": (model_lies(hidden_size=False), r"garbles model\.hidden_size"),
    "embedding_size": (model_lies(embedding_size=7), r"promises \S+ as \(\d+, 7\)"),
    "num_layers 1": (model_lies(num_layers=1), r"promises .*layers\.1\.kernel\.bias_hh_l0 as None"),
    "num_layers 3": (model_lies(num_layers=3), r"promises .*layers\.2\.kernel\.bias_hh_l0 as .* None"),
    "time_skip 10**9": (model_lies(time_skip=10**9), r"garbles model\.time_skip"),
    "time_skip 1": (model_lies(time_skip=1), r"garbles model\.time_skip"),
    "leak nan": (model_lies(leak=math.nan), r"garbles model\.leak"),
    "no known cell": (model_lies(cell="transformer"), r"garbles model\.cell"),
    "no cell at all": (model_lies(cell=["lstm"]), r"garbles model\.cell"),
    "unresolved": (model_lies(hidden_size="auto"), r"garbles model\.hidden_size"),
    "without model": (record(lambda content: without(content, "config", "model")), r"garbles config\.model"),
    "without a size": (record(lambda content: without(content, "config", "model", "num_layers")), "'num_layers'"),
    "config of words": (record(lambda content: content | {"config": "lstm"}), "garbles"),
    "another vocabulary": (vocabulary_lies(characters="ab\n"), r"garbles baselines\.counts"),
}


def refusal(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(CharRNNError) as refused:
        read(path)
    return str(refused.value)


@pytest.mark.parametrize("settings", [[1], "lstm", None, 7], ids=str)
def test_invalid_settings_in_an_old_file_are_refused(runs: dict[str, Path], tmp_path: Path, settings: Any) -> None:
    old = tmp_path / "old.safetensors"
    old.write_bytes((runs["causal"] / "best.safetensors").read_bytes())
    record(lambda content: content | {"format": 1, "config": content["config"] | {"model": settings}})(old)
    for read in (inference.load, model_file.read_model):
        with pytest.raises(CharRNNError):
            read(old)


def test_a_file_of_the_first_format_is_read(runs: dict[str, Path], tmp_path: Path) -> None:
    old = tmp_path / "old.safetensors"
    for name in ("causal", "bidirectional", "ngram"):
        old.write_bytes((runs[name] / "best.safetensors").read_bytes())
        record(lambda content: content | {"format": 1})(old)
        inference.load(old)
        assert model_file.read_header(old).config == model_file.read_header(runs[name] / "best.safetensors").config


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_in_the_same_words_with_and_without_torch(copied: Path, damage: str) -> None:
    spoil, words = DAMAGES[damage]
    spoil(copied)
    refused = refusal(inference.load, copied)
    assert re.search(words, refused), refused
    assert refused == refusal(model_file.read_model, copied)


@pytest.mark.parametrize("damage", LIED)
def test_a_wrong_header_is_refused_with_and_without_torch(copied: Path, damage: str) -> None:
    spoil, words = LIED[damage]
    spoil(copied)
    refused = refusal(inference.load, copied)
    assert re.search(rf"is damaged \(its header .*{words}.*\)\. Try last\.safetensors\.", refused), refused
    refusal(model_file.read_model, copied)


def test_a_file_older_than_bidirectional_models_is_causal(runs: dict[str, Path], tmp_path: Path) -> None:
    """Files of format 1 were written before `bidirectional` was a setting: they lack it, and are valid."""
    path, newer = tmp_path / "best.safetensors", runs["causal"] / "best.safetensors"
    shutil.copy(newer, path)
    record(lambda content: without(content, "config", "model", "bidirectional"))(path)
    assert model_file.read_header(path) == model_file.read_header(newer)
    reader, vocabulary = inference.load(path)
    assert reader.bidirectional_heads is None
    assert vocabulary == model_file.read_header(newer).vocabulary


@pytest.mark.parametrize("size", [{"num_layers": 10**9}, {"hidden_size": 10**12}, {"embedding_size": 10**12}], ids=str)
def test_nothing_of_a_wrong_size_is_ever_allocated(
    copied: Path, size: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model_lies(**size)(copied)
    monkeypatch.setattr(inference, "build", lambda *_: pytest.fail("weights were used"))
    if "num_layers" in size:  # the names alone would fill the memory
        monkeypatch.setattr(Architecture, "shapes", lambda *_: pytest.fail("shapes were listed"))
    assert "is damaged" in refusal(inference.load, copied)


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = inference.load(copied)
    tensors = safetensors_file._tensors

    def replaced(path: Path, *rest: Any) -> Any:
        monkeypatch.setattr(safetensors_file, "_tensors", tensors)
        header, model = model_file.read_model(copied)
        with torch.no_grad():
            for weights in model.parameters():
                weights.add_(1.0)
        longer = replace(header, history=header.history * 3)  # which moves the tensors
        model_file.write(copied, longer, model.state_dict())
        return tensors(path, *rest)

    monkeypatch.setattr(safetensors_file, "_tensors", replaced)
    during, _ = inference.load(copied)
    assert isinstance(before, NumpyModel)
    assert isinstance(during, NumpyModel)
    np.testing.assert_array_equal(during.head, before.head)
    after, _ = inference.load(copied)
    assert isinstance(after, NumpyModel)
    np.testing.assert_array_equal(after.head, before.head + 1.0)


def test_a_model_in_double_precision_is_read_in_double_precision(copied: Path) -> None:
    weights(lambda tensors: tensors.update({name: array.astype(float) for name, array in tensors.items()}))(copied)
    reader: LanguageModel = inference.load(copied)[0]
    logits, _ = reader.step(np.array([[0, 1, 2]]), reader.initial_state(1))
    assert logits.dtype == np.float64


# The same texts


Readers = list[tuple[LanguageModel, Vocabulary]]


@pytest.fixture
def readers(either: str) -> Readers:
    """Open one small trained model with NumPy, and with torch."""
    path = Path(either) / "best.safetensors"
    header, model = model_file.read_model(path)
    return [inference.load(path), (TorchModel(model), header.vocabulary)]


@pytest.mark.parametrize(
    "filters", [Filters(temperature=0.8), Filters(temperature=1.3, top_k=9), Filters(greedy=True)], ids=str
)
@pytest.mark.parametrize("no_repeat", [None, 4])
def test_a_seed_gives_the_same_text_with_and_without_torch(
    readers: Readers, filters: Filters, no_repeat: int | None
) -> None:
    written = []
    for reader, vocabulary in readers:
        primes = ["the quick", "", "鸟 fox", "q"]
        sampler = Sampler(
            reader, vocabulary, primes, 60, filters, seed=5, indices=range(4), until="zz", no_repeat=no_repeat
        )
        written.append((["".join(parts) for parts in zip(*sampler, strict=True)], sampler.samples))
    (left, left_samples), (right, right_samples) = written
    assert left == right
    assert len(set(left)) > 1
    for one, other in zip(left_samples, right_samples, strict=True):
        assert one.nats == pytest.approx(other.nats, rel=1e-5)


def one(printer: SamplePrinter) -> None:
    printer.from_prime("the ", 1, None)


def several(printer: SamplePrinter) -> None:
    printer.from_prime("the ", 5, "o")


def each_line(printer: SamplePrinter) -> None:
    printer.each_line(io.BytesIO("the\n\n鸟 fox\njumps over".encode()))


@pytest.mark.parametrize("ask", [one, several, each_line])
def test_what_is_printed_is_the_same_with_and_without_torch(
    readers: Readers, ask: Callable[[SamplePrinter], None], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for reader, vocabulary in readers:
        ask(SamplePrinter(reader, vocabulary, Filters(temperature=0.9), 40, 3, no_prime=False, as_json=False))
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert len(printed[0]) > 20


def test_beam_search_and_infilling_are_the_same_with_and_without_torch(readers: Readers) -> None:
    found = [
        (
            beam_search.search(reader, vocabulary, "the ", 7, 9, "o"),
            infill.fill(reader, vocabulary, Gapped.parse("th_ qu__k 鸟 _ox"), 5, 9),
        )
        for reader, vocabulary in readers
    ]
    for left, right in zip(*found, strict=True):
        assert [one.text for one in left] == [one.text for one in right]
        assert [one.nats for one in left] == pytest.approx([one.nats for one in right], rel=1e-5)
