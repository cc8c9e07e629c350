"""checkpointing/state_file.py: what goes in comes out, bit for bit, and nothing in the file can run."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from neuralchat.checkpointing.rng import rng_state, set_rng_state
from neuralchat.checkpointing.state_file import read_state, taken_apart, write_state
from neuralchat.errors import RunDirectoryError

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
nested = st.recursive(
    plain,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=20,
)


@given(nested)
def test_plain_values(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("state") / "state"
    write_state(path, {"value": value})
    assert read_state(path) == {"value": value}


def test_the_example_of_the_docstring() -> None:
    tensor = torch.ones(2)
    tensors: dict[str, torch.Tensor] = {}
    structure = taken_apart({"step": 3, "moment": tensor}, tensors)
    assert structure == {"dict": [["step", 3], ["moment", {"tensor": "0"}]]}
    assert torch.equal(tensors["0"], tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_keep_bits_type_and_shape(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = (torch.randn(3, 4) * 3).to(dtype)
    # Two names for the same memory, a view of it, a tensor without elements and one without dimensions.
    state = {"a": tensor, "b": tensor, "view": tensor[1:, ::2], "empty": tensor[:0], "scalar": tensor[0, 0]}
    write_state(tmp_path / "state", state)
    found = read_state(tmp_path / "state")
    for name, value in state.items():
        assert found[name].dtype == dtype
        assert found[name].shape == value.shape
        assert torch.equal(found[name], value)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop])
def test_an_optimizer_goes_on_as_if_nothing_had_been(tmp_path: Path, kind: Any) -> None:
    def step(layer: torch.nn.Linear, optimizer: Any, seed: int) -> None:
        torch.manual_seed(seed)
        layer(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 3)
    optimizer = kind(layer.parameters(), lr=0.1)
    step(layer, optimizer, 1)
    write_state(tmp_path / "state", {"weights": layer.state_dict(), "optimizer": optimizer.state_dict()})
    step(layer, optimizer, 2)
    other = torch.nn.Linear(3, 3)
    resumed = kind(other.parameters(), lr=0.1)
    state = read_state(tmp_path / "state")
    other.load_state_dict(state["weights"])
    resumed.load_state_dict(state["optimizer"])
    step(other, resumed, 2)
    assert torch.equal(layer.weight, other.weight)


def test_random_states_go_on(tmp_path: Path) -> None:
    def draw() -> list[Any]:
        return [random.random(), float(np.random.normal()), float(np.random.rand()), float(torch.rand(()))]

    # An odd number of normal deviates leaves one in store, which is part of the state.
    np.random.normal()
    random.gauss(0, 1)
    write_state(tmp_path / "state", rng_state())
    expected = draw()
    draw()
    set_rng_state(read_state(tmp_path / "state"))
    assert draw() == expected


def test_numbers_of_numpy_and_infinities(tmp_path: Path) -> None:
    write_state(tmp_path / "state", [np.float64(0.1), np.int64(3), math.inf, -math.inf, 1e-320])
    assert read_state(tmp_path / "state") == [0.1, 3, math.inf, -math.inf, 1e-320]


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="a checkpoint cannot hold a function of the optimizer"):
        write_state(tmp_path / "state", {"closure": lambda: None})


BAD_STRUCTURES = ['{"call": "os.system"}', '{"tensor": "9"}', '{"dict": 3}', "{", '{"a": 1, "b": 2}', '{"dict": [[1]]}']


@pytest.mark.parametrize("structure", BAD_STRUCTURES)
def test_a_structure_that_is_not_ours(tmp_path: Path, structure: str) -> None:
    save_file({"0": torch.zeros(1)}, tmp_path / "state", metadata={"structure": structure})
    with pytest.raises(RunDirectoryError, match="is damaged"):
        read_state(tmp_path / "state")


@pytest.mark.parametrize("content", [b"", b"\x80\x05pickle", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_is_no_state(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(RunDirectoryError, match="is damaged"):
        read_state(tmp_path / "state")


def test_deep_structures_are_refused_without_a_crash(tmp_path: Path) -> None:
    deep = json.dumps(0)
    for _ in range(50_000):
        deep = f"[{deep}]"
    save_file({"0": torch.zeros(1)}, tmp_path / "state", metadata={"structure": deep})
    with pytest.raises(RunDirectoryError, match="is damaged"):
        read_state(tmp_path / "state")
