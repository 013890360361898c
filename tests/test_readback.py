"""Numbers read back equal those on the device when the copy was started."""

from __future__ import annotations

import math

import torch

from charrnn.device import Readback


def test_numbers_are_read_back_unchanged() -> None:
    numbers = Readback(torch.tensor([0.5, math.inf, -2.0])).read()
    assert numbers == [0.5, math.inf, -2.0]
    assert math.isnan(Readback(torch.tensor([math.nan])).read()[0])
