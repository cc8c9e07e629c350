"""Each check of the installed packages fails on a planted fault, and passes without one."""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "scripts"))

import audit_dependencies
import dependencies
import list_licences
import lock_dependencies
from audit_dependencies import NotReachedError, file_problems, start_problems, vulnerabilities
from dependencies import Locked, LockError, installed_packages, needed_packages, read_lock
from lock_dependencies import differences, serves_everywhere, write_lock

HASH = "--hash=sha256:" + "0" * 64
ROOTS = [Requirement("web==1.0"), Requirement("setuptools>=77")]


def install(site: Path, name: str, version: str = "1.0", headers: str = "", code: str = "x = 1\n") -> None:
    """A package as pip leaves it."""
    (site / f"{name}.py").write_text(code)
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{headers}\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(code.encode()).digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(f"{name}.py,sha256={digest},{len(code)}\n{info.name}/RECORD,,\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """web needs deep, and deep[fast] needs quick."""
    directory = tmp_path / "site"
    directory.mkdir()
    install(directory, "pip", "26.3")
    install(directory, "setuptools", "84.2.1")
    install(directory, "web", headers='Requires-Dist: deep[fast]>=1\nRequires-Dist: never; python_version < "3"\n')
    install(directory, "deep", "2.0+cpu", headers='Requires-Dist: quick; extra == "fast"\nRequires-Dist: web')
    install(directory, "quick")
    return directory


@pytest.fixture
def locked() -> dict[str, Locked]:
    return {
        "pip": Locked("26.3", (HASH,), "installer.txt"),
        "setuptools": Locked("84.2.1", (HASH,), "installer.txt"),
        "web": Locked("1.0", (HASH,), "hashed.txt"),
        "deep": Locked("2.0", (), "pinned.txt"),
        "quick": Locked("1.0", (), "pinned.txt"),
    }


def found(site: Path, locked: Mapping[str, Locked], roots: list[Requirement] = ROOTS) -> list[str]:
    return differences(locked, roots, installed_packages([str(site)]))


def test_a_whole_lock_has_no_differences(site: Path, locked: dict[str, Locked]) -> None:
    assert found(site, locked) == []


def test_who_needs_what(site: Path) -> None:
    needed = needed_packages(ROOTS, installed_packages([str(site)]))
    assert needed == {
        "pip": {"setup"}, "setuptools": {"setup", "neuralchat"}, "web": {"neuralchat", "deep"}, "deep": {"web"},
        "quick": {"deep"},
    }  # fmt: skip


def test_parts_of_a_cuda_build_are_not_needed(site: Path) -> None:
    install(site, "torch", headers="Requires-Dist: nvidia-cublas==13\nRequires-Dist: triton==3\nRequires-Dist: web")
    needed = needed_packages([Requirement("torch")], installed_packages([str(site)]))
    assert {"torch", "web"} <= needed.keys()
    assert not {"nvidia-cublas", "triton"} & needed.keys()


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("quick", None, "quick is needed by deep but not locked"),
        ("extra", Locked("1", (), "pinned.txt"), "extra is locked but nothing needs it"),
        ("deep", Locked("2.1", (), "pinned.txt"), "deep 2.0 is installed, 2.1 is locked"),
        ("web", Locked("1.0", (), "hashed.txt"), "web in hashed.txt has no hash"),
        ("quick", Locked("1.0", (HASH,), "pinned.txt"), "quick in pinned.txt has a hash"),
    ],
)
def test_a_fault_in_the_lock(
    site: Path, locked: dict[str, Locked], name: str, line: Locked | None, message: str
) -> None:
    if line is None:
        del locked[name]
    else:
        locked[name] = line
    problems = found(site, locked)
    assert len(problems) == 1
    assert problems[0].startswith(message)
    assert "; run " in problems[0]


def test_a_locked_package_that_is_not_installed(site: Path, locked: dict[str, Locked]) -> None:
    (site / "quick-1.0.dist-info" / "METADATA").unlink()
    (site / "quick-1.0.dist-info" / "RECORD").unlink()
    (site / "quick-1.0.dist-info").rmdir()
    assert found(site, locked) == ["quick is locked but not installed; run make setup"]


def test_a_pin_that_the_lock_does_not_follow(site: Path, locked: dict[str, Locked]) -> None:
    problems = found(site, locked, [Requirement("web==1.1"), Requirement("setuptools>=77")])
    assert [problem.split(";")[0] for problem in problems] == [
        "pyproject.toml asks for web==1.1, but 1.0 is locked"
    ]  # fmt: skip


def test_all_faults_are_told_at_once(site: Path, locked: dict[str, Locked]) -> None:
    locked.pop("quick")
    locked["extra"] = Locked("1", (), "pinned.txt")
    locked["deep"] = Locked("3", (), "pinned.txt")
    assert len(found(site, locked)) == 3


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    files = {"web": ("web-1.0-py3-none-any.whl", "a" * 64), "fast": ("fast-2.0-cp311-cp311-linux.whl", "b" * 64),
             "pip": ("pip-26.3-py3-none-any.whl", "c" * 64)}  # fmt: skip
    write_lock({"web": "1.0", "fast": "2.0", "pip": "26.3", "torch": "2.13.0"}, files, tmp_path)
    assert read_lock(tmp_path) == {
        "web": Locked("1.0", (f"--hash=sha256:{'a' * 64}",), "hashed.txt"),
        "fast": Locked("2.0", (), "pinned.txt"),
        "torch": Locked("2.13.0", (), "pinned.txt"),
        "pip": Locked("26.3", (f"--hash=sha256:{'c' * 64}",), "installer.txt"),
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("web>=1.0", "has the line 'web>=1.0'"),
        ("web==1.0 --hash=sha256:beef", "has the line"),
        ("pip==26.3", "locks pip, which installer.txt locks too"),
    ],
)
def test_a_lock_that_cannot_be_read(tmp_path: Path, line: str, message: str) -> None:
    write_lock({"pip": "26.3"}, {"pip": ("pip-26.3-py3-none-any.whl", "c" * 64)}, tmp_path)
    (tmp_path / "pinned.txt").write_text(f"# head\n{line}\n")
    with pytest.raises(LockError, match=message):
        read_lock(tmp_path)


def test_a_lock_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="is missing; make it with"):
        read_lock(tmp_path)


@pytest.mark.parametrize(
    ("name", "everywhere"),
    [
        ("a-1-py3-none-any.whl", True), ("a-1-py2.py3-none-any.whl", True), ("a-1.tar.gz", True),
        ("a-1-py311-none-any.whl", False), ("a-1-py3-none-manylinux_2_28_x86_64.whl", False),
    ],
)  # fmt: skip
def test_which_file_serves_every_machine(name: str, everywhere: bool) -> None:
    assert serves_everywhere(name) is everywhere


def test_a_changed_or_missing_file_is_found(site: Path) -> None:
    package = installed_packages([str(site)])["web"]
    assert file_problems([package]) == []
    (site / "web.py").write_text("x = 2\n")
    assert "web.py is not the file that was installed" in file_problems([package])[0]
    (site / "web.py").unlink()
    assert "web.py is missing" in file_problems([package])[0]
    (site / "web-1.0.dist-info" / "RECORD").unlink()
    assert "has no RECORD" in file_problems([installed_packages([str(site)])["web"]])[0]


def test_code_that_runs_at_start_is_found(site: Path) -> None:
    (site / "paths.pth").write_text("/some/where\n# import nothing\n")
    known = audit_dependencies.KNOWN_START_CODE["distutils-precedence.pth"]
    (site / "distutils-precedence.pth").write_text(f"{known} \n")
    assert start_problems([site]) == []
    (site / "paths.pth").write_text("import os; os.getcwd()\n")
    (site / "distutils-precedence.pth").write_text(f"{known} import socket\n")
    (site / "sitecustomize.py").write_text("")
    problems = start_problems([site])
    assert [Path(problem.split()[0]).name for problem in problems] == [
        "distutils-precedence.pth", "paths.pth", "sitecustomize.py"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True), ("MPL-2.0 AND MIT", True), ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("GPL-3.0-only OR MIT", True), ("GPL-3.0-only AND MIT", False), ("MIT OR GPL-3.0-only AND MIT", True),
        ("(MIT OR GPL-3.0-only) AND MIT", False), ("GPL-3.0-only", False),
    ],
)  # fmt: skip
def test_licence_expressions(licence: str, allowed: bool) -> None:
    assert list_licences.is_allowed(licence) is allowed


@pytest.mark.parametrize(
    ("headers", "licence"),
    [
        ("License-Expression: MIT\nLicense: GPL", "MIT"),
        ("License: Apache 2.0", "Apache-2.0"),
        ("License: BSD-3-Clause\nClassifier: License :: OSI Approved :: BSD License", "BSD-3-Clause"),
        ("License: see file\nClassifier: License :: OSI Approved :: MIT License", "MIT"),
        ("License: GPLv3", "GPLv3"),
        ("Summary: none", ""),
    ],
)
def test_where_a_licence_is_read(tmp_path: Path, headers: str, licence: str) -> None:
    install(tmp_path, "some", headers=headers)
    assert list_licences.licence_of(installed_packages([str(tmp_path)])["some"]) == licence


def test_a_licence_that_is_not_allowed_is_told() -> None:
    assert "has the licence 'GPL-3.0-only'; allowed are" in list_licences.problem_of("web", "GPL-3.0-only")
    assert "declares no licence" in list_licences.problem_of("web", "")
    name, (licence, reason) = next(iter(list_licences.EXCEPTIONS.items()))
    assert reason
    assert list_licences.problem_of(name, licence) == ""
    assert list_licences.problem_of("web", licence) != ""
    assert list_licences.problem_of(name, "GPL-3.0-only") != ""


def answers(**vulnerable: str) -> Any:
    return lambda versions: [
        {"name": name, "version": version, "vulns": [{"id": vulnerable[name], "fix_versions": ["9"]}]
         if name in vulnerable else []} for name, version in versions.items()
    ]  # fmt: skip


def test_a_vulnerability_is_told(locked: dict[str, Locked]) -> None:
    assert vulnerabilities(locked, answers()) == []
    assert vulnerabilities(locked, answers(web="CVE-1"))[0].startswith(
        "web 1.0 has the vulnerability CVE-1; fixed in 9"
    )


def test_a_service_that_knows_nothing_is_not_reached(locked: dict[str, Locked]) -> None:
    asked = []

    def ask(versions: Mapping[str, str]) -> list[dict]:
        asked.append(len(versions))
        return [{"name": name, "skip_reason": "not found"} for name in versions]

    with pytest.raises(NotReachedError):
        vulnerabilities(locked, ask)
    assert asked == [1]


@pytest.mark.parametrize(("words", "status"), [([], 0), (["--strict"], 1)])
def test_only_strict_fails_without_the_service(
    words: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def not_reached(*_: object) -> list[str]:
        raise NotReachedError("no network")

    monkeypatch.setattr(audit_dependencies, "vulnerabilities", not_reached)
    for name in ("differences", "file_problems", "start_problems", "licence_problems"):
        monkeypatch.setattr(audit_dependencies, name, lambda *_: [])
    assert audit_dependencies.main(words) == status
    assert capsys.readouterr().err.splitlines()[0] == "audit: vulnerabilities were not looked up: no network"


@pytest.mark.parametrize("check", ["differences", "file_problems", "start_problems", "licence_problems"])
def test_each_check_fails_the_audit(
    check: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("differences", "file_problems", "start_problems", "licence_problems", "vulnerabilities"):
        monkeypatch.setattr(audit_dependencies, name, lambda *_, name=name: ["a fault"] if name == check else [])
    assert audit_dependencies.main([]) == 1
    assert capsys.readouterr().err == "audit: a fault\n"


def test_the_lock_of_the_project_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    locked = read_lock()
    direct = dependencies.direct_names(dependencies.direct_requirements())
    assert direct <= locked.keys()
    assert locked["torch"].file == "pinned.txt"
    assert lock_dependencies.hash_problems(locked) == []


def test_a_list_of_licences_that_is_not_up_to_date_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(list_licences, "TARGET", ROOT / "docs" / "nowhere.md")
    monkeypatch.setattr(list_licences, "licence_problems", list)
    assert list_licences.main(["--check"]) == 1
    assert "docs/nowhere.md is not up to date" in capsys.readouterr().err
