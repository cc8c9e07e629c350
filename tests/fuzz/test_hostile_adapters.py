"""What fuzzing and thought found in adapters and run directories, kept as cases with their messages."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import METHODS, Evil, change, edit_weights, load, logits_of
from support.small_models import make_tokenizer, small_config, small_model

from neuralchat.config.checks import is_safe_pattern
from neuralchat.errors import AdapterError, DataError, ModelError, NeuralChatError, RunDirectoryError
from neuralchat.inference.sampling_flags import Sampling
from neuralchat.models.adapters.files import check_adapter_files
from neuralchat.runs.directory import read_manifest, read_metrics

# What an adapter's configuration may not say, and the message.
BAD_ADAPTERS: list[tuple[str, dict[str, Any], str]] = [
    ("lora", {"peft_type": "XLORA"}, "peft_type is 'XLORA'; allowed are LORA, IA3"),
    ("lora", {"peft_type": ["LORA"]}, "peft_type is list; allowed are"),
    ("lora", {"auto_mapping": {"base_model_class": "x"}}, "'auto_mapping' is dict; for LORA it"),
    ("lora", {"megatron_config": {"a": 1}}, "'megatron_config' is dict"),
    ("lora", {"megatron_core": "os"}, "megatron_core cannot be 'os'"),
    ("lora", {"eva_config": {"rho": 2.0}}, "'eva_config' is dict"),
    ("lora", {"corda_config": {"cache_file": "x"}}, "'corda_config' is dict"),
    ("lora", {"loftq_config": {"loftq_bits": 4}}, "'loftq_config' is dict"),
    ("lora", {"init_lora_weights": "loftq"}, "init_lora_weights cannot be 'loftq'"),
    ("lora", {"init_lora_weights": "pissa_niter_1000000000"}, "init_lora_weights cannot be"),
    ("lora", {"layer_replication": [[0, 10**9]]}, "'layer_replication' is list"),
    ("lora", {"r": 10**9}, "r gives a size of 1000000000, the weights have 8"),
    ("lora", {"r": 4}, "r gives a size of 4, the weights have 8"),
    ("lora", {"r": None}, "does not say r"),
    ("lora", {"lora_alpha": None}, "does not say lora_alpha"),
    ("lora", {"lora_alpha": "x"}, "lora_alpha cannot be 'x'"),
    ("lora", {"lora_alpha": float("nan")}, "lora_alpha cannot be nan"),
    ("lora", {"rank_pattern": {"q_proj": 10**9}}, "r gives a size of 1000000000"),
    ("lora", {"r": {}}, "r gives a size of|does not say r"),
    ("lora", {"r": []}, "r gives a size of|does not say r"),
    ("prefix", {"num_layers": []}, "num_layers is no number"),
    ("lora", {"rank_pattern": {"(a+)+": 8}}, "rank_pattern cannot be dict"),
    ("lora", {"target_modules": "(.*)*q_proj"}, "target_modules cannot be"),
    ("lora", {"target_modules": ["x"] * 20_000}, "target_modules cannot be list"),
    ("lora", {"target_modules": ["o_proj"]}, "it holds weights for parts the model does not have, 8 in all"),
    ("lora", {"target_modules": ["q_proj"]}, "it holds weights for parts the model does not have, 4 in all"),
    ("lora", {"target_modules": ["q_proj", "v_proj", "o_proj"]}, "it lacks weights that the model would"),
    ("lora", {"target_modules": ["nothing"]}, "does not fit its base model"),
    ("lora", {"trainable_token_indices": [10**9]}, "does not fit its base model"),
    ("lora", {"use_dora": True}, "it lacks weights that the model would have at random"),
    ("ptun", {"num_virtual_tokens": 10**9}, "num_virtual_tokens gives a size of 1000000000, the weights have 4"),
    ("ptun", {"token_dim": 10**9}, "token_dim gives a size of 1000000000, the weights have 32"),
    ("ptun", {"encoder_hidden_size": -1}, "encoder_hidden_size cannot be -1"),
    ("prefix", {"num_layers": 10**9}, "token_dim gives a size of 32000000000, the weights have 64"),
    ("prompt", {"token_dim": None}, "token_dim is missing"),
    ("prompt", {"tokenizer_kwargs": {"trust_remote_code": True}}, "'tokenizer_kwargs' is dict"),
    ("llama_adapter", {"adapter_len": 10**9}, "adapter_len gives a size of 1000000000, the weights have 10"),
    ("llama_adapter", {"adapter_layers": 10**9}, "adapter_layers is 1000000000, the weights are of 2 layer"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "values", "match"), BAD_ADAPTERS)
def test_adapter_configuration(copy: Callable, method: str, values: dict[str, Any], match: str) -> None:
    run = copy(method)
    change(run / "adapter_config.json", **values)
    with pytest.raises(NeuralChatError, match=match) as caught:
        load(run)
    assert str(run) in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_adapter_of_another_method(copy: Callable, saved: Path, method: str) -> None:
    run = copy("lora" if method != "lora" else "ia3")
    shutil.copy(saved / method / "adapter_config.json", run)
    shutil.copy(saved / method / "adapter_model.safetensors", run)
    with pytest.raises(RunDirectoryError, match=r"is a run of .*, but its adapter_config\.json is of"):
        load(run)


def test_foreign_adapter_still_loads(copy: Callable) -> None:
    run = copy("lora")
    (run / "neuralchat.json").unlink()
    assert torch.isfinite(logits_of(load(run))).all()


def test_pickled_adapter_is_refused_and_not_read(copy: Callable, tmp_path: Path) -> None:
    run = copy("lora")
    (run / "adapter_model.safetensors").unlink()
    (run / "adapter_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "evil")))
    for name in ("neuralchat.json", "nothing"):
        with pytest.raises(NeuralChatError, match=r"a pickle, which can run code when it is read; .*save_pretrained"):
            load(run)
        (run / name).unlink(missing_ok=True)
    assert not (tmp_path / "evil").exists()


def test_directory_without_adapter(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"has no adapter_config\.json, so it holds no adapter"):
        check_adapter_files(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_adapter_weights_that_are_not_finite(copy: Callable, value: float) -> None:
    run = copy("lora")
    edit_weights(run / "adapter_model.safetensors", lambda weights: next(iter(weights.values())).fill_(value))
    with pytest.raises(AdapterError, match=r"layers\.0.* holds numbers that are not finite"):
        load(run)


def test_adapter_of_a_training_that_diverged(copy: Callable) -> None:
    """Each number is finite, what comes of them is not; the base model is not to blame."""
    run = copy("lora")
    edit_weights(run / "adapter_model.safetensors", lambda weights: [w.fill_(1e30) for w in weights.values()])
    with pytest.raises(ModelError, match=r"with the adapter of .* not finite; the training of the adapter"):
        load(run)


def test_adapter_without_weights(copy: Callable) -> None:
    run = copy("lora")
    edit_weights(run / "adapter_model.safetensors", dict.clear)
    with pytest.raises(AdapterError, match="holds no weights"):
        load(run)


def test_adapter_that_lacks_a_weight(copy: Callable) -> None:
    run = copy("lora")
    edit_weights(run / "adapter_model.safetensors", lambda weights: weights.pop(sorted(weights)[0]))
    with pytest.raises(
        AdapterError, match=r"lacks weights .*, 1 in all, such as '.*layers\.0\.self_attn\.q_proj\.lora_A"
    ):
        load(run)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"hidden_size": 64}, r"size mismatch for .*q_proj\.lora_A.*\[8, 32\].*\[8, 64\]"),
        (
            {"num_hidden_layers": 1},
            r"holds weights for parts the model does not have, 4 in all, such as '.*layers\.1\.",
        ),
        ({"num_hidden_layers": 3}, r"lacks weights that the model would have at random, 4 in all, .*layers\.2\."),
    ],
)
def test_wrong_base(copy: Callable, tmp_path: Path, values: dict[str, int], match: str) -> None:
    run = copy("lora")
    config = small_config("llama", len(make_tokenizer()))
    for name, value in values.items():
        setattr(config, name, value)
    config.head_dim = config.hidden_size // config.num_attention_heads
    config.layer_types = None
    type(small_model("llama"))(config).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    manifest = json.loads((run / "neuralchat.json").read_text())
    change(run / "neuralchat.json", base_model={**manifest["base_model"], "path": str(tmp_path / "base")})
    with pytest.raises(AdapterError, match=match) as caught:
        load(run)
    assert str(tmp_path / "base") in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "good"),
    [
        (r".*\.(q|v)_proj", True), ("all-linear", True), (r"^(?!.*vision).*(?:q_proj|v_proj)$", True), ("(a+)+", False),
        (r"(a|a)*b", False), ("a*" * 10, False), ("(", False), ("x" * 3000, False), (7, False),
        ("(a{1,9}){1,9}", False),
    ],
)  # fmt: skip
def test_patterns(pattern: Any, good: bool) -> None:
    assert is_safe_pattern(pattern) is good


def test_tokenizer_with_tokens_that_nothing_was_trained_for(copy: Callable) -> None:
    run = copy("lora")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"<extra{i}>" for i in range(5)])
    tokenizer.save_pretrained(run)
    with pytest.raises(
        ModelError, match=r"tokens, its base model .* embeddings, and the adapter does not hold the others"
    ):
        load(run)


MANIFESTS: list[tuple[str, Any, str]] = [
    ("base_model", True, "base_model must hold names and values, found bool"),
    ("base_model", {"name": ["x"]}, "base_model.name cannot be list"),
    ("base_model", {}, "base_model.name cannot be null"),
    ("base_model", {"name": "x" * 5000}, "base_model.name cannot be str 'xxx"),
    ("base_model", {"name": "\ud800"}, r"base_model.name cannot be str '\\ud800'"),
    ("base_model", {"name": "m", "path": 7}, "base_model.path cannot be int 7"),
    ("template", {"name": None}, "template.name cannot be null"),
    ("template", {"name": "alpaca", "sha256": 7}, "template.sha256 cannot be int 7"),
    ("adapter", {"method": {}}, "adapter.method cannot be dict"),
    ("precision", [], "precision must hold names and values, found list"),
    ("results", {"steps": "x"}, "results.steps cannot be str 'x'"),
    ("results", {"seconds": True}, "results.seconds cannot be bool True"),
    ("results", {"samples": [{}]}, "results.samples must be questions with answers"),
]


@pytest.mark.parametrize(("part", "value", "match"), MANIFESTS)
def test_manifest(copy: Callable, part: str, value: Any, match: str) -> None:
    run = copy("lora")
    change(run / "neuralchat.json", **{part: value})
    with pytest.raises(RunDirectoryError, match=match):
        read_manifest(run)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff\xfe{}", b"\0"])
def test_manifest_of_any_content(copy: Callable, content: bytes) -> None:
    run = copy("lora")
    (run / "neuralchat.json").write_bytes(content)
    with pytest.raises(RunDirectoryError, match=r"neuralchat\.json is damaged: "):
        read_manifest(run)
    (run / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + content + b"\n{}\n")
    with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl is damaged at line 2"):
        read_metrics(run)


@pytest.mark.parametrize("name", ["neuralchat.json", "metrics.jsonl"])
def test_directory_in_the_place_of_a_file(copy: Callable, name: str) -> None:
    run = copy("lora")
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    with pytest.raises(RunDirectoryError, match=f"{name} cannot be read: Is a directory"):
        (read_manifest if name == "neuralchat.json" else read_metrics)(run)


def test_questions_that_are_not_text(saved: Path) -> None:
    from neuralchat.data.records import Turn

    bot = load(saved / "lora")
    with pytest.raises(DataError, match=r"the user's text is not UTF-8: 'a\\udcff'; type it as UTF-8"):
        bot.answer([Turn("user", "a\udcff")], Sampling(max_new_tokens=1))
    assert bot.answer([Turn("user", "a\0b\x1b[31m")], Sampling(max_new_tokens=1)).token_ids is not None


def test_bytes_on_standard_input_that_are_not_text(saved: Path, tmp_path: Path) -> None:
    import subprocess

    command = [sys.executable, "-m", "neuralchat.cli", "chat", str(saved / "lora"), "--max_new_tokens", "1"]
    result = subprocess.run(command, input=b"a\0b\n\xff\n", capture_output=True, check=False, timeout=300)
    assert result.returncode == 2, result.stderr
    assert b"the user's text is not UTF-8" in result.stderr
    assert b"Traceback" not in result.stderr
