"""The hidden Markov model: by hand over all paths, its gradient, and the commands that use it.
Sizes: B=2 batch rows, T=3 steps, S=5 hidden states, V=7 vocabulary."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from charrnn.checkpoints import inference, model_file
from charrnn.config import loading
from charrnn.config.schema import ModelConfig
from charrnn.errors import CharRNNError
from charrnn.models import cells
from charrnn.models.hmm import HiddenMarkov, _Recursion
from charrnn.models.numpy_model import NumpyHMM
from charrnn.models.torch_model import TorchModel
from tests.checkpoints.test_model_file import lie, parts, rewrite
from tests.conftest import Charrnn, settings

B, T, S, V = 2, 3, 5, 7


def made(states: int = S, vocabulary_size: int = V) -> HiddenMarkov:
    model = HiddenMarkov(ModelConfig(cell="hmm", hidden_size=states), vocabulary_size).double().eval()
    model.initialise(Generator().manual_seed(0))
    return model


def some_tokens(seed: int = 0) -> Tensor:
    return torch.randint(V + 1, (B, T), generator=Generator().manual_seed(seed))


def test_hidden_states_start_apart_but_around_the_frequencies() -> None:
    model = HiddenMarkov(ModelConfig(cell="hmm", hidden_size=2000), V).double()
    frequencies = torch.arange(1, V + 1, dtype=torch.float64)
    frequencies /= frequencies.sum()
    model.initialise(Generator().manual_seed(0), frequencies)
    emission = cells.emission(model.emission).detach().log()
    around, wanted = emission.mean(1), frequencies.log()
    np.testing.assert_allclose(around - around.mean(), wanted - wanted.mean(), atol=0.1)
    assert float(emission[0].std()) > 0.5


# By hand


def two_coins() -> HiddenMarkov:
    """Make a chain of two states that emit 0 or 1: state 0 emits 0 nine times in ten, state 1 half the time."""
    model = made(2, 2)
    with torch.no_grad():
        model.transition.copy_(torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log())
        model.emission.copy_(torch.tensor([[0.9, 0.5], [0.1, 0.5]]).log())
    return model


def over_all_paths(model: HiddenMarkov, tokens: Sequence[int]) -> float:
    """Compute P(tokens) as a sum over all paths of hidden states; all states before the first are equally likely."""
    transition = model.transition.softmax(1).tolist()
    emission = cells.emission(model.emission).tolist()
    states = range(len(transition))
    total = 0.0
    for path in itertools.product(states, repeat=len(tokens) + 1):
        p = 1 / len(transition)
        for (before, state), token in zip(itertools.pairwise(path), tokens, strict=True):
            p *= transition[before][state] * emission[token][state]
        total += p
    return total


@torch.no_grad()
def test_two_states_and_two_symbols_by_hand() -> None:
    model = two_coins()
    # before: 1/2, 1/2; the first state: 0.625, 0.375; it emits 0 with 0.625 * 0.9 + 0.375 * 0.5 = 0.75
    # then the posterior is 0.75, 0.25; the next one 0.6875, 0.3125; it emits 0 with 0.61875 + 0.15625 = 0.775
    logits, state = model(torch.tensor([[0]]), model.initial_state(1))
    np.testing.assert_allclose(state.hidden[0].exp(), [[0.75, 0.25]], atol=1e-5)
    np.testing.assert_allclose(logits[0].exp(), [[0.775, 0.225]], atol=1e-5)


@pytest.mark.parametrize("tokens", list(itertools.product((0, 1), repeat=4)))
@torch.no_grad()
def test_the_probability_of_a_text_is_the_sum_over_all_paths(tokens: tuple[int, ...]) -> None:
    model = two_coins()
    logits, _ = model(torch.tensor([tokens]), model.initial_state(1))
    for length in range(1, 4):
        expected = over_all_paths(model, tokens[: length + 1]) / over_all_paths(model, tokens[:length])
        assert float(logits[0, length - 1, tokens[length]].exp()) == pytest.approx(expected, rel=1e-12)


@torch.no_grad()
def test_its_predictions_add_up_to_one_after_any_text() -> None:
    model = made()
    logits, state = model(some_tokens(), model.initial_state(B))
    assert logits.shape == (B, T, V)
    np.testing.assert_allclose(logits.exp().sum(-1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(state.hidden.exp().sum(-1), 1.0, rtol=1e-12)
    # also if each hidden state emits one character almost surely
    model.emission.mul_(1e4)
    logits, state = model(some_tokens(), model.initial_state(B))
    assert torch.isfinite(logits).all()
    assert torch.isfinite(state.hidden).all()
    np.testing.assert_allclose(logits.exp().sum(-1), 1.0, rtol=1e-12)


@torch.no_grad()
def test_an_unknown_character_carries_no_information_about_the_hidden_state() -> None:
    model = made()
    _, state = model(some_tokens(), model.initial_state(B))
    _, after = model(torch.full((B, 1), V), state)
    np.testing.assert_allclose(after.hidden.exp(), state.hidden.exp() @ model.transition.softmax(1), rtol=1e-9)


# The recurrence


def test_the_gradient_is_that_of_the_plain_equation() -> None:
    generator = Generator().manual_seed(3)
    predicted, transition = (torch.rand(*shape, dtype=torch.float64, generator=generator) for shape in ((B, S), (S, S)))
    likelihoods = torch.rand(B, T, S, dtype=torch.float64, generator=generator)
    weights = torch.rand(T + 1, B, S, dtype=torch.float64, generator=generator)
    given = [tensor.requires_grad_() for tensor in (predicted, likelihoods, transition)]

    features, last = _Recursion.apply(*given)  # type: ignore[no-untyped-call]
    found = torch.autograd.grad((features * weights[:T].transpose(0, 1)).sum() + (last * weights[T]).sum(), given)
    state, total = predicted, torch.zeros((), dtype=torch.float64)
    for step in range(T):
        posterior, state = cells.hidden_markov(state, likelihoods[:, step], transition)
        total = total + (state * weights[step]).sum()
    expected = torch.autograd.grad(total + (posterior * weights[T]).sum(), given)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


@torch.no_grad()
def test_a_carried_state_is_the_text_read_at_once() -> None:
    model, tokens = made(), torch.cat((some_tokens(1), some_tokens(2)), 1)
    window, end = model(tokens, model.initial_state(B))
    first, state = model(tokens[:, :T], model.initial_state(B))
    second, after = model(tokens[:, T:], state)
    np.testing.assert_allclose(torch.cat((first, second), 1), window, rtol=1e-10)
    np.testing.assert_allclose(after.hidden, end.hidden, rtol=1e-9)


@torch.no_grad()
def test_without_torch_the_numbers_are_the_same() -> None:
    model = made()
    reader = NumpyHMM({name: weights.numpy() for name, weights in model.state_dict().items()})
    by_torch = TorchModel(model)
    found, expected = reader.initial_state(B), by_torch.initial_state(B)
    for seed in range(2):
        tokens = some_tokens(seed).numpy()
        features, found = reader.read(tokens, found)
        others, expected = by_torch.read(tokens, expected)
        np.testing.assert_allclose(features, others, rtol=1e-10)
        np.testing.assert_allclose(reader.logits(features), by_torch.logits(others), rtol=1e-10)
    logits, _ = reader.step(tokens, found.select(np.array([1, 0])))
    others, _ = by_torch.step(tokens, expected.select(np.array([1, 0])))
    np.testing.assert_allclose(logits, others, rtol=1e-10)


# The commands

OPTIONS = [
    word for setting in ("model.cell=hmm", "model.hidden_size=6", *settings()[13::2]) for word in ("-s", setting)
]


@pytest.fixture
def trained(here: Path, charrnn: Charrnn) -> Path:
    """Train a tiny model into checkpoints/text; return its run folder."""
    result = charrnn("train", "text.txt", "-q", *OPTIONS, "-s", "train.steps=40", "-s", "train.learning_rate=0.2")
    assert result.exit_code == 0, result.output
    return here / "checkpoints" / "text"


def test_it_trains_samples_evaluates_and_shows_what_it_is(trained: Path, charrnn: Charrnn) -> None:
    history = model_file.read_header(trained / "best.safetensors").history
    assert history[-1].bits_per_character < history[0].bits_per_character - 0.2
    for options in (["-p", "the "], ["-k", "2"], ["--beam", "3"]):
        assert charrnn("sample", "-n", "9", *options).exit_code == 0
    assert len(charrnn("sample", "--infill", "the q__ck").stdout) == 10
    rows = charrnn("evaluate", "text.txt").stdout.splitlines()
    by_character = charrnn("evaluate", "--per-char", "text.txt").stdout.splitlines()
    bits = sum(float(line.split("\t")[1]) for line in by_character) / len(by_character)
    assert float(rows[2].split()[1]) == pytest.approx(bits, abs=2e-4)
    assert charrnn("evaluate", "--per-line", "text.txt").exit_code == 0
    assert "architecture  hmm of 6 states\n" in charrnn("info").stdout


def test_a_resumed_training_equals_an_uninterrupted_one(here: Path, charrnn: Charrnn) -> None:
    # a learning rate that does not depend on the length of the training
    options = [*OPTIONS, "-s", "train.schedule=constant", "-s", "train.warmup_steps=0"]
    for folder, steps in (("uninterrupted", 30), ("resumed", 20)):
        result = charrnn("train", "text.txt", "-q", "-o", folder, *options, "-s", f"train.steps={steps}")
        assert result.exit_code == 0, result.output
    again = charrnn("train", "--resume", "-m", "resumed", "-q", "-s", "train.steps=30")
    assert again.exit_code == 0, again.output
    uninterrupted, resumed = (
        model_file.read(Path(folder) / "last.safetensors", training=True)[1] for folder in ("uninterrupted", "resumed")
    )
    assert uninterrupted.keys() == resumed.keys()
    assert all(torch.equal(uninterrupted[name], resumed[name]) for name in resumed)


def test_it_is_fine_tuned_on_new_characters(trained: Path, charrnn: Charrnn) -> None:
    Path("more.txt").write_text("鸟 the bird flies over the lazy dog again\n" * 10, encoding="utf-8")
    result = charrnn("train", "more.txt", "--init-from", "text", "-s", "train.steps=3", "-s", "train.batch_size=2")
    assert result.exit_code == 0, result.output
    assert "characters; 1 more are new." in result.stderr
    assert "鸟" in model_file.read_header(Path("checkpoints/more/best.safetensors")).vocabulary.characters


@pytest.mark.parametrize("options", [["model.dropout=0.1", "model.num_layers=2"], ["model.bidirectional=true"]])
def test_options_of_the_stack_are_refused(options: list[str], here: Path, charrnn: Charrnn) -> None:
    words = [word for setting in ("model.cell=hmm", *options) for word in ("-s", setting)]
    result = charrnn("train", "text.txt", *words)
    assert result.exit_code == 2
    assert "its only settings are model.hidden_size and model.mixture. Leave out model." in result.stderr
    for name in options:
        assert name.partition("=")[0] in result.stderr


@pytest.mark.parametrize("size", [5, 7, 10**12, "auto", None, True])
def test_a_wrong_size_in_the_header_is_refused(size: object, trained: Path) -> None:
    header, content, tensors = parts(trained / "best.safetensors")
    rewrite(trained / "lying.safetensors", header, lie(content, hidden_size=size), tensors)
    for read in (inference.load, model_file.read_model):
        with pytest.raises(CharRNNError):
            read(trained / "lying.safetensors")


def test_a_network_cannot_become_a_markov_model(runs: dict[str, Path], here: Path, charrnn: Charrnn) -> None:
    start = str(runs["causal"])
    result = charrnn("train", "text.txt", "--init-from", start, "-s", "model.cell=hmm")
    assert result.exit_code == 2
    assert "--init-from keeps the architecture of" in result.stderr
    assert result.stderr.rstrip().endswith("leave out model.cell=hmm.")


def test_an_option_that_is_off_is_not_refused() -> None:
    """The default of tied weights is auto, and false is not an option of recurrent layers."""
    assert not loading.load(None, ["model.cell=hmm", "model.tie_weights=false"]).model.tied
    with pytest.raises(CharRNNError, match=r"Leave out model\.tie_weights"):
        loading.load(None, ["model.cell=hmm", "model.tie_weights=true"])


def test_a_file_with_the_settings_of_a_stack_is_read(trained: Path) -> None:
    """Files of earlier versions hold all settings, with the defaults of their time."""
    header, content, tensors = parts(trained / "best.safetensors")
    assert content["config"]["model"] == {"cell": "hmm", "hidden_size": content["config"]["model"]["hidden_size"]}
    old = trained / "old.safetensors"
    rewrite(old, header, lie(content, tie_weights=False, dropout="auto", order="auto"), tensors)
    assert model_file.read_header(old).config == model_file.read_header(trained / "best.safetensors").config
    inference.load(old)
