"""Before weights are loaded: every rank says what it has, a difference stops all, and the link is measured."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from neuralchat.console import gib, inform
from neuralchat.console.tables import Page, Table
from neuralchat.distributed.collectives import all_gather_object, is_distributed, raise_together
from neuralchat.distributed.hardware import Machine
from neuralchat.errors import DistributedError
from neuralchat.runs.directory import nearest_existing

# What has to be the same on every rank.
SAME = ("python", "torch", "transformers", "peft", "neuralchat", "model", "data", "template", "arguments", "kernels")
LATENCY_ROUNDS = 20
LINK_BYTES = 4 << 20
LINK_ROUNDS = 3
SHOWN = 16


@dataclass(frozen=True)
class Link:
    """What an all-reduce costs: `latency_s` for next to nothing, `bytes_per_s` of payload for a lot."""

    latency_s: float
    bytes_per_s: float

    def seconds(self, payload_bytes: int) -> float:
        return self.latency_s + payload_bytes / self.bytes_per_s


def facts_of_rank(
    identity: Mapping[str, Any], every_value: Mapping[str, Any], output: Path, machine: Machine
) -> dict[str, str]:
    """What this rank has, as text. Free disk is that of the output directory's file system."""
    own = {name: value for name, value in every_value.items() if name != "local_rank"}
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "neuralchat")},
        "model": str(identity["base_model"])[:12],
        "data": str(identity["data"])[:12],
        "template": str(identity["template"])[:12],
        "arguments": hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:12],
        "memory": gib(machine.available_memory),
        "disk": gib(shutil.disk_usage(nearest_existing(output)).free),
    }


def preflight(facts: dict[str, str]) -> Link | None:
    """The link between the ranks, None for a single one. Raises DistributedError where ranks differ."""
    if not is_distributed():
        return None
    every = all_gather_object(facts)
    problem = differing(every)
    raise_together(DistributedError(problem) if problem and dist.get_rank() == 0 else None)
    link = measure_link()
    hosts = Counter(found["host"] for found in every)
    inform(
        f"preflight: {len(every)} ranks on {', '.join(f'{host} ({n})' for host, n in hosts.items())} agree; memory "
        f"free {every[0]['memory']}, disk free {every[0]['disk']}; link: {link.latency_s * 1e3:.2f} ms, "
        f"{link.bytes_per_s * 8 / 1e9:.2f} Gbit/s"
    )
    return link


def differing(every: Sequence[Mapping[str, str]]) -> Page | None:
    """A table of what is not the same on all ranks, the odd ones marked; None if all agree."""
    names = [name for name in SAME if len({found.get(name) for found in every}) > 1]
    if not names:
        return None
    usual = {name: Counter(found.get(name) for found in every).most_common(1)[0][0] for name in names}
    odd = [rank for rank, found in enumerate(every) if any(found.get(name) != usual[name] for name in names)]
    shown = sorted({*odd[:SHOWN], *[rank for rank in range(len(every)) if rank not in odd][:2]})
    rows = [
        [
            "->" if rank in odd else "",
            str(rank),
            every[rank].get("host", "?"),
            *(str(every[rank].get(name)) for name in names),
        ]
        for rank in shown
    ]
    marked = [number for number, rank in enumerate(shown) if rank in odd]
    return Page(
        [
            f"the ranks do not agree on {', '.join(names)}:",
            Table(["", "rank", "host", *names], rows, marked=marked, indent="  "),
            "Give every machine the same software, model, records and command.",
        ]
    )


def measure_link(device: torch.device | None = None) -> Link:
    device = device or torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    small, large = torch.zeros(1, device=device), torch.zeros(LINK_BYTES // 4, device=device)
    dist.all_reduce(large)
    latency = timed(small, LATENCY_ROUNDS)
    return Link(latency, LINK_BYTES / max(timed(large, LINK_ROUNDS) - latency, 1e-9))


def timed(tensor: torch.Tensor, rounds: int) -> float:
    """Seconds of an all-reduce, the mean over ranks."""
    dist.barrier()
    start = time.perf_counter()
    for _ in range(rounds):
        dist.all_reduce(tensor)
    seconds = torch.tensor((time.perf_counter() - start) / rounds, device=tensor.device)
    dist.all_reduce(seconds)
    return float(seconds) / dist.get_world_size()
