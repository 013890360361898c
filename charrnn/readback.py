"""Numbers on their way from a device, which goes on computing meanwhile. Knows tensors, not what they mean."""

from __future__ import annotations

import torch
from torch import Tensor


class Readback:
    """Copy a few numbers (N) to where Python can see them; a GPU does so once it has come to them."""

    def __init__(self, values: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:
            # into pinned memory: to any other the copy would wait, and the program with it
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """Give the numbers, waiting for them where they are not there yet, but for nothing that came after them."""
        if self._copied is not None:
            self._copied.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers
