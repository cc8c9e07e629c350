"""A public name of the package means one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import neuralchat

SOURCE = Path(neuralchat.__file__).parent
# The function of the library and the verb's work behind it.
SAME_ON_PURPOSE = {"finetune"}


def names_of(tree: ast.Module) -> Iterator[str]:
    """What a module defines at its top level."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_no_public_name_is_defined_in_two_modules() -> None:
    places: dict[str, set[str]] = defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        for name in names_of(ast.parse(path.read_text(encoding="utf-8"))):
            if not name.startswith("_") and name not in SAME_ON_PURPOSE:
                places[name].add(str(path.relative_to(SOURCE)))
    assert len(places) > 500
    assert {name: sorted(files) for name, files in places.items() if len(files) > 1} == {}
