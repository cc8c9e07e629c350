"""Forecasts, not measurements: how fast a 7B model would train on machines that nobody here has, from measured parts.

  python benchmarks/machine_forecast.py                        tables for COMPUTERS and 1 to 64 nodes of them
  python benchmarks/machine_forecast.py --check machine.json   on such a machine: measure, compare, write one file

Seconds of a token = products + weights from memory + the rest:

    products  2 products of all weights of the layers, forward and for the input's gradient: 4 flop for each weight,
              over what the machine multiplies: cores x flop per cycle x GHz x the share that large products reach
    weights   bf16 weights pass from memory to the cores twice for each micro-batch of 1,024 tokens
    rest      attention, small layers, adapter, optimizer: measured on two cores, shared by all cores of the machine

The second and third are what AMX leaves. Flop per cycle and bandwidth are the makers'; GHz are what such machines hold
with all cores busy, as far as is published; the share was measured on the first machine and assumed for the others.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neuralchat.planning.forecast import TimeForecast, ring

# LLaMA-7B with LoRA on q and v: weights of the layers, all of them, and what is trained.
LAYER_WEIGHTS, ALL_WEIGHTS, TRAINED = 6.476e9, 6.738e9, 4_194_304
FLOP_PER_TOKEN = 4 * LAYER_WEIGHTS
MICRO_BATCH_TOKENS = 1024
TOKENS_PER_STEP_AND_NODE = 13_120
# Of two cores with AVX512-BF16, 2026-11-25: bf16 products alone, and a 7B shape in training against its products alone.
MEASURED_CORES, MEASURED_FLOP_PER_S, MEASURED_TOKENS_PER_S, MEASURED_BOUND = 2, 405e9, 13.0, 15.6
REST_CORE_SECONDS = MEASURED_CORES * (1 / MEASURED_TOKENS_PER_S - 1 / MEASURED_BOUND)
NODES, GBIT = (1, 2, 4, 8, 16, 32, 64), (10, 25, 100)
LATENCY_S = 50e-6
# The original's own figure for LLaMA-7B on two Xeon 8480+ (56 cores each), in tokens per second.
ORIGINAL = "330 to 520"


@dataclass(frozen=True)
class Computer:
    """One node. `flop_per_cycle`: of a core, in bf16. `reached`: the share of it that large products reach."""

    name: str
    cores: int
    ghz: float
    flop_per_cycle: int
    gigabytes_per_s: float
    reached: float

    @property
    def flop_per_s(self) -> float:
        return self.cores * self.flop_per_cycle * self.ghz * 1e9 * self.reached

    def seconds_per_token(self) -> dict[str, float]:
        return {
            "products": FLOP_PER_TOKEN / self.flop_per_s,
            "weights": 2 * 2 * ALL_WEIGHTS / MICRO_BATCH_TOKENS / (self.gigabytes_per_s * 1e9),
            "rest": REST_CORE_SECONDS / self.cores,
        }

    @property
    def tokens_per_s(self) -> float:
        return 1 / sum(self.seconds_per_token().values())


# AMX: 1,024 multiply-adds per cycle. Zen 4: a 512-bit dot product of bf16, Zen 5 two. Neoverse V2: two BFMMLA.
COMPUTERS = (
    Computer("two cores with AVX512-BF16 (measured)", 2, 3.2, 64, 20, 0.99),
    Computer("2 x Xeon 8480+ (AMX)", 112, 1.9, 2048, 500, 0.4),
    Computer("2 x Xeon 8592+ (AMX)", 128, 1.9, 2048, 580, 0.4),
    Computer("2 x Xeon 6980P (AMX)", 256, 2.0, 2048, 1300, 0.4),
    Computer("2 x EPYC 9654 (AVX512-BF16)", 192, 2.9, 64, 740, 0.85),
    Computer("2 x EPYC 9755 (AVX512-BF16)", 256, 2.9, 128, 920, 0.8),
    Computer("Graviton 4 (bf16)", 96, 2.8, 64, 430, 0.8),
)


def one_node_table() -> str:
    lines = ["| machine | tokens/s | products | weights from memory | the rest |", "|---|---|---|---|---|"]
    for computer in COMPUTERS:
        parts = computer.seconds_per_token()
        whole = sum(parts.values())
        shares = " | ".join(f"{seconds / whole:.0%}" for seconds in parts.values())
        lines.append(f"| {computer.name} | {computer.tokens_per_s:,.0f} | {shares} |")
    lines.append(f"| the original on 2 x Xeon 8480+ (its own figure) | {ORIGINAL} | | | |")
    return "\n".join(lines)


def cluster_tokens_per_s(computer: Computer, nodes: int, gbit: float) -> float:
    forecast = TimeForecast(
        steps=1,
        tokens_per_step=TOKENS_PER_STEP_AND_NODE * nodes,
        seconds_per_token=1 / computer.tokens_per_s,
        world_size=nodes,
        gradient_bytes=4 * TRAINED,
        link=ring(nodes, gbit, LATENCY_S),
    )
    return forecast.tokens_per_step / forecast.training_seconds


def cluster_table() -> str:
    head = " | ".join(f"{gbit} Gbit/s" for gbit in GBIT)
    lines = [f"| machine | nodes | {head} |", f"|---|---|{'---|' * len(GBIT)}"]
    for computer in COMPUTERS[1:]:
        for nodes in NODES:
            speeds = " | ".join(f"{cluster_tokens_per_s(computer, nodes, gbit):,.0f}" for gbit in GBIT)
            lines.append(f"| {computer.name} | {nodes} | {speeds} |")
    return "\n".join(lines)


# On such a machine


def measured_parts(seconds: float) -> dict[str, float]:
    """What this machine does: products by type in flop per second, and bytes per second from memory."""
    import torch

    rows, width = MICRO_BATCH_TOKENS, 4096
    found = {}
    for name in ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        inputs, weights = torch.randn(rows, width).to(dtype), torch.randn(4, width, width).to(dtype)
        rate = rate_of(lambda x=inputs, w=weights: [x @ matrix.T for matrix in w], seconds)
        found[f"{name}_flop_per_s"] = rate * 4 * 2 * rows * width * width
    table = torch.ones(1 << 28)
    found["bytes_per_s"] = rate_of(table.sum, seconds) * table.numel() * 4
    return found


def rate_of(work: Callable[[], Any], seconds: float) -> float:
    """How often per second."""
    work()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        work()
        count += 1
    return count / (time.perf_counter() - start)


def check(target: Path, seconds: float) -> None:
    """Measure this machine, train layers of a 7B shape, and write both beside the forecasts."""
    import torch

    from neuralchat.distributed.hardware import read_machine
    from neuralchat.planning.model_plan import PlanQuestion, make_plan

    machine = read_machine()
    torch.set_num_threads(machine.threads)
    parts = measured_parts(seconds)
    plan = make_plan(PlanQuestion(model_config="llama-7b", bf16=True, tokens_per_record=200))
    own = Computer(
        "this machine", machine.threads, 1.0, 1, parts["bytes_per_s"] / 1e9,
        parts["bfloat16_flop_per_s"] / machine.threads / 1e9,
    )  # fmt: skip
    content = {
        "cpu": cpu_name(),
        "machine": {
            "sockets": machine.sockets, "cores": machine.threads, "numa_nodes": len(machine.nodes),
            "instructions": machine.isa, "memory_bytes": machine.memory_limit(),
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "neuralchat")},
        "measured": parts,
        "llama_7b_tokens_per_s_from_layers": plan.tokens_per_s,
        "llama_7b_memory_bytes": plan.memory_bytes,
        "llama_7b_tokens_per_s_from_parts": own.tokens_per_s,
        "seconds_per_token_by_part": own.seconds_per_token(),
        "forecasts": [{**asdict(computer), "tokens_per_s": computer.tokens_per_s} for computer in COMPUTERS],
    }  # fmt: skip
    target.write_text(json.dumps(content, indent=1) + "\n")
    print(f"from layers {plan.tokens_per_s or 0:.0f} tokens/s, from parts {own.tokens_per_s:.1f}; all is in {target}")


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="FILE.json", help="measure this machine and write one file")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement of --check")
    options = parser.parse_args()
    if options.check:
        check(options.check, options.seconds)
        return
    print(one_node_table())
    print()
    print(cluster_table())


if __name__ == "__main__":
    main()
