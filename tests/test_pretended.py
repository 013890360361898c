"""Claims about the pretended device: it notices what a real one would, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pretended import CUDA, pretended


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tensor]:
    """Give 0, 1, 2 on the device."""
    with pretended(monkeypatch):
        yield torch.arange(3.0, device="cuda")


def test_tensors_lie_where_they_are_made_or_brought(there: Tensor) -> None:
    here = torch.arange(3.0)
    assert (here.device.type, here.is_cuda) == ("cpu", False)
    for made in (
        there,
        there + 1,
        there[1:],
        torch.zeros_like(here, device=CUDA),
        here.to("cuda:0"),
        here.cuda(),
        torch.nn.Linear(2, 3).cuda().weight,
    ):
        assert (made.device, made.is_cuda) == (CUDA, True)
        assert not made.cpu().is_cuda
    assert there.to(torch.float64).dtype == torch.float64
    assert there.to(here.device, torch.float16).dtype == torch.float16
    assert there.tolist() == [0.0, 1.0, 2.0]


def test_gradients_lie_where_their_weights_do(there: Tensor) -> None:
    weights = there.clone().requires_grad_()
    (weights * there).sum().backward()  # type: ignore[no-untyped-call]
    assert weights.grad is not None
    assert weights.grad.is_cuda
    # what nothing comes back to is filled up with zeros by autograd itself
    one, two = torch.autograd.grad(weights.unbind()[1], [weights, weights], materialize_grads=True)
    assert one.is_cuda
    assert two.is_cuda


MIXED: tuple[Callable[[Tensor], Any], ...] = (
    lambda there: there + torch.ones(3),
    lambda there: torch.cat((torch.ones(3), there)),
    lambda there: torch.nn.Linear(3, 2)(there),
    lambda there: torch.arange(4)[there.long()],
    lambda there: there.bernoulli_(0.5, generator=torch.Generator()),
    lambda there: torch.ones(3).bernoulli_(0.5, generator=torch.Generator(CUDA)),
)


@pytest.mark.parametrize("mixed", MIXED)
def test_devices_do_not_mix(there: Tensor, mixed: Callable[[Tensor], Any]) -> None:
    with pytest.raises(RuntimeError):
        mixed(there)
    assert there.mul(torch.tensor(2.0)).tolist() == [0.0, 2.0, 4.0]  # numbers go with anything
    assert there.bernoulli_(1.0, generator=torch.Generator(CUDA)).tolist() == [1.0, 1.0, 1.0]


def test_numpy_cannot_see_it(there: Tensor) -> None:
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


WAITING: tuple[Callable[[Tensor], Any], ...] = (
    lambda there: there[0].item(),
    lambda there: float(there.sum()),
    lambda there: bool((there > 1).any()),
    lambda there: there.tolist(),
    lambda there: there.cpu(),
    lambda there: there.nonzero(),
    lambda there: there[there > 1],
    lambda there: there[torch.tensor([1])],
    lambda there: there.copy_(torch.ones(3)),
    lambda there: torch.ones(3).to(CUDA),
    lambda there: torch.tensor([1.0], device=CUDA),
    lambda there: torch.equal(there, there),
    lambda there: torch.cuda.synchronize(),
)


@pytest.mark.parametrize("waiting", WAITING)
def test_who_waits_is_found(there: Tensor, waiting: Callable[[Tensor], Any]) -> None:
    waiting(there)
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="synchronizing"):
        waiting(there)
    torch.cuda.set_sync_debug_mode("default")
    waiting(there)


def test_who_does_not_wait_must_have_somewhere_to_put_it(there: Tensor) -> None:
    torch.cuda.set_sync_debug_mode("error")
    numbers, pinned = torch.empty(3), torch.empty(3, pin_memory=True)
    pinned.copy_(there, non_blocking=True)
    torch.ones(3).pin_memory().to(CUDA, non_blocking=True)
    with pytest.raises(RuntimeError, match="arrived"):
        numbers.copy_(there, non_blocking=True)
    with pytest.raises(RuntimeError, match="arrived"):
        there.to("cpu", non_blocking=True)
    assert pinned.tolist() == [0.0, 1.0, 2.0]


def test_a_graph_runs_again_where_it_was_recorded(there: Tensor) -> None:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = there * 2
        last = doubled[2]
    assert doubled.isnan().all()  # recorded is not run
    for factor in (1.0, 3.0):
        there.copy_(torch.arange(3.0) * factor)
        graph.replay()
        assert doubled.tolist() == [0.0, 2.0 * factor, 4.0 * factor]
        assert float(last) == 4.0 * factor


@pytest.mark.parametrize("recorded", [lambda there: there.sum().item(), lambda there: there.copy_(torch.ones(3))])
def test_nobody_waits_within_a_graph(there: Tensor, recorded: Callable[[Tensor], Any]) -> None:
    with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        recorded(there)


def test_afterwards_all_is_as_before() -> None:
    before = torch.cuda.is_available(), torch.autocast, torch.Generator
    with pytest.MonkeyPatch.context() as patch, pretended(patch):
        assert torch.cuda.is_available()
        there = torch.zeros(2, device=CUDA)
    assert (torch.cuda.is_available(), torch.autocast, torch.Generator) == before
    assert not there.is_cuda
    assert (there + torch.ones(2)).tolist() == [1.0, 1.0]
