"""The custom kernel computes the equations of `cells`, and the gradients of autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from charrnn.config.schema import ModelConfig
from charrnn.models import bptt, cells
from charrnn.models.bptt import Kind, Masks, Weights
from charrnn.models.cells import StepState
from charrnn.models.layers import RecurrentLayer, Stack
from tests.conftest import CELLS

B, INPUTS, H = 2, 3, 4

every_cell = pytest.mark.parametrize(
    ("cell", "activation"), [pair for pair in CELLS if cells.CELLS[pair[0]].custom_kernel]
)
every_length = pytest.mark.parametrize("steps", [1, 5, 8])  # shorter than, as long as and longer than a time skip


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def weights(cell: str, skip: int | None, inputs: int = INPUTS, dtype: torch.dtype = torch.float64) -> Weights:
    gates = cells.CELLS[cell].gates * H
    shapes = [(gates, inputs), (gates, H), (gates,), (gates,)] + ([(gates, H)] if skip is not None else [])
    return Weights(*(random(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes)))


def state(cell: str, skip: int | None, dtype: torch.dtype = torch.float64, batch: int = B) -> StepState:
    return StepState(
        random(batch, H, seed=10, dtype=dtype),
        random(batch, H, seed=11, dtype=dtype) if cells.CELLS[cell].cell_state else None,
        random(batch, skip, H, seed=12, dtype=dtype) if skip is not None else None,
    )


def masks(cell: str, steps: int, batch: int = B) -> Masks:
    keep, keep_cell = (random(batch, steps, H, seed=seed).detach() < 0.0 for seed in (20, 21))
    return Masks(keep, keep_cell if cells.CELLS[cell].cell_state else None)


def step_by_step(
    kind: Kind, x: Tensor, before: StepState, given: Weights, keep: Masks | None
) -> tuple[Tensor, StepState]:
    """Compute what `bptt.run` should, by the equations alone."""
    outputs = []
    for step in range(x.shape[1]):
        new = cells.step(
            kind.cell,
            x[:, step] @ given.weight_ih.T + given.bias_ih,
            before,
            given.weight_hh,
            given.bias_hh,
            activation=kind.activation,
            leak=kind.leak,
            skip_weight=given.skip_weight,
        )
        if keep is not None and keep.hidden is not None:
            hidden = torch.where(keep.hidden[:, step], before.hidden, new.hidden)
            cell = new.cell
            if keep.cell is not None and before.cell is not None and cell is not None:
                cell = torch.where(keep.cell[:, step], before.cell, cell)
            past = None if new.past is None else torch.cat((new.past[:, :-1], hidden[:, None]), 1)
            new = StepState(hidden, cell, past)
        before = new
        outputs.append(new.hidden)
    return torch.stack(outputs, 1), before


def every_output(result: tuple[Tensor, StepState]) -> list[Tensor]:
    return [tensor for tensor in (result[0], *result[1]) if tensor is not None]


@every_cell
@every_length
@pytest.mark.parametrize("leak", [None, 0.3])
@pytest.mark.parametrize("skip", [None, 2, 5, 7])
@pytest.mark.parametrize("zoneout", [False, True], ids=["all new", "zoneout"])
@pytest.mark.parametrize("batch", [1, B], ids=["one row", "rows"])
def test_a_window_equals_the_equations_and_autograd(
    cell: str, activation: str, steps: int, leak: float | None, skip: int | None, zoneout: bool, batch: int
) -> None:
    kind = Kind(cell, activation, leak, torch.float64)
    x, before, given = random(batch, steps, INPUTS, seed=5), state(cell, skip, batch=batch), weights(cell, skip)
    keep = masks(cell, steps, batch) if zoneout else None
    mine = every_output(bptt.run(kind, x, before, given, keep))
    theirs = every_output(step_by_step(kind, x, before, given, keep))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)

    # each output has its own gradient, so that none can hide behind another
    pulls = [random(*tensor.shape, seed=30 + index).detach() for index, tensor in enumerate(mine)]
    pulled = [pull.clone() for pull in pulls]
    leaves = [tensor for tensor in (x, *before, *given) if tensor is not None]
    gradients = [torch.autograd.grad(outputs, leaves, pulls) for outputs in (mine, theirs)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    for one, other in zip(pulls, pulled, strict=True):
        assert torch.equal(one, other)  # incoming gradients are not overwritten


@every_cell
@pytest.mark.parametrize("options", [{}, {"leak": 0.3, "time_skip": 3}], ids=["plain", "leak and skip"])
def test_without_gradients_it_buffers_two_steps_and_gives_the_same(
    cell: str, activation: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    capacities, make = [], bptt._Gates.__init__

    def watched(self: bptt._Gates, *arguments: Any) -> None:
        make(self, *arguments)
        capacities.append(self.capacity)

    monkeypatch.setattr(bptt._Gates, "__init__", watched)
    skip = options.get("time_skip")
    kind, x = Kind(cell, activation, options.get("leak"), torch.float64), random(B, 6, INPUTS, seed=5)
    with_gradients = every_output(bptt.run(kind, x, state(cell, skip), weights(cell, skip)))
    with torch.no_grad():
        without = every_output(bptt.run(kind, x, state(cell, skip), weights(cell, skip)))
    assert capacities == [7, 2]
    for one, other in zip(with_gradients, without, strict=True):
        assert torch.equal(one, other)


@every_cell
@pytest.mark.parametrize(
    ("leak", "skip", "zoneout"), [(None, None, False), (0.3, None, False), (None, 3, True)], ids=str
)
def test_rounded_products_come_close_and_the_state_keeps_its_type(
    cell: str, activation: str, leak: float | None, skip: int | None, zoneout: bool
) -> None:
    x, before = random(B, 9, INPUTS, seed=5, dtype=torch.float32), state(cell, skip, torch.float32)
    given = weights(cell, skip, dtype=torch.float32)
    # small enough that no ReLU lies so near its kink as to be rounded to the other side
    given = Weights(*(None if weight is None else (weight.detach() / 4).requires_grad_() for weight in given))  # type: ignore[arg-type]
    keep = masks(cell, 9) if zoneout else None
    exact, _ = bptt.run(Kind(cell, activation, leak), x, before, given, keep)
    bf16 = Kind(cell, activation, leak, torch.bfloat16)
    rounded, after = bptt.run(bf16, x, before, given, keep)
    assert (exact.dtype, rounded.dtype, after.hidden.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    assert float((rounded.float() - exact).detach().norm() / exact.detach().norm()) < 0.01
    leaves = [x, *(weight for weight in given if weight is not None)]
    gradients = [torch.autograd.grad(outputs.float().square().sum(), leaves) for outputs in (exact, rounded)]
    for one, other in zip(*gradients, strict=True):
        assert other.dtype == torch.float32
        assert float((one - other).norm() / one.norm()) < 0.03
    with torch.no_grad():
        assert torch.equal(bptt.run(bf16, x, before, given, keep)[0], rounded)


def test_a_layer_stands_still_if_zoneout_keeps_every_unit() -> None:
    keep = Masks(torch.ones(B, 4, H, dtype=torch.bool), torch.ones(B, 4, H, dtype=torch.bool))
    before = state("lstm", None)
    y, after = bptt.run(
        Kind("lstm", products=torch.float64), random(B, 4, INPUTS, seed=5), before, weights("lstm", None), keep
    )
    torch.testing.assert_close(y, before.hidden[:, None].expand(B, 4, H))
    torch.testing.assert_close(after.cell, before.cell)


def stack_of(cell: str, activation: str = "tanh") -> Stack:
    """Make two layers with weights."""
    config = ModelConfig.model_validate(
        {
            "cell": cell,
            "activation": activation,
            "hidden_size": H,
            "num_layers": 2,
            "embedding_size": INPUTS,
            "dropout": 0.0,
            "tie_weights": False,
        }
    )
    stack = Stack(config)
    stack.initialise_layers(torch.Generator().manual_seed(1))
    return stack


@every_cell
@pytest.mark.bf16
def test_a_layer_gives_the_same_on_both_kernels_in_training_and_under_autocast(cell: str, activation: str) -> None:
    stack = stack_of(cell, activation)
    x = random(B, 6, INPUTS, seed=5, dtype=torch.float32).detach()
    made = []
    for custom in (False, True):
        stack.use_custom_kernel(custom)
        assert [layer.custom for layer in stack.modules() if isinstance(layer, RecurrentLayer)] == [
            custom or activation == "leaky_relu"
        ] * 2
        features, after = stack.run_layers(x, stack.initial_state(B))
        with torch.autocast("cpu", torch.bfloat16):
            rounded, _ = stack.run_layers(x, stack.initial_state(B))
        assert rounded.dtype == (torch.bfloat16 if custom or cell != "gru" else torch.float32)  # torch's GRU
        assert after.hidden.dtype == torch.float32
        torch.testing.assert_close(rounded.float(), features, rtol=0.05, atol=0.05)
        gradients = torch.autograd.grad(features.square().sum(), list(stack.parameters()))
        made.append([features, after.hidden, *gradients])
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.bf16
@pytest.mark.parametrize(("cell", "custom"), [("lstm", 2), ("gru", 0)])
def test_an_lstm_in_bf16_runs_on_the_custom_kernel_if_the_cpu_has_no_other(
    cell: str, custom: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, calls, sound = stack_of(cell), [], bptt.run
    monkeypatch.setattr("charrnn.models.layers.cpu_lstm_takes_bf16", lambda: False)
    monkeypatch.setattr(bptt, "run", lambda *arguments: calls.append(arguments[0]) or sound(*arguments))  # type: ignore[func-returns-value]
    x = random(B, 6, INPUTS, seed=5, dtype=torch.float32).detach()
    layer.run_layers(x, layer.initial_state(B))
    assert not calls  # every CPU has a kernel for fp32
    with torch.autocast("cpu", torch.bfloat16):
        layer.run_layers(x, layer.initial_state(B))
    assert [kind.products for kind in calls] == [torch.bfloat16] * custom


@every_cell
def test_no_two_gradients_share_memory(cell: str, activation: str) -> None:
    given, kind = weights(cell, 3), Kind(cell, activation, None, torch.float64)
    y, _ = bptt.run(kind, random(B, 5, INPUTS, seed=5), state(cell, 3), given)
    y.square().sum().backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad for weight in given if weight is not None and weight.grad is not None]
    assert len(gradients) == 5
    before = [gradient.clone() for gradient in gradients]
    for gradient in gradients:
        gradient.mul_(2)  # as clipping does
    for one, other in zip(gradients, before, strict=True):
        assert torch.equal(one, 2 * other)


def test_rows_are_the_same_states_contiguous_in_memory() -> None:
    x, start = random(B, 5, INPUTS, seed=5), StepState(torch.zeros(B, H, dtype=torch.float64))
    y, _ = bptt.run(Kind("gru", products=torch.float64), x, start, weights("gru", None))
    made = bptt.rows(y)
    assert torch.equal(made, y)
    assert y.stride(-1) > made.stride(-1) == 1
    assert bptt.rows(made) is made
    pull = random(B, 5, H, seed=6).detach()
    gradients = [torch.autograd.grad((pull * to).sum(), (y, x), retain_graph=True) for to in (made, y)]
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_the_backward_pass_frees_what_it_needed() -> None:
    x = random(B, 5, INPUTS, seed=5)
    y, _ = bptt.run(Kind("lstm", products=torch.float64), x, state("lstm", None), weights("lstm", None))
    assert y.grad_fn is not None
    window = y.grad_fn.next_functions[0][0]
    assert window is not None
    assert set(vars(window)) == {
        "kind",
        "in_rows",
    }  # everything large is saved, not an attribute of the node
    y.sum().backward()  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="freed"):
        window.saved_tensors  # type: ignore[attr-defined]  # noqa: B018
