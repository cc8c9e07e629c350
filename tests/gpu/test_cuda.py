"""The same commands on one CUDA device. Skipped, with the reason, where torch has none."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import ROWS, metrics
from support.small_models import small_model

from neuralchat.config.arguments import TuningArguments
from neuralchat.data.layout import Layout
from neuralchat.data.packing import pack
from neuralchat.data.tokenization import Example
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.adapters.virtual_tokens import virtual_tokens_of
from neuralchat.models.attention.flex import flex_segments
from neuralchat.models.families.packed_layout import take_packed_rows
from neuralchat.models.losses.loss_sum import packed_loss_sum, padded_loss_sum

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch finds no CUDA device here: run tests/gpu on a machine that has one"
)


def examples(lengths: tuple[int, ...]) -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    # The first tokens are the same for all, so that a prefix is shared.
    shared = torch.randint(3, 300, (12,), generator=generator)
    rows = [torch.cat([shared, torch.randint(3, 300, (n,), generator=generator)]).int().numpy() for n in lengths]
    return [Example(row, torch.arange(len(row)).numpy() > 14, f"row {i}") for i, row in enumerate(rows)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "gpt2", "mpt", "flan_t5"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 5e-2)])
def test_packed_is_one_by_one(family: str, dtype: torch.dtype, tolerance: float) -> None:
    """Loss and gradients of a packed row on the device against the model's own forward on each example there."""
    model = add_adapter(small_model(family), TuningArguments(lora_dropout=0.0, lora_init="default"))
    layout = take_packed_rows(model)
    assert layout is not None
    model = model.to("cuda", dtype).eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data += 0.02 * torch.randn_like(parameter)
    rows = examples((20, 33, 8))
    alone = sum(padded_loss_sum(model, [row], pad_id=0) for row in rows)
    together = packed_loss_sum(model, layout.pack(rows))
    assert together.item() == pytest.approx(alone.item(), rel=tolerance)
    found, expected = (torch.autograd.grad(loss, trained, allow_unused=True) for loss in (together, alone))
    for a, b in zip(found, expected, strict=True):
        if b is not None:
            assert a is not None
            assert (a - b).float().norm() <= 10 * tolerance * b.float().norm() + 1e-4


def test_compiled_flex_attention_is_the_plain_one() -> None:
    """The same call on the CPU runs uncompiled."""
    batch = pack(examples((20, 33, 8)))
    generator = torch.Generator().manual_seed(1)
    tokens = len(batch.input_ids)
    query, key, value = (torch.randn(1, heads, tokens, 16, generator=generator) for heads in (4, 2, 2))
    plain = flex_segments(query, key, value, batch.segments, 0.25, None, None)
    compiled = flex_segments(query.cuda(), key.cuda(), value.cuda(), batch.segments, 0.25, None, None)
    assert torch.allclose(compiled.cpu(), plain, atol=1e-4)


def trained_on(
    run_cli: Callable[..., Any], write_records: Callable[..., Path], model: Path, output: Path, *flags: Any
) -> Path:
    result = run_cli(
        "finetune", "--model_name_or_path", model, "--train_file", write_records(ROWS), "--output_dir", output,
        "--per_device_train_batch_size", 4, "--num_train_epochs", 2, "--logging_steps", 1, "--report_samples", 0,
        "--keep_general", "False", *flags,
        # A process that has used the device cannot be forked.
        fresh=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return Path(output)


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics(run) if "loss" in line]


def test_the_command_learns_there_what_it_learns_on_the_cpu(
    run_cli: Callable[..., Any], write_records: Callable[..., Path], llama_checkpoint: Path, tmp_path: Path
) -> None:
    device = trained_on(run_cli, write_records, llama_checkpoint, tmp_path / "device")
    cpu = trained_on(run_cli, write_records, llama_checkpoint, tmp_path / "cpu", "--use_cpu", "True")
    assert losses(device) == pytest.approx(losses(cpu), rel=1e-2)


def test_bf16(
    run_cli: Callable[..., Any], write_records: Callable[..., Path], llama_checkpoint: Path, tmp_path: Path
) -> None:
    run = trained_on(run_cli, write_records, llama_checkpoint, tmp_path / "narrow", "--bf16", "True")
    assert json.loads((run / "neuralchat.json").read_text())["precision"]["compute"] == "bfloat16"
    full = trained_on(run_cli, write_records, llama_checkpoint, tmp_path / "full")
    assert losses(run)[-1] == pytest.approx(losses(full)[-1], rel=5e-2)


def test_a_run_that_goes_on_ends_as_the_undisturbed_one(
    run_cli: Callable[..., Any], write_records: Callable[..., Path], llama_checkpoint: Path, tmp_path: Path
) -> None:
    whole = trained_on(run_cli, write_records, llama_checkpoint, tmp_path / "whole", "--save_steps", 2)
    # As if the run had died after this checkpoint.
    shutil.copytree(whole / "checkpoint-2", tmp_path / "parts" / "checkpoint-2")
    parts = trained_on(run_cli, write_records, llama_checkpoint, tmp_path / "parts", "--resume_from_checkpoint", "auto")
    # Sums on a GPU may be taken in another order.
    assert losses(parts)[-1] == pytest.approx(losses(whole)[-1], rel=1e-3)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_bases_by_bitsandbytes(
    run_cli: Callable[..., Any], write_records: Callable[..., Path], llama_checkpoint: Path, tmp_path: Path, bits: int
) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    if "bits" not in TuningArguments.__dataclass_fields__:
        pytest.skip("this version has no --bits")
    quantized = trained_on(run_cli, write_records, llama_checkpoint, tmp_path / f"bits{bits}", "--bits", bits)
    full = trained_on(run_cli, write_records, llama_checkpoint, tmp_path / "full")
    assert losses(quantized)[-1] == pytest.approx(losses(full)[-1], rel=0.1)


def test_layouts_of_virtual_tokens() -> None:
    model = add_adapter(small_model(), TuningArguments(peft="prefix")).cuda().eval()
    take_packed_rows(model)
    rows = examples((20, 9))
    together = packed_loss_sum(model, Layout(virtual_tokens_of(model)).pack(rows))
    assert together.item() == pytest.approx(sum(padded_loss_sum(model, [r], pad_id=0).item() for r in rows), rel=1e-3)


def test_rows_of_many_lengths_stay_compiled() -> None:
    """Uncompiled, the last row's scores alone would take 4 GiB."""
    for length in (*range(300, 1500, 100), 16_384):
        batch = pack(examples((length - 100, 60, 40)))
        query, key, value = (torch.randn(1, heads, len(batch.input_ids), 16, device="cuda") for heads in (4, 2, 2))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        flex_segments(query, key, value, batch.segments, 0.25, None, None)
    assert torch.cuda.max_memory_allocated() - before < 1 << 30
