"""`neuralchat export`: which of the ways out of this program is wanted."""

from __future__ import annotations

import argparse

from neuralchat.errors import ArgumentsError
from neuralchat.export.gguf_types import type_problems

WAYS = (
    "--merge DIR (a whole model), --adapter DIR (the adapter alone), --gguf TYPE (a file for llama.cpp and Ollama) or "
    "--gguf_adapter TYPE (the adapter alone for llama.cpp)"
)


NO_OPENVINO = (
    "--openvino is not written here: optimum-intel (2.2), which writes it, takes transformers below 5.6, and this "
    "program takes 5.24. OpenVINO reads GGUF: --gguf f16, then pip install openvino-genai and its "
    "LLMPipeline(FILE, 'CPU'), for llama, mistral, qwen2 and qwen3. For its own format try --merge DIR, and in an "
    "environment of its own: pip install 'optimum-intel[openvino]', then optimum-cli export openvino --model DIR "
    "--task text-generation-with-past OUTPUT"
)


def export(options: argparse.Namespace) -> int:
    """Raises ArgumentsError unless one way is named, with the flags that belong to it."""
    ways = [name for name in ("merge", "adapter", "gguf", "gguf_adapter") if getattr(options, name) is not None]
    problems = [NO_OPENVINO] if options.openvino is not None else []
    if len(ways) != 1 and not problems:
        found = ", ".join(f"--{name}" for name in ways) or "none"
        problems.append(f"export takes one of {WAYS}; found {found}")
    if options.output is not None and not {"gguf", "gguf_adapter"} & {*ways}:
        problems.append("--output belongs to --gguf and --gguf_adapter; the other ways name their directory themselves")
    if options.with_runs and not {"merge", "gguf"} & {*ways}:
        problems.append("--with belongs to --merge and --gguf: what is combined is a whole model")
    problems += type_problems(options)
    if problems:
        raise ArgumentsError("\n".join(problems))
    if ways == ["gguf"]:
        from neuralchat.export.gguf import export_gguf

        return export_gguf(options)
    if ways == ["gguf_adapter"]:
        from neuralchat.export.gguf_adapter import export_gguf_adapter

        return export_gguf_adapter(options)
    if ways == ["adapter"]:
        from neuralchat.export.adapter import export_adapter

        return export_adapter(options)
    from neuralchat.export.merge import merge

    options.output = options.merge
    return merge(options)
