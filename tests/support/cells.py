"""The cells of the support matrix: which property is proven of which family with which method.

`@proven("merged")` runs a test for every cell of that property; with `--record-support FILE` what passed is written
down (support/recorder.py), and docs/support.md is made from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from neuralchat.config.arguments import TuningArguments
from neuralchat.config.methods import METHODS
from support.small_models import ALL_FAMILIES

Cell = tuple[str, str]
# LLaMA-Adapter in PEFT knows the LLaMA family, Mistral and GPT-2.
TAKES_LLAMA_ADAPTER = ("llama", "llama_mha", "llama_bias", "mistral", "gpt2")
LORA_VARIANTS: dict[str, dict[str, Any]] = {
    "lora_dora": {"lora_dora": True},
    "lora_rslora": {"lora_rslora": True},
    "lora_pissa": {"lora_init": "pissa"},
    "lora_all_linear": {"lora_all_linear": True},
}
# Methods as the matrix has them: the values of --peft, then forms of LoRA that have flags of their own.
COLUMNS = (*METHODS, *LORA_VARIANTS)
REFUSED = [(family, "llama_adapter") for family in ALL_FAMILIES if family not in TAKES_LLAMA_ADAPTER]
CELLS = [(family, method) for family in ALL_FAMILIES for method in COLUMNS if (family, method) not in REFUSED]


def settings_of(method: str) -> TuningArguments:
    return TuningArguments(
        peft="lora" if method in LORA_VARIANTS else method, lora_dropout=0.0, num_virtual_tokens=5,
        ptun_hidden_size=16, adapter_len=4, adapter_layers=30, **LORA_VARIANTS.get(method, {}),
    )  # fmt: skip


def cells_where(holds: Callable[[str], bool]) -> list[Cell]:
    """The cells whose method has the trait."""
    return [cell for cell in CELLS if holds(cell[1])]


def adds_weights(method: str) -> bool:
    return method != "none"


def leaves_the_base(method: str) -> bool:
    """PiSSA takes the main directions out of the base; its end as a plain adapter is in training/test_families.py."""
    return method not in ("none", "lora_pissa")


def merges(method: str) -> bool:
    return settings_of(method).method.mergeable


PROPERTIES: dict[str, list[Cell]] = {
    "packed": CELLS,
    "checkpointed": CELLS,
    "trained alone": CELLS,
    "saved plain": cells_where(leaves_the_base),
    "loaded plain": cells_where(leaves_the_base),
    "base kept": cells_where(leaves_the_base),
    "merged": cells_where(merges),
    "unmerged refused": cells_where(lambda method: adds_weights(method) and not merges(method)),
    "answers cached": CELLS,
    # With real processes, in tests/distributed/test_ranks.py.
    "distributed": [("flan_t5", "lora"), ("llama", "lora"), ("llama", "prompt"), ("mpt", "lora")],
    "refused": REFUSED,
}


def proven(name: str) -> Callable[[Any], Any]:
    """Run the test, which takes `family` and `method`, for each cell of the property, and let it be recorded."""

    def mark(test: Any) -> Any:
        return pytest.mark.proves(name)(pytest.mark.parametrize(("family", "method"), PROPERTIES[name])(test))

    return mark


def kernels_of(family: str, method: str, *, other: bool = False) -> str:
    """Compiled kernels or their twins in torch: by turns, so that each family and each method meets both."""
    turn = ALL_FAMILIES.index(family) + COLUMNS.index(method) + other
    return ("compiled", "torch")[turn % 2]
