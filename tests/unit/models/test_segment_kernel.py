"""Compiled attention equals attention with a whole mask, output and gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from neuralchat.data.packing import Segment
from neuralchat.models.attention import segments as segment_attention
from neuralchat.models.attention.flex import block_mask, flex_segments
from neuralchat.models.attention.segment_kernel import kernel_for

# A prefix of 11 tokens with two segments on it, a segment of one token, one longer than a block of rows, one more.
SEGMENTS = (
    Segment(0, 0, 0, 11), Segment(0, 11, 11, 30), Segment(0, 11, 30, 31), Segment(31, 31, 31, 32),
    Segment(32, 32, 32, 132), Segment(132, 132, 132, 165),
)  # fmt: skip
TOKENS = SEGMENTS[-1].end


def with_a_whole_mask(
    q: Tensor, k: Tensor, v: Tensor, scale: float, slopes: Tensor | None, window: int | None = None
) -> Tensor:
    """softmax(q k^T * scale + bias) v over all keys at once: the slow reference, [1, H, T, D] in double."""
    leading = k.shape[2] - q.shape[2]
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    bias = torch.full((q.shape[1], q.shape[2], k.shape[2]), -math.inf, dtype=q.dtype)
    for s in SEGMENTS:
        keys = [
            *range(leading), *range(leading + s.prefix_start, leading + s.prefix_end),
            *range(leading + s.start, leading + s.end),
        ]  # fmt: skip
        shared = len(keys) - (s.end - s.start)
        for place, query in enumerate(range(s.start, s.end)):
            for number, key in enumerate(keys[: shared + place + 1]):
                distance = number - (shared + place)
                if window is not None and -distance >= window:
                    continue
                bias[:, query, key] = 0.0 if slopes is None else slopes.to(q.dtype) * distance
    return torch.softmax(q @ k.transpose(2, 3) * scale + bias, dim=-1) @ v


@pytest.mark.parametrize("size", [8, 64, 80])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize(("leading", "alibi"), [(0, False), (5, False), (0, True), (3, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradients(size: int, heads: tuple[int, int], leading: int, alibi: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(size + leading)
    tensors = [
        torch.randn(1, tokens, count, size).to(dtype).transpose(1, 2).requires_grad_()
        for count, tokens in ((heads[0], TOKENS), (heads[1], leading + TOKENS), (heads[1], leading + TOKENS))
    ]
    if kernel_for(tensors[0]) is None:
        pytest.skip("no gcc, or not Linux: there are no compiled kernels")
    slopes = torch.tensor([2.0 ** -(h + 1) for h in range(heads[0])]) if alibi else None
    scale, weight = 0.7 / math.sqrt(size), torch.randn(1, TOKENS, heads[0], size, dtype=torch.float64)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    expected = with_a_whole_mask(*exact, scale, slopes).transpose(1, 2)
    gradients = torch.autograd.grad((expected * weight).sum(), exact)
    found, _ = segment_attention.segment_attention(
        torch.nn.Identity(), *tensors, None, scaling=scale, segments=SEGMENTS, alibi_slopes=slopes
    )
    found_gradients = torch.autograd.grad((found.double() * weight.to(dtype)).sum(), tensors)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    for one, other in zip((found, *found_gradients), (expected, *gradients), strict=True):
        assert one.dtype == dtype
        assert (one - other).norm() <= tolerance * other.norm()


def call_interface(*args: Any, slopes: Tensor | None, window: int | None) -> Tensor:
    return segment_attention.segment_attention(
        torch.nn.Identity(), *args, None, scaling=0.3, segments=SEGMENTS, alibi_slopes=slopes, sliding_window=window
    )[0]


def call_flex(*args: Any, slopes: Tensor | None, window: int | None) -> Tensor:
    return flex_segments(*args, SEGMENTS, 0.3, window, slopes)


@pytest.mark.parametrize("twin", [call_interface, call_flex])
@pytest.mark.parametrize(("leading", "alibi"), [(0, False), (3, False), (0, True), (3, True)])
@pytest.mark.parametrize("window", [None, 9])
def test_the_twins_in_torch_give_the_same(
    twin: Any, leading: int, alibi: bool, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs without a compiler, and (uncompiled here) what runs on GPUs."""
    monkeypatch.setattr("neuralchat.models.kernels.compiled.library", lambda _name, **_defines: None)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, n, 16) for h, n in ((4, TOKENS), (2, leading + TOKENS), (2, leading + TOKENS)))
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625]) if alibi else None
    found = twin(q, k, v, slopes=slopes, window=window)
    expected = with_a_whole_mask(q.double(), k.double(), v.double(), 0.3, slopes, window).transpose(1, 2)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


def test_the_same_bits_whatever_the_number_of_threads() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(1, h, TOKENS, 16, requires_grad=True) for h in (4, 2, 2)]
    if kernel_for(tensors[0]) is None:
        pytest.skip("no gcc, or not Linux: there are no compiled kernels")
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found, _ = segment_attention.segment_attention(torch.nn.Identity(), *tensors, None, segments=SEGMENTS)
        results.append([found, *torch.autograd.grad(found.square().sum(), tensors)])
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("leading", "window"), [(0, None), (5, None), (200, 300)])
def test_blocks_are_those_that_torch_finds_in_the_whole_mask(leading: int, window: int | None) -> None:
    """In a row of more queries than are looked at together."""
    row = (Segment(0, 0, 0, 140), Segment(0, 140, 140, 700), Segment(700, 700, 700, 1_300))
    found = block_mask(row, leading, window, torch.device("cpu"))
    expected = create_block_mask(found.mask_mod, None, None, 1_300, leading + 1_300, device="cpu")
    assert str(found) == str(expected)
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert torch.equal(found.to_dense(), expected.to_dense())
