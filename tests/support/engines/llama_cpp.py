"""llama.cpp itself, by the xllamacpp wheel, in a process of its own: what it aborts at does not end the tests."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# {"prompts": [[id, ...], ...], "texts": [...], "new": N, "lora": file}
Asked = dict[str, Any]


def needs_llama_cpp() -> None:
    pytest.importorskip("xllamacpp", reason="the extra 'llamacpp' (package xllamacpp) is not installed")


class LlamaCpp:
    """A server of llama.cpp in this process, and a client of it."""

    def __init__(self, path: str, asked: Asked) -> None:
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
        self.server = xllamacpp.Server(params)
        self.client = httpx.Client(base_url=self.server.listening_address, timeout=300)

    def post(self, place: str, body: Any) -> Any:
        return self.client.post(place, content=json.dumps(body)).raise_for_status().json()

    def ids(self, text: str, *, add_special: bool) -> list[int]:
        return self.post("/tokenize", {"content": text, "add_special": add_special})["tokens"]

    def rendered(self, messages: Any) -> str:
        return self.post("/apply-template", {"messages": messages})["prompt"]


def answer_asked(path: str, asked: Asked, pipe: Any) -> None:
    server = LlamaCpp(path, asked)
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
                server.post("/completion", {"prompt": list(ids), "n_probs": asked.get("scores", 0), **settings})
                for ids in asked.get("prompts", ())
            ],
            "ids": [server.ids(text, add_special=asked.get("add_special", False)) for text in asked.get("texts", ())],
            "rendered": [server.rendered(messages) for messages in asked.get("messages", ())],
        }
    )


def make_prompts(paths: Sequence[str], conversations: Sequence[Any], pipe: Any) -> None:
    """For each file, by the template in it: the ids of each conversation, or what was said instead."""
    import httpx

    for path in paths:
        found: list[Any] = []
        try:
            server = LlamaCpp(path, {})
            for messages in conversations:
                try:
                    found.append(server.ids(server.rendered(messages), add_special=True))
                except httpx.HTTPStatusError as error:
                    found.append(error.response.text)
        except RuntimeError as error:
            found = [str(error)] * len(conversations)
        pipe.send(found)


@contextmanager
def apart(work: Callable[..., None], *words: Any) -> Iterator[tuple[Any, Any]]:
    """(the end of a pipe, the process that does the work with the other end)."""
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    process = context.Process(target=work, args=(*words, other), daemon=True)
    process.start()
    other.close()
    try:
        yield own, process
    finally:
        process.kill()
        process.join()


def llama_cpp(path: Path, **asked: Any) -> dict[str, Any]:
    """What llama.cpp says to `prompts` (ids), `texts` (as ids), `messages` (as prompts)."""
    with apart(answer_asked, str(path), asked) as (pipe, process):
        try:
            return pipe.recv()
        except EOFError:
            process.join()
            pytest.fail(f"llama.cpp ended with status {process.exitcode} over {path.name}")


def prompts_by_llama_cpp(paths: Sequence[Path], conversations: Sequence[Any]) -> dict[Path, list[Any]]:
    """By the file, for each conversation (messages) its ids by the file's own template, as its chat would be given
    them, or a text that says why there are none. All in one process, and on in another where a file ends it.
    """
    found: dict[Path, list[Any]] = {}
    while left := [path for path in paths if path not in found]:
        with apart(make_prompts, [str(path) for path in left], conversations) as (pipe, process):
            for path in left:
                try:
                    found[path] = pipe.recv()
                except EOFError:
                    process.join()
                    found[path] = [f"llama.cpp ended with status {process.exitcode}"] * len(conversations)
                    break
    return found


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
