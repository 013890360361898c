"""Claims about bringing windows to a device: whichever way they come, they are the same windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.data.batches import ContiguousBatches
from charrnn.data.loader import Batch, DeviceBatches, feed, load_batch

CPU = torch.device("cpu")
SEED, NEWLINE = 5, 3


def cut(length: int, batches: int, steps: int, lookahead: int, documents: int | None, dtype: str) -> ContiguousBatches:
    """Cut a text whose characters differ from place to place, as far as the type of its tokens has room for it."""
    tokens = (np.arange(length) * 40_503 % np.iinfo(dtype).max).astype(dtype)
    tokens.flags.writeable = False  # as in a mapped file
    starts = np.zeros(1, dtype=np.int64)
    if documents is not None:
        starts = np.unique(np.random.default_rng(documents).integers(0, length, documents)).astype(np.int64)
        starts[0] = 0
    return ContiguousBatches(tokens, starts, NEWLINE, batches, steps, SEED, documents is not None, lookahead)


def assert_same(left: Batch, right: Batch) -> None:
    for one, other in zip(left, right, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype == other.dtype == torch.int64
            assert torch.equal(one, other)


@given(
    length=st.integers(10, 300),
    batches=st.integers(1, 10),
    steps=st.integers(1, 40),
    lookahead=st.sampled_from([0, 1, 30]),
    documents=st.none() | st.integers(1, 20),
    dtype=st.sampled_from(["<u1", "<u2", "<u4"]),
    epoch=st.integers(0, 3),
)
def test_windows_gathered_on_the_device_are_those_read_on_the_cpu(
    length: int, batches: int, steps: int, lookahead: int, documents: int | None, dtype: str, epoch: int
) -> None:
    made, other = (cut(length, batches, steps, lookahead, documents, dtype) for _ in range(2))
    resident = DeviceBatches(made, CPU)
    for each in (epoch, epoch + 1, epoch):
        for index in range(made.windows):
            assert_same(resident.window(each, index), load_batch(other, each, index, CPU))


def test_tokens_of_one_byte_stay_so_on_the_device() -> None:
    assert DeviceBatches(cut(300, 2, 5, 0, None, "<u1"), CPU).tokens.dtype == torch.uint8
    assert DeviceBatches(cut(300, 2, 5, 0, None, "<u2"), CPU).tokens.dtype == torch.int32
    assert DeviceBatches.size(cut(300, 2, 5, 0, None, "<u1")) == 300
    shuffled = cut(300, 2, 5, 0, 9, "<u2")
    assert DeviceBatches.size(shuffled) == 4 * 300 + 16 * len(shuffled.starts)


def test_a_text_goes_to_the_device_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn.data.loader._BLOCK", 7)
    made = cut(300, 2, 5, 0, None, "<u2")
    np.testing.assert_array_equal(DeviceBatches(made, CPU).tokens.numpy(), made.tokens)


def test_a_cpu_reads_windows_as_they_are() -> None:
    made, other = (cut(300, 2, 5, 4, None, "<u1") for _ in range(2))
    assert_same(feed(made, CPU)(1, 2), load_batch(other, 1, 2, CPU))
