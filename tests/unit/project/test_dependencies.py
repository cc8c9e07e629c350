"""What is locked fits what is asked for."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import neuralchat

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "scripts"))

import setup_environment as setup

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked_in(*files: str) -> dict[str, str]:
    return {
        name.lower(): version
        for file in files
        for name, version in re.findall(
            r"^([\w.-]+)==([^\s\\]+)", (ROOT / f"locked/{file}.txt").read_text(), re.MULTILINE
        )
    }


LOCKED = locked_in("requirements", "torch", "installer")
# Of an extra with a world of its own around it, tested in an environment of its own: locked/harness.txt.
LOCKED_APART = {"harness"}
ASKED = [
    Requirement(text)
    for texts in (
        PROJECT["project"]["dependencies"],
        *(texts for name, texts in PROJECT["project"]["optional-dependencies"].items() if name not in LOCKED_APART),
        PROJECT["dependency-groups"]["dev"],
    )
    for text in texts
]  # fmt: skip


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
def test_what_is_asked_for_is_locked_within_its_range(asked: Requirement) -> None:
    assert asked.specifier.contains(LOCKED[asked.name.lower()], prereleases=True)


def test_the_harness_is_locked_with_what_the_project_takes() -> None:
    harness = locked_in("harness", "torch")
    asked = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["harness"]]
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(harness[requirement.name.lower()], prereleases=True), requirement


@pytest.mark.parametrize("file", ["requirements", "installer", "peers", "harness"])
def test_every_locked_package_has_a_hash_and_none_is_for_gpus(file: str) -> None:
    blocks = re.split(r"^(?=\w)", (ROOT / f"locked/{file}.txt").read_text(), flags=re.MULTILINE)[1:]
    assert blocks
    for block in blocks:
        assert "--hash=sha256:" in block, block
        assert not block.startswith(setup.CUDA_PACKAGES), block


def test_the_package_does_not_pin() -> None:
    """It has to install beside others."""
    assert [text for text in PROJECT["project"]["dependencies"] if "==" in text] == []


def test_the_version_is_the_same_in_both_places() -> None:
    """`neuralchat --version` has the one, a run's manifest and the ranks' comparison that of the installed package."""
    assert PROJECT["project"]["version"] == neuralchat.__version__
