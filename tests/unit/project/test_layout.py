"""The tests are laid out as the rooms are, and none leans on another."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import neuralchat

TESTS = Path(__file__).parents[2]
PACKAGE = Path(neuralchat.__file__).parent
FILES = sorted(path for path in TESTS.rglob("*.py") if "fixtures" not in path.parts)
# Rooms of the package, and what is no room: the project itself (documents, packages, recipes, the tests).
PROJECT = "project"


def imported_modules(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_of_a_test(module: str) -> bool:
    """
    >>> is_of_a_test("training.test_command"), is_of_a_test("conftest"), is_of_a_test("support.runs")
    (True, True, False)
    """
    return any(part.startswith("test_") or part == "conftest" for part in module.split("."))


def test_no_file_imports_a_test() -> None:
    imports = [(path.relative_to(TESTS), module) for path in FILES for module in imported_modules(path)]
    assert any(module.startswith("support.") for _, module in imports)
    assert [(str(path), module) for path, module in imports if is_of_a_test(module)] == []


def test_the_search_for_imports_finds_them(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text("import os.path\nfrom training import test_command\ndef f():\n    from test_a import g\n")
    assert [name for name in imported_modules(file) if is_of_a_test(name)] == [
        "training.test_command",
        "test_a",
        "test_a.g",
    ]


def test_each_folder_of_unit_tests_is_a_room() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    folders = {path.name for path in (TESTS / "unit").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders - rooms == {PROJECT}


def test_helpers_are_no_tests() -> None:
    assert [path.name for path in (TESTS / "support").glob("*.py") if path.name.startswith("test_")] == []


def test_files_and_folders_stay_small() -> None:
    both = [*FILES, *PACKAGE.rglob("*.py")]
    assert [path.name for path in both if len(path.read_text(encoding="utf-8").splitlines()) >= 400] == []
    sizes = Counter(path.parent for path in both)
    assert [(folder.name, size) for folder, size in sizes.items() if size > 16] == []


def test_the_loop_is_read_at_one_sitting_and_its_room_stays_small() -> None:
    lines = {
        path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in (PACKAGE / "training").glob("*.py")
    }
    assert lines["loop.py"] <= 255
    assert sum(lines.values()) < 2000
