"""The two stacks of a bidirectional model and the head that joins them: each head sees all but what it predicts.
Sizes: B=2 batch rows, T=6 characters, E=4 embedding, H=5 hidden, V=7 vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Generator, Tensor

from charrnn.config.schema import ModelConfig
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.char_rnn import CharRNN
from charrnn.models.factory import make_model, transplant
from charrnn.models.interface import WIDEST
from tests.conftest import CELLS, close
from tests.models.test_char_rnn import OPTIONS, B, E, H, V, some_state, some_tokens, tensors

T = 6
NEWLINE = 2  # a token like any other here
# every option of the causal model, at every depth
LAID_OVER = ({}, *filter(None, ({k: v for k, v in options.items() if k != "num_layers"} for options in OPTIONS)))
MODELS = tuple(
    (cell, activation, {**options, "num_layers": depth})
    for cell, activation in CELLS
    for options in LAID_OVER
    for depth in (1, 2, 3)
)
every_model = pytest.mark.parametrize(("cell", "activation", "options"), MODELS, ids=str)


def bare(cell: str, activation: str, options: dict[str, Any], **more: Any) -> CharRNN:
    """Make a bidirectional model, or with bidirectional=False its causal half, its weights not yet drawn."""
    values = {
        "hidden_size": H,
        "embedding_size": E,
        "num_layers": 1,
        "dropout": 0.0,
        "tie_weights": False,
        "bidirectional": True,
    }
    model = make_model(
        ModelConfig.model_validate({"cell": cell, "activation": activation, **values, **options, **more}), V
    )
    assert isinstance(model, CharRNN)
    return model


def made(cell: str, activation: str, options: dict[str, Any], **more: Any) -> BidirectionalRNN:
    """Make a bidirectional model in float64 with every weight, biases and norms too, drawn at random."""
    model = bare(cell, activation, options, **more).double().eval()
    assert isinstance(model, BidirectionalRNN)
    generator = Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return model


def features(model: BidirectionalRNN, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Read tokens (B, T) between two newlines; return the features of the text before and after each."""
    frame = torch.full_like(tokens[:, :1], NEWLINE)
    before, _ = model.read(torch.cat((frame, tokens[:, :-1]), 1), some_state(model))
    after, _ = model.read_back(torch.cat((tokens[:, 1:], frame), 1), some_state(model))
    return before, after


Head = Callable[[Tensor, Tensor], Tensor]


def moved(model: BidirectionalRNN, heads: Sequence[Head]) -> list[npt.NDArray[np.bool_]]:
    """Return for each head whether logits t change at all when token s changes: [t, s]."""
    tokens, read = some_tokens(steps=T), []
    for s in range(T):
        changed = tokens.clone()
        changed[:, s] = (tokens[:, s] + 1) % V
        read.append(features(model, changed))
    same = features(model, tokens)
    return [torch.stack([(head(*other) != head(*same)).any(-1).any(0) for other in read], 1).numpy() for head in heads]


# No leak: what a head must not see, above all the character to predict, changes no bit of its logits; all else does


@every_model
@torch.no_grad()
def test_each_head_sees_exactly_what_it_may(cell: str, activation: str, options: dict[str, Any]) -> None:
    model = made(cell, activation, options)
    for name, weights in model.named_parameters():
        if activation == "relu" and ".kernel." in name:
            weights.abs_()  # through a layer whose units are all at 0 nothing could be seen

    def first_of_gap(before: Tensor, after: Tensor, remaining: int) -> Tensor:
        return model.joint_logits(before[:, : T - remaining + 1], after[:, remaining - 1 :], remaining)

    gaps = (1, 2, 3, 5)
    forward, backward, cloze, *wider = moved(
        model,
        (
            lambda before, after: model.logits(before),
            lambda before, after: model.backward_logits(after),
            *(partial(first_of_gap, remaining=remaining) for remaining in gaps),
        ),
    )
    t, s = np.ogrid[:T, :T]
    np.testing.assert_array_equal(forward, s < t)
    np.testing.assert_array_equal(backward, s > t)
    np.testing.assert_array_equal(cloze, s != t)
    for remaining, gap in zip(gaps[1:], wider, strict=True):
        t, s = np.ogrid[: T - remaining + 1, :T]
        np.testing.assert_array_equal(gap, (s < t) | (s >= t + remaining))


@torch.no_grad()
def test_a_head_that_saw_its_character_would_be_detected() -> None:
    """The test above can fail: one character later, the forward stack has read the character."""
    model = made("lstm", "tanh", {"num_layers": 2})
    (leaking,) = moved(model, [lambda before, after: model.joint_logits(before[:, 1:], after[:, :-1])])
    assert leaking.shape == (T - 1, T)
    assert leaking.all()


# One stack, several paths


