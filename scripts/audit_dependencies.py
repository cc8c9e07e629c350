"""Check the installed packages: lock, files, code that runs at start, licences, and known vulnerabilities.

All but the last work without network. The last asks pip-audit, where it is installed and its service answers; where
not, one line says so, and only --strict fails.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.util
import json
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution, PackagePath
from pathlib import Path

from dependencies import Locked, LockError, direct_names, direct_requirements, installed_packages, read_lock
from list_licences import licence_problems
from lock_dependencies import differences

# A .pth file in site-packages is read at every start of Python, and lines that begin with "import" are run.
KNOWN_START_CODE = {
    "distutils-precedence.pth": (
        "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; enabled and "
        "__import__('_distutils_hack').add_shim();"
    ),
}
AUDIT_SECONDS = 120


class NotReachedError(Exception):
    """Why the vulnerability service gave no answer."""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strict", action="store_true", help="fail if vulnerabilities cannot be looked up")
    options = parser.parse_args(words)
    requirements, installed = direct_requirements(), installed_packages()
    problems: list[str] = []
    try:
        locked = read_lock()
        problems += differences(locked, requirements, installed)
    except LockError as error:
        locked = {}
        problems.append(str(error))
    problems += file_problems(installed[name] for name in sorted(direct_names(requirements) & installed.keys()))
    problems += start_problems(Path(path) for path in site.getsitepackages())
    problems += licence_problems()
    try:
        problems += vulnerabilities(locked, ask_pip_audit)
    except NotReachedError as error:
        print(f"audit: vulnerabilities were not looked up: {error}", file=sys.stderr)
        if options.strict:
            problems.append("--strict demands that vulnerabilities are looked up")
    for problem in problems:
        print(f"audit: {problem}", file=sys.stderr)
    return 1 if problems else 0


def file_problems(packages: Iterable[Distribution]) -> list[str]:
    """Files of packages that are missing or are not those that were installed, by the hashes in each RECORD."""
    problems: list[str] = []
    for package in packages:
        files = [file for file in package.files or () if file.hash]
        if not files:
            problems.append(f"{package.name} has no RECORD with hashes; install it again with pip")
        with ThreadPoolExecutor(2) as pool:
            wrong = [text for text in pool.map(file_problem, files) if text]
        advice = f"pip install --force-reinstall --no-deps {package.name}=={package.version}"
        problems += [f"{package.name}: {text}; if you did not change it: {advice}" for text in wrong]
    return problems


def file_problem(file: PackagePath) -> str:
    path = Path(str(file.locate()))
    if not path.is_file():
        return f"{path} is missing"
    assert file.hash
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, file.hash.mode).digest()
    same = base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value
    return "" if same else f"{path} is not the file that was installed"


def start_problems(directories: Iterable[Path]) -> list[str]:
    """Code that runs at every start of Python and is not in KNOWN_START_CODE."""
    problems = []
    for directory in directories:
        for path in sorted(directory.glob("*.pth")):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            code = [line.strip() for line in lines if line.startswith(("import ", "import\t"))]
            problems += [
                f"{path} runs code at every start of Python: {line[:100]}; remove the package that brought it, or add "
                "it to KNOWN_START_CODE of scripts/audit_dependencies.py"
                for line in code
                if KNOWN_START_CODE.get(path.name) != line
            ]
        problems += [
            f"{path} runs at every start of Python; remove it"
            for name in ("sitecustomize", "usercustomize")
            for path in sorted([*directory.glob(f"{name}.*"), *directory.glob(f"{name}/__init__.py")])
        ]
    return problems


def vulnerabilities(locked: Mapping[str, Locked], ask: Callable[[Mapping[str, str]], list[dict]]) -> list[str]:
    """Known vulnerabilities of the locked versions. Raises NotReachedError.

    pip-audit calls a package that the service does not know "skipped", and exits 0 even if it skipped all of them. So
    what was skipped is counted, and one package is asked for first, to trouble no dead service with all of them.
    """
    versions = {name: line.version for name, line in locked.items()}
    if not versions:
        raise NotReachedError("there is no lock")
    probe = "jinja2" if "jinja2" in versions else min(versions)
    answer = ask({probe: versions[probe]})
    if all("skip_reason" in package for package in answer):
        raise NotReachedError(f"the vulnerability service could not be reached, or does not know {probe}")
    answer = ask(versions)
    skipped = sorted(package["name"] for package in answer if "skip_reason" in package)
    if skipped:
        print(f"audit: the vulnerability service does not know {', '.join(skipped)}", file=sys.stderr)
    return [
        f"{package['name']} {package['version']} has the vulnerability {found['id']}; fixed in "
        f"{', '.join(found['fix_versions']) or 'no version yet'}; pin a fixed version and renew the lock"
        for package in answer
        for found in package.get("vulns", ())
    ]


def ask_pip_audit(versions: Mapping[str, str]) -> list[dict]:
    """What pip-audit says of each package. Raises NotReachedError."""
    if importlib.util.find_spec("pip_audit"):
        program = [sys.executable, "-m", "pip_audit"]
    elif found := shutil.which("pip-audit"):
        program = [found]
    else:
        raise NotReachedError("pip-audit is not installed")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in versions.items())
        file.flush()
        command = [*program, "--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json", "-r", file.name]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=AUDIT_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise NotReachedError(f"pip-audit did not end within {AUDIT_SECONDS} s") from None
    try:
        return json.loads(result.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise NotReachedError(f"the vulnerability service could not be reached ({last[:200]})") from None


if __name__ == "__main__":
    sys.exit(main())
