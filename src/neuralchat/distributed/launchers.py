"""What a launcher says about its processes, in one form: torchrun, MPICH, Open MPI, SLURM, or none.

MPI's variables win over SLURM's, since mpirun may start its ranks through SLURM; torchrun's win over both.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import zlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from neuralchat.errors import DistributedError, problem_list

LOCALHOST = "127.0.0.1"
# torch's own default.
DEFAULT_PORT = 29500
FIRST_PORT, PORTS = 20000, 10000
# What tells two jobs of one machine apart, set alike for all ranks of a job.
OPEN_MPI_JOBS = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
BATCH_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
NODELIST_FORM = "expected names such as node[01-04,07],gpu3; export MASTER_ADDR to do without it"


@dataclass(frozen=True)
class Launcher:
    """A launcher and the names under which it tells a process its place. `local_size`: None if it has none."""

    name: str
    rank: str
    size: str
    local_rank: str
    local_size: str | None

    def variables(self) -> list[str]:
        return [name for name in (self.rank, self.size, self.local_rank, self.local_size) if name]


TORCHRUN = Launcher("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
OPEN_MPI = Launcher(
    "openmpi",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
)
MPICH = Launcher("mpich", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
SLURM = Launcher("slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", None)
# Set by torchrun for its ranks, and by nothing else.
TORCHELASTIC = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True)
class World:
    """The place of this process among all that train together."""

    rank: int
    local_rank: int
    size: int
    local_size: int
    launcher: str
    master_addr: str
    master_port: int
    restart_count: int


def read_world(environ: Mapping[str, str]) -> World:
    """Raises DistributedError, with all variables that are missing or impossible, if a launch is half described."""
    launcher = launcher_of(environ)
    restarts = whole_number(environ, "TORCHELASTIC_RESTART_COUNT") or whole_number(environ, "SLURM_RESTART_COUNT") or 0
    if launcher is None:
        return World(0, 0, 1, 1, "none", LOCALHOST, DEFAULT_PORT, restarts)
    problems: list[str] = []
    rank, size, local_rank, local_size = places(environ, launcher, problems)
    problems += other_sizes(environ, launcher, size)
    port = whole_number(environ, "MASTER_PORT")
    if "MASTER_PORT" in environ and not (port and port < 65536):
        problems.append(f"MASTER_PORT is '{environ['MASTER_PORT']}'; it must be a number from 1 to 65535")
    if problems:
        title = f"the launcher's ({launcher.name}) environment variables do not fit together:"
        found = ", ".join(f"{name}={environ[name]}" for name in launcher.variables() if name in environ)
        remedy = "start the ranks with torchrun, mpirun or srun, or unset these variables for a single process"
        raise DistributedError(f"{problem_list(title, problems)}\nfound: {found}; {remedy}")
    address = environ.get("MASTER_ADDR") or default_address(environ, launcher, alone=local_size == size)
    port = port or default_port(environ, launcher, alone=local_size == size)
    return World(rank, local_rank, size, local_size, launcher.name, address, port, restarts)


def export_world(world: World, environ: MutableMapping[str, str]) -> None:
    """Set what torch, accelerate and transformers read; a single process is left alone."""
    if world.size == 1:
        return
    environ["RANK"] = str(world.rank)
    environ["LOCAL_RANK"] = str(world.local_rank)
    environ["WORLD_SIZE"] = str(world.size)
    environ["LOCAL_WORLD_SIZE"] = str(world.local_size)
    environ["MASTER_ADDR"] = world.master_addr
    environ["MASTER_PORT"] = str(world.master_port)


# Which launcher, and its numbers


def launcher_of(environ: Mapping[str, str]) -> Launcher | None:
    other = mpi_or_slurm(environ)
    if TORCHRUN.rank not in environ and TORCHRUN.local_rank not in environ:
        return other or (TORCHRUN if TORCHRUN.size in environ else None)
    # What export_world set says the same as the launcher that it came from.
    same = other is not None and all(
        environ.get(ours) == environ.get(theirs)
        for ours, theirs in ((TORCHRUN.rank, other.rank), (TORCHRUN.size, other.size))
    )
    return other if same and TORCHELASTIC not in environ else TORCHRUN


def mpi_or_slurm(environ: Mapping[str, str]) -> Launcher | None:
    if OPEN_MPI.rank in environ or OPEN_MPI.size in environ:
        return OPEN_MPI
    # A script of sbatch has SLURM_PROCID=0 although it is one process; srun alone sets the number of tasks of a step.
    in_step = SLURM.size in environ
    # srun --mpi=pmi2 sets the PMI variables without the local ones, which SLURM then has.
    if (MPICH.rank in environ or MPICH.size in environ) and not (in_step and MPICH.local_rank not in environ):
        return MPICH
    return SLURM if in_step else None


def places(environ: Mapping[str, str], launcher: Launcher, problems: list[str]) -> tuple[int, int, int, int]:
    """(rank, size, local rank, local size). What is wrong with them is appended to `problems`."""
    numbers: dict[str, int] = {}
    for name in launcher.variables():
        number = whole_number(environ, name)
        if name not in environ:
            problems.append(f"{name} is not set")
        elif number is None:
            problems.append(f"{name} is '{environ[name]}'; it must be a whole number from 0")
        numbers[name] = -1 if number is None else number
    rank, size, local_rank = (numbers[name] for name in (launcher.rank, launcher.size, launcher.local_rank))
    local_size = numbers[launcher.local_size] if launcher.local_size else slurm_local_size(environ, problems)
    if problems:
        return rank, size, local_rank, local_size
    local_name = launcher.local_size or "SLURM_STEP_TASKS_PER_NODE"
    wrong = (
        (rank >= size, f"{launcher.rank} is {rank}, but {launcher.size} is {size}; ranks count from 0"),
        (
            local_rank >= local_size,
            f"{launcher.local_rank} is {local_rank}, but {local_name} gives {local_size} on this machine",
        ),
        (local_size > size, f"{local_name} gives {local_size} on this machine, but {launcher.size} is only {size}"),
        (local_rank > rank, f"{launcher.local_rank} is {local_rank}, but {launcher.rank} is only {rank}"),
    )
    problems += [message for is_wrong, message in wrong if is_wrong]
    return rank, size, local_rank, local_size


def other_sizes(environ: Mapping[str, str], launcher: Launcher, size: int) -> list[str]:
    """Variables set by hand must agree with the launcher's. torchrun under mpirun has a world of its own."""
    if TORCHELASTIC in environ:
        return []
    others = (TORCHRUN,) if launcher is not TORCHRUN else (OPEN_MPI, MPICH)
    return [
        f"{launcher.size} is {size}, but {other.size} is {environ[other.size]}"
        for other in others
        if other.size in environ and whole_number(environ, other.size) != size
    ]


