"""How the numbers of a weight are stored: the values of --gguf, a row each.

Types whose blocks the gguf package computes need nothing else; those of llama.cpp's own quantizer need the package
xllamacpp (llama_library.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Stored
from torch import Tensor

from neuralchat.errors import ArgumentsError

# A row of the matrix of words is looked up in, or multiplied with all of an answer's: worth more bits than others.
WORD_MATRICES = ("token_embd.weight", "output.weight")


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """`stored`: of matrices. `words`: of the first and last matrix, where that is another. `fallback`: for rows that
    are no multiple of the block. `native`: by llama.cpp's own quantizer. `bits`: of a number, with its block's scale.
    """

    name: str
    stored: Stored
    file_type: gguf.LlamaFileType
    words: Stored | None = None
    fallback: Stored = Stored.F16
    native: bool = False

    @property
    def bits(self) -> float:
        block, size = gguf.GGML_QUANT_SIZES[self.stored]
        return 8 * size / block


TYPE_ROWS = (
    TensorType(name="f32", stored=Stored.F32, file_type=gguf.LlamaFileType.ALL_F32, fallback=Stored.F32),
    TensorType(name="f16", stored=Stored.F16, file_type=gguf.LlamaFileType.MOSTLY_F16),
    TensorType(name="bf16", stored=Stored.BF16, file_type=gguf.LlamaFileType.MOSTLY_BF16),
    TensorType(name="q8_0", stored=Stored.Q8_0, file_type=gguf.LlamaFileType.MOSTLY_Q8_0),
    TensorType(name="q5_1", stored=Stored.Q5_1, file_type=gguf.LlamaFileType.MOSTLY_Q5_1, words=Stored.Q8_0),
    TensorType(name="q5_0", stored=Stored.Q5_0, file_type=gguf.LlamaFileType.MOSTLY_Q5_0, words=Stored.Q8_0),
    TensorType(name="q4_1", stored=Stored.Q4_1, file_type=gguf.LlamaFileType.MOSTLY_Q4_1, words=Stored.Q8_0),
    TensorType(name="q4_0", stored=Stored.Q4_0, file_type=gguf.LlamaFileType.MOSTLY_Q4_0, words=Stored.Q8_0),
)
TENSOR_TYPES = {row.name: row for row in TYPE_ROWS}


def tensor_type(name: str) -> TensorType:
    """Raises ArgumentsError."""
    found = TENSOR_TYPES.get(name.lower())
    if found is None:
        raise ArgumentsError(f"--gguf is '{name}'; allowed are {', '.join(TENSOR_TYPES)}")
    return found


def stored_as(kind: TensorType, name: str, shape: tuple[int, ...]) -> Stored:
    """The type of the weight that GGUF calls `name`: vectors, norms and small tables stay fp32."""
    if len(shape) < 2 or name.endswith("_norm.weight") or name in ("position_embd.weight",) or "rel_b" in name:
        return Stored.F32
    wanted = kind.words if kind.words is not None and name in WORD_MATRICES else kind.stored
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return wanted if shape[-1] % block == 0 else kind.fallback


def stored_bytes(stored: Stored, shape: tuple[int, ...]) -> int:
    block, size = gguf.GGML_QUANT_SIZES[stored]
    count = int(np.prod(shape, dtype=np.int64))
    return count // block * size


def stored_weight(weight: Tensor, stored: Stored) -> np.ndarray[Any, Any]:
    """The bytes of a weight of any shape, as GGUF stores them."""
    if stored == Stored.F16:
        return weight.detach().to(torch.float16).contiguous().numpy()
    values = weight.detach().to(torch.float32).contiguous().numpy()
    return values if stored == Stored.F32 else gguf.quants.quantize(values, stored)