@every_model
@torch.no_grad()
def test_reading_back_is_reading_step_by_step_from_the_end(cell: str, activation: str, options: dict[str, Any]) -> None:
    model, tokens = made(cell, activation, options), some_tokens(steps=T)
    window, last = model.read_back(tokens, some_state(model))
    assert window.shape == (B, T, model.feature_size)
    state, single = some_state(model), {}
    for t in reversed(range(T)):
        single[t], state = model.backward_stack.run_layers(model.embed(tokens[:, t : t + 1]), state)
    close(torch.cat([single[t] for t in range(T)], 1), window)
    for mine, theirs in zip(tensors(state), tensors(last), strict=True):
        close(mine, theirs)


@every_model
@torch.no_grad()
def test_a_state_carried_from_right_to_left_equals_one_long_window(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    model, tokens = made(cell, activation, options), some_tokens(steps=8)
    window, last = model.read_back(tokens, some_state(model))
    right, state = model.read_back(tokens[:, 5:], some_state(model))
    middle, state = model.read_back(tokens[:, 4:5], state)
    left, state = model.read_back(tokens[:, :4], state)
    close(torch.cat((left, middle, right), 1), window)
    for mine, theirs in zip(tensors(state), tensors(last), strict=True):
        close(mine, theirs)


@every_model
@torch.no_grad()
def test_the_backward_half_is_a_causal_model_of_reversed_text(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    model, tokens = made(cell, activation, options), some_tokens(steps=T)
    after, last = model.read_back(tokens, some_state(model))
    half = model.backward_half
    logits, state = half(tokens.flip(1), some_state(model))
    close(logits.flip(1), model.backward_logits(after))
    for mine, theirs in zip(tensors(state), tensors(last), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # and equal to a causal model with its weights
    causal = bare(cell, activation, options, bidirectional=False).double().eval()
    weights, name = model.state_dict(), "backward_stack."
    stack = {key.removeprefix(name): value for key, value in weights.items() if key.startswith(name)}
    shared = {key: value for key, value in weights.items() if key in {"embedding", "head"}}
    causal.load_state_dict(stack | shared | {"head_bias": weights["backward_bias"]})
    np.testing.assert_array_equal(causal(tokens.flip(1), some_state(causal))[0], logits)
    for mine, theirs in zip(tensors(half.initial_state(3)), tensors(causal.initial_state(3)), strict=True):
        np.testing.assert_array_equal(mine, theirs)


# The forward half


@every_model
@torch.no_grad()
def test_as_a_module_it_is_the_causal_model_of_its_forward_weights(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    model, causal = made(cell, activation, options), bare(cell, activation, options, bidirectional=False)
    assert type(causal) is CharRNN
    weights = model.state_dict()
    causal.double().eval().load_state_dict({name: weights[name] for name in causal.state_dict()})
    logits, state = model(some_tokens(), some_state(model))
    expected, after = causal(some_tokens(), some_state(causal))
    np.testing.assert_array_equal(logits, expected)
    for mine, theirs in zip(tensors(state), tensors(after), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@every_model
def test_the_forward_half_is_drawn_as_the_causal_model_is(cell: str, activation: str, options: dict[str, Any]) -> None:
    for init in ("orthogonal", "torch"):
        both = [bare(cell, activation, options, init=init, bidirectional=two_sided) for two_sided in (True, False)]
        for model in both:
            model.initialise(Generator().manual_seed(4))
        weights = both[0].state_dict()
        for name, drawn in both[1].state_dict().items():
            np.testing.assert_array_equal(weights[name], drawn)


def test_all_three_heads_start_at_the_frequencies() -> None:
    model = bare("lstm", "tanh", {})
    assert isinstance(model, BidirectionalRNN)
    frequencies = torch.arange(1, V + 1, dtype=torch.float64)
    frequencies /= frequencies.sum()
    model.initialise(Generator().manual_seed(0), frequencies)
    nothing = torch.zeros(model.feature_size)
    for logits in (model.logits(nothing), model.backward_logits(nothing), model.joint_logits(nothing, nothing, 3)):
        np.testing.assert_allclose(logits.softmax(-1).detach(), frequencies, rtol=1e-6)


@every_model
def test_first_weights_come_from_the_generator_alone_and_all_of_them(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    everyones, models = torch.random.get_rng_state(), []
    for garbage, seed in ((math.nan, 5), (1.0, 5), (1.0, 6)):
        model = bare(cell, activation, options)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norms." not in name:  # these stay 1 and 0
                    parameter.fill_(garbage)
        model.initialise(Generator().manual_seed(seed))
        models.append(model.state_dict())
    assert torch.equal(torch.random.get_rng_state(), everyones)
    assert all(bool(weights.isfinite().all()) for weights in models[0].values())
    assert all(torch.equal(weights, models[1][name]) for name, weights in models[0].items())
    for name in ("backward_stack.layers.0.kernel.weight_ih_l0", "joint_hidden.weight"):
        assert not torch.equal(models[1][name], models[2][name])
    # halves with the same first weights would stay alike for a while
    name = "layers.0.kernel.weight_ih_l0"
    assert not torch.equal(models[0][name], models[0]["backward_stack." + name])


# The joint head


def some_features(size: int, seed: int = 7) -> tuple[Tensor, Tensor]:
    drawn = torch.randn(2, B, T, size, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return drawn[0], drawn[1]


@pytest.mark.parametrize("options", LAID_OVER, ids=str)
@torch.no_grad()
def test_the_joint_head_starts_as_the_product_of_both_halves(options: dict[str, Any]) -> None:
    model = bare("lstm", "tanh", options)
    assert isinstance(model, BidirectionalRNN)
    model.initialise(Generator().manual_seed(0))
    before, after = some_features(model.double().feature_size)
    head = model.embedding if model.head is None else model.head
    close(model.joint_logits(before, after), (before + after) @ head.T)
    product = model.logits(before).softmax(-1) * model.backward_logits(after).softmax(-1)
    close(model.joint_logits(before, after).softmax(-1), product / product.sum(-1, keepdim=True))
    # at first only the left side predicts the first character of a wider gap
    for remaining in range(2, WIDEST + 1):
        np.testing.assert_array_equal(model.joint_logits(before, after, remaining), model.logits(before))


@pytest.mark.parametrize("options", LAID_OVER, ids=str)
@torch.no_grad()
def test_the_joint_head_is_its_equation_with_a_row_for_each_width(options: dict[str, Any]) -> None:
    model = made("gru", "tanh", options)
    before, after = some_features(model.feature_size)
    remaining = torch.tensor([[1, 2, 3, 19, 20, 21], [4, 1, 500, 20, 5, 1]])
    w, u = model.joint_hidden.weight, model.joint_output.weight
    head = model.embedding if model.head is None else model.head
    expected = np.empty((B, T, V))
    for b in range(B):
        for t in range(T):
            left, right, row = before[b, t], after[b, t], min(int(remaining[b, t]), 20) - 1
            hidden = torch.relu(w @ torch.cat((left, right)) + model.joint_width[row])
            expected[b, t] = (head @ (left + model.joint_trust[row] * right + u @ hidden) + model.joint_bias).numpy()
    close(model.joint_logits(before, after, remaining), expected)


@torch.no_grad()
def test_one_width_applies_everywhere_and_the_widest_gap_stands_for_wider_ones() -> None:
    model = made("lstm", "tanh", {})
    before, after = some_features(model.feature_size)
    for remaining in (1, 2, 7, WIDEST):
        everywhere = torch.full((B, T), remaining)
        close(model.joint_logits(before, after, remaining), model.joint_logits(before, after, everywhere))
    np.testing.assert_array_equal(
        model.joint_logits(before, after, WIDEST + 1), model.joint_logits(before, after, WIDEST)
    )
    np.testing.assert_array_equal(model.joint_logits(before, after, 1000), model.joint_logits(before, after, WIDEST))


@pytest.mark.parametrize("name", ["joint_width", "joint_trust"])
@torch.no_grad()
def test_each_width_has_a_row_of_its_own(name: str) -> None:
    model, widths = made("lstm", "tanh", {}), range(1, WIDEST + 1)
    before, after = some_features(model.feature_size)
    old = [model.joint_logits(before, after, remaining) for remaining in widths]
    for changed in widths:
        row = model.get_parameter(name)[changed - 1]
        saved = row.clone()
        row += 0.5
        new = [model.joint_logits(before, after, remaining) for remaining in widths]
        assert [r for r in widths if not torch.equal(new[r - 1], old[r - 1])] == [changed]
        row.copy_(saved)


def test_the_joint_head_drops_from_the_generator_alone_and_only_in_training() -> None:
    model = made("lstm", "tanh", {}, dropout=0.5)
    before, after = some_features(model.feature_size)
    everyones, generator = torch.random.get_rng_state(), Generator().manual_seed(3)
    quiet = model.joint_logits(before, after, 2, generator)
    assert torch.equal(generator.get_state(), Generator().manual_seed(3).get_state())
    close(quiet.detach(), made("lstm", "tanh", {}).joint_logits(before, after, 2).detach())
    model.train()
    first, second = (model.joint_logits(before, after, 2, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, model.joint_logits(before, after, 2, Generator().manual_seed(3)))
    assert torch.equal(torch.random.get_rng_state(), everyones)


@pytest.mark.parametrize(("cell", "activation"), CELLS)
@pytest.mark.parametrize("options", [{"num_layers": 2}, {**LAID_OVER[-1], "num_layers": 3}], ids=str)
def test_dropout_reaches_the_backward_stack_and_only_in_training(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    model, tokens = made(cell, activation, options, dropout=0.5), some_tokens(steps=T)
    quiet, _ = model.read_back(tokens, some_state(model), Generator().manual_seed(3))
    close(quiet.detach(), made(cell, activation, options).read_back(tokens, some_state(model))[0].detach())
    model.train()
    first, _ = model.read_back(tokens, some_state(model), Generator().manual_seed(3))
    again, _ = model.read_back(tokens, some_state(model), Generator().manual_seed(3))
    other, _ = model.read_back(tokens, some_state(model), Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, quiet)


# Weights


@pytest.mark.parametrize("options", LAID_OVER, ids=str)
def test_shared_weights_are_stored_once(options: dict[str, Any]) -> None:
    weights = bare("gru", "tanh", options).state_dict()
    tied = bool(options.get("tie_weights"))
    assert [name for name, tensor in weights.items() if tensor.dim() == 2 and len(tensor) == V] == (
        ["embedding"] if tied else ["embedding", "head"]
    )
    assert [name for name, tensor in weights.items() if tensor.shape == (V,)] == [
        "head_bias",
        "backward_bias",
        "joint_bias",
    ]
    addresses = [tensor.data_ptr() for tensor in weights.values()]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize(
    ("options", "stack", "size", "matrices"),
    [
        ({"cell": "rnn"}, E * H + H * H + 2 * H, H, V * E + V * H),
        ({"cell": "lstm"}, 4 * (E * H + H * H + 2 * H), H, V * E + V * H),
        ({"cell": "gru", "layer_norm": True}, 3 * (E * H + H * H + 2 * H) + 2 * H, H, V * E + V * H),
        ({"cell": "rnn", "tie_weights": True}, (E * H + H * H + 2 * H) + (H * E + E), E, V * E),
    ],
    ids=str,
)
def test_a_model_has_the_parameters_that_its_equations_need(
    options: dict[str, Any], stack: int, size: int, matrices: int
) -> None:
    model = bare(options["cell"], "tanh", options)
    expected = matrices + 2 * stack + 3 * V + 20 * (2 * size + size) + (2 * size) * (2 * size) + (2 * size) * size
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_making_a_model_draws_nothing_from_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    bare("lstm", "tanh", {"num_layers": 2, "tie_weights": True})
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("options", LAID_OVER, ids=str)
@torch.no_grad()
def test_a_transplant_matches_all_three_heads_by_character(options: dict[str, Any]) -> None:
    old, new = made("lstm", "tanh", options), made("lstm", "tanh", options)
    new_characters = "月gfa\nd诗"
    for parameter in new.parameters():
        parameter.fill_(math.nan)
    assert transplant(old, "abcdefg", new, new_characters) == 4
    ours, theirs = new.state_dict(), old.state_dict()
    by_row = {"embedding", "head", "head_bias", "backward_bias", "joint_bias"}
    for name, weights in ours.items():
        if name not in by_row:
            np.testing.assert_array_equal(weights, theirs[name])
            continue
        for row, character in enumerate(new_characters):
            old_row = "abcdefg".find(character)
            close(weights[row], theirs[name][old_row] if old_row >= 0 else theirs[name].mean(0))
    # so for shared characters the new model predicts what the old one did, from either side
    predictions = []
    for model, characters in ((old, "abcdefg"), (new, new_characters)):
        tokens = torch.tensor([[characters.index(character) for character in "gadfda"]])
        before, _ = model.read(tokens[:, :-2], model.initial_state(1))
        after, _ = model.read_back(tokens[:, 2:], model.backward_stack.initial_state(1))
        columns = [characters.index(character) for character in "gfad"]
        heads = (model.logits(before), model.backward_logits(after), model.joint_logits(before, after))
        predictions.append(torch.stack(heads)[..., columns])
    close(predictions[0], predictions[1])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.bf16
def test_in_bf16_a_heads_bias_is_added_in_full(tied: bool) -> None:
    """With thousands of characters most biases are around -10, where bf16 has steps of a sixteenth."""
    model = made("lstm", "tanh", {"tie_weights": tied, "embedding_size": H}).float()
    bias = torch.linspace(-10.02, -10.01, V)
    read = torch.randn(B, T, H, generator=Generator().manual_seed(2))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (model.embedding if model.head is None else model.head).zero_()
        for head_bias in (model.head_bias, model.backward_bias, model.joint_bias):
            head_bias.copy_(bias)
        for logits in (model.logits(read), model.backward_logits(read), model.joint_logits(read, read)):
            assert torch.equal(logits, bias.expand(B, T, V))
