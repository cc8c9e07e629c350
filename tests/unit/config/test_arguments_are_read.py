"""Every flag of ours does something: taken out of its dataclass, the type checker misses it somewhere."""

from __future__ import annotations

import ast
import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import neuralchat
from neuralchat.config.arguments import DataArguments, DistributedArguments, ModelArguments, TuningArguments

KINDS = (ModelArguments, DataArguments, TuningArguments, DistributedArguments)
PACKAGE = Path(neuralchat.__file__).parent


def without_fields(source: str) -> str:
    """The module with dataclasses that have no field left."""
    tree = ast.parse(source)
    names = {kind.__name__ for kind in KINDS}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in names:
            node.body = [part for part in node.body if not isinstance(part, ast.AnnAssign)]
    return ast.unparse(tree)


def missed_names(directory: Path) -> set[tuple[str, str]]:
    """(dataclass, name) of every attribute that the code reads and that is not there.

    What checks the arguments among each other does not make use of them.
    """
    options = ["--follow-imports=skip", "--ignore-missing-imports", "--check-untyped-defs", "--no-incremental"]
    command = [sys.executable, "-m", "mypy", "--config-file=", *options, str(directory / "neuralchat")]
    told = subprocess.run(command, capture_output=True, text=True, cwd=directory, check=False).stdout
    assert "error" in told, told
    used = [line for line in told.splitlines() if not re.match(r".*config/(checks|config)\.py:", line)]
    return set(re.findall(r'"(\w+)" has no attribute "(\w+)"', "\n".join(used)))


@pytest.mark.slow
def test_every_argument_is_read(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "neuralchat", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "neuralchat" / "config" / "arguments.py"
    changed = without_fields(path.read_text(encoding="utf-8"))
    # Of a checkout that nobody may write to, the copy has the modes.
    path.chmod(0o644)
    path.write_text(changed, encoding="utf-8")
    missed = missed_names(tmp_path)
    fields = {(kind.__name__, field.name) for kind in KINDS for field in dataclasses.fields(kind)}
    assert sorted(fields - missed) == [], "accepted, and without an effect"
    # Else the names were not those of what was taken out.
    assert sorted(missed - fields) == []
