"""models/attention/pages.py: what pages of keys and values take. The rest is in the tests of the engine."""

from __future__ import annotations

import psutil
import pytest
import torch

from neuralchat.models.attention.pages import PagedMemory
from neuralchat.models.kernels.decoder import PAGE

MIB = 1 << 20
HEADS, SIZE = 2, 64


def resident() -> int:
    return psutil.Process().memory_info().rss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pages_take_memory_when_they_are_written(dtype: torch.dtype) -> None:
    made = torch.ones(1, HEADS, 1, SIZE, dtype=dtype)
    page = HEADS * PAGE * SIZE * made.element_size()
    memory = PagedMemory(64 * MIB // page)
    before = resident()
    keys, values = memory.of_layer(0, made, made)
    assert keys.shape == values.shape == (memory.pages, HEADS, PAGE, SIZE)
    assert keys.dtype == values.dtype == dtype
    # To read is not to write.
    assert not keys.any()
    assert resident() - before < 16 * MIB
    keys[: memory.pages // 2] = 1
    assert 24 * MIB < resident() - before < 48 * MIB
    assert memory.of_layer(0, made, made)[0] is keys
    assert keys[: memory.pages // 2].all()
    assert not keys[memory.pages // 2 :].any()
    assert not values.any()
