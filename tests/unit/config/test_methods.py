"""methods.py: a new method is one row; everything that asks for methods follows it."""

from __future__ import annotations

import pytest
import torch
from support.small_models import small_model

from neuralchat.config.arguments import TuningArguments
from neuralchat.config.config import FinetuneConfig
from neuralchat.config.methods import METHODS, Method, lora_config, trained_file
from neuralchat.errors import AdapterError, ArgumentsError
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.adapters.files import ALLOWED_FIELDS
from neuralchat.models.adapters.merging import check_mergeable

RIGHT = {"model_name_or_path": "m", "train_file": "a.json", "output_dir": "out", "do_train": True}


def twice_as_high(tuning: TuningArguments, model: object, token_ids: object, family: object) -> object:
    config = lora_config(tuning, model, (), family)
    config.r *= 2
    return config


@pytest.fixture
def tall(monkeypatch: pytest.MonkeyPatch) -> Method:
    row = Method(
        name="tall", learning_rate=7e-4, peft_type="LORA", make_config=twice_as_high, unmergeable="it is too high",
        model_types=("llama", "mpt"),
    )  # fmt: skip
    monkeypatch.setitem(METHODS, row.name, row)
    return row


def test_a_made_up_method_trains(tall: Method) -> None:
    config = FinetuneConfig.from_values(
        {**RIGHT, "peft": "tall", "lora_rank": 3, "lora_alpha": 6, "lora_all_linear": False}
    )
    assert config.training.learning_rate == 7e-4
    torch.manual_seed(0)
    model = add_adapter(small_model("llama", 64), config.tuning)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.shape[0] for name, p in trained.items() if "lora_A" in name} == {6}
    ids = torch.arange(3, 11)[None]
    optimizer = torch.optim.SGD(trained.values(), lr=config.training.learning_rate * 1000)
    losses = []
    for _ in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[1] < losses[0]


def test_what_is_said_of_a_made_up_method(tall: Method) -> None:
    with pytest.raises(
        AdapterError, match=r"^--peft tall cannot be merged: it is too high\. Methods that can: lora, ia3$"
    ):
        check_mergeable("tall")
    with pytest.raises(ArgumentsError, match=r"--peft is 'talll'; allowed are lora, .*, none, tall$"):
        FinetuneConfig.from_values({**RIGHT, "peft": "talll"})
    with pytest.raises(ArgumentsError, match=r"--peft tall cannot train their embeddings; use lora or none"):
        FinetuneConfig.from_values({**RIGHT, "peft": "tall", "special_tokens": ["<x>"]})
    with pytest.raises(
        AdapterError, match=r"--peft tall does not work for .*: PEFT has it for llama, mpt, this is gpt2"
    ):
        add_adapter(small_model("gpt2", 64), TuningArguments(peft="tall"))
    with pytest.raises(AdapterError, match=r"\nChoose another of: lora, .*, none, tall$"):
        add_adapter(small_model("t5", 64), TuningArguments(peft="llama_adapter"))
    assert trained_file("tall") == "adapter_model.safetensors"


def test_files_of_runs_and_of_adapters_from_elsewhere() -> None:
    assert [trained_file(name) for name in ("lora", "none", "boft")] == [
        "adapter_model.safetensors", "model.safetensors", "adapter_model.safetensors",
    ]  # fmt: skip


def test_what_an_adapter_of_every_method_may_say_is_known() -> None:
    assert {row.peft_type for row in METHODS.values() if row.peft_type} == set(ALLOWED_FIELDS)


def test_models_of_llama_adapter_are_those_of_peft() -> None:
    from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG

    assert set(METHODS["llama_adapter"].model_types or ()) == set(TRANSFORMERS_MODEL_CONFIG)


def test_only_the_mergeable_have_no_reason() -> None:
    """PEFT itself: tuners that can be merged have a method for it."""
    for name, row in METHODS.items():
        if row.make_config is not None:
            model = add_adapter(small_model("llama", 64), TuningArguments(peft=name))
            assert hasattr(model.base_model, "merge_and_unload") is row.mergeable


def test_importing_the_table_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, neuralchat.config.methods; sys.exit('torch' in sys.modules or 'peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
