"""llama.cpp's own functions in the xllamacpp wheel, for models that its server does not answer with: encoder-decoder.

Parameters are what the library says is the default; four of them are set by their place, which is checked first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from support.engines.llama_cpp import apart

# Of llama_context_params, in numbers of four bytes: place -> what lies there by default.
THREADS, FLASH_ATTENTION, KEYS, VALUES = (7, 8), 13, 26, 27
DEFAULTS = {7: 4, 8: 4, 13: -1, 26: 1, 27: 1}
F32, OFF = 0, 0


class Parameters(ctypes.Structure):
    """Larger than those of the library, which are handed over by value."""

    _fields_ = (("numbers", ctypes.c_int32 * 256),)


class Batch(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("ids", "embeddings", "places", "numbers", "sequences", "logits")),
    )


def library() -> Any:
    from xllamacpp import xllamacpp

    found = ctypes.CDLL(xllamacpp.__file__)
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    for name, gives, takes in (
        ("llama_model_default_params", Parameters, ()),
        ("llama_context_default_params", Parameters, ()),
        ("llama_model_load_from_file", pointer, (ctypes.c_char_p, Parameters)),
        ("llama_init_from_model", pointer, (pointer, Parameters)),
        ("llama_batch_get_one", Batch, (pointer, number)),
        ("llama_encode", number, (pointer, Batch)),
        ("llama_decode", number, (pointer, Batch)),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), (pointer, number)),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = gives, takes
    return found


def answer_encoded(path: str, asked: Sequence[tuple[Sequence[int], Sequence[int]]], vocabulary: int, pipe: Any) -> None:
    """Logits [V] behind the answer's beginning, for each (source, beginning)."""
    llama = library()
    llama.llama_backend_init()
    parameters = llama.llama_context_default_params()
    assert {place: parameters.numbers[place] for place in DEFAULTS} == DEFAULTS, "llama_context_params is another"
    for place in THREADS:
        parameters.numbers[place] = 1
    parameters.numbers[FLASH_ATTENTION], parameters.numbers[KEYS], parameters.numbers[VALUES] = OFF, F32, F32
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    found = []
    for source, beginning in asked:
        context = llama.llama_init_from_model(model, parameters)
        for function, ids in ((llama.llama_encode, source), (llama.llama_decode, beginning)):
            kept = (ctypes.c_int32 * len(ids))(*ids)
            assert function(context, llama.llama_batch_get_one(ctypes.addressof(kept), len(ids))) == 0
        found.append(llama.llama_get_logits_ith(context, -1)[:vocabulary])
    pipe.send(found)


def encoded_logits(
    path: Path, asked: Sequence[tuple[Sequence[int], Sequence[int]]], vocabulary: int
) -> list[list[float]]:
    with apart(answer_encoded, str(path), asked, vocabulary) as (pipe, process):
        try:
            return pipe.recv()
        except EOFError:
            process.join()
            pytest.fail(f"llama.cpp ended with status {process.exitcode} over {path.name}")
