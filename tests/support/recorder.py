"""A pytest plugin: which cells of the support matrix passed.

python -m pytest tests/contract tests/distributed --record-support docs/support.json

A test marked `proves(property)` stands for one cell by its parameters `family` and `method`. A property of a cell is
recorded where every test of it passed; one that failed or was skipped takes it away.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

LIBRARIES = ("torch", "transformers", "peft", "accelerate")
MARK = "proves"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-support", metavar="FILE", help="write the cells of the support matrix that passed")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}(property): the cell of its family and method has the property")
    file = config.getoption("--record-support")
    # Reports of xdist's workers reach its controller.
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(Path(file)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers(MARK):
            parameters = item.callspec.params  # type: ignore[attr-defined]
            item.user_properties.append((MARK, [mark.args[0], parameters["family"], parameters["method"]]))


class Recorder:
    """Collects the reports of tests that prove something."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.passed: set[tuple[str, ...]] = set()
        self.fallen: set[tuple[str, ...]] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        proofs = {tuple(value) for name, value in report.user_properties if name == MARK}
        if not report.passed:
            self.fallen |= proofs
        elif report.when == "call":
            self.passed |= proofs

    def pytest_sessionfinish(self) -> None:
        versions = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
        self.file.write_text(as_text(versions, self.passed - self.fallen), encoding="utf-8")


def as_text(versions: dict[str, str], proofs: set[tuple[str, ...]]) -> str:
    """JSON with a line for each property of each family: the methods."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, family, method in sorted(proofs):
        found.setdefault(name, {}).setdefault(family, []).append(method)
    properties = [
        f"  {json.dumps(name)}: {{\n" + ",\n".join(line_of(*row) for row in families.items()) + "\n  }"
        for name, families in found.items()
    ]
    cells = ",\n".join(properties)
    return f'{{\n "versions": {json.dumps(versions)},\n "cells": {{\n{cells}\n }}\n}}\n'


def line_of(family: str, methods: list[str]) -> str:
    return f"   {json.dumps(family)}: {json.dumps(methods)}"


def read_record(file: Path) -> tuple[dict[str, str], dict[str, set[tuple[str, str]]]]:
    """Versions, and the cells of each property as (family, method)."""
    content = json.loads(file.read_text(encoding="utf-8"))
    cells = {
        name: {(family, method) for family, methods in families.items() for method in methods}
        for name, families in content["cells"].items()
    }
    return content["versions"], cells
