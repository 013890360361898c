"""Each term of the loss equals its definition, written down plainly, and draws from one generator.
Sizes: B=2 batch rows, T=4 steps of a window, 23 characters of lookahead, V=7 vocabulary."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from charrnn.data.batches import ContiguousBatches
from charrnn.data.loader import Batch, load_batch
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.char_rnn import CharRNN
from charrnn.models.layers import Stack, State
from charrnn.models.losses import Losses, Teacher, beginning_loss, compute_losses
from tests.conftest import CELLS, close
from tests.models.test_bidirectional import LAID_OVER, bare, made
from tests.models.test_char_rnn import B, V, some_state, tensors

T, LOOKAHEAD = 4, 23
KNOWN, ESCAPE = 0.3, 9.0
MODELS = tuple((*pair, {**options, "num_layers": 2}) for pair in CELLS for options in LAID_OVER)
every_model = pytest.mark.parametrize(("cell", "activation", "options"), MODELS, ids=str)


@every_model
def test_the_loss_of_beginnings_is_that_of_their_characters_after_the_boundary(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    model = made(cell, activation, options)
    inputs, targets = torch.tensor([[0, 2, 1, 3], [0, 2, V, 1]]), torch.tensor([[1, 3, V], [V, 1, 2]])
    with torch.no_grad():
        logits, _ = model(inputs, model.initial_state(2))
    expected = [[nats_of(logits[row, 1 + i], int(targets[row, i])) for i in range(3)] for row in range(2)]
    found = beginning_loss(model, Batch(inputs, targets), KNOWN, ESCAPE, torch.Generator())
    close(float(found.detach()), np.mean(expected))


def a_window(batches: int = B, steps: int = T, lookahead: int = LOOKAHEAD) -> Batch:
    """Return the second window of a text with some escapes (V) in it; the newline is token 2."""
    tokens = np.random.default_rng(3).integers(0, V + 1, 3 * batches * steps + 1).astype(np.uint8)
    cut = ContiguousBatches(tokens, np.zeros(1, dtype=np.int64), [2], batches, steps, 5, lookahead=lookahead)
    return load_batch(cut, 0, 1, torch.device("cpu"))


def nats_of(logits: Tensor, target: int) -> float:
    return ESCAPE if target == V else KNOWN - float(torch.log_softmax(logits, -1)[target])


def read_singly(model: BidirectionalRNN, stack: Stack, tokens: list[int], state: State) -> list[Tensor]:
    """Read tokens one by one in the order given; return the features (F) after each."""
    read = []
    for token in tokens:
        features, state = stack.run_layers(model.embed(torch.tensor([[token]])), state)
        read.append(features[0, 0])
    return read


def spied_widths(model: BidirectionalRNN, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Record the gap widths that the joint head gets."""
    seen, sound = [], model.joint_logits

    def joint_logits(before: Tensor, after: Tensor, remaining: Tensor, generator: Generator) -> Tensor:
        seen.append(remaining)
        return sound(before, after, remaining, generator)

    monkeypatch.setattr(model, "joint_logits", joint_logits)
    return seen


