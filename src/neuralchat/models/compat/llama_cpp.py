"""llama.cpp's own quantizer, which the package xllamacpp holds and has no Python name for.

One function of plain numbers and pointers (ggml.h, ggml_quantize_chunk), which has not changed since it was there;
llama_model_quantize, which would take whole files, is not in the wheel.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import gguf
import numpy as np

from neuralchat.errors import ModelError

NEEDS_PACKAGE = "this type is computed by llama.cpp's own quantizer: pip install 'neuralchat[llamacpp]'"


@cache
def quantizer() -> Any:
    """Raises ModelError where the package is missing, or has no such function any more."""
    try:
        from xllamacpp import xllamacpp
    except ImportError as error:
        raise ModelError(NEEDS_PACKAGE) from error
    try:
        function = ctypes.CDLL(xllamacpp.__file__).ggml_quantize_chunk
    except (OSError, AttributeError) as error:
        raise ModelError(f"this version of xllamacpp has no quantizer; --gguf q8_0 needs none ({error})") from error
    floats = ctypes.POINTER(ctypes.c_float)
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int, floats, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, floats
    ]  # fmt: skip
    return function


def quantized(values: np.ndarray, stored: gguf.GGMLQuantizationType) -> np.ndarray:
    """values: fp32 [..., row], a row a multiple of the block. Bytes [..., bytes of a row], as GGUF stores them."""
    block, size = gguf.GGML_QUANT_SIZES[stored]
    values = np.ascontiguousarray(values, dtype=np.float32)
    row = values.shape[-1]
    # The function reads past a row that is no whole number of blocks.
    if row % block or not np.isfinite(values).all():
        raise ModelError(f"a weight with rows of {row} cannot be stored as {stored.name}, or holds no finite numbers")
    found = np.empty((*values.shape[:-1], row // block * size), dtype=np.uint8)
    source = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    written = quantizer()(int(stored), source, found.ctypes.data, 0, values.size // row, row, None)
    if written != found.nbytes:
        raise ModelError(f"llama.cpp's quantizer wrote {written} bytes where {found.nbytes} were expected")
    return found
