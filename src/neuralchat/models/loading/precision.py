"""Which number format the weights and the arithmetic take on this machine.

bf16 arithmetic where the CPU (AVX512-BF16, AMX) or GPU has it. Elsewhere bf16 products are many times slower than
fp32 ones, so bf16 weights stay bf16 in memory and each is widened to fp32 while it is used (frozen_linear.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Precision:
    """`storage`: dtype of the frozen weights. `compute`: dtype of the activations. `bits`: of the frozen weights of
    linear layers, where they are fewer than those of `storage` (models/quantization/formats.py).
    """

    storage: torch.dtype
    compute: torch.dtype
    bits: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Names as people write them, such as {"storage": "bfloat16", "compute": "float32", "bits": None}."""
        dtypes = {"storage": self.storage, "compute": self.compute}
        return {**{name: str(dtype).removeprefix("torch.") for name, dtype in dtypes.items()}, "bits": self.bits}

    @property
    def widens(self) -> bool:
        return self.storage != self.compute


def has_bf16_units() -> bool:
    """Whether this machine multiplies bf16 in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def choose_precision(*, bf16: bool, trains_base: bool, bits: int | None = None) -> tuple[Precision, str | None]:
    """The precision for a run, and a notice where it is not what the flag says literally.

    `trains_base`: the weights themselves are trained; then they stay fp32, or small updates would be lost.
    """
    precision, notice = dtypes(bf16=bf16, trains_base=trains_base)
    return replace(precision, bits=bits), notice


def dtypes(*, bf16: bool, trains_base: bool) -> tuple[Precision, str | None]:
    """The same without `bits`."""
    if not bf16:
        return Precision(storage=torch.float32, compute=torch.float32), None
    if trains_base:
        return Precision(storage=torch.float32, compute=torch.float32), (
            "--bf16: all weights are trained, so they and their arithmetic stay in fp32"
        )
    if has_bf16_units():
        return Precision(storage=torch.bfloat16, compute=torch.bfloat16), None
    return Precision(storage=torch.bfloat16, compute=torch.float32), (
        "--bf16: this CPU has no bf16 units, where bf16 arithmetic is many times slower than fp32; the base weights "
        "are kept in bf16 and widened to fp32 a layer at a time"
    )


def widen_small_weights(model: nn.Module, compute: torch.dtype) -> None:
    """Prepare a model stored in a narrower dtype for arithmetic in `compute`.

    Linear and embedding matrices keep their storage; everything else (norms, biases, buffers), which is small, is
    converted once, and embeddings give their rows in `compute`.
    """
    for module in model.modules():
        matrices = isinstance(module, nn.Linear | nn.Embedding)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_floating_point() and not (matrices and name == "weight"):
                parameter.data = parameter.data.to(compute)
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(lambda _module, _inputs, output: output.to(compute))
