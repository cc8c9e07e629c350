"""launch_environment.py: what each launcher sets, in one form; half-set launches are told at once."""

from __future__ import annotations

import os
import socket
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

from neuralchat.distributed import launchers as launch_environment
from neuralchat.distributed.launchers import (
    World,
    default_route_interface,
    expand_nodelist,
    export_world,
    gloo_interface,
    launcher_process,
    read_world,
)
from neuralchat.errors import DistributedError

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node0",
    "MASTER_PORT": "29501", "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2", "PMI_FD": "9"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "PMIX_NAMESPACE": "prterun-node0-1234@1",
}  # fmt: skip
SLURM = {
    "SLURM_PROCID": "6", "SLURM_LOCALID": "0", "SLURM_NODEID": "3", "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_STEP_NODELIST": "node[08-10],gpu3", "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0", "SLURM_NTASKS": "7",
}  # fmt: skip


def numbers(world: World) -> tuple[int, int, int, int, str]:
    return world.rank, world.size, world.local_rank, world.local_size, world.launcher


def test_no_launcher() -> None:
    assert read_world({}) == World(0, 0, 1, 1, "none", "127.0.0.1", 29500, 0)


def test_torchrun() -> None:
    assert read_world(TORCHRUN) == World(3, 1, 4, 2, "torchrun", "node0", 29501, 2)


def test_mpich_on_one_machine_needs_no_address() -> None:
    world = read_world(MPICH)
    assert numbers(world) == (1, 2, 1, 2, "mpich")
    assert world.master_addr == "127.0.0.1"
    assert 20000 <= world.master_port < 30000


def test_open_mpi_ranks_agree_on_a_port_and_jobs_do_not() -> None:
    world = read_world(OPEN_MPI)
    assert numbers(world) == (5, 8, 1, 4, "openmpi")
    assert world.master_addr == "10.0.0.1"
    other_rank = {**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}
    assert read_world(other_rank).master_port == world.master_port
    other_job = {**OPEN_MPI, "PMIX_NAMESPACE": "prterun-node0-1235@1"}
    assert read_world(other_job).master_port != world.master_port


def test_slurm() -> None:
    world = read_world({**SLURM, "SLURM_RESTART_COUNT": "1"})
    assert numbers(world) == (6, 7, 0, 1, "slurm")
    assert (world.master_addr, world.restart_count) == ("node08", 1)
    first = {**SLURM, "SLURM_PROCID": "1", "SLURM_NODEID": "0", "SLURM_LOCALID": "1"}
    assert numbers(read_world(first)) == (1, 7, 1, 2, "slurm")
    assert read_world(first).master_port == world.master_port
    assert read_world({**SLURM, "SLURM_STEP_ID": "1"}).master_port != world.master_port


def test_the_node_list_of_the_job_is_taken_where_the_step_has_none() -> None:
    environ = {k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}
    assert read_world({**environ, "SLURM_JOB_NODELIST": "a,b,c,d"}).master_addr == "a"


def test_a_script_of_sbatch_is_one_process() -> None:
    batch = {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "8"}
    assert numbers(read_world(batch)) == (0, 1, 0, 1, "none")


def test_mpi_wins_over_slurm_and_torchrun_over_both() -> None:
    assert read_world({**SLURM, **OPEN_MPI}).launcher == "openmpi"
    assert read_world({**SLURM, **MPICH}).launcher == "mpich"
    assert read_world({**SLURM, **MPICH, **TORCHRUN}).launcher == "torchrun"


def test_pmi_of_srun_has_no_local_rank_so_slurm_is_asked() -> None:
    assert read_world({**SLURM, "PMI_RANK": "6", "PMI_SIZE": "7"}).launcher == "slurm"


@pytest.mark.parametrize("environ", [MPICH, OPEN_MPI, SLURM, TORCHRUN])
def test_what_is_exported_is_read_again_as_it_was(environ: dict[str, str]) -> None:
    world = read_world(environ)
    exported = dict(environ)
    export_world(world, exported)
    assert read_world(exported) == world
    assert {name: exported[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")} == {
        "RANK": str(world.rank), "LOCAL_RANK": str(world.local_rank), "WORLD_SIZE": str(world.size),
        "LOCAL_WORLD_SIZE": str(world.local_size),
    }  # fmt: skip
    assert exported["MASTER_ADDR"] == world.master_addr
    assert exported["MASTER_PORT"] == str(world.master_port)


def test_nothing_is_exported_for_one_process() -> None:
    environ: dict[str, str] = {}
    export_world(
        read_world({"PMI_RANK": "0", "PMI_SIZE": "1", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"}), environ
    )
    assert environ == {}


def test_what_the_user_exported_holds() -> None:
    world = read_world({**MPICH, "MASTER_ADDR": "node7", "MASTER_PORT": "1234"})
    assert (world.master_addr, world.master_port) == ("node7", 1234)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"RANK": "0"}, ["WORLD_SIZE is not set", "LOCAL_RANK is not set", "LOCAL_WORLD_SIZE is not set", "RANK=0"]),
        ({"WORLD_SIZE": "2"}, ["RANK is not set", "WORLD_SIZE=2"]),
        ({**TORCHRUN, "RANK": "4"}, ["RANK is 4, but WORLD_SIZE is 4; ranks count from 0"]),
        ({**TORCHRUN, "LOCAL_RANK": "2"}, ["LOCAL_RANK is 2, but LOCAL_WORLD_SIZE gives 2"]),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "9"}, ["gives 9 on this machine, but WORLD_SIZE is only 4"]),
        ({**TORCHRUN, "RANK": "0"}, ["LOCAL_RANK is 1, but RANK is only 0"]),
        (
            {**TORCHRUN, "RANK": "x", "WORLD_SIZE": "-1", "MASTER_PORT": "70000"},
            ["RANK is 'x'; it must be a whole number", "WORLD_SIZE is '-1'", "MASTER_PORT is '70000'"],
        ),
        ({**MPICH, "PMI_RANK": "2"}, ["PMI_RANK is 2, but PMI_SIZE is 2", "mpich"]),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, ["MPI_LOCALRANKID is not set", "MPI_LOCALNRANKS is not set"]),
        ({**MPICH, "WORLD_SIZE": "3"}, ["PMI_SIZE is 2, but WORLD_SIZE is 3"]),
        (
            {**MPICH, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
            ["WORLD_SIZE is 1, but PMI_SIZE is 2"],
        ),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2(y3)"}, ["SLURM_STEP_TASKS_PER_NODE is '2(y3)'; expected numbers"]),
        ({**SLURM, "SLURM_NODEID": "4"}, ["SLURM_NODEID is '4', but there are 4 nodes"]),
    ],
)  # fmt: skip
def test_contradictions_are_told_at_once(environ: dict[str, str], told: list[str]) -> None:
    with pytest.raises(DistributedError, match="environment variables do not fit together") as caught:
        read_world(environ)
    assert [text for text in told if text not in str(caught.value)] == []
    assert "torchrun, mpirun or srun" in str(caught.value)


