"""Windows are the same whether they are gathered on the device or sent to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.data.batches import ContiguousBatches
from charrnn.data.loader import Batch, DeviceBatches, load_batch, load_beginnings, make_loader

CPU = torch.device("cpu")
SEED, NEWLINE = 5, 3


def batches_of(
    length: int, rows: int, steps: int, lookahead: int, documents: int | None, dtype: str
) -> ContiguousBatches:
    """Read a text whose tokens all differ, as far as their type allows."""
    tokens = (np.arange(length) * 40_503 % np.iinfo(dtype).max).astype(dtype)
    tokens.flags.writeable = False  # as in a mapped file
    starts = np.zeros(1, dtype=np.int64)
    if documents is not None:
        starts = np.unique(np.random.default_rng(documents).integers(0, length, documents)).astype(np.int64)
        starts[0] = 0
    return ContiguousBatches(tokens, starts, [NEWLINE], rows, steps, SEED, documents is not None, lookahead)


def assert_same(left: Batch, right: Batch) -> None:
    for one, other in zip(left, right, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype == other.dtype == torch.int64
            assert torch.equal(one, other)


@given(
    length=st.integers(10, 300),
    rows=st.integers(1, 10),
    steps=st.integers(1, 40),
    lookahead=st.sampled_from([0, 1, 30]),
    documents=st.none() | st.integers(1, 20),
    dtype=st.sampled_from(["<u1", "<u2", "<u4"]),
    epoch=st.integers(0, 3),
)
def test_windows_gathered_on_the_device_are_those_read_on_the_cpu(
    length: int, rows: int, steps: int, lookahead: int, documents: int | None, dtype: str, epoch: int
) -> None:
    made, other = (batches_of(length, rows, steps, lookahead, documents, dtype) for _ in range(2))
    resident = DeviceBatches(made, CPU)
    for each in (epoch, epoch + 1, epoch):
        for index in range(made.windows):
            assert_same(resident.window(each, index), load_batch(other, each, index, CPU))


def test_beginnings_follow_the_boundary() -> None:
    made = batches_of(300, 2, 5, 0, 9, "<u2")
    made.boundary = [7, 8, 9]
    begun = load_beginnings(made, 3, 4, CPU)
    assert begun.targets.tolist() == made.beginnings(3, 4).tolist()
    assert begun.inputs.tolist() == [[7, 8, 9, *row[:-1]] for row in begun.targets.tolist()]


def test_tokens_of_one_byte_take_one_byte_on_the_device() -> None:
    assert DeviceBatches(batches_of(300, 2, 5, 0, None, "<u1"), CPU).tokens.dtype == torch.uint8
    assert DeviceBatches(batches_of(300, 2, 5, 0, None, "<u2"), CPU).tokens.dtype == torch.int32
    assert DeviceBatches.size(batches_of(300, 2, 5, 0, None, "<u1")) == 300
    shuffled = batches_of(300, 2, 5, 0, 9, "<u2")
    assert DeviceBatches.size(shuffled) == 4 * 300 + 16 * len(shuffled.starts)


def test_a_text_is_copied_to_the_device_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn.data.loader._BLOCK", 7)
    made = batches_of(300, 2, 5, 0, None, "<u2")
    np.testing.assert_array_equal(DeviceBatches(made, CPU).tokens.numpy(), made.tokens)


def test_the_loader_of_a_cpu_reads_windows_one_by_one() -> None:
    made, other = (batches_of(300, 2, 5, 4, None, "<u1") for _ in range(2))
    assert_same(make_loader(made, CPU)(1, 2), load_batch(other, 1, 2, CPU))
