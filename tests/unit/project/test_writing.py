"""Only one module writes files and deletes them, and one prints: what they hold off is held off everywhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import neuralchat

SOURCE = Path(neuralchat.__file__).parent
# Who may, and why.
WRITERS = {"files.py"}
PRINTERS: set[str] = set()
DELETING = {
    "rmtree",
    "remove",
    "unlink",
    "rename",
    "replace",
    "renames",
    "rmdir",
    "removedirs",
    "move",
    "copyfile",
    "copy",
    "copy2",
    "copytree",
    "symlink",
    "link",
    "truncate",
}
METHODS = {"write_text", "write_bytes", "unlink", "rmdir", "symlink_to", "hardlink_to", "touch", "mkdir"}
# A process of its own can write anything: the compiler, pip, and the launcher of ranks.
STARTERS = {"models/kernels/compiled.py", "models/loading/fetch.py"}


def name_of(node: ast.expr) -> str:
    """a.b.c of an expression that is a name; "" of any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return ""


def opens_for_writing(call: ast.Call) -> bool:
    """Whether open(...), or path.open(...), has a mode that writes, or one that is not known."""
    is_method = isinstance(call.func, ast.Attribute)
    place = 0 if is_method else 1
    modes = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    modes += call.args[place : place + 1]
    return any(not isinstance(mode, ast.Constant) or set("wax+") & set(str(mode.value)) for mode in modes)


def breaches(tree: ast.AST) -> Iterator[tuple[str, int, str]]:
    """(kind, line, what) of every call that writes, deletes, prints or starts something by itself."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        module, _, function = name.rpartition(".")
        if name == "print" or name in ("sys.stdout.write", "sys.stderr.write"):
            yield "print", node.lineno, name
        elif name == "open" or (function == "open" and module not in ("os", "pa.ipc", "ExampleStore", "archive")):
            if opens_for_writing(node):
                yield "write", node.lineno, name
        elif (module in ("os", "shutil") and function in DELETING) or name in ("os.open", "os.mkdir", "os.makedirs"):
            yield "write", node.lineno, name
        elif isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield "write", node.lineno, name or node.func.attr
        elif name.startswith("tempfile.mk") or name == "tempfile.NamedTemporaryFile":
            yield "write", node.lineno, name
        elif module in ("subprocess", "os") and function in ("run", "Popen", "call", "check_output", "system", "popen"):
            yield "start", node.lineno, name


def found() -> list[tuple[str, str, int, str]]:
    rows = []
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        rows += [(str(path.relative_to(SOURCE)), *breach) for breach in breaches(tree)]
    return rows


# /dev/null, opened so that what is printed goes nowhere.
HARMLESS = {("console/output.py", "os.open"), ("data/templates/limits.py", "os.open")}


@pytest.mark.parametrize(
    ("kind", "allowed"), [("write", WRITERS), ("print", PRINTERS), ("start", STARTERS)], ids=["write", "print", "start"]
)
def test_nobody_else_does_it(kind: str, allowed: set[str]) -> None:
    rows = [row for row in found() if row[1] == kind]
    assert {row[0] for row in rows} >= allowed
    assert [row for row in rows if row[0] not in allowed and (row[0], row[3]) not in HARMLESS] == []


@pytest.mark.parametrize(
    "code",
    [
        "open('a', 'w')",
        "open('a', mode='ab')",
        "open('a', how)",
        "Path('a').open('w')",
        "path.open('r+')",
        "path.write_text('x')",
        "(a / b).write_bytes(b'')",
        "shutil.rmtree(path)",
        "os.remove(path)",
        "path.unlink()",
        "print('x')",
        "sys.stderr.write('x')",
        "os.rename(a, b)",
        "os.makedirs(a)",
        "path.mkdir()",
        "subprocess.run(x)",
        "shutil.copyfile(a, b)",
        "tempfile.mkdtemp()",
        "os.system('x')",
    ],
)
def test_the_search_finds_it(code: str) -> None:
    assert len(list(breaches(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code", ["open('a')", "open('a', 'rb')", "path.open()", "path.open('rb')", "text.replace('a', 'b')", "put('x')"]
)
def test_what_is_none_is_not_found(code: str) -> None:
    assert list(breaches(ast.parse(code))) == []