def test_several_machines_need_an_address() -> None:
    environ = {**MPICH, "PMI_SIZE": "16", "PMI_RANK": "5"}
    with pytest.raises(DistributedError, match="MASTER_ADDR is not set: export MASTER_ADDR"):
        read_world(environ)
    assert read_world({**environ, "MASTER_ADDR": "n0"}).master_port == 29500
    assert read_world({**environ, "MASTER_ADDR": "n0", "PBS_JOBID": "17.head"}).master_port != 29500


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node0", ["node0"]),
        ("node[01-04,07],gpu3", ["node01", "node02", "node03", "node04", "node07", "gpu3"]),
        ("r[1-2]n[08-09]x,b", ["r1n08x", "r1n09x", "r2n08x", "r2n09x", "b"]),
        ("a-b.c,d", ["a-b.c", "d"]),
    ],
)
def test_nodelists(text: str, hosts: list[str]) -> None:
    assert expand_nodelist(text) == hosts


@pytest.mark.parametrize("text", ["", "node[1-", "node]", "a,,b", "node[x-y]", "node[]", "n[1-2"])
def test_a_nodelist_that_is_none(text: str) -> None:
    with pytest.raises(DistributedError, match=r"the node list of SLURM .*expected names such as"):
        expand_nodelist(text)


def lay_process(proc: Path, pid: int, parent: int, environ: dict[str, str] | None) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "stat").write_text(f"{pid} (a (b) c) S {parent} 1 1")
    if environ is not None:
        (proc / str(pid) / "environ").write_text("".join(f"{k}={v}\0" for k, v in environ.items()))


def test_the_launcher_is_the_nearest_ancestor_without_a_rank(tmp_path: Path) -> None:
    lay_process(tmp_path, 50, 40, {"PMI_RANK": "1"})
    lay_process(tmp_path, 40, 30, {"PMI_RANK": "1"})
    lay_process(tmp_path, 30, 20, {"HOME": "/"})
    assert launcher_process("PMI_RANK", tmp_path, 50) == 30
    # Another user's environment cannot be read: that is SLURM's daemon.
    lay_process(tmp_path, 31, 20, None)
    lay_process(tmp_path, 51, 31, {})
    assert launcher_process("PMI_RANK", tmp_path, 51) == 31
    assert launcher_process("PMI_RANK", tmp_path / "none", 50) is None


def test_without_proc_mpich_takes_the_usual_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_environment, "launcher_process", lambda *_: None)
    assert read_world(MPICH).master_port == 29500


Address = namedtuple("Address", "address")


def test_loopback_has_an_interface() -> None:
    assert gloo_interface("127.0.0.1") in ("lo", "lo0")


def test_a_name_that_nobody_knows_has_none() -> None:
    assert gloo_interface("no-such-host.invalid") is None


def test_debians_own_name_means_the_default_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """/etc/hosts gives the machine's own name 127.0.1.1, where no other machine reaches it."""
    known = [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", ("127.0.1.1", 29500))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: known)
    monkeypatch.setattr(launch_environment, "default_route_interface", lambda: "eno1")
    assert gloo_interface("myself") == "eno1"
    assert gloo_interface("localhost") in ("lo", "lo0")


def test_the_interface_is_that_of_the_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {"lo": [Address("127.0.0.1")], "ib0": [Address("fe80::1"), Address("127.0.0.1")]}
    monkeypatch.setattr(launch_environment, "psutil", SimpleNamespace(net_if_addrs=lambda: {"ib0": addresses["ib0"]}))
    assert gloo_interface("127.0.0.1") == "ib0"
    monkeypatch.setattr(launch_environment, "psutil", SimpleNamespace(net_if_addrs=dict))
    assert gloo_interface("127.0.0.1") is None


def test_default_route(tmp_path: Path) -> None:
    routes = tmp_path / "route"
    assert default_route_interface(routes) is None
    head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    routes.write_text(
        f"{head}docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "eno1\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    )
    assert default_route_interface(routes) == "eno1"


def test_this_process_has_no_launcher() -> None:
    assert launcher_process("NO_SUCH_VARIABLE") == os.getppid()
