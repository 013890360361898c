"""A model gives the same numbers on every path: kernel, steps or NumPy, in one window or several.
Sizes: B=2 batch rows, T=3 steps, E=4 embedding, H=5 hidden, V=7 vocabulary, K=2 the time skip."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Generator, Tensor

from charrnn import device
from charrnn.config.schema import ModelConfig
from charrnn.data.vocabulary import SCALARS, Vocabulary
from charrnn.models import cells
from charrnn.models.char_rnn import CharRNN
from charrnn.models.factory import transplant
from charrnn.models.layers import RecurrentLayer, State
from charrnn.models.losses import target_nats
from tests.conftest import CELLS, close
from tests.models.test_cells import FUSED

B, T, E, H, V, K = 2, 3, 4, 5, 7, 2
# options of every cell; a new option joins here
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"num_layers": 3},
    {"num_layers": 3, "residual": True},
    {"layer_norm": True},
    {"leak": 0.3},
    {"time_skip": K},
    {"tie_weights": True},
    {"tie_weights": True, "embedding_size": H},
    {
        "num_layers": 3,
        "residual": True,
        "layer_norm": True,
        "leak": 0.3,
        "time_skip": K,
        "tie_weights": True,
        "embedding_size": H,
    },
)
MODELS = tuple((*pair, options) for pair in CELLS for options in OPTIONS)
every_model = pytest.mark.parametrize(("cell", "activation", "options"), MODELS, ids=str)
every_cell = pytest.mark.parametrize(("cell", "activation"), CELLS)


def made(cell: str, activation: str, options: dict[str, Any], **more: Any) -> CharRNN:
    """Make a model in float64 with every weight, biases and norms too, drawn at random, ready to be used."""
    values = {
        "hidden_size": H,
        "embedding_size": E,
        "num_layers": 1,
        "dropout": 0.0,
        "tie_weights": False,
        **options,
        **more,
    }
    model = CharRNN(ModelConfig(cell=cell, activation=activation, **values), V)  # type: ignore[arg-type]
    model = model.double().eval()
    generator = Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return model


def some_tokens(batch: int = B, steps: int = T, seed: int = 0) -> Tensor:
    """Draw tokens (B, T), one of them the escape."""
    tokens = torch.randint(0, V, (batch, steps), generator=Generator().manual_seed(seed))
    tokens[0, steps // 2] = V
    return tokens


def some_state(model: CharRNN, batch: int = B) -> State:
    generator = Generator().manual_seed(1)
    state = model.initial_state(batch).map(lambda tensor: tensor.normal_(generator=generator))
    if state.past is not None:
        state = state._replace(hidden=state.past[:, :, -1].clone())  # the last of the past is the present
    return state


def tensors(state: State) -> list[Tensor]:
    return [tensor for tensor in state if tensor is not None]


def layers_of(model: CharRNN) -> list[RecurrentLayer]:
    return [layer for layer in model.layers if isinstance(layer, RecurrentLayer)]


def by_steps(model: CharRNN) -> CharRNN:
    """Make every layer run on the equations of `cells`."""
    for layer in layers_of(model):
        layer.forward = layer.run_steps  # type: ignore[method-assign]
    return model


# One model, several paths


@every_model
def test_the_fused_path_equals_the_step_equations_forwards_and_in_every_gradient(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    results = []
    for model in (made(cell, activation, options), by_steps(made(cell, activation, options))):
        state = some_state(model).map(Tensor.requires_grad_)
        logits, after = model(some_tokens(), state)
        generator = Generator().manual_seed(2)
        # random weights of the outputs: a plain sum would hide a swapped row, step or unit
        loss = sum(
            (tensor * torch.empty_like(tensor).normal_(generator=generator)).sum()
            for tensor in (logits, *tensors(after))
        )
        leaves = [*model.parameters(), *tensors(state)]
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        # with a time skip the first step reads h(t-1) from `hidden`, which has its gradient like all else
        assert all(gradient is not None for gradient in gradients)
        results.append([tensor.detach() for tensor in (logits, *tensors(after), *gradients)])
    for fused, stepped in zip(*results, strict=True):
        close(fused, stepped, 1e-10)


def in_numpy(model: CharRNN, tokens: Tensor, state: State) -> npt.NDArray[np.float64]:
    """Compute the logits of the whole model in plain NumPy."""
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    config = model.config
    embedding = np.concatenate([weights["embedding"], weights["embedding"].mean(0, keepdims=True)])
    # tied weights are as small as a head's: as inputs they are scaled up
    scale = math.sqrt(int(config.embedding_size)) if config.tie_weights else 1.0
    xs = list(embedding[tokens.numpy()].swapaxes(0, 1) * scale)
    for layer in range(int(config.num_layers)):
        kernel, carried = (
            f"layers.{layer}.kernel.",
            cells.StepState(*(None if tensor is None else tensor[layer].numpy() for tensor in state)),
        )
        for t, x in enumerate(xs):
            projected = x @ weights[kernel + "weight_ih_l0"].T + weights[kernel + "bias_ih_l0"]
            carried = cells.step(
                config.cell,
                projected,
                carried,
                weights.get(kernel + "weight_hh_l0"),
                weights.get(kernel + "bias_hh_l0"),
                activation=config.activation,
                leak=config.leak,
                skip_weight=weights.get(f"layers.{layer}.skip_weight"),
            )
            y = carried.hidden
            if config.layer_norm:
                y = cells.layer_norm(y, weights[f"norms.{layer}.weight"], weights[f"norms.{layer}.bias"])
            added = config.residual and x.shape == y.shape and not (config.tie_weights and layer == 0)
            xs[t] = x + y if added else y
    if "bridge.weight" in weights:
        xs = [x @ weights["bridge.weight"].T + weights["bridge.bias"] for x in xs]
    head = weights["embedding"] if config.tie_weights else weights["head"]
    return np.stack([x @ head.T + weights["head_bias"] for x in xs], 1)


@every_model
@torch.no_grad()
def test_the_model_is_its_equations_written_down_in_numpy(cell: str, activation: str, options: dict[str, Any]) -> None:
    model = made(cell, activation, options)
    logits, _ = model(some_tokens(), some_state(model))
    assert logits.shape == (B, T, V)
    close(logits, in_numpy(model, some_tokens(), some_state(model)))


@every_model
@torch.no_grad()
def test_single_steps_equal_a_window_and_carry_its_state(cell: str, activation: str, options: dict[str, Any]) -> None:
    model, tokens = made(cell, activation, options), some_tokens()
    window, last = model(tokens, some_state(model))
    state, single = some_state(model), []
    for t in range(T):
        logits, state = model(tokens[:, t : t + 1], state)
        single.append(logits)
    close(torch.cat(single, 1), window)
    for mine, theirs in zip(tensors(state), tensors(last), strict=True):
        close(mine, theirs)


@every_model
def test_a_state_carried_over_windows_equals_one_long_window(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    model, tokens = made(cell, activation, options), some_tokens(steps=8)
    window, last = model(tokens, some_state(model))
    first, state = model(tokens[:, :3], some_state(model))
    second, state = model(tokens[:, 3:], state.detach())
    close(torch.cat((first, second), 1).detach(), window.detach())
    for mine, theirs in zip(tensors(state), tensors(last), strict=True):
        close(mine.detach(), theirs.detach())


@every_model
@torch.no_grad()
def test_no_logit_depends_on_a_later_token(cell: str, activation: str, options: dict[str, Any]) -> None:
    model, tokens = made(cell, activation, options), some_tokens(steps=6)
    before, _ = model(tokens, some_state(model))
    changed = tokens.clone()
    changed[:, 3] = (tokens[:, 3] + 1) % V
    after, _ = model(changed, some_state(model))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert all(bool((before[:, t] != after[:, t]).any()) for t in range(3, 6))


@every_model
@torch.no_grad()
def test_batch_rows_are_independent(cell: str, activation: str, options: dict[str, Any]) -> None:
    model, tokens, state = made(cell, activation, options), some_tokens(), some_state(made(cell, activation, options))
    both, after = model(tokens, state)
    changed = tokens.clone()
    changed[0] = (tokens[0] + 1) % V
    other, _ = model(changed, state)
    close(other[1], both[1])
    assert bool((other[0] != both[0]).all(-1).any())
    alone, alone_after = model(tokens[1:], state.select(slice(1, 2)))
    close(alone[0], both[1])
    for mine, theirs in zip(tensors(alone_after), tensors(after.select(slice(1, 2))), strict=True):
        close(mine, theirs)


@every_model
@torch.no_grad()
def test_double_stays_double_and_single_stays_single(cell: str, activation: str, options: dict[str, Any]) -> None:
    for dtype in (torch.float64, torch.float32):
        model = made(cell, activation, options).to(dtype)
        for steps in (1, T):
            logits, state = model(some_tokens(steps=steps), model.initial_state(B))
            assert {tensor.dtype for tensor in (logits, *tensors(state))} == {dtype}


@every_model
def test_no_call_changes_the_state_it_was_given(cell: str, activation: str, options: dict[str, Any]) -> None:
    model = made(cell, activation, options)
    state, before = some_state(model), some_state(model)
    model(some_tokens(), state)
    for mine, theirs in zip(tensors(state), tensors(before), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_initial_state_is_zeros_of_the_shapes_that_a_call_gives_back() -> None:
    for cell, activation, options in MODELS:
        model = made(cell, activation, options)
        start = model.initial_state(B)
        assert not any(bool(tensor.any()) for tensor in tensors(start))
        _, state = model(some_tokens(), start)
        assert [None if tensor is None else tensor.shape for tensor in state] == [
            None if tensor is None else tensor.shape for tensor in start
        ]
        assert (start.cell is not None) == cells.CELLS[cell].cell_state
        assert (start.past is not None) == ("time_skip" in options)


def test_batch_rows_can_be_reordered_and_repeated() -> None:
    model = made("lstm", "tanh", {"num_layers": 3, "time_skip": K})
    state = some_state(model)
    chosen = state.select(torch.tensor([1, 0, 1]))
    for mine, theirs in zip(tensors(chosen), tensors(state), strict=True):
        assert mine.shape[1] == 3
        np.testing.assert_array_equal(mine[:, 0], theirs[:, 1])
        np.testing.assert_array_equal(mine[:, 1], theirs[:, 0])
        np.testing.assert_array_equal(mine[:, 2], theirs[:, 1])


# Escape


@every_cell
@torch.no_grad()
def test_an_escape_is_read_as_the_mean_character(cell: str, activation: str) -> None:
    model = made(cell, activation, {})
    model.embedding[0] = model.embedding[1:].mean(0)  # character 0 is now the mean of the others, so of all
    as_escape, as_mean = torch.tensor([[V, 3, V]]), torch.tensor([[0, 3, 0]])
    for training in (True, False):
        model.train(training)
        close(model(as_escape, model.initial_state(1))[0], model(as_mean, model.initial_state(1))[0])


def test_an_escape_as_input_has_the_same_gradient_for_every_character() -> None:
    model = made("rnn", "tanh", {})
    logits, _ = model(torch.full((B, T), V), model.initial_state(B))
    logits.sum().backward()
    assert model.embedding.grad is not None
    close(model.embedding.grad, model.embedding.grad[:1].expand(V, E))
    assert bool(model.embedding.grad.any())


# Dropout


@every_model
def test_dropout_draws_from_its_generator_alone_and_only_in_training(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    model, tokens = made(cell, activation, options, dropout=0.5), some_tokens()
    global_state, generator = torch.random.get_rng_state(), Generator().manual_seed(3)
    unused = generator.get_state()
    quiet, _ = model(tokens, some_state(model), generator)
    assert torch.equal(generator.get_state(), unused)
    close(quiet.detach(), made(cell, activation, options)(tokens, some_state(model))[0].detach())
    model.train()
    first, _ = model(tokens, some_state(model), generator)
    assert not torch.equal(generator.get_state(), unused)
    second, _ = model(tokens, some_state(model), generator)
    again, _ = model(tokens, some_state(model), Generator().manual_seed(3))
    assert not torch.equal(first, second)
    np.testing.assert_array_equal(first.detach(), again.detach())
    assert torch.equal(torch.random.get_rng_state(), global_state)


@torch.no_grad()
def test_dropout_drops_a_share_and_scales_up_the_rest() -> None:
    """With the identity as head, the logits are the dropped-out hidden states themselves."""
    model = made("rnn", "tanh", {}, hidden_size=V, dropout=0.2)
    assert model.head is not None
    model.head.copy_(torch.eye(V))
    model.head_bias.zero_()
    tokens = some_tokens(batch=40, steps=50)
    hidden, _ = model(tokens, model.initial_state(40))
    dropped, after = model.train()(tokens, model.initial_state(40), Generator().manual_seed(0))
    remaining = dropped != 0
    close(dropped[remaining], hidden[remaining] / 0.8)
    assert abs(float(remaining.double().mean()) - 0.8) < 0.02  # of 14,000: five standard deviations
    close(after.hidden[0], hidden[:, -1])  # the state is never dropped


# Initialisation


def initialised(cell: str, activation: str, init: str, **more: Any) -> CharRNN:
    values = {"hidden_size": H, "embedding_size": E, "num_layers": 2, "dropout": 0.0, "tie_weights": False, **more}
    model = CharRNN(ModelConfig(cell=cell, activation=activation, init=init, **values), V)  # type: ignore[arg-type]
    model.initialise(Generator().manual_seed(0))
    return model


def recurrent_weights(layer: RecurrentLayer) -> list[Tensor]:
    named = dict(layer.kernel.named_parameters())
    return [weight for weight in (named.get("weight_hh_l0"), layer.skip_weight) if weight is not None]


@every_cell
def test_orthogonal_blocks_are_orthogonal_and_none_is_another(cell: str, activation: str) -> None:
    seen = []
    for layer in layers_of(initialised(cell, activation, "orthogonal", time_skip=K)):
        assert layer.skip_weight is not None
        blocks = [block for weight in recurrent_weights(layer) for block in weight.chunk(cells.CELLS[cell].gates)]
        for block in blocks:
            assert block.shape == (H, H)
            close((block @ block.T).detach(), np.eye(H), 1e-5)
        seen += [block.detach().numpy().tobytes() for block in blocks]
    assert len(set(seen)) == len(seen) == (4 if cells.CELLS[cell].recurrent else 2) * cells.CELLS[cell].gates


@every_cell
def test_identity_blocks_are_the_identity(cell: str, activation: str) -> None:
    for layer in layers_of(initialised(cell, activation, "identity", time_skip=K)):
        for weight in recurrent_weights(layer)[:-1]:
            for block in weight.chunk(cells.CELLS[cell].gates):
                np.testing.assert_array_equal(block.detach(), np.eye(H))
        assert layer.skip_weight is not None
        assert not bool(layer.skip_weight.any())
        assert 0 < float(layer.weights()[0].detach().abs().max()) < 0.01


@torch.no_grad()
def test_a_relu_network_that_starts_as_the_identity_copies_its_state() -> None:
    """Le, Jaitly and Hinton 2015: without an input, nothing changes over any number of steps."""
    model = initialised("rnn", "relu", "identity", num_layers=1)
    model.embedding.zero_()
    state = State(torch.rand(1, B, H))
    _, after = model(torch.zeros(B, 50, dtype=torch.long), state)
    np.testing.assert_array_equal(after.hidden, state.hidden)


@pytest.mark.parametrize("init", ["orthogonal", "identity", "xavier"])
def test_the_forget_bias_starts_at_1_and_every_other_at_0(init: str) -> None:
    for cell, activation in CELLS:
        model = initialised(cell, activation, init, layer_norm=True, tie_weights=True)
        for layer in layers_of(model):
            biases = [weight.detach() for name, weight in layer.kernel.named_parameters() if name.startswith("bias")]
            expected = np.zeros(cells.CELLS[cell].gates * H)
            if cell == "lstm":
                expected[H : 2 * H] = 1.0
            np.testing.assert_array_equal(torch.stack(biases).sum(0), expected)
        assert model.bridge is not None
        assert not bool(model.bridge.bias.any())
        assert not bool(model.head_bias.any())


@pytest.mark.parametrize("init", ["orthogonal", "torch"])
@pytest.mark.parametrize("options", [{}, {"tie_weights": True}])
def test_a_new_network_predicts_the_character_frequencies(init: str, options: dict[str, Any]) -> None:
    model, plain = (initialised("gru", "tanh", init, **options) for _ in range(2))
    frequencies = torch.arange(1, V + 1, dtype=torch.float64)
    frequencies /= frequencies.sum()
    model.initialise(Generator().manual_seed(0), frequencies)
    predicted = model.logits(torch.zeros(model.feature_size)).softmax(-1)
    np.testing.assert_allclose(predicted.detach(), frequencies, rtol=1e-6)
    drawn = plain.state_dict()
    for name, weights in model.state_dict().items():
        np.testing.assert_array_equal(weights, frequencies.log().float() if name == "head_bias" else drawn[name])
    model.initialise(Generator().manual_seed(0))  # without frequencies the bias is 0 again
    assert not bool(model.head_bias.any())


@every_cell
def test_xavier_and_torch_stay_within_their_bounds(cell: str, activation: str) -> None:
    for layer in layers_of(initialised(cell, activation, "xavier", hidden_size=40, num_layers=1)):
        for weight in recurrent_weights(layer):
            assert 0.95 * math.sqrt(6 / 80) < float(weight.detach().abs().max()) <= math.sqrt(6 / 80)
        largest = float(layer.weights()[0].detach().abs().max())
        assert 0.9 * math.sqrt(6 / 44) < largest <= math.sqrt(6 / 44)
    for layer in layers_of(initialised(cell, activation, "torch", hidden_size=40, num_layers=1, time_skip=K)):
        for parameter in layer.parameters():
            largest = float(parameter.detach().abs().max())
            assert 0.8 / math.sqrt(40) < largest <= 1 / math.sqrt(40)


@every_model
def test_first_weights_come_from_the_generator_alone_and_all_of_them(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    values = {"hidden_size": H, "embedding_size": E, "num_layers": 1, "dropout": 0.0, "tie_weights": False, **options}
    for init in ("orthogonal", "identity", "xavier", "torch"):
        config = ModelConfig(cell=cell, activation=activation, init=init, **values)  # type: ignore[arg-type]
        models = []
        for garbage, seed in ((math.nan, 5), (1.0, 5), (1.0, 6)):
            model = CharRNN(config, V)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if not name.startswith("norms."):  # these stay 1 and 0
                        parameter.fill_(garbage)
            global_state = torch.random.get_rng_state()
            model.initialise(Generator().manual_seed(seed))
            assert torch.equal(torch.random.get_rng_state(), global_state)
            models.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        assert bool(models[0].isfinite().all())
        assert torch.equal(models[0], models[1])
        assert not torch.equal(models[1], models[2])


def test_making_a_model_draws_nothing_from_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    CharRNN(ModelConfig(hidden_size=H, embedding_size=E, num_layers=2, dropout=0.0, tie_weights=True), V)
    assert torch.equal(torch.random.get_rng_state(), before)


# The loss of a character


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_probabilities_of_all_next_characters_add_up_to_1(dtype: torch.dtype) -> None:
    vocabulary = Vocabulary.from_text("aaabbc月\n\n", min_count=1)
    size = len(vocabulary)
    logits = torch.randn(B, T, size, generator=Generator().manual_seed(0)).mul(5).to(dtype)
    total = torch.zeros(B, T, dtype=torch.float64)
    for token in range(size + 1):
        nats = target_nats(logits, torch.full((B, T), token), vocabulary.known_nats, vocabulary.escape_nats)
        assert nats.shape == (B, T)
        total += torch.exp(-nats.double()) * (SCALARS - size if token == size else 1)
    close(total, np.ones((B, T)), 1e-12 if dtype == torch.float64 else 1e-5)


def test_each_target_is_scored_by_its_own_logits() -> None:
    probabilities = torch.tensor([[[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], [[0.25, 0.25, 0.5], [1.0, 0.0, 0.0]]])
    targets = torch.tensor([[0, 1], [3, 0]])
    nats = target_nats(probabilities.double().log(), targets, 0.25, 9.0)
    close(nats, [[math.log(2) + 0.25, math.log(4 / 3) + 0.25], [9.0, 0.25]])


def test_an_escape_has_no_gradient() -> None:
    logits = torch.randn(B, T, V, generator=Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([[0, V, 2], [V, V, 3]])
    (gradient,) = torch.autograd.grad(target_nats(logits, targets, 0.1, 9.0).sum(), logits)
    np.testing.assert_array_equal(gradient.abs().sum(-1) > 0, targets != V)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_a_new_model_does_not_predict_that_each_character_repeats(options: dict[str, Any]) -> None:
    """A tied embedding added to the features would predict its own character with certainty."""
    size, hidden = 1_000, 64
    values = {
        "hidden_size": hidden,
        "embedding_size": 32,
        "num_layers": 1,
        "dropout": 0.0,
        "tie_weights": False,
        **options,
    }
    values |= {"embedding_size": hidden} if options.get("embedding_size") == H else {}
    model = CharRNN(ModelConfig(**values), size).eval()
    model.initialise(Generator().manual_seed(0))
    tokens = torch.randint(size, (4, 50), generator=Generator().manual_seed(1))
    logits, _ = model(tokens, model.initial_state(4))
    again = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    assert float(again) > math.log(size) - 1.0


# Another vocabulary


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_a_transplant_matches_by_character_and_not_by_position(options: dict[str, Any]) -> None:
    old = made("lstm", "tanh", options)
    new_characters = "月gfa\nd诗"
    new = made("lstm", "tanh", options)
    for parameter in new.parameters():
        parameter.fill_(math.nan)
    assert transplant(old, "abcdefg", new, new_characters) == 4
    ours, theirs = dict(new.named_parameters()), dict(old.named_parameters())
    for name, weights in ours.items():
        if name not in {"embedding", "head", "head_bias"}:
            np.testing.assert_array_equal(weights, theirs[name])
            continue
        for row, character in enumerate(new_characters):
            old_row = "abcdefg".find(character)
            close(weights[row], theirs[name][old_row] if old_row >= 0 else theirs[name].mean(0))
    # so for shared characters the new model predicts what the old one did
    text = "gadfda"
    logits = [
        model(torch.tensor([[characters.index(character) for character in text]]), model.initial_state(1))[0]
        for model, characters in ((old, "abcdefg"), (new, new_characters))
    ]
    columns = [[characters.index(character) for character in "gfad"] for characters in ("abcdefg", new_characters)]
    close(logits[1][0][:, columns[1]], logits[0][0][:, columns[0]])


@torch.no_grad()
def test_a_transplant_into_a_larger_vocabulary_leaves_the_old_model_as_it_was() -> None:
    old = made("gru", "tanh", {})
    before = {name: weights.clone() for name, weights in old.state_dict().items()}
    new = CharRNN(old.config.model_copy(update={"dropout": 0.5}), V + 2).double()
    assert transplant(old, "abcdefg", new, "xyabcdefg") == V
    new.embedding.fill_(0.0)
    assert all(torch.equal(before[name], weights) for name, weights in old.state_dict().items())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"cell": "rnn"}, V * E + (E * H + H * H + 2 * H) + V * H + V),
        ({"cell": "gru"}, V * E + 3 * (E * H + H * H + 2 * H) + V * H + V),
        ({"cell": "lstm"}, V * E + 4 * (E * H + H * H + 2 * H) + V * H + V),
        ({"cell": "rnn", "num_layers": 3}, V * E + (E * H + H * H + 2 * H) + 2 * (2 * H * H + 2 * H) + V * H + V),
        ({"cell": "rnn", "layer_norm": True}, V * E + (E * H + H * H + 2 * H) + 2 * H + V * H + V),
        ({"cell": "gru", "time_skip": K}, V * E + 3 * (E * H + 2 * H * H + 2 * H) + V * H + V),
        ({"cell": "rnn", "tie_weights": True}, V * E + (E * H + H * H + 2 * H) + (H * E + E) + V),
        ({"cell": "rnn", "tie_weights": True, "embedding_size": H}, V * H + (2 * H * H + 2 * H) + V),
    ],
    ids=str,
)
def test_a_model_has_the_parameters_that_its_equations_need(options: dict[str, Any], expected: int) -> None:
    values = {"hidden_size": H, "embedding_size": E, "num_layers": 1, "dropout": 0.0, "tie_weights": False, **options}
    config = ModelConfig(**values)
    assert sum(parameter.numel() for parameter in CharRNN(config, V).parameters()) == expected


# What runs on CUDA, here on a CPU: a single step by torch's functions, and layers in bf16 without autocast


@pytest.mark.parametrize(("cell", "activation"), FUSED)
@torch.no_grad()
def test_torchs_single_step_is_that_of_the_equations(cell: str, activation: str) -> None:
    layer = made(cell, activation, {}).layers[0]
    assert isinstance(layer, RecurrentLayer)
    generator = Generator().manual_seed(2)
    x, hidden, memory = (torch.randn(B, size, generator=generator).double() for size in (E, H, H))
    state = cells.StepState(hidden, memory if cells.CELLS[cell].cell_state else None)
    (y, after), (expected, other) = layer.single_step(x[:, None], state), layer.run_steps(x[:, None], state)
    close(y, expected)
    close(after.hidden, other.hidden)
    assert (after.cell is None) == (other.cell is None)
    if after.cell is not None:
        close(after.cell, other.cell)


def test_tf32_is_allowed_within_its_context_and_restored_after_it() -> None:
    before = device.allow_tf32(False)
    try:
        with device.tf32(torch.device("cuda"), True):
            assert torch.backends.cudnn.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
        with device.tf32(torch.device("cpu"), True):
            assert not torch.backends.cudnn.allow_tf32
        assert device.allow_tf32(True) is False
        with device.tf32(torch.device("cuda"), False):
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    finally:
        device.allow_tf32(before)


def to_be_rounded(cell: str, activation: str) -> tuple[RecurrentLayer, Tensor, cells.StepState]:
    """Make a layer that does not amplify rounding errors, an input (8, 16, 32) and a state."""
    layer = made(cell, activation, {}, hidden_size=64, embedding_size=32).float().layers[0]
    assert isinstance(layer, RecurrentLayer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.div_(8)
    generator = Generator().manual_seed(2)
    hidden, memory = torch.randn(2, 8, 64, generator=generator)
    x = torch.randn(8, 16, 32, generator=generator)
    return layer, x, cells.StepState(hidden, memory if cells.CELLS[cell].cell_state else None)


@pytest.mark.parametrize(("cell", "activation"), FUSED)
@pytest.mark.bf16
def test_the_bounds_for_a_gpu_in_bf16_hold_on_a_cpu(cell: str, activation: str) -> None:
    layer, x, before = to_be_rounded(cell, activation)
    x.requires_grad_()
    exact, found = (
        torch.autograd.grad(run(x, before)[0].float().sum(), [x, *layer.weights()])
        for run in (layer.forward, layer.in_bf16)
    )
    for one, other in zip(exact, found, strict=True):
        assert float((one - other).norm()) < 0.1 * float(one.norm())


@pytest.mark.parametrize(("cell", "activation"), FUSED)
@pytest.mark.bf16
def test_a_layer_in_bf16_is_the_layer_and_its_gradients_are_fp32(cell: str, activation: str) -> None:
    layer = made(cell, activation, {}, hidden_size=16, embedding_size=8).float().layers[0]
    assert isinstance(layer, RecurrentLayer)
    generator = Generator().manual_seed(2)
    x = torch.randn(B, T, 8, generator=generator, requires_grad=True)
    hidden, memory = torch.randn(2, B, 16, generator=generator)
    state = cells.StepState(hidden, memory if cells.CELLS[cell].cell_state else None)
    found = []
    for run in (layer.in_bf16, layer.forward):
        y, after = run(x, state)
        found.append([y, after.hidden, *([] if after.cell is None else [after.cell])])
        gradients = torch.autograd.grad(y.float().square().sum(), [x, *layer.weights()])
        assert all(gradient.dtype == torch.float32 for gradient in gradients)
        found[-1] += gradients
    assert found[0][0].dtype == torch.bfloat16
    for rounded, exact in zip(*found, strict=True):
        difference = float((rounded.float() - exact).detach().norm())
        assert 0.0 < difference < 0.03 * float(exact.detach().norm())
