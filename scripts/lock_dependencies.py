"""Write locked/*.txt from what is installed. With --check, only compare, without network; exit 1 if anything differs.

The lock holds every package that pyproject.toml pulls in, with all its extras, at the version that is installed. Where
one file serves every machine, its sha256 is locked too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from dependencies import (
    INSTALLERS,
    LOCK_FILES,
    LOCKED,
    PYPROJECT,
    Locked,
    LockError,
    direct_requirements,
    installed_packages,
    needed_packages,
    public_version,
    read_lock,
)
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MEND = "python scripts/lock_dependencies.py"
HEADS = {
    "installer.txt": """\
# The two packages that install the others, with the sha256 of their only wheel. First step of 'make setup':
#   pip install --no-deps --require-hashes -r locked/installer.txt
""",
    "hashed.txt": """\
# Packages of which one file serves every machine (a wheel for any platform, or a source archive), with its sha256:
#   pip install --no-deps --no-build-isolation --require-hashes -r locked/hashed.txt
# As soon as one line of a file has a hash, pip demands one of every line. So packages with a wheel for each platform
# are in pinned.txt, without hashes.
""",
    "pinned.txt": """\
# Packages with a wheel for each platform or Python: the version is locked, the file is not. torch has a CPU build and
# CUDA builds of one version, so it is installed before this file, see the Makefile:
#   pip install --no-deps -r locked/pinned.txt
""",
}
COMMON_HEAD = f"# Written by scripts/lock_dependencies.py; do not edit. See docs/dependencies.md. To renew: {MEND}\n"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and say what differs")
    options = parser.parse_args(words)
    roots, installed = direct_requirements(), installed_packages()
    if options.check:
        try:
            problems = differences(read_lock(), roots, installed)
        except LockError as error:
            problems = [str(error)]
        for problem in problems:
            print(f"lock: {problem}", file=sys.stderr)
        return 1 if problems else 0
    missing = sorted(needed_packages(roots, installed).keys() - installed.keys())
    if missing:
        print(f"needed but not installed: {', '.join(missing)}; install: pip install -e '.[dev]'", file=sys.stderr)
        return 1
    versions = {name: public_version(installed[name].version) for name in needed_packages(roots, installed)}
    write_lock(versions, downloads(versions))
    return 0


def differences(
    locked: Mapping[str, Locked], roots: Sequence[Requirement], installed: Mapping[str, Distribution]
) -> list[str]:
    """Everything in which lock, pyproject.toml and what is installed disagree."""
    needed = needed_packages(roots, installed)
    problems = [f"{name} is needed by {', '.join(sorted(needed[name]))} but not locked; run {MEND}"
                for name in sorted(needed.keys() - locked.keys())]  # fmt: skip
    problems += [f"{name} is locked but nothing needs it; run {MEND}" for name in sorted(locked.keys() - needed.keys())]
    for name in sorted(needed.keys() & locked.keys()):
        if name not in installed:
            problems.append(f"{name} is locked but not installed; run make setup")
        elif (found := public_version(installed[name].version)) != locked[name].version:
            problems.append(
                f"{name} {found} is installed, {locked[name].version} is locked; run make setup to install the locked "
                f"version, or {MEND} to lock the installed one"
            )
    return [*problems, *pin_problems(locked, roots), *hash_problems(locked)]


def pin_problems(locked: Mapping[str, Locked], roots: Iterable[Requirement]) -> list[str]:
    """Where a version that pyproject.toml asks for is not the locked one."""
    return [
        f"{PYPROJECT.name} asks for {requirement}, but {line.version} is locked; install it, then run {MEND}"
        for requirement in roots
        if (line := locked.get(canonicalize_name(requirement.name)))
        and not requirement.specifier.contains(line.version, prereleases=True)
    ]


def hash_problems(locked: Mapping[str, Locked]) -> list[str]:
    """Lines whose file promises a hash that they lack, or the other way round."""
    return [
        f"{name} in {line.file} has {'no' if line.file != 'pinned.txt' else 'a'} hash; run {MEND}"
        for name, line in sorted(locked.items())
        if bool(line.hashes) == (line.file == "pinned.txt")
    ]


def downloads(versions: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """name -> (file name, sha256) of what pip would download for these versions. Nothing is installed.

    torch is left out: its wheel is large, and which build pip finds differs from machine to machine.
    """
    pins = [f"{name}=={version}" for name, version in versions.items() if name != "torch"]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    result = subprocess.run([*command, "--report", "-", *pins], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"pip could not look up what is installed:\n{result.stderr}")
    report: list[dict[str, Any]] = json.loads(result.stdout)["install"]
    found: dict[str, tuple[str, str]] = {}
    for package in report:
        source = package["download_info"]
        digest = source["archive_info"].get("hashes", {}).get("sha256", "")
        found[canonicalize_name(package["metadata"]["name"])] = (source["url"].rsplit("/", 1)[-1], digest)
    return found


def serves_everywhere(file_name: str) -> bool:
    """A wheel for any platform and Python 3, or a source archive."""
    return file_name.endswith(("-py3-none-any.whl", "-py2.py3-none-any.whl", ".tar.gz"))


def write_lock(versions: Mapping[str, str], files: Mapping[str, tuple[str, str]], directory: Path = LOCKED) -> None:
    lines: dict[str, list[str]] = {file: [] for file in LOCK_FILES}
    for name, version in sorted(versions.items()):
        file_name, digest = files.get(name, ("", ""))
        if digest and serves_everywhere(file_name):
            target = "installer.txt" if name in INSTALLERS else "hashed.txt"
            lines[target].append(f"{name}=={version} \\\n    --hash=sha256:{digest}\n")
        else:
            lines["pinned.txt"].append(f"{name}=={version}\n")
    directory.mkdir(exist_ok=True)
    for file, packages in lines.items():
        (directory / file).write_text(COMMON_HEAD + HEADS[file] + "\n" + "".join(packages), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
