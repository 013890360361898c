"""How training windows reach the model's device without blocking the training loop.
Knows batches and devices, not models. Shapes: N characters, D documents, B batch rows, T steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charrnn.data.batches import ContiguousBatches, EpochOrder

_SHARE = 4  # the training split may take 1/_SHARE of the device's free memory
_BLOCK = 1 << 24  # tokens per copy to the device


class Batch(NamedTuple):
    """A window as int64 tensors on the model's device; see `batches.Window`."""

    inputs: Tensor  # (B, T)
    targets: Tensor  # (B, T)
    following: Tensor | None = None  # (B, T + 0 to lookahead)


BatchLoader = Callable[[int, int], Batch]  # from epoch and index to a window


def make_loader(batches: ContiguousBatches, device: torch.device) -> BatchLoader:
    """Return a loader that gathers windows on the device if the split fits there, else sends them one by one."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if DeviceBatches.size(batches) * _SHARE <= free:
            return DeviceBatches(batches, device).window
    return lambda epoch, index: load_batch(batches, epoch, index, device)


def load_batch(batches: ContiguousBatches, epoch: int, index: int, device: torch.device) -> Batch:
    """Read a window on the CPU and send it to the device."""
    inputs, targets, following = batches.window(epoch, index)
    after = None if following is None else to_device(following, device)
    return Batch(to_device(inputs, device), to_device(targets, device), after)


def load_beginnings(batches: ContiguousBatches, step: int, length: int, device: torch.device) -> Batch:
    """Read the beginnings of documents for a step, as targets (B, T), and as inputs (B, K+T-1) after the boundary."""
    targets = batches.beginnings(step, length)
    boundary = np.tile(np.array(batches.boundary, dtype=np.int64), (len(targets), 1))  # (B, K)
    inputs = np.concatenate((boundary, targets[:, :-1]), 1)
    return Batch(to_device(inputs, device), to_device(targets, device))


def to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to a device; to a GPU from pinned memory, without waiting for it."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class DeviceBatches:
    """Hold the training split on the device and gather its windows there; they equal those of `batches`."""

    def __init__(self, batches: ContiguousBatches, device: torch.device) -> None:
        self.batches, self.device = batches, device
        # torch's wider unsigned types support few operations
        narrow = batches.tokens.dtype == np.uint8
        self.tokens = torch.empty(len(batches.tokens), dtype=torch.uint8 if narrow else torch.int32, device=device)
        for first in range(0, len(batches.tokens), _BLOCK):
            block = batches.tokens[first : first + _BLOCK].astype(np.uint8 if narrow else np.int32)
            self.tokens[first : first + len(block)].copy_(torch.from_numpy(block))
        self._rows = batches.row_length * torch.arange(batches.batch_size, device=device)[:, None]  # (B, 1)
        self._order: EpochOrder | None = None  # the one that these two come from
        self._ends: Tensor | None = None  # (D)
        self._shifts: Tensor | None = None  # (D)

    @staticmethod
    def size(batches: ContiguousBatches) -> int:
        """Compute the bytes that a training split takes on a device."""
        documents = 2 * 8 * len(batches.starts) if batches.shuffled else 0
        return len(batches.tokens) * (1 if batches.tokens.dtype == np.uint8 else 4) + documents

    def window(self, epoch: int, index: int) -> Batch:
        """Return one window of an epoch; see `ContiguousBatches.window`."""
        order, (first, last, end) = self.batches.order(epoch), self.batches.span(epoch, index)
        if order is not self._order:
            self._order, (_, ends, shifts) = order, order
            self._ends = None if ends is None else to_device(ends, self.device)
            self._shifts = None if shifts is None else to_device(shifts, self.device)
        positions = self._positions(order.offset, first - 1, last)  # (B, 1 + T)
        tokens = self._tokens_at(positions)
        targets = tokens[:, 1:].contiguous()
        inputs = tokens[:, :-1].masked_fill(positions[:, 1:] == 0, self.batches.boundary[-1])
        if end is None:
            return Batch(inputs, targets)
        positions = self._positions(order.offset, first + 1, end + 1)  # (B, T + lookahead)
        return Batch(inputs, targets, self._tokens_at(positions).masked_fill(positions == 0, self.batches.boundary[0]))

    def _positions(self, offset: int, first: int, last: int) -> Tensor:
        steps = torch.arange(first + offset, last + offset, device=self.device)
        return (self._rows + steps) % len(self.batches.tokens)

    def _tokens_at(self, positions: Tensor) -> Tensor:
        if self._ends is not None and self._shifts is not None:
            positions = positions + self._shifts[torch.searchsorted(self._ends, positions, right=True)]
        return self.tokens[positions].long()
