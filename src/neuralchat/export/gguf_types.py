"""Names of the types that --gguf and --gguf_adapter take, known before anything heavy is imported."""

from __future__ import annotations

import argparse

# Those of models/gguf/tensor_types.py; a test holds them together.
MODEL_TYPE_NAMES = (
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q5_1", "q5_0", "q4_1", "q4_0"
)  # fmt: skip
# llama.cpp adds an adapter of numbers that are no blocks.
ADAPTER_TYPE_NAMES = ("f32", "f16", "bf16")


def type_problems(options: argparse.Namespace) -> list[str]:
    problems = []
    if options.gguf is not None and options.gguf.lower() not in MODEL_TYPE_NAMES:
        problems.append(
            f"--gguf is '{options.gguf}'; allowed are {', '.join(MODEL_TYPE_NAMES)}. Types of 3 bits and fewer need "
            "measurements of the model at work (an importance matrix): write f16, and take llama-imatrix and "
            "llama-quantize"
        )
    if options.gguf_adapter is not None and options.gguf_adapter.lower() not in ADAPTER_TYPE_NAMES:
        problems.append(f"--gguf_adapter is '{options.gguf_adapter}'; allowed are {', '.join(ADAPTER_TYPE_NAMES)}")
    return problems
