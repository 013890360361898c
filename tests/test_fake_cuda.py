"""The fake CUDA device detects what a real one would, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from charrnn.device import cudnn_takes_bf16
from tests.fake_cuda import fake_cuda
from tests.fake_device import CUDA


@pytest.fixture
def there() -> Iterator[Tensor]:
    """Return 0, 1, 2 on the device."""
    with fake_cuda():
        yield torch.arange(3.0, device="cuda")


def test_tensors_are_where_they_are_made_or_moved(there: Tensor) -> None:
    here = torch.arange(3.0)
    assert (here.device.type, here.is_cuda) == ("cpu", False)
    for made in (
        there,
        there + 1,
        there[1:],
        torch.zeros_like(here, device=CUDA),
        here.to("cuda:0"),
        here.to(there),
        here.cuda(),
        torch.nn.Linear(2, 3).cuda().weight,
        torch.nn.Linear(2, 3).to(there).weight,
    ):
        assert (made.device, made.is_cuda) == (CUDA, True)
        assert not made.cpu().is_cuda
    assert there.to(torch.float64).dtype == torch.float64
    assert there.to(here.device, torch.float16).dtype == torch.float16
    assert there.tolist() == [0.0, 1.0, 2.0]
    assert there.to(CUDA) is there
    assert there.to(CUDA, copy=True) is not there
    assert torch.zeros(2, device="meta").device.type == "meta"
    with pytest.raises(RuntimeError, match="invalid device"):
        torch.zeros(2, device="cuda:1")


def test_gradients_are_where_their_weights_are(there: Tensor) -> None:
    weights = there.clone().requires_grad_()
    (weights * there).sum().backward()  # type: ignore[no-untyped-call]
    assert weights.grad is not None
    assert weights.grad.is_cuda
    # autograd itself makes the zeros of a missing gradient
    one, two = torch.autograd.grad(weights.unbind()[1], [weights, weights], materialize_grads=True)
    assert one.is_cuda
    assert two.is_cuda


MIXED: tuple[Callable[[Tensor], Any], ...] = (
    lambda there: there + torch.ones(3),
    lambda there: torch.cat((torch.ones(3), there)),
    lambda there: torch.stack((there[0], torch.tensor(1.0))),
    lambda there: torch.tensor(1.0).add_(there[0]),
    lambda there: torch.nn.Linear(3, 2)(there),
    lambda there: torch.nn.functional.embedding(torch.tensor(1), there[:, None]),
    lambda there: torch.arange(4)[there.long()],
    lambda there: there.index_put_((there.long(),), torch.ones(3)),
    lambda there: there.bernoulli_(0.5, generator=torch.Generator()),
    lambda there: torch.ones(3).bernoulli_(0.5, generator=torch.Generator(CUDA)),
)


@pytest.mark.parametrize("mixed", MIXED)
def test_devices_do_not_mix(there: Tensor, mixed: Callable[[Tensor], Any]) -> None:
    with pytest.raises(RuntimeError, match=r"same device|another device"):
        mixed(there)
    assert there.mul(torch.tensor(2.0)).tolist() == [0.0, 2.0, 4.0]  # a number mixes with any device
    generator = torch.Generator(device=CUDA)
    assert generator.manual_seed(1) is generator
    assert there.bernoulli_(1.0, generator=generator).tolist() == [1.0, 1.0, 1.0]


def test_numpy_cannot_read_it(there: Tensor) -> None:
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


SYNCHRONIZING: tuple[Callable[[Tensor], Any], ...] = (
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
    lambda there: torch.ones(3).to(CUDA, non_blocking=True),  # not pinned
    lambda there: torch.equal(there, there),
)


@pytest.mark.parametrize("synchronizing", SYNCHRONIZING)
def test_synchronization_is_detected(there: Tensor, synchronizing: Callable[[Tensor], Any]) -> None:
    synchronizing(there)
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="synchronizing"):
        synchronizing(there)
    torch.cuda.set_sync_debug_mode("default")
    synchronizing(there)


def test_an_asynchronous_copy_is_not_readable_before_it_has_completed(there: Tensor) -> None:
    torch.cuda.set_sync_debug_mode("error")
    torch.ones(3).pin_memory().to(CUDA, non_blocking=True)
    with pytest.raises(RuntimeError, match="completed"):
        torch.empty(3).copy_(there, non_blocking=True)
    with pytest.raises(RuntimeError, match="completed"):
        there.to("cpu", non_blocking=True)
    early, late = torch.cuda.Event(), torch.cuda.Event()  # type: ignore[no-untyped-call]
    pinned = torch.empty(3, pin_memory=True)
    early.record(torch.cuda.current_stream())
    pinned.copy_(there, non_blocking=True)
    late.record(torch.cuda.current_stream())
    there.zero_()
    early.synchronize()
    assert pinned.isnan().all()
    late.synchronize()
    assert pinned.tolist() == [0.0, 1.0, 2.0]


def test_a_graph_is_replayed_in_the_same_memory(there: Tensor) -> None:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = there * 2
        last, largest = doubled[2], doubled.argmax()
    assert doubled.isnan().all()  # what is recorded has not run
    assert int(largest) < 0
    for factor in (1.0, 3.0):
        there.copy_(torch.arange(3.0) * factor)
        graph.replay()
        assert doubled.tolist() == [0.0, 2.0 * factor, 4.0 * factor]
        assert (float(last), int(largest)) == (4.0 * factor, 2)


def test_a_graph_takes_nothing_from_the_cpu(there: Tensor) -> None:
    number, generator = torch.tensor(2.0), torch.Generator(CUDA)
    with pytest.raises(RuntimeError, match="graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        there * number
    with pytest.raises(RuntimeError, match="graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.empty_like(there).bernoulli_(0.5, generator=generator)


@pytest.mark.parametrize("recorded", [lambda there: there.sum().item(), lambda there: there.copy_(torch.ones(3))])
def test_nothing_synchronizes_within_a_graph(there: Tensor, recorded: Callable[[Tensor], Any]) -> None:
    with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        recorded(there)


PATCHED = (
    (torch, "autocast"),
    (torch, "Generator"),
    (torch, "is_autocast_enabled"),
    (torch.cuda, "is_available"),
    (torch.autograd, "_engine_run_backward"),
    (torch._C, "_group_tensors_by_device_and_dtype"),
    (Tensor, "device"),
    (Tensor, "is_cuda"),
)


@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_everything_is_restored(fails: bool) -> None:
    before = [getattr(owner, name) for owner, name in PATCHED]
    capable = cudnn_takes_bf16()
    try:
        with fake_cuda():
            assert torch.cuda.is_available()
            cudnn_takes_bf16()  # caches its answer
            there = torch.zeros(2, device=CUDA)
            assert all(getattr(owner, name) is not old for (owner, name), old in zip(PATCHED, before, strict=True))
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert [getattr(owner, name) for owner, name in PATCHED] == before
    assert cudnn_takes_bf16() == capable
    assert (there + torch.ones(2)).tolist() == [1.0, 1.0]
