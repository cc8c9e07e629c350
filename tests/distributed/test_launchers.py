"""Real launchers start two processes that find each other: torchrun, torch.distributed.launch, MPICH's mpirun.

Open MPI and SLURM are played by starting two processes with the variables they set.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.ranks import free_port
from support.small_models import save_checkpoint

BIN = Path(sys.executable).parent
# What a rank does: read its place, plan its threads, meet the others and add up all ranks.
RANK = """
import json, os, sys
sys.argv = [word for word in sys.argv if not word.startswith("--local-rank")]
from neuralchat.distributed.hardware import read_machine
from neuralchat.distributed.launchers import export_world, gloo_interface, read_world
from neuralchat.distributed.threads import apply, plan_threads
world = read_world(os.environ)
export_world(world, os.environ)
machine = read_machine()
plan = plan_threads(machine, local_rank=world.local_rank, local_size=world.local_size, environ=os.environ)
import torch, torch.distributed as dist
apply(plan)
os.environ["GLOO_SOCKET_IFNAME"] = gloo_interface(world.master_addr)
dist.init_process_group("gloo")
total = torch.tensor(float(world.rank + 1))
dist.all_reduce(total)
facts = {"rank": world.rank, "size": world.size, "local_rank": world.local_rank, "local_size": world.local_size,
         "launcher": world.launcher, "port": world.master_port, "total": total.item(), "cpus": len(machine.cpus),
         "threads": torch.get_num_threads(), "bound": sorted(os.sched_getaffinity(0)), "reason": plan.reason}
with open(os.path.join(os.environ["FACTS"], str(world.rank)), "w") as file:
    json.dump(facts, file)
dist.destroy_process_group()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "facts").mkdir()
    (tmp_path / "rank.py").write_text(RANK)
    return tmp_path / "rank.py"