def whole_number(environ: Mapping[str, str], name: str) -> int | None:
    """The variable's value, or None if it is not there or no whole number from 0."""
    value = environ.get(name, "").strip()
    return int(value) if value.isascii() and value.isdigit() else None


# SLURM's abbreviations


def slurm_local_size(environ: Mapping[str, str], problems: list[str]) -> int:
    text = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\(x(\d+)\))?\s*", part)
        if found is None:
            problems.append(f"SLURM_STEP_TASKS_PER_NODE is '{text}'; expected numbers such as 2(x3),1")
            return 0
        counts += [int(found[1])] * int(found[2] or 1)
    node = whole_number(environ, "SLURM_NODEID")
    if node is None and len(set(counts)) == 1:
        return counts[0]
    if node is None or node >= len(counts):
        problems.append(f"SLURM_NODEID is '{environ.get('SLURM_NODEID', '')}', but there are {len(counts)} nodes")
        return 0
    return counts[node]


def expand_nodelist(text: str) -> list[str]:
    """node[01-03,07],gpu3 -> node01, node02, node03, node07, gpu3. Raises DistributedError if it is none."""
    # Commas inside brackets do not separate hosts.
    host = r"(?:[^,\[\]]|\[[^\[\]]*\])+"
    if re.fullmatch(f"{host}(?:,{host})*", text) is None:
        raise DistributedError(f"the node list of SLURM is '{text}'; {NODELIST_FORM}")
    return [name for part in re.findall(host, text) for name in expand_host(part.strip())]


