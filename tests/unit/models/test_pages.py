"""models/attention/pages.py: what pages take, and few tokens after many. The rest is in the tests of the engine."""

from __future__ import annotations

import psutil
import pytest
import torch

from neuralchat.models.attention.pages import PagedMemory, after_many
from neuralchat.models.attention.segment_kernel import kernel_for
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (3, 3), (4, 1)])
@pytest.mark.parametrize("tokens", [1, 5, 33])
@torch.no_grad()
def test_few_tokens_after_many_see_what_a_mask_shows_them(
    tokens: int, heads: int, kv_heads: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    before = 700
    # As a layer hands them over: tokens first.
    query = torch.randn(1, tokens, heads, SIZE, dtype=dtype).transpose(1, 2)
    key, value = (torch.randn(1, kv_heads, before + tokens, SIZE, dtype=dtype) for _ in range(2))
    kernel = kernel_for(query)
    assert kernel is not None
    found = after_many(query, key, value, 0.2, kernel)
    mask = torch.ones(tokens, before + tokens, dtype=torch.bool).tril(before)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), mask, scale=0.2, enable_gqa=True
    ).transpose(1, 2)
    assert found.shape == (1, tokens, heads, SIZE)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 2e-2)
