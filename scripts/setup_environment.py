"""Make a virtual environment: the locked packages, the build of torch that fits this machine, and the project.

    python3 scripts/setup_environment.py                                  .venv, as `make setup` does
    python3 scripts/setup_environment.py .venv-peers locked/peers.txt     another lock, without the project

Only the standard library is used. Called again after it was stopped, it goes on with what is missing.

On a machine with an NVIDIA GPU torch's ordinary build is taken. Elsewhere the CPU build: from PyTorch's CPU index, or
if that does not answer, from where pip looks by itself, unless it would bring CUDA packages. TORCH_BUILD=cpu and
TORCH_BUILD=default decide by hand; a torch of the locked version that is there already stays.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (told before anything that an older Python does not understand)
    sys.exit(
        "setup: Python 3.11 or later is needed, and {} is {}.{}. Install one (Debian, Ubuntu: apt install python3.11 "
        "python3.11-venv; Fedora, RHEL: dnf install python3.11) and repeat the command, or name the one to take: "
        "make setup PYTHON=/path/to/python".format(sys.executable, *sys.version_info[:2])
    )

import importlib.util
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CPU_INDEX_SECONDS = 8
GIB = 1024**3
# Measured: 1.8 GiB for an environment with the CPU build, to which pip's cache and unpacked wheels are added.
CPU_BUILD_GIB, CUDA_BUILD_GIB, TEMPORARY_GIB = 3, 12, 1
CUDA_PACKAGES = ("nvidia-", "cuda-", "triton")
# What pip says -> what to do.
REMEDIES = {
    "No space left on device": "The disk is full, or the folder for temporary files; TMPDIR=/path names another.",
    "CERTIFICATE_VERIFY_FAILED": "A proxy signs with a certificate of its own: PIP_CERT=/path/to/its.pem.",
    "DO NOT MATCH THE HASHES": "A download was cut off or is not the locked file. Empty pip's cache (pip cache purge) "
    "and repeat the command; if it happens again, do not install it.",
    "No matching distribution": "The package index did not answer or has no such version. Is there a network? Behind a "
    "proxy set HTTPS_PROXY; a mirror is named by PIP_INDEX_URL.",
}


class SetupError(Exception):
    """Why the environment could not be made, and what to do."""


class Environment:
    """A virtual environment and its pip."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.python = str(directory / "bin" / "python")

    def works(self) -> bool:
        """False for one that is not there, was left half-made, or whose Python is gone."""
        return run([self.python, "-m", "pip", "--version"]).returncode == 0

    def create(self) -> None:
        if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
            name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
            raise SetupError(
                f"{sys.executable} cannot make virtual environments. Debian, Ubuntu: apt install {name}-venv; then "
                "repeat the command."
            )
        say(f"making {self.directory.name} with Python {sys.version.split()[0]} ({sys.executable})")
        made = run([sys.executable, "-m", "venv", "--clear", str(self.directory)])
        if made.returncode:
            raise SetupError(f"{self.directory} could not be made: {last_lines(made)}")

    def install(self, *words: str) -> None:
        """pip install, in the project's folder. Raises SetupError with what pip said and what to do."""
        done = run([self.python, "-m", "pip", "install", "--quiet", "--no-input", *words])
        if done.returncode:
            raise SetupError(explained(done))

    def torch_build(self) -> str | None:
        """Such as "2.13.0+cpu"; None if there is none, or one that cannot be imported."""
        code = "import torch; print(torch.__version__.split('+')[0], torch.version.cuda or 'cpu')"
        found = run([self.python, "-W", "ignore", "-c", code])
        return "+".join(found.stdout.split()) if found.returncode == 0 else None


def main(words: list[str]) -> int:
    directory, lock = [*words, *(".venv", "locked/requirements.txt")[len(words) :]]
    environment = Environment(ROOT / directory)
    os.chdir(ROOT)
    try:
        if not environment.works():
            environment.create()
        torch = environment.torch_build()
        build = wanted_build()
        if torch is None:
            check_space(environment.directory, CUDA_BUILD_GIB if build == "default" else CPU_BUILD_GIB)
        say(f"installing the versions of {lock}; the first time takes some minutes")
        environment.install("--no-deps", "--require-hashes", "-r", "locked/installer.txt")
        environment.install("--no-deps", "--require-hashes", "--no-build-isolation", "-r", lock)
        install_torch(environment, torch, build)
        if not words:
            environment.install("--no-deps", "--no-build-isolation", "--editable", ".")
            say("ready; source .venv/bin/activate makes 'neuralchat' known to this shell")
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


