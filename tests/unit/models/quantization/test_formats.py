"""Weights in 8 and 4 bits: against plain loops, compiled and in torch, with the numbers that break such code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from neuralchat.config.arguments import BITS
from neuralchat.models.kernels.quantization import quantization_kernels
from neuralchat.models.quantization.formats import BIT_FORMATS
from neuralchat.models.quantization.nf4 import BLOCK, GROUP, LEVELS, Nf4Weight
from neuralchat.models.quantization.widening import widened

# Rows of half a block, a block and two numbers, whole blocks, more than a group of scales.
SHAPES = [(3, 32), (7, 66), (5, 192), (6, 64 * 50)]


def random_weight(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of very different sizes, one of zeros."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator) * torch.logspace(-3, 2, shape[0])[:, None]
    weight[1] = 0
    return weight.to(dtype)


def test_a_row_for_each_value_of_the_flag() -> None:
    assert tuple(map(str, BIT_FORMATS)) == BITS
    assert {bits: row.bits for bits, row in BIT_FORMATS.items()} == {8: 8, 4: 4}


@pytest.mark.parametrize("bits", BIT_FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_and_in_torch_to_the_bit(bits: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = random_weight(shape, dtype)
    if quantization_kernels(weight) is None:
        pytest.skip("no gcc, or not Linux: there are no compiled kernels")
    compiled, plain = (BIT_FORMATS[bits].quantize(weight, compile_kernels=on) for on in (True, False))
    assert compiled.shape == plain.shape == shape
    for one, other in zip(compiled.tensors, plain.tensors, strict=True):
        assert torch.equal(one, other)
    for target in (torch.float32, torch.bfloat16):
        found = widened(compiled, target).clone()
        assert torch.equal(found, widened(plain, target, kernels=False))
        assert torch.equal(found, widened(compiled, torch.float32).to(target))


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_by_plain_loops(shape: tuple[int, int]) -> None:
    weight = random_weight(shape)
    found = widened(BIT_FORMATS[8].quantize(weight), torch.float32)
    for row, numbers in zip(weight.tolist(), found.tolist(), strict=True):
        largest = max(map(abs, row))
        for number, other in zip(row, numbers, strict=True):
            step = largest / 127
            assert other == pytest.approx(round(number / step) * step if largest else 0, rel=1e-5, abs=1e-6 * step)
            assert abs(number - other) <= 0.5001 * step


@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_by_plain_loops(shape: tuple[int, int]) -> None:
    weight = random_weight(shape)
    kept = Nf4Weight.of(weight)
    found, scales, levels = widened(kept, torch.float32), kept.scales.tolist(), LEVELS.tolist()
    for place, row in enumerate(weight.tolist()):
        for start in range(0, shape[1], BLOCK):
            block, scale = row[start : start + BLOCK], scales[place][start // BLOCK]
            largest = max(map(abs, block))
            numbers = found[place, start : start + BLOCK].tolist()
            for number, other in zip(block, numbers, strict=True):
                target = number / largest if largest else 0.0
                nearest = min(levels, key=lambda level, target=target: abs(level - target))
                assert other == pytest.approx(nearest * scale, rel=1e-6)


def test_the_levels_are_those_of_the_paper() -> None:
    """Quantiles of the normal distribution: 8 and 9 evenly spaced ones on each side of 0, scaled to [-1, 1]."""
    offset = 0.5 * ((1 - 1 / 32) + (1 - 1 / 30))
    normal = torch.distributions.Normal(0.0, 1.0)
    upper = normal.icdf(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    lower = -normal.icdf(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    expected = torch.cat([lower, torch.zeros(1, dtype=torch.float64), upper.flip(0)])
    torch.testing.assert_close(LEVELS.double(), expected / expected.abs().max(), rtol=0, atol=2e-7)


def test_scales_in_eight_bits_are_near() -> None:
    """Of weights as they are, whose blocks have scales of one size."""
    weight = torch.randn(64, 64 * 40, generator=torch.Generator().manual_seed(0))
    kept = Nf4Weight.of(weight)
    exact = weight.unflatten(1, (-1, BLOCK)).abs().amax(dim=2)
    assert ((kept.scales - exact).abs() / exact).max() < 0.01
    blocks = weight.numel() // BLOCK
    size = sum(part.numel() * part.element_size() for part in kept.tensors)
    assert size == weight.numel() // 2 + math.ceil(blocks / GROUP) * (GROUP + 4) + 4


@pytest.mark.parametrize("bits", BIT_FORMATS)
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("on", [True, False])
def test_a_broken_number_shows_in_the_scales(bits: int, broken: float, on: bool) -> None:
    weight = random_weight((7, 66))
    weight[2, 65] = broken
    scales = [
        part for part in BIT_FORMATS[bits].quantize(weight, compile_kernels=on).tensors if part.is_floating_point()
    ]
    assert not all(bool(part.isfinite().all()) for part in scales)


def test_the_buffer_is_used_again() -> None:
    small, large = (BIT_FORMATS[8].quantize(random_weight(shape)) for shape in ((3, 32), (7, 66)))
    first = widened(large, torch.float32)
    kept = first.clone()
    assert widened(small, torch.float32).data_ptr() == first.data_ptr()
    assert not torch.equal(first, kept)
    assert widened(large, torch.bfloat16).data_ptr() != first.data_ptr()