def expand_host(pattern: str) -> list[str]:
    found = re.search(r"\[([^\[\]]*)\]", pattern)
    if found is None:
        return [pattern]
    numbers: list[str] = []
    for part in found[1].split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise DistributedError(f"the node list of SLURM has '{pattern}'; {NODELIST_FORM}")
        numbers += [f"{n:0{len(first)}d}" for n in range(int(first), int(last or first) + 1)]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [f"{before}{number}{rest}" for number in numbers for rest in expand_host(after)]


# Where the ranks meet


def default_address(environ: Mapping[str, str], launcher: Launcher, *, alone: bool) -> str:
    if alone:
        return LOCALHOST
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    if launcher is SLURM and nodes:
        return expand_nodelist(nodes)[0]
    raise DistributedError(
        f"the ranks are on several machines ({launcher.size}={environ[launcher.size]}), and MASTER_ADDR is not set: "
        "export MASTER_ADDR with the address of rank 0's machine before the launch"
    )


def default_port(environ: Mapping[str, str], launcher: Launcher, *, alone: bool) -> int:
    """The same for all ranks of a job, and another one for another job on the same machine."""
    job = job_id(environ, launcher, alone=alone)
    return DEFAULT_PORT if job is None else FIRST_PORT + zlib.crc32(job.encode()) % PORTS


def job_id(environ: Mapping[str, str], launcher: Launcher, *, alone: bool) -> str | None:
    if launcher is SLURM and "SLURM_JOB_ID" in environ:
        # Two steps of one job may run at the same time.
        return f"{environ['SLURM_JOB_ID']}.{environ.get('SLURM_STEP_ID', '')}"
    if launcher is TORCHRUN:
        return None
    if launcher is OPEN_MPI and (job := first_set(environ, OPEN_MPI_JOBS)):
        return job
    # On one machine all ranks of mpirun descend from one process; a batch job may have several such.
    if alone and (process := launcher_process(launcher.rank)) is not None:
        return f"process {process}"
    return first_set(environ, BATCH_JOBS)


def first_set(environ: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((environ[name] for name in names if environ.get(name)), None)


def launcher_process(variable: str, proc: Path = Path("/proc"), pid: int | None = None) -> int | None:
    """The process that started the ranks of this machine: the nearest ancestor without the rank's variable.

    Scripts may stand between it and this process. None where there is no /proc.
    """
    for ancestor in ancestors(proc, os.getpid() if pid is None else pid):
        if variable not in initial_environment(proc, ancestor):
            return ancestor
    return None


def ancestors(proc: Path, pid: int) -> Iterator[int]:
    while pid > 1:
        try:
            # The name in brackets may hold anything; the parent is the second field behind it.
            pid = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            return
        if pid > 0:
            yield pid


def initial_environment(proc: Path, pid: int) -> dict[str, str]:
    """The variables a process was started with; empty if it is another user's, as SLURM's is."""
    try:
        text = (proc / str(pid) / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(part.split("=", 1) for part in text.split("\0") if "=" in part)


# The network


def gloo_interface(master_addr: str) -> str | None:
    """The network interface that reaches `master_addr`, for GLOO_SOCKET_IFNAME; None if that cannot be told.

    Debian gives a host's own name the address 127.0.1.1, which no other machine reaches. There the interface of the
    default route is meant.
    """
    try:
        family, _, _, _, target = socket.getaddrinfo(master_addr, DEFAULT_PORT, type=socket.SOCK_DGRAM)[0]
        # To connect a datagram socket sends nothing; it only chooses the way.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            own = str(probe.getsockname()[0])
    except OSError:
        return None
    if ipaddress.ip_address(own.partition("%")[0]).is_loopback and not is_loopback_name(master_addr):
        return default_route_interface()
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            return name
    return None


def is_loopback_name(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def default_route_interface(routes: Path = Path("/proc/net/route")) -> str | None:
    try:
        lines = routes.read_text().splitlines()[1:]
    except OSError:
        return None
    columns = [line.split() for line in lines]
    return next((c[0] for c in columns if len(c) > 7 and c[1] == "00000000" and c[7] == "00000000"), None)
