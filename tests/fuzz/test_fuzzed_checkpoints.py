"""Adapters, run directories and base checkpoints, damaged: an error without a traceback, or the answers of the intact.

A file whose header and configuration hold, but whose numbers differ, is another checkpoint: nothing can tell it from
what was meant. So what is compared is the outcome where everything that was read is what was written.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import METHODS, logits_of
from support.fuzzing import cases, damaged, time_limit

from neuralchat.errors import NeuralChatError
from neuralchat.inference.chatbot import Chatbot
from neuralchat.models.loading.checkpoint_files import safetensors_shapes

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 7, 1 << 31, 10**12, 10**30, 1.5, float("nan"), float("inf"), "", "x",
    "8", "\ud800", "../../etc/passwd", "os.system", ".*(a+)+$", [], [1], ["x"], ["q_proj"], {}, {"x": 1},
    {"a.*": 10**9}, [[[[]]]],
]  # fmt: skip


def swapped(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON file with one value, somewhere, taken away, renamed or replaced."""
    value = json.loads(content)
    place: Any = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if not (isinstance(inner, dict | list) and inner and draw(st.booleans())):
            break
        place = inner
    kind = draw(st.sampled_from(["swap", "swap", "swap", "drop", "rename"]))
    if kind == "swap" or isinstance(place, list):
        place[key] = draw(st.sampled_from(ODD))
    else:
        taken = place.pop(key)
        if kind == "rename":
            place[draw(st.sampled_from(["auto_map", "megatron_config", "eva_config", "x"]))] = taken
    return json.dumps(value).encode()


def header_edited(draw: st.DrawFn, content: bytes) -> bytes:
    """A safetensors file whose header says something else."""
    (size,) = struct.unpack("<Q", content[:8])
    header, body = content[8 : 8 + size], content[8 + size :]
    kind = draw(st.sampled_from(["swap", "length", "text", "nested"]))
    if kind == "swap":
        header = swapped(draw, header)
    elif kind == "text":
        header = draw(damaged(header))
    elif kind == "nested":
        header = b'{"x":' * 100_000
    wrong = draw(st.sampled_from([0, 1, size + 1, 1 << 40, (1 << 64) - 1]))
    return struct.pack("<Q", wrong if kind == "length" else len(header)) + header + body


@st.composite
def damage(draw: st.DrawFn, files: dict[str, bytes]) -> tuple[str, bytes | None]:
    """(name, new content) of the file that is damaged; None where it is taken away."""
    name = draw(st.sampled_from(sorted(files)))
    kind = draw(st.sampled_from(["structure", "structure", "structure", "bytes", "gone"]))
    if kind == "gone":
        return name, None
    if kind == "structure" and name.endswith(".safetensors"):
        return name, header_edited(draw, files[name])
    if kind == "structure" and name.endswith(".json"):
        return name, swapped(draw, files[name])
    return name, draw(damaged(files[name]))


def outcome(run: Path, *, seconds: int = 20) -> str | torch.Tensor:
    """The message that the run was refused with, or its logits."""
    with time_limit(seconds):
        try:
            return logits_of(Chatbot.load(run))
        except NeuralChatError as error:
            message = str(error)
            assert 10 < len(message) < 5000
            return message


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in (".json", ".safetensors")}


CHECKPOINTS = cases("NEURALCHAT_FUZZ_CHECKPOINTS", 60)


def kind_of_outcome(run: Path, whole: Path, *, same: Callable[[], bool]) -> str:
    """How a damaged run was met. `same`: whether what is read still says what it said in the run `whole`."""
    found = outcome(run)
    if isinstance(found, str):
        return "refused"
    assert torch.isfinite(found).all()
    if not same():
        return "another checkpoint"
    assert torch.equal(found, logits_of_whole(whole))
    return "as before"


def test_damaged_runs(saved: Path) -> None:
    met: Counter[str] = Counter()

    @settings(**CHECKPOINTS)
    @given(data=st.data(), method=st.sampled_from(METHODS))
    def attempt(data: st.DataObject, method: str) -> None:
        whole = saved / method
        name, content = data.draw(damage(files_of(whole)))
        with tempfile.TemporaryDirectory() as directory:
            run = Path(shutil.copytree(whole, Path(directory) / "run"))
            replace(run / name, content)
            met[kind_of_outcome(run, whole, same=lambda: says_the_same(whole, run))] += 1

    attempt()
    assert min(met["refused"], met["as before"]) > 0, met


def test_damaged_base_models(saved: Path) -> None:
    met: Counter[str] = Counter()

    @settings(**CHECKPOINTS)
    @given(data=st.data())
    def attempt(data: st.DataObject) -> None:
        name, content = data.draw(damage(files_of(saved / "base")))
        with tempfile.TemporaryDirectory() as directory:
            base = Path(shutil.copytree(saved / "base", Path(directory) / "base"))
            run = Path(shutil.copytree(saved / "lora", Path(directory) / "run"))
            manifest = json.loads((run / "neuralchat.json").read_text())
            manifest["base_model"] |= {"name": str(base), "path": str(base)}
            (run / "neuralchat.json").write_text(json.dumps(manifest))
            replace(base / name, content)
            met[kind_of_outcome(run, saved / "lora", same=lambda: says_the_same(saved / "base", base))] += 1

    attempt()
    assert min(met["refused"], met["as before"]) > 0, met


def replace(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)


WHOLE: dict[Path, torch.Tensor] = {}


def logits_of_whole(run: Path) -> torch.Tensor:
    if run not in WHOLE:
        WHOLE[run] = logits_of(Chatbot.load(run))
    return WHOLE[run]


def says_the_same(whole: Path, copy: Path) -> bool:
    """Whether configuration and weights hold what they held: then the answers must be the same."""
    for name in ("config.json", "adapter_config.json"):
        if (whole / name).is_file():
            try:
                same = json.loads((whole / name).read_text()) == json.loads((copy / name).read_text())
            except (ValueError, OSError):
                return False
            if not same:
                return False
    from safetensors.torch import load_file

    for path in whole.glob("*.safetensors"):
        before, after = load_file(path), load_file(copy / path.name)
        if before.keys() != after.keys() or not all(torch.equal(before[key], after[key]) for key in before):
            return False
    return True


@pytest.mark.quick
def test_all_runs_load(saved: Path) -> None:
    for method in METHODS:
        assert isinstance(outcome(saved / method), torch.Tensor)
        assert safetensors_shapes(saved / method / "adapter_model.safetensors")
