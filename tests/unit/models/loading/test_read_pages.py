"""What was read of a mapped file leaves this process's memory and can be read again; nothing beside it changes."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from neuralchat.models.loading.read_pages import forget_read_pages


def test_memory_that_nobody_reads_any_more(tmp_path: Path) -> None:
    numbers = torch.arange(4 << 20, dtype=torch.float32).view(2048, 2048)
    save_file({"a": numbers, "b": numbers + 1, "c": numbers + 2}, tmp_path / "file.safetensors")
    with safe_open(tmp_path / "file.safetensors", "pt") as file:
        weights = {name: file.get_slice(name)[...] for name in ("a", "b", "c")}
        before = {name: weight.clone() for name, weight in weights.items()}
        memory = psutil.Process().memory_info().rss
        forget_read_pages(weights["b"])
        if sys.platform == "linux":
            assert memory - psutil.Process().memory_info().rss > 12 << 20
        for name in ("a", "c"):
            assert torch.equal(weights[name], before[name])


@pytest.mark.parametrize("size", [1, 1000, 5000])
def test_less_than_a_page_is_left_alone(size: int) -> None:
    numbers = torch.ones(3 * size)
    forget_read_pages(numbers[size : 2 * size])
    assert bool((numbers[:size] == 1).all())
    assert bool((numbers[2 * size :] == 1).all())
