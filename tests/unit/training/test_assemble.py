"""training/assemble.py: where weights lie."""

from __future__ import annotations

import torch

from neuralchat.training.assemble import move_to


def test_ranks_keep_the_pages_of_the_file() -> None:
    """The device of the second rank on a CPU; torch's own `to` copies to it."""
    layer = torch.nn.Linear(4, 4)
    place = layer.weight.data_ptr()
    move_to(layer, torch.device("cpu", 1))
    assert layer.weight.data_ptr() == place
    assert layer.to(torch.device("cpu", 1)).weight.data_ptr() != place
    meta = torch.nn.Linear(4, 4)
    move_to(meta, torch.device("meta"))
    assert meta.weight.is_meta
