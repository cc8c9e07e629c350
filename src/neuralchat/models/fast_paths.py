"""The fast paths of training, put into one model: products of frozen weights, fused layers, fused LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neuralchat.models.kernels.allocator import keep_freed_pages
from neuralchat.models.kernels.compiled import library, refuse_kernels
from neuralchat.models.layers.frozen_linear import freeze_linears
from neuralchat.models.layers.fused import fuse_mlps, fuse_norms, fuse_rotary
from neuralchat.models.layers.fused_lora import fuse_lora


@dataclass(frozen=True, kw_only=True)
class FastPaths:
    """How many layers of the model took each path. `compiled`: kernels of this machine, else their twins in torch."""

    compiled: bool
    frozen_linears: int
    norms: int
    mlps: int
    rotary: int
    lora: int

    @property
    def kernels(self) -> str:
        return "compiled" if self.compiled else "torch"


def take_fast_paths(model: Any, *, compile_kernels: bool) -> FastPaths:
    """Put every fast path into `model` that equals transformers' and PEFT's own on random numbers.

    Call it when it is settled which weights are trained. Only layers of this model change, by class; with
    `compile_kernels` False it computes in torch alone, whatever other models of the process do.

    The C library's allocator is told to keep freed pages, which is the one setting that stays for the whole process: it
    changes no result, and memory that was used once stays with the process until it ends.
    """
    if not compile_kernels:
        refuse_kernels(model)
    keep_freed_pages()
    return FastPaths(
        compiled=compile_kernels and library("elementwise", BF16=0) is not None,
        frozen_linears=freeze_linears(model),
        norms=fuse_norms(model),
        mlps=fuse_mlps(model),
        rotary=fuse_rotary(model),
        lora=fuse_lora(model),
    )
