"""All ranks find each other before anything expensive is done, or are told which of them are missing."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from neuralchat.config.config import FinetuneConfig
from neuralchat.console import inform, note, report
from neuralchat.distributed.backends import choose_backend
from neuralchat.distributed.collectives import ToldElsewhereError, all_gather_object
from neuralchat.distributed.hardware import read_machine
from neuralchat.distributed.heartbeat import PeerWatch, connect_store
from neuralchat.distributed.launchers import World, gloo_interface
from neuralchat.distributed.threads import apply, plan_threads, thread_line
from neuralchat.errors import DistributedError, NeuralChatError

POLL_SECONDS = 0.1


@contextmanager
def joined(world: World, arguments: FinetuneConfig) -> Iterator[None]:
    """Cores planned and, where there are several ranks, a process group and a watch over it.

    Raises DistributedError where ranks are missing or are lost on the way.
    """
    backend, notice = choose_backend(
        arguments.training.ddp_backend, strict=arguments.distributed.strict_backend, gpu=uses_gpu(arguments)
    )
    line = plan_cores(world, arguments)
    if world.size == 1:
        inform(line)
        yield
        return
    if notice:
        note(notice)
    store, watch = meet(world, arguments, backend)
    for text in all_gather_object(line):
        inform(text)
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        error = lost_contact(watch, caught) if isinstance(caught, RuntimeError) else caught
        if isinstance(error, NeuralChatError):
            # At once: when one rank has ended, a launcher may end this one before it gets any further.
            error.joined = True
            report(error)
            error.told = True
        if error is caught:
            raise
        raise error from caught
    finally:
        part(world, store, watch, error)


def uses_gpu(arguments: FinetuneConfig) -> bool:
    return torch.cuda.is_available() and not arguments.training.use_cpu


def plan_cores(world: World, arguments: FinetuneConfig) -> str:
    """Give this process its cores and threads; the line that tells so."""
    machine = read_machine()
    plan = plan_threads(machine, local_rank=world.local_rank, local_size=world.local_size, environ=os.environ)
    apply(plan, bind=arguments.distributed.bind_cores and not uses_gpu(arguments))
    # Libraries would set a number of their own where this is not set.
    os.environ["OMP_NUM_THREADS"] = str(plan.threads)
    line = thread_line(plan, rank=world.rank if world.size > 1 else None, machine=machine)
    return f"{line}; {plan.reason}" if plan.reason else line


def meet(world: World, arguments: FinetuneConfig, backend: str) -> tuple[Any, PeerWatch]:
    """(store, running watch); the process group is there after it."""
    timeout = arguments.distributed.preflight_timeout
    if not os.environ.get("GLOO_SOCKET_IFNAME") and (interface := gloo_interface(world.master_addr)):
        # gloo would take the interface of the host's own name, which is often the loopback one.
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    if uses_gpu(arguments):
        torch.cuda.set_device(world.local_rank)
    # torch's agent serves the store where it has started the ranks.
    serves = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    root = open_store(world, serves=serves, timeout=timeout)
    attempt = f"neuralchat/{world.restart_count}"
    store = dist.PrefixStore(attempt, root)
    hosts = roll_call(store, world, timeout)

    def connect() -> Any:
        own = connect_store(
            world.master_addr, world.master_port, serve=False, timeout=arguments.distributed.peer_timeout
        )
        return dist.PrefixStore(attempt, own)

    store.set(f"alive/{world.rank}", "0")
    try:
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(f"{attempt}/group", root),
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=arguments.training.ddp_timeout),
        )
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"the ranks have met at {world.master_addr}:{world.master_port} but cannot connect to each other over "
            f"{backend}: {str(error).splitlines()[0]}\nLook at firewalls between {', '.join(sorted(set(hosts)))}, and "
            "name the network with GLOO_SOCKET_IFNAME."
        ) from error
    watch = PeerWatch(connect, rank=world.rank, hosts=hosts, timeout=arguments.distributed.peer_timeout)
    watch.start()
    return store, watch


def open_store(world: World, *, serves: bool, timeout: float) -> Any:
    place = f"{world.master_addr}:{world.master_port}"
    try:
        return connect_store(world.master_addr, world.master_port, serve=serves, timeout=timeout)
    except (RuntimeError, ValueError, TimeoutError) as error:
        if serves:
            raise DistributedError(
                f"rank 0 cannot listen on {place}: {str(error).splitlines()[0]}\nExport another MASTER_PORT, or the "
                "MASTER_ADDR of this machine, on all ranks."
            ) from error
        raise DistributedError(
            f"rank {world.rank} on {socket.gethostname()} cannot reach rank 0 at {place} within {timeout:.0f} s "
            "(--preflight_timeout). Is rank 0 started there, MASTER_ADDR right, and the port open?"
        ) from error


def roll_call(store: Any, world: World, timeout: float) -> list[str]:
    """The host of every rank. Raises DistributedError naming the ranks that do not answer in time."""
    store.set(f"here/{world.rank}", socket.gethostname())
    deadline = time.monotonic() + timeout
    missing = list(range(world.size))
    while missing:
        missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
        if missing and (time.monotonic() > deadline or store.check(["given up"])):
            break
        time.sleep(POLL_SECONDS if missing else 0)
    if not missing:
        return [
            name.decode(errors="replace") for name in store.multi_get([f"here/{rank}" for rank in range(world.size)])
        ]
    message = (
        f"{len(missing)} of {world.size} ranks did not come within {timeout:.0f} s (--preflight_timeout): rank "
        f"{', '.join(map(str, missing))}. Here are: {here(store, world, missing)}. Look at the output of the missing "
        "ones, and whether they are started with the same MASTER_ADDR, MASTER_PORT and number of processes."
    )
    first = min(rank for rank in range(world.size) if rank not in missing)
    if world.rank == first:
        store.set("given up", "")
        # The others look once more before rank 0 takes the store with it.
        time.sleep(10 * POLL_SECONDS)
        raise DistributedError(message)
    raise ToldElsewhereError(message, DistributedError.exit_status)


def here(store: Any, world: World, missing: list[int]) -> str:
    present = [rank for rank in range(world.size) if rank not in missing]
    return ", ".join(f"rank {rank} on {store.get(f'here/{rank}').decode(errors='replace')}" for rank in present)


def lost_contact(watch: PeerWatch, error: RuntimeError) -> BaseException:
    """What a failed collective means: which ranks are gone. Other errors stay what they are."""
    text = str(error)
    if not any(word in text.lower() for word in ("connection", "gloo", "timed out", "nccl", "socket", "peer")):
        return error
    lost = watch.lost_ranks()
    names = [f"rank {rank} on {watch.hosts[rank]}{' has ended: ' + end if end else ''}" for rank, end in lost.items()]
    return DistributedError(
        f"contact is lost: {', '.join(names) or 'a rank that still gives signs of life'} "
        f"({text.splitlines()[0][:160]}). Go on from the last checkpoint with the same launch and "
        "--resume_from_checkpoint auto."
    )


def part(world: World, store: Any, watch: PeerWatch, error: BaseException | None) -> None:
    """Leave so that nobody waits for this rank; rank 0, which has the store, last."""
    watch.leave(store, error)
    if error is None:
        dist.barrier()
        dist.destroy_process_group()
    elif world.rank == 0:
        # The others read in the store why they end.
        time.sleep(2 * watch.beat)
