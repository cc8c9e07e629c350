"""Tokens per second of the torch engine alone, without HTTP: `python benchmarks/engine.py MODEL [--adapters 1 8]`.

Each client asks, reads its answer to the end, and asks again: random prompts, greedy, 64 tokens. With --adapters, the
clients' models are the first so many of random LoRA adapters, measured in turns; how many of the answers are those
that are given alone is told. The instruction set of the machine is printed beside: figures of two machines cannot be
compared without.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Sequence
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


def answer(engine: Engine, prompt: tuple[int, ...], model: str) -> tuple[list[int], float]:
    """(ids, seconds until the first)."""
    begun, first, ids = time.perf_counter(), 0.0, []
    for event in tokens_of(engine, Request(prompt_ids=prompt, model=model, sampling=Sampling(max_new_tokens=TOKENS))):
        if isinstance(event, Ended):
            assert not event.error, event.error
        elif isinstance(event, Token):
            first = first or time.perf_counter() - begun
            ids.append(event.id)
    return ids, first


def measured(engine: Engine, models: Sequence[str], asked: Sequence[tuple[int, ...]], clients: int) -> dict[str, Any]:
    """`asked`: prompts, which the clients share among themselves in turns."""
    found: dict[int, tuple[list[int], float]] = {}

    def client(number: int) -> None:
        for turn in range(number, len(asked), clients):
            found[turn] = answer(engine, asked[turn], models[number % len(models)])

    begun = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    first = sorted(first for _, first in found.values())
    alone = [answer(engine, asked[i], models[i % len(models)])[0] == found[i][0] for i in range(min(8, len(asked)))]
    return {
        "clients": clients,
        "models": len(models),
        "tokens_per_second": round(sum(len(ids) for ids, _ in found.values()) / took, 1),
        "first_token_ms": round(1000 * first[len(first) // 2]),
        "as_alone": f"{sum(alone)} of {len(alone)}",
    }


def with_adapters(model: Any, count: int) -> tuple[Any, list[str]]:
    """`model`, and directories of so many adapters of plain LoRA."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--adapters", type=int, nargs="+", default=[])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--answers", type=int, default=4, help="of each client")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--prompt_tokens", type=int, default=32)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--no_native", action="store_true", help="by the model's own layers")
    options = parser.parse_args()
    model, _, _ = load(origin_of(options.model), template=None, trust_remote_code=False)
    if options.bf16:
        model = model.to(torch.bfloat16)
    directories: list[str] = []
    if options.adapters:
        model, directories = with_adapters(model, max(options.adapters))
    settings = EngineSettings(memory_tokens=16384, native=not options.no_native)
    engine = engine_around(model, "base", None if not hasattr(model, "peft_config") else "tuned", settings)
    for number, directory in enumerate(directories):
        engine.add_adapter(f"adapter{number}", directory)
    names = [f"adapter{number}" for number in range(len(directories))] or list(engine.models()[-1:])
    answer(engine, prompts(1000, 1, 8)[0], names[0])
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name} " in flags]
    done = 0
    for clients, count in [(a, b) for a in options.clients for b in options.adapters or [1]] * options.rounds:
        # New ones each time, since an engine knows what it has seen.
        asked = prompts(1000, done + clients * options.answers, options.prompt_tokens)[done:]
        done += len(asked)
        machine = {"units": units, "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1)}
        print(json.dumps({**measured(engine, names[:count], asked, clients), **machine}), flush=True)
    engine.close(drain=False)


if __name__ == "__main__":
    main()