def wanted_build() -> str:
    """ "default" (what pip takes, with CUDA on Linux) on a machine with an NVIDIA GPU, else "cpu"."""
    asked = os.environ.get("TORCH_BUILD", "auto")
    if asked not in ("auto", "cpu", "default"):
        raise SetupError(f"TORCH_BUILD={asked}; allowed are auto, cpu, default")
    if asked != "auto":
        return asked
    return "default" if "GPU" in run(["nvidia-smi", "--list-gpus"]).stdout else "cpu"


def install_torch(environment: Environment, installed: str | None, build: str) -> None:
    lock = Path("locked/torch.txt")
    pin = lock.read_text(encoding="utf-8").split()[-1]
    if installed and installed.split("+")[0] == pin.split("==")[1]:
        origin = "was there"
    elif build == "default":
        say(f"{pin}, the ordinary build, since there is a GPU or TORCH_BUILD=default")
        environment.install("--no-deps", "--force-reinstall", pin)
        environment.install(pin)
        origin = "from where pip looks"
    else:
        origin = install_cpu_build(environment, pin)
    found = environment.torch_build()
    if found is None:
        raise SetupError(f"{pin} was installed but cannot be imported; see: {environment.python} -c 'import torch'")
    kind = "CPU build" if found.endswith("+cpu") else f"CUDA {found.split('+')[1]} build"
    say(f"torch {found.split('+')[0]}, {kind} ({origin})")
    if build == "cpu" and kind != "CPU build":
        say("note: this machine has no GPU; to change to the CPU build: make clean-setup setup")


def install_cpu_build(environment: Environment, pin: str) -> str:
    """Where it came from. Its dependencies are in the lock. Raises SetupError if only a CUDA build is to be had."""
    if answers(CPU_INDEX):
        say(f"{pin}, CPU build, from PyTorch's CPU index")
        try:
            environment.install("--no-deps", "--force-reinstall", "--index-url", CPU_INDEX, pin)
            return "from PyTorch's CPU index"
        except SetupError as error:
            say(f"PyTorch's CPU index failed ({error})")
    else:
        say("PyTorch's CPU index does not answer; asking where pip looks by itself")
    cuda = cuda_packages(environment, pin)
    if cuda:
        raise SetupError(
            f"this machine has no GPU, PyTorch's CPU index ({CPU_INDEX}) does not answer, and pip would take {pin} "
            f"with CUDA ({len(cuda)} packages such as {cuda[0]}, several GB). Repeat the command when the index can "
            "be reached; or give a CPU wheel: PIP_FIND_LINKS=/its/folder make setup; or take CUDA: TORCH_BUILD=default "
            "make setup"
        )
    environment.install("--no-deps", "--force-reinstall", pin)
    return "from where pip looks"


def cuda_packages(environment: Environment, pin: str) -> list[str]:
    """What pip would install besides torch that only a CUDA build needs. Nothing is installed."""
    asked = run([environment.python, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", pin])
    if asked.returncode:
        raise SetupError(explained(asked))
    try:
        names = [package["metadata"]["name"] for package in json.loads(asked.stdout)["install"]]
    except (ValueError, KeyError):
        say("note: pip does not tell beforehand whether this torch is a CPU build")
        return []
    return [name for name in names if name.startswith(CUDA_PACKAGES)]


def answers(url: str) -> bool:
    """Whether the server says anything within CPU_INDEX_SECONDS, all its addresses together."""
    heard: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{url}/torch/", timeout=CPU_INDEX_SECONDS):
                heard.append(True)
        except urllib.error.URLError as error:
            # Python does not know the certificate, pip may.
            heard.append(isinstance(error.reason, ssl.SSLCertVerificationError))
        except OSError:
            heard.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CPU_INDEX_SECONDS)
    return heard == [True]


def check_space(directory: Path, needed_gib: int) -> None:
    for place, gib in ((directory, needed_gib), (Path(tempfile.gettempdir()), TEMPORARY_GIB)):
        free = shutil.disk_usage(place).free / GIB
        if free < gib:
            raise SetupError(
                f"{place} has {free:.1f} GiB free, {gib} are needed. Make room and repeat the command"
                + ("; TMPDIR=/path names another folder for temporary files." if gib == TEMPORARY_GIB else ".")
            )


def explained(done: subprocess.CompletedProcess[str]) -> str:
    remedy = next((remedy for words, remedy in REMEDIES.items() if words in done.stderr), "")
    return f"pip failed: {last_lines(done)}\n{remedy}".rstrip()


def last_lines(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Exit status 127 if there is no such program."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
