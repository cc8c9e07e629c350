"""llama.cpp itself, by the xllamacpp wheel, in a process of its own: what it aborts at does not end the tests."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

# {"prompts": [[id, ...], ...], "texts": [...], "new": N, "lora": file}
Asked = dict[str, Any]


def needs_llama_cpp() -> None:
    pytest.importorskip("xllamacpp", reason="the extra 'llamacpp' (package xllamacpp) is not installed")


def answer_asked(path: str, asked: Asked, pipe: Any) -> None:
    import httpx
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.warmup, params.fit_params = asked.get("positions", 512), 1, False, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    # Half precision by default, which transformers does not have.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.verbosity, params.cache_ram_mib, params.ui = 0, 0, False
    if "lora" in asked:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = str(asked["lora"]), 1.0
        params.lora_adapters = [adapter]
    server = xllamacpp.Server(params)
    client = httpx.Client(base_url=server.listening_address, timeout=300)

    def post(place: str, body: Any) -> Any:
        return client.post(place, content=json.dumps(body)).raise_for_status().json()

    # A token that is no whole character is left out of the probabilities, so this one is answered.
    settings = {
        "temperature": 0,
        "logit_bias": asked.get("bias", []),
        "return_tokens": True,
        "n_predict": asked.get("new", 1),
        "cache_prompt": False,
    }
    pipe.send(
        {
            "answers": [
                post("/completion", {"prompt": list(ids), "n_probs": asked.get("scores", 0), **settings})
                for ids in asked.get("prompts", ())
            ],
            "ids": [
                post("/tokenize", {"content": text, "add_special": asked.get("add_special", False)})["tokens"]
                for text in asked.get("texts", ())
            ],
            "rendered": [post("/apply-template", {"messages": m})["prompt"] for m in asked.get("messages", ())],
        }
    )


def llama_cpp(path: Path, **asked: Any) -> dict[str, Any]:
    """What llama.cpp says to `prompts` (ids), `texts` (as ids), `messages` (as prompts)."""
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    process = context.Process(target=answer_asked, args=(str(path), asked, other), daemon=True)
    process.start()
    other.close()
    try:
        return own.recv()
    except EOFError:
        process.join()
        pytest.fail(f"llama.cpp ended with status {process.exitcode} over {path.name}")
    finally:
        process.kill()
        process.join()


def log_probabilities(
    path: Path, prompts: Sequence[Sequence[int]], vocabulary: int, answered: int, **more: Any
) -> list[dict[int, float]]:
    """Of the token after each prompt, by id: of every token of the vocabulary. `answered`: one that is a
    whole character. `more`: such as the file of an adapter, `lora`."""
    answers = llama_cpp(path, prompts=prompts, scores=vocabulary, bias=[[answered, 1000.0]], **more)["answers"]
    return [
        {found["id"]: found["logprob"] for found in answer["completion_probabilities"][0]["top_logprobs"]}
        for answer in answers
    ]