def spied_logits(model: CharRNN, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Record the logits of the head, in the order of the terms."""
    seen, sound = [], model.logits

    def logits(*arguments: Tensor) -> Tensor:
        seen.append(sound(*arguments))
        return seen[-1]

    monkeypatch.setattr(model, "logits", logits)
    return seen


@every_model
@torch.no_grad()
@pytest.mark.bf16
def test_each_term_is_its_definition_character_by_character(
    cell: str, activation: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, window = made(cell, activation, options), a_window()
    assert window.following is not None
    state = some_state(model)
    seen = spied_widths(model, monkeypatch)
    found, _ = compute_losses(model, window, state, KNOWN, ESCAPE, Generator().manual_seed(6))
    (remaining,) = seen
    assert len(set(remaining.flatten().tolist())) > 2  # gaps differ within a window
    head = model.embedding if model.head is None else model.head
    forward, backward, joint = [], [], []
    for b in range(B):
        inputs, following = window.inputs[b].tolist(), window.following[b].tolist()
        features_before = read_singly(model, model, inputs, state.select(slice(b, b + 1)))
        start = model.backward_stack.initial_state(1)
        features_after = read_singly(model, model.backward_stack, following[::-1], start)[::-1]
        for t in range(T):
            target, r = int(window.targets[b, t]), int(remaining[b, t])
            before, after = features_before[t], features_after[t]
            forward.append(nats_of(head @ before + model.head_bias, target))
            backward.append(nats_of(head @ after + model.backward_bias, target))
            beyond = features_after[t + r - 1]  # what follows the gap of t, t+1, ..., t+r-1
            hidden = torch.relu(model.joint_hidden.weight @ torch.cat((before, beyond)) + model.joint_width[r - 1])
            mixed = before + model.joint_trust[r - 1] * beyond + model.joint_output.weight @ hidden
            joint.append(nats_of(head @ mixed + model.joint_bias, target))
    expected = np.array([forward, backward, joint]).mean(1)
    close(torch.stack([term for term in found if term is not None]), expected)
    close(found.total(), expected.sum())


@every_model
@torch.no_grad()
def test_the_forward_term_and_state_are_those_of_the_causal_model(
    cell: str, activation: str, options: dict[str, Any]
) -> None:
    model, causal = made(cell, activation, options), bare(cell, activation, options, bidirectional=False)
    causal.double().eval().load_state_dict({name: model.state_dict()[name] for name in causal.state_dict()})
    two_sided, state = compute_losses(model, a_window(), some_state(model), KNOWN, ESCAPE, Generator())
    one_sided, expected = compute_losses(causal, a_window(lookahead=0), some_state(causal), KNOWN, ESCAPE, Generator())
    assert torch.equal(two_sided.forward, one_sided.forward)
    for mine, theirs in zip(tensors(state), tensors(expected), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert one_sided == Losses(one_sided.forward, None, None)
    assert torch.equal(one_sided.total(), one_sided.forward)


@torch.no_grad()
def test_half_of_all_widths_are_1_and_the_others_fall_as_their_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("rnn", "tanh", {})
    seen = spied_widths(model, monkeypatch)
    window = a_window(batches=40, steps=520)
    compute_losses(model, window, model.initial_state(40), KNOWN, ESCAPE, Generator().manual_seed(0))
    drawn = seen[0][:, :500].flatten().numpy()  # near the end the widest may not fit
    assert (drawn.min(), drawn.max()) == (1, 20)
    odds = np.array([sum(1 / r for r in range(2, 21)), *(1 / r for r in range(2, 21))])
    expected = len(drawn) * odds / odds.sum()
    found = np.bincount(drawn, minlength=21)[1:]
    assert ((found - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 degrees of freedom, 1 in 1000


@torch.no_grad()
def test_a_gap_ends_before_the_end_of_the_lookahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any lookahead the last character is always alone, the one before it the first of two at most."""
    model, window = made("rnn", "tanh", {}), a_window(batches=1000, steps=30)
    assert window.following is not None
    seen = spied_widths(model, monkeypatch)
    short = window._replace(following=window.following[:, :30])
    found, _ = compute_losses(model, short, model.initial_state(1000), KNOWN, ESCAPE, Generator().manual_seed(0))
    assert math.isfinite(float(found.total()))
    assert seen[0].amax(0).tolist() == [20] * 11 + list(range(19, 0, -1))


# Gradients


def test_each_term_has_gradients_in_its_own_half_and_shared_weights() -> None:
    model = made("lstm", "tanh", {"num_layers": 2})
    found, _ = compute_losses(model, a_window(), some_state(model), KNOWN, ESCAPE, Generator().manual_seed(6))
    names = [name for name, _ in model.named_parameters()]
    trained = []
    for term in found[:3]:
        assert term is not None
        gradients = torch.autograd.grad(term, list(model.parameters()), retain_graph=True, allow_unused=True)
        trained.append({name for name, gradient in zip(names, gradients, strict=True) if gradient is not None})
    forward = {name for name in names if name.startswith("layers.")}
    backward = {name for name in names if name.startswith("backward_stack.")}
    joint = {name for name in names if name.startswith("joint_")}
    assert trained == [
        {"embedding", "head", "head_bias", *forward},
        {"embedding", "head", "backward_bias", *backward},
        {"embedding", "head", *joint, *forward, *backward},
    ]
    assert set(names) == set().union(*trained)


@pytest.mark.parametrize(("cell", "activation"), CELLS)
@pytest.mark.parametrize("options", [{"num_layers": 2}, {**LAID_OVER[-1], "num_layers": 1}], ids=str)
def test_the_losss_gradient_is_its_slope(cell: str, activation: str, options: dict[str, Any]) -> None:
    model = made(cell, activation, options)

    def loss() -> Tensor:
        found, _ = compute_losses(model, a_window(), some_state(model), KNOWN, ESCAPE, Generator().manual_seed(6))
        return found.total()

    gradients = torch.autograd.grad(loss(), list(model.parameters()))
    generator = Generator().manual_seed(2)
    for gradient, (name, weights) in zip(gradients, model.named_parameters(), strict=True):
        index = int(torch.randint(weights.numel(), (), generator=generator))
        flat, values = weights.detach().view(-1), []
        with torch.no_grad():
            saved = float(flat[index])
            for nudge in (1e-5, -1e-5):
                flat[index] = saved + nudge
                values.append(float(loss()))
            flat[index] = saved
        slope = (values[0] - values[1]) / 2e-5
        assert float(gradient.reshape(-1)[index]) == pytest.approx(slope, rel=1e-6, abs=1e-8), name


def test_the_generator_alone_decides() -> None:
    model = made("gru", "tanh", {"num_layers": 2}, dropout=0.5).train()
    global_state = torch.random.get_rng_state()

    @torch.no_grad()
    def predicted_nats(seed: int) -> list[float]:
        found, _ = compute_losses(model, a_window(), some_state(model), KNOWN, ESCAPE, Generator().manual_seed(seed))
        return [float(term) for term in found if term is not None]

    once, again, otherwise = predicted_nats(6), predicted_nats(6), predicted_nats(7)
    assert once == again
    assert all(one != other for one, other in zip(once, otherwise, strict=True))  # dropout reaches all three
    # without dropout only the gaps are drawn: no other term moves
    model.eval()
    (forward, backward, joint), (same, too, other) = predicted_nats(6), predicted_nats(7)
    assert (forward, backward) == (same, too)
    assert joint != other
    assert torch.equal(torch.random.get_rng_state(), global_state)


def test_no_call_changes_the_state_it_was_given() -> None:
    model = made("lstm", "tanh", {"time_skip": 2})
    state = some_state(model)
    compute_losses(model, a_window(), state, KNOWN, ESCAPE, Generator())
    for mine, theirs in zip(tensors(state), tensors(some_state(model)), strict=True):
        close(mine, theirs, 0.0)


def test_gradients_are_the_same_every_time_on_several_threads() -> None:
    """The gradient of indexing a table depended on the order of threads, so that a resumed run would differ."""
    model, window = bare("lstm", "tanh", {}, hidden_size=64), a_window(batches=32, steps=64)
    model.initialise(Generator().manual_seed(0))
    torch.set_num_threads(2)  # a fixture of all tests restores it
    gradients = []
    for _ in range(8):
        model.zero_grad()
        found, _ = compute_losses(model, window, model.initial_state(32), KNOWN, ESCAPE, Generator().manual_seed(0))
        found.total().backward()  # type: ignore[no-untyped-call]
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    for other in gradients[1:]:
        assert all(torch.equal(one, two) for one, two in zip(gradients[0], other, strict=True))


@pytest.mark.parametrize("options", [{}, {"tie_weights": True}, {"bidirectional": False}], ids=str)
@torch.no_grad()
def test_the_distillation_weight_mixes_the_teachers_predictions_into_the_targets(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each term is the mean loss of a target from the text or, with the distillation weight as its probability, from
    the teacher's predictions, with the same gaps for both."""
    both = options.get("bidirectional", True)
    model, other = (bare("lstm", "tanh", {"num_layers": 2, **options}).double().eval() for _ in range(2))
    draws = Generator().manual_seed(8)
    for weights in (*model.parameters(), *other.parameters()):
        weights.normal_(0.0, 0.5, generator=draws)
    window, weight = a_window(lookahead=LOOKAHEAD if both else 0), 0.3
    window.targets[0, 1] = V  # an escape, which no model predicts
    ours = spied_logits(model, monkeypatch)
    teacher_logits = spied_logits(other, monkeypatch)
    teacher = Teacher(other, weight, some_state(other))
    found, state = compute_losses(model, window, some_state(model), KNOWN, ESCAPE, Generator().manual_seed(6), teacher)
    alone, same = compute_losses(model, window, some_state(model), KNOWN, ESCAPE, Generator().manual_seed(6))
    assert found._replace(distillation=None) == alone
    for mine, theirs in zip(tensors(state), tensors(same), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert len(teacher_logits) == (3 if both else 1)
    total = 0.0
    for logits, theirs in zip(ours, teacher_logits, strict=False):  # what follows is without the teacher
        for b in range(B):
            for t in range(T):
                target, odds = int(window.targets[b, t]), torch.softmax(theirs[b, t], -1)
                drawn = sum(float(odds[v]) * nats_of(logits[b, t], v) for v in range(V))
                true = nats_of(logits[b, t], target)
                total += true if target == V else (1 - weight) * true + weight * drawn
    close(found.total(), np.array(total / (B * T)))
    _, there = compute_losses(other, window, some_state(other), KNOWN, ESCAPE, Generator().manual_seed(6))
    for mine, theirs in zip(tensors(teacher.state), tensors(there), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_teacher_equal_to_the_model_only_scales_the_gradient_and_gets_none() -> None:
    """If its predictions are those of the model, the gradient is that of the text, times the remaining weight."""
    model, other = made("gru", "tanh", {}), made("gru", "tanh", {})
    other.load_state_dict(model.state_dict())
    teacher = Teacher(other, 0.3, some_state(other))
    gradients = []
    for one in (None, teacher):
        found, _ = compute_losses(model, a_window(), some_state(model), KNOWN, ESCAPE, Generator().manual_seed(6), one)
        gradients.append(torch.autograd.grad(found.total(), list(model.parameters())))
    for alone, taught in zip(*gradients, strict=True):
        torch.testing.assert_close(taught, 0.7 * alone)
    assert all(weights.grad is None for weights in other.parameters())
