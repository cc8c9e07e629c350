"""preparation/before_loading.py: what cannot fit is refused before weights are loaded, with what would make it fit."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from neuralchat.config.arguments import TuningArguments
from neuralchat.errors import ArgumentsError
from neuralchat.models.adapters.rehearsal import rehearse
from neuralchat.models.loading.precision import Precision
from neuralchat.planning.layer_cost import TokenCost
from neuralchat.planning.model_shapes import shape_named
from neuralchat.preparation import before_loading
from neuralchat.preparation.before_loading import check_fits

FP32 = Precision(storage=torch.float32, compute=torch.float32)
BF16 = Precision(storage=torch.bfloat16, compute=torch.bfloat16)
GIB = 1 << 30


@pytest.fixture(scope="module")
def llama() -> tuple[Any, tuple[int, int]]:
    config = shape_named("llama-7b")
    return config, rehearse(config, TuningArguments(lora_init="default"))


def fit(
    monkeypatch: pytest.MonkeyPatch,
    llama: tuple[LlamaConfig, tuple[int, int]],
    memory_gib: float,
    precision: Precision = FP32,
    *,
    recomputable: bool = False,
    ranks: int = 1,
) -> list[str]:
    """check_fits for a machine of so much memory; returns the costs that were measured."""
    measured: list[str] = []
    limit = int(memory_gib * GIB)
    monkeypatch.setattr(before_loading, "read_machine", lambda: SimpleNamespace(memory_limit=lambda: limit))
    monkeypatch.setattr(before_loading, "local_size", lambda: ranks)
    monkeypatch.setattr(before_loading, "measurable_bytes", lambda: 100 * GIB)
    cost = TokenCost(kept_bytes=4e6, passing_bytes=1e6, seconds=0.0, fixed_bytes=0)
    monkeypatch.setattr(before_loading, "extrapolated_cost", lambda *_: measured.append("layers") or cost)
    config, parameters = llama
    data = SimpleNamespace(trained_on=SimpleNamespace(lengths=np.array([30, 200])))
    run = SimpleNamespace(
        config=config, parameters=parameters, data=data, arguments=SimpleNamespace(tuning=TuningArguments())
    )
    check_fits(run, precision, recomputes=False, may_recompute=recomputable)  # type: ignore[arg-type]
    return measured


def test_it_is_refused_with_what_would_fit(monkeypatch: pytest.MonkeyPatch, llama: Any) -> None:
    """25.1 GiB of weights in fp32, 12.6 in bf16, 5.0 of activations of 1,024 tokens."""
    with pytest.raises(ArgumentsError) as caught:
        fit(monkeypatch, llama, 24)
    first, *rest = str(caught.value).splitlines()
    # Beside what the process has already.
    assert first.startswith(("this run needs about 31.", "this run needs about 32."))
    assert "weights 25.1 GiB, what is trained 0.4 GiB, tokens at once 5.0 GiB, program " in first
    assert first.endswith("24.0 GiB can be had. Nothing was loaded. To fit:")
    assert [line.partition(":")[0] for line in rest] == ["  - --bf16 True", "  - --bits 8"]


def test_what_fits_is_told_nothing(monkeypatch: pytest.MonkeyPatch, llama: Any) -> None:
    # Far from the limit nothing is measured: loading will show soon enough.
    assert fit(monkeypatch, llama, 64) == []
    assert fit(monkeypatch, llama, 33) == ["layers"]


def test_processes_of_a_machine_share_it(monkeypatch: pytest.MonkeyPatch, llama: Any) -> None:
    with pytest.raises(ArgumentsError, match=r"30\.0 GiB can be had by each of 2 processes"):
        fit(monkeypatch, llama, 60, ranks=2)
    assert fit(monkeypatch, llama, 64, BF16, ranks=2) == []


def test_what_a_run_does_by_itself_is_no_reason_to_refuse(monkeypatch: pytest.MonkeyPatch, llama: Any) -> None:
    """With recomputed activations 27 GiB do; unless somebody has said that they are to be kept."""
    assert fit(monkeypatch, llama, 29, recomputable=True) == ["layers"]
    with pytest.raises(ArgumentsError, match="--gradient_checkpointing True: about 2"):
        fit(monkeypatch, llama, 29)


def test_code_of_a_checkpoint_is_not_run_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = SimpleNamespace(parameters=None)
    assert check_fits(run, replace(FP32), recomputes=False, may_recompute=False) is None
