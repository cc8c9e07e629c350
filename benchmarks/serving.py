"""Tokens per second over HTTP, of this project's engines and of others, asked the same in turns.

python benchmarks/serving.py smollm2-135m-instruct --systems torch transformers --clients 1
python benchmarks/serving.py smollm2-135m-instruct --systems torch llama.cpp-f16 --clients 1 8

Greedy answers of 64 tokens to short questions that nobody has asked before, the same for all systems of a round; how
many are equal to those of the first system is told. Servers that are not asked are stopped meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from servers import Server, ours, served

from neuralchat.inference.engine.llama.exported import exported_model
from neuralchat.inference.origin import origin_of
from neuralchat.inference.voice import Voice
from neuralchat.models.loading.base_model import resolve

TOKENS = 64
TOPICS = (
    "the history of bread", "how rivers form", "why leaves are green", "a walk in the rain", "how clocks work",
    "the life of bees", "building a small boat", "the sound of thunder", "old maps", "growing tomatoes",
    "how bridges stand", "the colour of the sea", "a day in a library", "learning to swim", "the weight of clouds",
)  # fmt: skip
FORMS = ("Write a long text about {}.", "Explain {} to a child in many words.", "Tell me ten facts about {}.")


def llama(model: str, kind: str, directory: Path) -> list[str]:
    """llama.cpp's server with the weights of a model as numbers of this type."""
    target = directory / kind
    if not target.exists():
        words = [sys.executable, "-m", "neuralchat.cli", "export", model, "--gguf", kind, "--output", str(target)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    (file,) = target.glob("*.gguf")
    return [sys.executable, str(Path(__file__).parent / "servers.py"), str(file), "{port}"]


def llama_of_engine(model: str) -> list[str]:
    """With the very file of our engine: where the pages of a file lie makes up to a tenth of the speed."""
    origin = origin_of(model)
    file = exported_model(origin, Voice.of(origin)).file
    return [sys.executable, str(Path(__file__).parent / "servers.py"), str(file), "{port}", "--as_ours"]


def transformers(model: str, *flags: str) -> list[str]:
    words = ["serve", resolve(model), "--port", "{port}", "--host", "127.0.0.1"]
    return [str(Path(sys.executable).parent / "transformers"), *words, "--dtype", "float32", "--device", "cpu", *flags]


BATCHING = ("--continuous-batching", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "1024")
# (model, a directory for files) -> the command.
SYSTEMS: dict[str, Callable[[str, Path], list[str]]] = {
    "torch": lambda model, _: ours(model, "--engine", "torch"),
    "llamacpp": lambda model, _: ours(model, "--engine", "llamacpp"),
    "llama.cpp": lambda model, _: llama_of_engine(model),
    "llama.cpp-f16": lambda model, directory: llama(model, "f16", directory),
    "transformers": lambda model, _: transformers(model),
    "transformers-batching": lambda model, _: transformers(model, *BATCHING),
}


def questions(count: int, first: int) -> list[str]:
    found = []
    for number in range(first, first + count):
        form, topic = FORMS[number % len(FORMS)], TOPICS[number // len(FORMS) % len(TOPICS)]
        found.append(f"{number}. " + form.format(topic))
    return found


def answered(server: Server, question: str) -> tuple[str, int]:
    """(the answer, its tokens)"""
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": TOKENS, "temperature": 0}
    found = server.client.post("/v1/chat/completions", json=body).raise_for_status().json()
    return found["choices"][0]["message"]["content"], found["usage"]["completion_tokens"]


def asked(server: Server, asking: Sequence[str], clients: int) -> tuple[list[str], float]:
    """(answers, tokens per second): each client has as many of the questions."""
    found: dict[int, tuple[str, int]] = {}

    def client(number: int) -> None:
        for turn in range(number, len(asking), clients):
            found[turn] = answered(server, asking[turn])

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    with server.running():
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - begun
    return [found[turn][0] for turn in range(len(asking))], sum(tokens for _, tokens in found.values()) / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=["torch"])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--answers", type=int, default=3, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--flags", nargs="*", default=[], help="for neuralchat serve")
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers: dict[str, Server] = {}
        for name in options.systems:
            command = SYSTEMS[name](options.model, directory)
            own = options.flags if name in ("torch", "llamacpp") else []
            servers[name] = stack.enter_context(served([*command, *own]))
            with servers[name].running():
                pass
        rates: dict[tuple[str, int], list[float]] = {}
        done = 0
        for clients in options.clients * options.rounds:
            asking = questions(clients * options.answers, done)
            done += len(asking)
            texts: dict[str, list[str]] = {}
            for name, server in servers.items():
                texts[name], rate = asked(server, asking, clients)
                rates.setdefault((name, clients), []).append(rate)
                told = told_of(texts, name, rates, options.systems[0], clients)
                print(json.dumps(told | {"load": round(os.getloadavg()[0], 1)}), flush=True)


def told_of(
    texts: dict[str, list[str]], name: str, rates: dict[tuple[str, int], list[float]], first: str, clients: int
) -> dict[str, Any]:
    equal = sum(one == other for one, other in zip(texts[name], texts[first], strict=True))
    return {
        "system": name,
        "clients": clients,
        "tokens_per_second": round(rates[name, clients][-1], 1),
        f"of_it_{first}_has": round(rates[first, clients][-1] / rates[name, clients][-1], 2),
        "equal_answers": f"{equal} of {len(texts[name])}",
    }


if __name__ == "__main__":
    main()
