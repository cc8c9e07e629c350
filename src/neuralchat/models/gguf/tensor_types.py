"""How the numbers of a weight are stored: the values of --gguf, a row each.

Types whose blocks the gguf package computes need nothing else (it writes what llama.cpp's quantizer does, byte for
byte); K-quants are computed by llama.cpp's own, of the package xllamacpp (models/compat/llama_cpp.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Stored
from torch import Tensor

from neuralchat.models.compat.llama_cpp import quantized, quantizer

# A row of the matrix of words is looked up in, or multiplied with all of an answer's: worth more bits than others.
WORD_MATRICES = ("token_embd.weight", "output.weight")


# What a row gets that is no multiple of its type's block; llama.cpp chooses the same.
SMALLER_BLOCKS = {Stored.Q6_K: Stored.Q8_0, Stored.Q5_K: Stored.Q5_1, Stored.Q4_K: Stored.Q5_0}
LAYER = re.compile(r"blk\.(\d+)\.")

# (GGUF's name of a matrix, its layer, how many there are) -> a type with more bits, where it is worth them.
MoreBits = Callable[[str, int, int], Stored | None]


def in_chosen_layers(layer: int, layers: int) -> bool:
    """The first and last eighth, and every third between (llama.cpp's use_more_bits)."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def medium(fused: Stored) -> MoreBits:
    """The mixture of the types `_m`. `fused`: of queries, keys and values in one matrix."""

    def more(name: str, layer: int, layers: int) -> Stored | None:
        if name.endswith("attn_qkv.weight"):
            return fused
        chosen = name.endswith(("attn_v.weight", "ffn_down.weight")) and in_chosen_layers(layer, layers)
        return Stored.Q6_K if chosen else None

    return more


def small(name: str, layer: int, layers: int) -> Stored | None:
    """The mixture of q4_k_s."""
    first = {"attn_v": 4, "ffn_down": layers // 8}.get(name.split(".")[2], 0)
    return Stored.Q5_K if layer < first else None


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """`stored`: of matrices. `words`: of the first and last matrix, where that is another. `more`: of some matrices.
    `last`: for rows that no block fits. `native`: by llama.cpp's own quantizer.
    """

    name: str
    stored: Stored
    file_type: gguf.LlamaFileType
    words: Stored | None = None
    more: MoreBits | None = None
    last: Stored = Stored.F16
    native: bool = False


File = gguf.LlamaFileType
Q5_K, Q6_K = Stored.Q5_K, Stored.Q6_K
TYPE_ROWS = (
    TensorType(name="f32", stored=Stored.F32, file_type=File.ALL_F32, last=Stored.F32),
    TensorType(name="f16", stored=Stored.F16, file_type=File.MOSTLY_F16),
    TensorType(name="bf16", stored=Stored.BF16, file_type=File.MOSTLY_BF16),
    TensorType(name="q8_0", stored=Stored.Q8_0, file_type=File.MOSTLY_Q8_0),
    TensorType(name="q6_k", stored=Q6_K, file_type=File.MOSTLY_Q6_K, words=Q6_K, native=True),
    TensorType(name="q5_k_m", stored=Q5_K, file_type=File.MOSTLY_Q5_K_M, words=Q6_K, more=medium(Q6_K), native=True),
    TensorType(name="q5_k_s", stored=Q5_K, file_type=File.MOSTLY_Q5_K_S, words=Q6_K, native=True),
    TensorType(
        name="q4_k_m", stored=Stored.Q4_K, file_type=File.MOSTLY_Q4_K_M, words=Q6_K, more=medium(Q5_K), native=True
    ),
    TensorType(name="q4_k_s", stored=Stored.Q4_K, file_type=File.MOSTLY_Q4_K_S, words=Q6_K, more=small, native=True),
    TensorType(name="q5_1", stored=Stored.Q5_1, file_type=File.MOSTLY_Q5_1, words=Stored.Q8_0),
    TensorType(name="q5_0", stored=Stored.Q5_0, file_type=File.MOSTLY_Q5_0, words=Stored.Q8_0),
    TensorType(name="q4_1", stored=Stored.Q4_1, file_type=File.MOSTLY_Q4_1, words=Stored.Q8_0),
    TensorType(name="q4_0", stored=Stored.Q4_0, file_type=File.MOSTLY_Q4_0, words=Stored.Q8_0),
)
TENSOR_TYPES = {row.name: row for row in TYPE_ROWS}


def tensor_type(name: str) -> TensorType:
    """Of a name that is one of them. Raises ModelError where the package that computes the type is not installed."""
    found = TENSOR_TYPES[name.lower()]
    if found.native:
        quantizer()
    return found


def stored_as(kind: TensorType, name: str, shape: tuple[int, ...], layers: int = 0) -> Stored:
    """The type of the weight that GGUF calls `name`, of a model with so many layers: vectors, norms and small tables
    stay fp32.
    """
    if len(shape) < 2 or name.endswith("_norm.weight") or name in ("position_embd.weight",) or "rel_b" in name:
        return Stored.F32
    wanted = kind.words if kind.words is not None and name in WORD_MATRICES else kind.stored
    if kind.more is not None and (place := LAYER.match(name)):
        wanted = kind.more(name, int(place[1]), layers) or wanted
    for each in (wanted, SMALLER_BLOCKS.get(wanted)):
        if each is not None and shape[-1] % gguf.GGML_QUANT_SIZES[each][0] == 0:
            return each
    return kind.last


def stored_bytes(stored: Stored, shape: tuple[int, ...]) -> int:
    block, size = gguf.GGML_QUANT_SIZES[stored]
    count = int(np.prod(shape, dtype=np.int64))
    return count // block * size


def stored_weight(weight: Tensor, stored: Stored) -> np.ndarray[Any, Any]:
    """The bytes of a weight of any shape, as GGUF stores them."""
    if stored == Stored.F16:
        return weight.detach().to(torch.float16).contiguous().numpy()
    values = weight.detach().to(torch.float32).contiguous().numpy()
    if stored == Stored.F32:
        return values
    return quantized(values, stored) if stored in SMALLER_BLOCKS else gguf.quants.quantize(values, stored)
