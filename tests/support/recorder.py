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
from typing import Any

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
        self.file.write_text(json.dumps(self.record(), indent=1) + "\n", encoding="utf-8")

    def record(self) -> dict[str, Any]:
        """{"versions": {library: version}, "cells": {property: [[family, method], ...]}}"""
        cells: dict[str, list[list[str]]] = {}
        for name, family, method in sorted(self.passed - self.fallen):
            cells.setdefault(name, []).append([family, method])
        versions = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
        return {"versions": versions, "cells": cells}
