"""How windows of training reach the device where the model is, without the loop ever waiting for it.
Knows lanes and devices, not models. Shapes: N characters, D documents, B lanes, T steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charrnn.data.batches import ContiguousBatches

_SHARE = 4  # of the free memory a training part may take one in so many
_BLOCK = 1 << 24  # tokens that go to the device at a time


class Batch(NamedTuple):
    """Hold a window as tensors of int64 on the model's device; see `corpus.Window`."""

    inputs: Tensor  # (B, T)
    targets: Tensor  # (B, T)
    following: Tensor | None = None  # (B, T + 0 to lookahead)


BatchLoader = Callable[[int, int], Batch]  # epoch and index to a window


def feed(batches: ContiguousBatches, device: torch.device) -> BatchLoader:
    """Choose how to bring windows to a device: from its own memory where the text fits there, else one by one."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if DeviceBatches.size(batches) * _SHARE <= free:
            return DeviceBatches(batches, device).window
    return lambda epoch, index: load_batch(batches, epoch, index, device)


def load_batch(batches: ContiguousBatches, epoch: int, index: int, device: torch.device) -> Batch:
    """Read a window on the CPU, and send it to the device."""
    inputs, targets, following = batches.window(epoch, index)
    return Batch(send(inputs, device), send(targets, device), None if following is None else send(following, device))


def send(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Bring an array to a device. From pinned memory a GPU fetches it when it is ready, and nobody waits."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class DeviceBatches:
    """Hold a training part on the device, and gather its windows there; the same windows as those of `lanes`."""

    def __init__(self, batches: ContiguousBatches, device: torch.device) -> None:
        self.batches, self.device = batches, device
        # torch's wider unsigned types are not good for much
        narrow = batches.tokens.dtype == np.uint8
        dtype = torch.uint8 if narrow else torch.int32
        self.tokens = torch.empty(len(batches.tokens), dtype=dtype, device=device)
        for first in range(0, len(batches.tokens), _BLOCK):
            block = batches.tokens[first : first + _BLOCK].astype(np.uint8 if narrow else np.int32)
            self.tokens[first : first + len(block)].copy_(torch.from_numpy(block))
        self.begins = batches.lane_length * torch.arange(batches.batch_size, device=device)[:, None]  # (B, 1)
        self.ends: Tensor | None = None  # of documents in the order of an epoch (D)
        self.shifts: Tensor | None = None  # from a place in that order to one in the text (D)
        self._epoch = -1

    @staticmethod
    def size(batches: ContiguousBatches) -> int:
        """Give the bytes that a training part takes on a device."""
        documents = 2 * 8 * len(batches.starts) if batches.shuffled else 0
        return len(batches.tokens) * (1 if batches.tokens.dtype == np.uint8 else 4) + documents

    def window(self, epoch: int, index: int) -> Batch:
        """Give one window; see `Lanes.window`."""
        span = self.batches.span(epoch, index)
        if epoch != self._epoch:
            self._begin(epoch)
        places = self._places(span.first - 1, span.last)  # (B, 1 + T)
        read = self._read(places)
        targets = read[:, 1:].contiguous()
        inputs = read[:, :-1].masked_fill(places[:, 1:] == 0, self.batches.newline)
        if span.end is None:
            return Batch(inputs, targets)
        later = self._places(span.first + 1, span.end + 1)  # (B, T + lookahead)
        return Batch(inputs, targets, self._read(later).masked_fill(later == 0, self.batches.newline))

    def _places(self, first: int, last: int) -> Tensor:
        steps = torch.arange(first + self.batches.offset, last + self.batches.offset, device=self.device)
        return (self.begins + steps) % len(self.batches.tokens)

    def _read(self, places: Tensor) -> Tensor:
        if self.ends is not None and self.shifts is not None:
            places = places + self.shifts[torch.searchsorted(self.ends, places, right=True)]
        return self.tokens[places].long()

    def _begin(self, epoch: int) -> None:
        if self.batches.shuffled:
            ends, shifts = self.batches.arrangement()
            self.ends, self.shifts = send(ends, self.device), send(shifts, self.device)
        self._epoch = epoch
