"""models/attention/pages.py: what pages of keys and values take, and attention over them."""

from __future__ import annotations

import psutil
import pytest
import torch
from torch import Tensor

from neuralchat.models.attention.pages import PagedMemory, PagedRow, page_attention, paged_mask
from neuralchat.models.kernels.decoder import PAGE, paged_kernel_for

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
    assert keys.shape == (memory.pages, HEADS, SIZE, PAGE)
    assert values.shape == (memory.pages, HEADS, PAGE, SIZE)
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


# Tokens that are kept of each text before the row, and those of the row: less than a page, over pages, a full one.
TEXTS = ((0, 1), (37, 1), (0, 21), (15, 1), (16, 33), (100, 3))


def a_row(memory: PagedMemory, texts: tuple[tuple[int, int], ...]) -> PagedRow:
    """Texts in pages that do not lie in their order."""
    ends = [before + count for before, count in texts]
    tables = torch.randperm(memory.pages, generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    tables = tables[: len(texts) * 9].view(len(texts), 9)
    places = torch.cat([torch.arange(before, end) for (before, _), end in zip(texts, ends, strict=True)])
    text = torch.repeat_interleave(torch.arange(len(texts)), torch.tensor([count for _, count in texts]))
    starts = torch.tensor([0, *(count for _, count in texts)]).cumsum(0).int()
    kept = torch.tensor(ends, dtype=torch.int32)
    return PagedRow(memory, starts, kept, tables, tables[text, places // PAGE].long(), places % PAGE)


class Layer(torch.nn.Module):
    layer_idx, is_causal = 0, True


def attended(row: PagedRow, query: Tensor, key: Tensor, value: Tensor, earlier: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Through the interface; what was kept before is written first."""
    for i, (k, v) in enumerate(earlier):
        tokens = torch.arange(k.shape[2])
        row.memory.write(0, k, v, row.tables[i, tokens // PAGE].long(), tokens % PAGE)
    return page_attention(Layer(), query, key, value, paged_mask(row, query.device), scaling=0.3)[0]


@pytest.mark.parametrize("size", [8, 24, 64, 80])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (12, 1)])
@pytest.mark.parametrize(("dtype", "compiled"), [(torch.float32, True), (torch.bfloat16, True), (torch.float32, False)])
def test_attention_over_pages_is_causal_attention_in_each_text(
    size: int, heads: tuple[int, int], dtype: torch.dtype, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr("neuralchat.models.attention.pages.paged_kernel_for", lambda _: None)
    torch.manual_seed(size)
    tokens = sum(count for _, count in TEXTS)
    query = torch.randn(1, heads[0], tokens, size).to(dtype)
    key, value = (torch.randn(1, heads[1], tokens, size).to(dtype) for _ in range(2))
    earlier = [
        (torch.randn(1, heads[1], n, size).to(dtype), torch.randn(1, heads[1], n, size).to(dtype)) for n, _ in TEXTS
    ]
    row = a_row(PagedMemory(60), TEXTS)
    found = attended(row, query, key, value, earlier)
    if compiled and paged_kernel_for(row.memory.keys[0]) is None:
        pytest.skip("no gcc, or not Linux: there are no compiled kernels")
    assert found.shape == (1, tokens, heads[0], size)
    assert found.dtype == dtype
    done = 0
    for (before, count), (k, v) in zip(TEXTS, earlier, strict=True):
        part = slice(done, done + count)
        keys, values = torch.cat([k, key[:, :, part]], 2).double(), torch.cat([v, value[:, :, part]], 2).double()
        seen = torch.ones(count, before + count, dtype=torch.bool).tril(before)
        expected = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, part].double(), keys, values, attn_mask=seen, scale=0.3, enable_gqa=True
        )[0].transpose(0, 1)
        assert (found[0, part] - expected).norm() <= (1e-6 if dtype == torch.float32 else 1e-2) * expected.norm()
        done += count


def test_a_query_has_the_same_bits_whatever_is_computed_beside_it() -> None:
    torch.manual_seed(0)
    texts = ((0, 45), (33, 1))
    query, key, value = (torch.randn(1, heads, 46, 64) for heads in (6, 2, 2))
    earlier = [(torch.randn(1, 2, n, 64), torch.randn(1, 2, n, 64)) for n, _ in texts]
    together = attended(a_row(PagedMemory(60), texts), query, key, value, earlier)
    if paged_kernel_for(key) is None:
        pytest.skip("no gcc, or not Linux: there are no compiled kernels")
    # The first text in two parts.
    head, rest, own = slice(0, 20), slice(20, 45), slice(45, 46)
    first = attended(a_row(PagedMemory(60), ((0, 20),)), query[:, :, head], key[:, :, head], value[:, :, head], [])
    kept = [(key[:, :, head], value[:, :, head])]
    second = attended(a_row(PagedMemory(60), ((20, 25),)), query[:, :, rest], key[:, :, rest], value[:, :, rest], kept)
    single = a_row(PagedMemory(60), ((33, 1),))
    alone = attended(single, query[:, :, own], key[:, :, own], value[:, :, own], earlier[1:])
    assert torch.equal(together, torch.cat([first, second, alone], 1))
