"""cluster_plan.py: the table of ranks and the commands that start a cluster like this machine."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support.machine.trees import machine, xeon

from neuralchat import cli
from neuralchat.distributed import cluster_plan
from neuralchat.distributed.cluster_plan import LAUNCHERS, plan_hardware, plan_page, read_cluster
from neuralchat.distributed.hardware import Machine
from neuralchat.errors import ArgumentsError


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = dataclasses.replace(machine(tmp_path, xeon), hostname="node0")
    monkeypatch.setattr(cluster_plan, "read_machine", lambda: found)
    return found


def text(node: Machine, nodes: str, per_node: str, *launchers: str) -> str:
    return str(plan_page(node, read_cluster(nodes, per_node, node), launchers or LAUNCHERS))


def test_the_clusters_of_the_specification(node: Machine) -> None:
    """Four nodes of two sockets, two processes a socket."""
    found = text(node, "node0,node1,node2,node3", "4")
    assert found.startswith(
        "node0: 2 socket(s), 2 NUMA node(s), 8 physical core(s), 16 CPU(s)\n"
        "memory 256.0 GiB, 200.0 GiB available; instructions: amx_bf16\n\n"
        "local rank  threads  cores  NUMA node  memory if shared evenly\n"
        "0           2        0-1    0          64.0 GiB\n"
        "1           2        2-3    0          64.0 GiB\n"
        "2           2        4-5    1          64.0 GiB\n"
        "3           2        6-7    1          64.0 GiB\n"
    )
    assert "All nodes are assumed to be like this one" in found
    assert (
        "torchrun --nnodes=4 --node_rank=3 --master_addr=node0 --master_port=29500 --nproc_per_node=4 "
        "-m neuralchat.cli finetune CONFIG.yaml   # on node3" in found
    )
    assert "export MASTER_ADDR=node0\nmpirun -f hostfile -n 16 -ppn 4 python -m neuralchat.cli" in found
    assert "#SBATCH --nodes=4\n#SBATCH --nodelist=node0,node1,node2,node3\n#SBATCH --ntasks-per-node=4\n" in found
    assert "#SBATCH --cpus-per-task=4\n" in found
    assert "accumulation_steps x 16 examples" in found


def test_a_number_of_nodes_has_placeholders(node: Machine) -> None:
    found = text(node, "2", "auto", "slurm", "torchrun")
    assert "--master_addr=NODE0" in found
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=2\n" in found
    assert "mpirun" not in found


def test_one_machine_needs_no_launcher(node: Machine) -> None:
    found = text(node, "1", "auto")
    assert "neuralchat finetune CONFIG.yaml --num_processes 2\n" in found
    assert "torchrun --standalone --nproc_per_node=2" in found
    assert "hostfile" not in found
    assert "assumed" not in found


def test_limits_of_a_container_are_told(node: Machine) -> None:
    limited = dataclasses.replace(node, cpu_quota=2.5, memory_quota=2**31)
    found = text(limited, "1", "1")
    assert "16 CPU(s), 2.5 CPUs' worth of time\nmemory 2.0 GiB, limited by the container" in found
    assert "0           2        0-7    several" in found


@pytest.mark.parametrize(
    ("nodes", "per_node", "message"),
    [
        ("0", "auto", "--nodes is '0'; allowed are a number from 1 and names such as node0,node1"),
        ("-1", "auto", "--nodes is '-1'; allowed are"),
        ("a,,b", "auto", "--nodes is 'a,,b'; each host is to be named once"),
        ("a,a", "auto", "--nodes is 'a,a'; each host is to be named once"),
        ("2", "0", "--processes_per_node is '0'; allowed are auto and a number from 1"),
        ("2", "many", "--processes_per_node is 'many'; allowed are auto"),
    ],
)
def test_what_is_refused(node: Machine, nodes: str, per_node: str, message: str) -> None:
    with pytest.raises(ArgumentsError, match=message):
        read_cluster(nodes, per_node, node)


def test_the_verb(node: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--hardware", "--nodes", "2", "--processes_per_node", "1", "--launcher", "mpirun"]
    options: Any = cli.make_parser().parse_args(words)
    assert isinstance(options, argparse.Namespace)
    assert plan_hardware(options) == 0
    assert "mpirun -f hostfile -n 2 -ppn 1 " in capsys.readouterr().out


def test_launchers_are_those_of_the_parser() -> None:
    verbs = next(a for a in cli.make_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    choices = next(a.choices for a in verbs["plan"]._actions if a.dest == "launcher")
    assert tuple(choices) == LAUNCHERS
