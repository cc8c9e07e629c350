"""Tokens per second of the engine at one and eight clients: `python benchmarks/serving.py MODEL [--adapters N]`.

The engine alone, without HTTP: each client asks, reads its answer to the end, and asks again. Greedy, 64 tokens. The
instruction set of the machine is printed beside, since figures of two machines cannot be compared without.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from neuralchat.inference.engine.building import EngineSettings, engine_around
from neuralchat.inference.engine.interface import Ended, Engine, Request, Token, tokens_of
from neuralchat.inference.loading import load
from neuralchat.inference.origin import origin_of
from neuralchat.inference.sampling import Sampling

TOKENS = 64


def prompts(vocabulary: int, count: int, length: int) -> list[tuple[int, ...]]:
    numbers = torch.randint(vocabulary, (count, length), generator=torch.Generator().manual_seed(1))
    return [tuple(row) for row in numbers.tolist()]


def answer(engine: Engine, prompt: tuple[int, ...], model: str) -> tuple[int, float]:
    """(tokens, seconds until the first)."""
    begun, first, count = time.perf_counter(), 0.0, 0
    for event in tokens_of(engine, Request(prompt_ids=prompt, model=model, sampling=Sampling(max_new_tokens=TOKENS))):
        if isinstance(event, Ended):
            assert not event.error, event.error
        elif isinstance(event, Token):
            first = first or time.perf_counter() - begun
            count += 1
    return count, first


def measured(engine: Engine, models: list[str], clients: int, seconds: float, length: int) -> dict[str, Any]:
    asked = prompts(1000, clients * 64, length)
    until = time.perf_counter() + seconds
    counts: list[tuple[int, float]] = []

    def client(number: int) -> None:
        turn = number
        while time.perf_counter() < until:
            counts.append(answer(engine, asked[turn % len(asked)], models[number % len(models)]))
            turn += clients

    begun = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    first = sorted(first for _, first in counts)
    return {
        "clients": clients,
        "models": len(models),
        "tokens_per_second": round(sum(count for count, _ in counts) / took, 1),
        "first_token_ms": round(1000 * first[len(first) // 2]),
    }


def with_adapters(model: Any, count: int) -> Any:
    """`model` with so many adapters of plain LoRA in directories of their own."""
    from peft import LoraConfig, get_peft_model

    directory = Path(tempfile.mkdtemp())
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    for number in range(count):
        adapted = get_peft_model(model, config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.01 * torch.randn_like(parameter)
        adapted.save_pretrained(directory / str(number))
        model = adapted.unload()
    return model, [str(directory / str(number)) for number in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--adapters", type=int, default=0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--prompt_tokens", type=int, default=32)
    parser.add_argument("--no_native", action="store_true", help="single tokens by the model's own layers as well")
    options = parser.parse_args()
    model, _, _ = load(origin_of(options.model), template=None, trust_remote_code=False)
    directories: list[str] = []
    if options.adapters:
        model, directories = with_adapters(model, options.adapters)
    settings = EngineSettings(memory_tokens=16384, native=not options.no_native)
    engine = engine_around(model, "base", None if not hasattr(model, "peft_config") else "tuned", settings)
    for number, directory in enumerate(directories):
        engine.add_adapter(f"adapter{number}", directory)
    names = list(engine.models()[1:]) or ["base"]
    answer(engine, prompts(1000, 1, 8)[0], names[0])
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name} " in flags]
    machine = {"units": units, "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    for clients in options.clients:
        print(json.dumps({**measured(engine, names, clients, options.seconds, options.prompt_tokens), **machine}))
    engine.close(drain=False)


if __name__ == "__main__":
    main()