def environment(script: Path, **more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return {**plain, "FACTS": str(script.parent / "facts"), **more}


def launch(script: Path, *command: object, **more: str) -> list[dict[str, Any]]:
    words = [str(word) for word in command]
    found = subprocess.run(
        words, capture_output=True, text=True, timeout=200, check=False, cwd=script.parent,
        env=environment(script, **more),
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    return facts_of(script)


def facts_of(script: Path) -> list[dict[str, Any]]:
    facts = [json.loads(path.read_text()) for path in sorted((script.parent / "facts").iterdir())]
    assert [(fact["rank"], fact["size"], fact["total"]) for fact in facts] == [(0, 2, 3.0), (1, 2, 3.0)]
    assert [(fact["local_rank"], fact["local_size"]) for fact in facts] == [(0, 2), (1, 2)]
    assert facts[0]["port"] == facts[1]["port"]
    return facts


def assert_cores_of_their_own(facts: Sequence[dict[str, Any]]) -> None:
    shared = set(facts[0]["bound"]) & set(facts[1]["bound"])
    assert bool(shared) == (facts[0]["cpus"] < 2)
    assert [fact["threads"] for fact in facts] == [len(fact["bound"]) for fact in facts]


def test_torchrun(script: Path) -> None:
    facts = launch(script, BIN / "torchrun", "--standalone", "--nproc_per_node", 2, script)
    assert {fact["launcher"] for fact in facts} == {"torchrun"}
    # It set OMP_NUM_THREADS=1, which is not the user's wish.
    assert not any("OMP_NUM_THREADS" in fact["reason"] for fact in facts)
    assert_cores_of_their_own(facts)


def test_torchrun_with_threads_of_the_user(script: Path) -> None:
    facts = launch(script, BIN / "torchrun", "--standalone", "--nproc_per_node", 2, script, OMP_NUM_THREADS="1")
    assert all("OMP_NUM_THREADS=1" in fact["reason"] for fact in facts)


def test_the_launch_module_of_the_specification(script: Path) -> None:
    flags = [
        "--master_addr=127.0.0.1",
        f"--master_port={free_port()}",
        "--nproc_per_node=2",
        "--nnodes=1",
        "--node_rank=0",
    ]
    facts = launch(script, sys.executable, "-m", "torch.distributed.launch", *flags, script)
    assert {fact["launcher"] for fact in facts} == {"torchrun"}
    assert_cores_of_their_own(facts)


def mpirun(*flags: object) -> list[object]:
    if not (BIN / "mpirun").exists():
        pytest.skip("no mpirun: pip install mpich")
    return [BIN / "mpirun", *flags]


def test_mpirun_as_the_specification_has_it(script: Path) -> None:
    hosts = script.parent / "hostfile"
    hosts.write_text("127.0.0.1\n")
    command = mpirun("-f", hosts, "-n", 2, "-ppn", 2, "-genv", "OMP_NUM_THREADS=1")
    facts = launch(script, *command, sys.executable, script)
    assert {fact["launcher"] for fact in facts} == {"mpich"}
    assert 20000 <= facts[0]["port"] < 30000
    assert all("OMP_NUM_THREADS=1" in fact["reason"] for fact in facts)


def test_mpirun_through_a_shell_script(script: Path) -> None:
    """Then the ranks' parents differ, and still they agree on a port; two runs at once do not share it."""
    shell = script.parent / "run.sh"
    shell.write_text(f"#!/bin/sh\n{shlex.quote(sys.executable)} {shlex.quote(str(script))}\nexit $?\n")
    shell.chmod(0o755)
    facts = launch(script, *mpirun("-n", 2), shell)
    assert_cores_of_their_own(facts)
    again = launch(script, *mpirun("-n", 2), shell)
    assert again[0]["port"] != facts[0]["port"]


def test_mpirun_that_binds_is_not_bound_again(script: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU only")
    facts = launch(script, *mpirun("-bind-to", "core:1", "-n", 2), sys.executable, script)
    assert all("the launcher has bound this process" in fact["reason"] for fact in facts)
    assert_cores_of_their_own([{**fact, "cpus": 2} for fact in facts])


def played(script: Path, *ranks: dict[str, str]) -> list[dict[str, Any]]:
    processes = [subprocess.Popen([sys.executable, script], env=environment(script, **rank)) for rank in ranks]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    return facts_of(script)


def test_open_mpi(script: Path) -> None:
    ranks = [
        {
            "OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_NAMESPACE": f"prterun-host-{os.getpid()}@1",
        }
        for rank in range(2)
    ]  # fmt: skip
    facts = played(script, *ranks)
    assert {fact["launcher"] for fact in facts} == {"openmpi"}
    assert_cores_of_their_own(facts)


def test_slurm(script: Path) -> None:
    ranks = [
        {
            "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "node07", "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_STEP_ID": "0",
        }
        for rank in range(2)
    ]  # fmt: skip
    facts = played(script, *ranks)
    assert {fact["launcher"] for fact in facts} == {"slurm"}
    assert_cores_of_their_own(facts)


def finetune(work: Path, *flags: object, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "neuralchat.cli", "finetune", "--model_name_or_path", save_checkpoint(work / "model"),
        "--output_dir", "out", "--num_train_epochs", 1, "--report_samples", 0, "--num_processes", 2, *flags,
    ]  # fmt: skip
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=timeout, check=False, cwd=work
    )


def test_num_processes_trains_with_so_many(tmp_path: Path) -> None:
    (tmp_path / "records.json").write_text(
        json.dumps([{"instruction": f"Say {i}.", "output": "yes"} for i in range(8)])
    )
    found = finetune(tmp_path, "--train_file", "records.json", "--no_cuda", "--xpu_backend", "ccl")
    assert found.returncode == 0, found.stdout + found.stderr
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert found.stderr.count("--no_cuda is now --use_cpu") == 1
    assert found.stderr.count("--ddp_backend ccl cannot be used, gloo takes its place") == 1
    assert "rank 1 on " in found.stderr


def test_an_error_of_local_ranks_is_told_once(tmp_path: Path) -> None:
    found = finetune(tmp_path, "--train_file", "missing.json")
    assert found.returncode == 2
    assert found.stderr.count("missing.json does not exist") == 1
    assert "Traceback" not in found.stderr
    assert "Root Cause" not in found.stderr


def test_num_processes_under_a_launcher_is_refused(tmp_path: Path) -> None:
    command = mpirun("-n", 2, sys.executable, "-m", "neuralchat.cli", "finetune", "--model_name_or_path", "m")
    command += ["--train_file", "f", "--output_dir", "o", "--num_processes", "2"]
    found = subprocess.run([str(w) for w in command], capture_output=True, text=True, timeout=200, check=False)
    assert found.returncode == 2
    assert "--num_processes 2: this process is one of 2 that mpich has started" in found.stderr
