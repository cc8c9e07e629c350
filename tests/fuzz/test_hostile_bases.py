"""What fuzzing and thought found in base checkpoints, kept as cases with their messages."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.checkpoints import Evil, change, edit_weights, load, load_base

from neuralchat.errors import ModelError
from neuralchat.models.loading.base_model import ModelSource, load_config
from neuralchat.models.loading.checkpoint_files import safetensors_shapes, weight_files

HEADERS: list[tuple[bytes, str]] = [
    (b"", "HeaderTooSmall"),
    (struct.pack("<Q", 1 << 60) + b"{}", "HeaderTooLarge"),
    (struct.pack("<Q", 100) + b"{}", "InvalidHeaderLength"),
    (struct.pack("<Q", 2) + b"[]", "InvalidHeaderDeserialization"),
    (struct.pack("<Q", 300_000) + b'{"a":' * 60_000, "InvalidHeaderDeserialization"),
]


@pytest.mark.parametrize(("content", "kind"), HEADERS)
def test_headers_that_lie(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.safetensors is not a whole safetensors file: ") as caught:
        safetensors_shapes(tmp_path / "a.safetensors")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 99]},
        {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}, {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1 << 32, 1 << 32], "data_offsets": [0, 4]},
    ],
)  # fmt: skip
def test_headers_whose_shapes_lie(tmp_path: Path, entry: dict[str, Any]) -> None:
    header = json.dumps({"a": entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(ModelError, match="is not a whole safetensors file"):
        safetensors_shapes(tmp_path / "a.safetensors")


BAD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    (
        {"num_hidden_layers": 10**12},
        r"num_hidden_layers is 1000000000000; with the weights that are there it can be 1 to",
    ),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ({"num_hidden_layers": 12}, r"lacks 90 weight|declares [\d,]+ weights, the files hold"),
    ({"vocab_size": 1 << 40}, "vocab_size is 1099511627776"),
    ({"hidden_size": -32}, "hidden_size is -32"),
    ({"hidden_size": "32"}, "cannot load the configuration"),
    ({"head_dim": 1 << 40}, "head_dim is 1099511627776"),
    ({"intermediate_size": 128}, r"mlp\.down_proj\.weight is \[32, 64\] in the weights, config\.json says \[32, 128\]"),
    ({"max_position_embeddings": 10**30}, "max_position_embeddings is 1000000000000000000000000000000"),
    ({"rms_norm_eps": float("nan")}, r"rms_norm_eps is not a number \(NaN\)"),
    ({"architectures": 5}, "architectures"),
    ({"architectures": [["x"]]}, "architectures"),
    ({"model_type": ["llama"]}, "cannot load the configuration"),
    ({"model_type": "nothing"}, "cannot load the configuration"),
    ({"hidden_act": "os.system"}, "cannot load"),
    ({"quantization_config": {"quant_method": "x"}}, "the weights are quantized"),
]


@pytest.mark.parametrize(("values", "match"), BAD_CONFIGS)
def test_base_configuration(copy: Callable, values: dict[str, Any], match: str) -> None:
    base = copy("base")
    change(base / "config.json", **values)
    with pytest.raises(ModelError, match=match):
        load_base(base)


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{", "[" * 100_000, '{"a": ' * 5000, "\ud800", '{"a": ' + "9" * 5000]
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_base_files_of_any_content(copy: Callable, name: str, content: str) -> None:
    base = copy("base")
    (base / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelError, match=name if name == "config.json" else "."):
        load_base(base)


def test_base_weights_that_are_cut(copy: Callable) -> None:
    base = copy("base")
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors is not a whole safetensors file"):
        load_base(base)
    (base / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights: neither model\.safetensors"):
        load_base(base)


BROKEN_WEIGHTS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "all of a norm": lambda weights: weights["model.norm.weight"].fill_(float("nan")),
    "one number": lambda weights: weights["model.layers.1.mlp.down_proj.weight"][3].__setitem__(5, float("inf")),
    # A token that no record has.
    "a row of the embedding": lambda weights: weights["model.embed_tokens.weight"][399].fill_(float("-inf")),
    "both infinities": lambda weights: weights["model.norm.weight"][:2].copy_(torch.tensor([1.0, -1.0]) / 0),
}


@pytest.mark.parametrize("broken", BROKEN_WEIGHTS)
def test_base_weights_that_are_not_finite(copy: Callable, broken: str) -> None:
    """Neither answered with nor trained on, though it might show after days only."""
    base, run = copy("base"), copy("lora")
    edit_weights(base / "model.safetensors", BROKEN_WEIGHTS[broken])
    with pytest.raises(ModelError, match=r"1 weight\(s\), such as model\..*\.weight, hold numbers that are not finite"):
        load_base(base)
    manifest = json.loads((run / "neuralchat.json").read_text())
    change(run / "neuralchat.json", base_model={**manifest["base_model"], "path": str(base)})
    with pytest.raises(ModelError, match="not finite"):
        load(run)


def test_large_weights_whose_sum_overflows_are_finite(copy: Callable) -> None:
    base = copy("base")
    edit_weights(base / "model.safetensors", lambda weights: weights["model.layers.0.mlp.up_proj.weight"].fill_(3e38))
    load_base(base)


def test_adapter_beside_a_base_model(copy: Callable, saved: Path) -> None:
    base = copy("base")
    shutil.copy(saved / "lora" / "adapter_config.json", base)
    with pytest.raises(ModelError, match=r"holds an adapter .* beside the model; which of them is meant"):
        load_base(base)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "missing.safetensors", 7, None, ""])
def test_index_that_leads_outside(copy: Callable, name: Any) -> None:
    base = copy("base")
    (base / "model.safetensors").rename(base.parent / "secret.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match=r"index\.json names the file '.*', which is not in"):
        load_base(base)


@pytest.mark.parametrize("weight_map", [None, [], {}, 7])
def test_index_without_a_map(tmp_path: Path, weight_map: Any) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match="has no weight_map that says which file holds a weight"):
        weight_files(tmp_path)


def test_configuration_that_is_too_large(copy: Callable) -> None:
    base = copy("base")
    (base / "config.json").write_bytes(b" " * (17 << 20))
    with pytest.raises(ModelError, match=r"config\.json is larger than 16 MiB"):
        load_base(base)


def to_pickle(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    torch.save(weights, base / "pytorch_model.bin")


def test_published_pickles_load_as_tensors_only(copy: Callable, tmp_path: Path) -> None:
    base = copy("base")
    to_pickle(base)
    assert any("are pickles (.bin), read as tensors only" in text for text in load_base(base))
    evil = copy("lora").parent / "hostile_base"
    shutil.copytree(base, evil)
    (evil / "pytorch_model.bin").unlink()
    content = {"model.norm.weight": Evil(tmp_path / "evil"), "room": torch.zeros(40_000)}
    torch.save(content, evil / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot load the weights"):
        load_base(evil)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("model_type", ["llama", "own_kind"])
def test_code_of_a_checkpoint_is_not_run(copy: Callable, tmp_path: Path, model_type: str) -> None:
    base = copy("base")
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for name in ("configuration_x.py", "modeling_x.py", "tokenization_x.py"):
        (base / name).write_text(code)
    change(
        base / "config.json", model_type=model_type,
        auto_map={"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"},
    )  # fmt: skip
    change(base / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.X", None]})
    # A native class needs no code; an unknown kind has nothing but that code.
    with nullcontext() if model_type == "llama" else pytest.raises(ModelError, match="contains custom code"):
        load_base(base)
    assert not (tmp_path / "ran").exists()


def test_name_that_no_file_can_have() -> None:
    for name in ("/" + "x" * 5000, "~nobody-of-this-name/x", "a\0b"):
        with pytest.raises(ModelError):
            load_config(ModelSource(name=name))
