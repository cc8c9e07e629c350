"""docs/support.md says what tests recorded, and they recorded every cell there is."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest
from support.cells import CELLS, COLUMNS, PROPERTIES, REFUSED, kernels_of
from support.families import FAMILY_PROPERTIES
from support.recorder import read_record
from support.small_models import ALL_FAMILIES

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[3]
TESTS = """
import pytest

@pytest.mark.proves("good")
@pytest.mark.parametrize(("family", "method"), [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")])
@pytest.mark.parametrize("half", [1, 2])
def test_good(family, method, half):
    assert (family, method, half) != ("a", "y", 2)
    if (family, method, half) == ("b", "x", 1):
        pytest.skip("not here")
"""


def test_the_record_has_the_cells_that_there_are() -> None:
    _, recorded = read_record(ROOT / "docs" / "support.json")
    families = {name: [(family, "lora") for family in found] for name, found in FAMILY_PROPERTIES.items()}
    assert {name: sorted(cells) for name, cells in recorded.items()} == {
        name: sorted(cells) for name, cells in (PROPERTIES | families).items()
    }


def test_the_page_is_made_from_the_record() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "generate_support_matrix.py"))["page"]
    docs = ROOT / "docs"
    assert (docs / "support.md").read_text(encoding="utf-8") == page(*read_record(docs / "support.json"))


def test_the_page_shows_every_family_of_transformers_that_is_tested() -> None:
    page = (ROOT / "docs" / "support.md").read_text(encoding="utf-8").partition("## Families")[2]
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    shown = {name: letters for row in rows for name, letters in zip(row[::2], row[1::2], strict=False)}
    packed, padded = FAMILY_PROPERTIES["family packed"], FAMILY_PROPERTIES["family padded"]
    assert len(packed) + len(padded) >= 40
    assert shown == {**dict.fromkeys(packed, "pmsa"), **dict.fromkeys(padded, "bmsa")}


def test_every_cell_is_proven_or_refused() -> None:
    assert sorted([*CELLS, *REFUSED]) == sorted((family, method) for family in ALL_FAMILIES for method in COLUMNS)


@pytest.mark.parametrize("other", [False, True])
def test_every_family_and_every_method_meets_both_kernels(other: bool) -> None:
    met = [(family, method, kernels_of(family, method, other=other)) for family, method in CELLS]
    for place in (0, 1):
        assert {(cell[place], cell[2]) for cell in met} == {
            (cell[place], kernels) for cell in met for kernels in ("compiled", "torch")
        }


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_only_what_passed_is_recorded(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    """The cell of a failed and that of a skipped test are left out."""
    pytester.makeconftest('pytest_plugins = ["support.recorder"]')
    pytester.makepyfile(TESTS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]))
    pytester.runpytest_subprocess("--record-support", "found.json", "-n", workers).assert_outcomes(
        passed=6, failed=1, skipped=1
    )
    versions, cells = read_record(pytester.path / "found.json")
    assert cells == {"good": {("a", "x"), ("b", "y")}}
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
