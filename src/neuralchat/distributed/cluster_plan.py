"""`neuralchat plan --hardware`: who computes where on this machine, and the commands that start a cluster like it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from neuralchat.console import gib, show_page
from neuralchat.console.tables import Page, Part, Table
from neuralchat.distributed.hardware import Machine, cpu_list, read_machine
from neuralchat.distributed.local_ranks import ranks_for
from neuralchat.distributed.threads import ThreadPlan, plan_threads
from neuralchat.errors import ArgumentsError

LAUNCHERS = ("torchrun", "mpirun", "slurm")
PORT = 29500
WORK = "-m neuralchat.cli finetune CONFIG.yaml"
# Time to save before SLURM ends the job.
SAVE_SECONDS = 120


@dataclass(frozen=True)
class Cluster:
    """`named`: the hosts are real names and not placeholders."""

    hosts: tuple[str, ...]
    named: bool
    per_node: int

    @property
    def ranks(self) -> int:
        return len(self.hosts) * self.per_node


def plan_hardware(options: argparse.Namespace) -> int:
    """The verb `plan`."""
    machine = read_machine()
    cluster = read_cluster(options.nodes, options.processes_per_node, machine)
    launchers = LAUNCHERS if options.launcher is None else (options.launcher,)
    show_page(plan_page(machine, cluster, launchers))
    return 0


def read_cluster(nodes: str, per_node: str, machine: Machine) -> Cluster:
    """Raises ArgumentsError with what is wrong with the two flags."""
    if per_node != "auto" and not is_count(per_node):
        raise ArgumentsError(f"--processes_per_node is '{per_node}'; allowed are auto and a number from 1")
    if nodes.lstrip("-").isdigit() and not is_count(nodes):
        raise ArgumentsError(f"--nodes is '{nodes}'; allowed are a number from 1 and names such as node0,node1")
    hosts = [f"NODE{i}" for i in range(int(nodes))] if is_count(nodes) else [name.strip() for name in nodes.split(",")]
    if not all(hosts) or len(set(hosts)) < len(hosts):
        raise ArgumentsError(f"--nodes is '{nodes}'; each host is to be named once, separated by commas")
    count = ranks_for(machine) if per_node == "auto" else int(per_node)
    return Cluster(tuple(hosts), not is_count(nodes), count)


def is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) >= 1


# The text


def plan_page(machine: Machine, cluster: Cluster, launchers: Sequence[str]) -> Page:
    plans = plans_of(machine, cluster.per_node)
    lines: list[Part] = [*machine_lines(machine), "", rank_table(machine, plans)]
    lines += [f"  {note}" for note in dict.fromkeys(plan.reason for plan in plans)]
    lines += ["", f"{cluster.ranks} process(es) on {len(cluster.hosts)} node(s). A step takes"]
    lines += [f"  per_device_train_batch_size x gradient_accumulation_steps x {cluster.ranks} examples or rows."]
    if len(cluster.hosts) > 1:
        lines += ["All nodes are assumed to be like this one, with the same files at the same paths."]
    if len(cluster.hosts) == 1 and cluster.per_node > 1:
        lines += ["", "# without a launcher", f"neuralchat finetune CONFIG.yaml --num_processes {cluster.per_node}"]
    commands = {"torchrun": torchrun_lines, "mpirun": mpirun_lines, "slurm": slurm_lines}
    for launcher in launchers:
        lines += ["", *commands[launcher](cluster, machine)]
    return Page(lines)


def plans_of(machine: Machine, per_node: int) -> list[ThreadPlan]:
    return [
        plan_threads(
            machine,
            local_rank=rank,
            local_size=per_node,
            environ={},
            launcher_omp=False,
            launcher_cpus=len(machine.cpus),
        )
        for rank in range(per_node)
    ]


def machine_lines(machine: Machine) -> list[str]:
    quota = f", {machine.cpu_quota:g} CPUs' worth of time" if machine.cpu_quota is not None else ""
    limited = ", limited by the container" if machine.memory_quota is not None else ""
    return [
        f"{machine.hostname}: {machine.sockets} socket(s), {len(machine.nodes)} NUMA node(s), "
        f"{len(machine.cores)} physical core(s), {len(machine.cpus)} CPU(s){quota}",
        f"memory {gib(machine.memory_limit())}{limited}, {gib(machine.available_memory)} available; "
        f"instructions: {machine.isa or 'no wide ones known'}",
    ]


def rank_table(machine: Machine, plans: Sequence[ThreadPlan]) -> Table:
    share = gib(machine.memory_limit() // len(plans))
    rows = [
        (str(rank), str(plan.threads), cpu_list(plan.cpus), node_of(plan), share) for rank, plan in enumerate(plans)
    ]
    return Table(("local rank", "threads", "cores", "NUMA node", "memory if shared evenly"), rows)


def node_of(plan: ThreadPlan) -> str:
    return "several" if plan.numa_node is None else str(plan.numa_node)


# The commands


def torchrun_lines(cluster: Cluster, machine: Machine) -> list[str]:  # noqa: ARG001
    lines = ["# torchrun" + (": one line on each node, at the same time" if len(cluster.hosts) > 1 else "")]
    for rank, host in enumerate(cluster.hosts):
        where = (
            f"--nnodes={len(cluster.hosts)} --node_rank={rank} --master_addr={cluster.hosts[0]} --master_port={PORT}"
            if len(cluster.hosts) > 1
            else "--standalone"
        )
        lines.append(f"torchrun {where} --nproc_per_node={cluster.per_node} {WORK}" + on(cluster, host))
    return lines


def on(cluster: Cluster, host: str) -> str:
    return f"   # on {host}" if len(cluster.hosts) > 1 else ""


def mpirun_lines(cluster: Cluster, machine: Machine) -> list[str]:  # noqa: ARG001
    places = f"-n {cluster.ranks} -ppn {cluster.per_node}"
    if len(cluster.hosts) == 1:
        return ["# mpirun (MPICH, Intel MPI)", f"mpirun {places} python {WORK}"]
    return [
        f"# mpirun (MPICH, Intel MPI): on {cluster.hosts[0]}, which needs ssh to the others without a password",
        f"printf '%s\\n' {' '.join(cluster.hosts)} > hostfile",
        f"export MASTER_ADDR={cluster.hosts[0]}",
        f"mpirun -f hostfile {places} python {WORK}",
    ]


def slurm_lines(cluster: Cluster, machine: Machine) -> list[str]:
    cpus = max(1, len(machine.cpus) // cluster.per_node)
    return [
        "# SLURM: save as job.sh, then: sbatch job.sh",
        "#!/bin/bash",
        f"#SBATCH --nodes={len(cluster.hosts)}",
        *([f"#SBATCH --nodelist={','.join(cluster.hosts)}"] if cluster.named else []),
        f"#SBATCH --ntasks-per-node={cluster.per_node}",
        f"#SBATCH --cpus-per-task={cpus}",
        "#SBATCH --exclusive",
        f"#SBATCH --signal=TERM@{SAVE_SECONDS}",
        f"srun --cpus-per-task={cpus} python {WORK} resume_from_checkpoint=auto",
    ]
