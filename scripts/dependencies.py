"""What pyproject.toml asks for, what is installed and what is locked. Read, never changed; no network."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = ROOT / "pyproject.toml"
LOCKED = ROOT / "locked"
# pip checks the hashes of every line of a file as soon as one line has a hash. So lines with a hash and lines without
# are in files of their own; the two packages that install the others come first.
LOCK_FILES = ("installer.txt", "hashed.txt", "pinned.txt")
INSTALLERS = ("pip", "setuptools")
PROJECT = "neuralchat"
# The CUDA build of torch brings these with it. The CPU build does not need them, so the lock has none of them.
CUDA_PARTS = ("nvidia-", "cuda-", "triton")


class LockError(Exception):
    """A lock file is missing or has a line that cannot be read."""


@dataclass(frozen=True)
class Locked:
    """One line of a lock file."""

    version: str
    hashes: tuple[str, ...]
    file: str


def direct_requirements(pyproject: Path = PYPROJECT) -> list[Requirement]:
    """Dependencies of the project, of all its extras, and of its build."""
    content = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project = content["project"]
    lines = [*project["dependencies"]]
    for extra in project.get("optional-dependencies", {}).values():
        lines += extra
    return [Requirement(line) for line in [*lines, *content["build-system"]["requires"]]]


def direct_names(requirements: Iterable[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements if applies(requirement, ("",))}


def installed_packages(paths: Sequence[str] | None = None) -> dict[str, Distribution]:
    """name -> what is installed, without the project itself. `paths` is for tests."""
    found = distributions() if paths is None else distributions(path=list(paths))
    packages: dict[str, Distribution] = {}
    for distribution in found:
        # The first place on sys.path is the one that is imported.
        packages.setdefault(canonicalize_name(distribution.name), distribution)
    packages.pop(PROJECT, None)
    return packages


def needed_packages(roots: Iterable[Requirement], installed: Mapping[str, Distribution]) -> dict[str, set[str]]:
    """name -> names of those that need it, over everything that the roots pull in on this machine."""
    needed: dict[str, set[str]] = {name: {"setup"} for name in INSTALLERS}
    open_ends: list[tuple[str, Requirement, tuple[str, ...]]] = [(PROJECT, requirement, ("",)) for requirement in roots]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while open_ends:
        parent, requirement, extras = open_ends.pop()
        name = canonicalize_name(requirement.name)
        if not applies(requirement, extras) or (parent == "torch" and name.startswith(CUDA_PARTS)):
            continue
        needed.setdefault(name, set()).add(parent)
        wanted = ("", *sorted(requirement.extras))
        if name in installed and (name, wanted) not in seen:
            seen.add((name, wanted))
            children = [Requirement(line) for line in installed[name].requires or ()]
            open_ends += [(name, child, wanted) for child in children]
    return needed


def applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    """Whether the requirement holds on this machine, when these extras are asked for."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def public_version(version: str) -> str:
    """2.13.0+cpu -> 2.13.0: builds of one version for different devices are one version in the lock."""
    return Version(version).public


def read_lock(directory: Path = LOCKED) -> dict[str, Locked]:
    """name -> its line, over all lock files. Raises LockError."""
    packages: dict[str, Locked] = {}
    for file in LOCK_FILES:
        path = directory / file
        if not path.is_file():
            raise LockError(f"{path} is missing; make it with: python scripts/lock_dependencies.py")
        for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            found = re.fullmatch(r"([\w.-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})*)\s*", line)
            if not found:
                raise LockError(
                    f"{path} has the line '{line}'; allowed is NAME==VERSION, then --hash=sha256:... if any"
                )
            if found[1] in packages:
                raise LockError(f"{path} locks {found[1]}, which {packages[found[1]].file} locks too; keep one line")
            packages[found[1]] = Locked(found[2], tuple(found[3].split()), file)
    return packages
