"""Only one module writes files and deletes them, and one prints: what they hold off is held off everywhere."""

from __future__ import annotations

import ast
import doctest
from functools import cache
from pathlib import Path

import pytest
from support.strangers import breaches as finder
from support.strangers.breaches import METHODS, NAMES, breaches

import neuralchat

SOURCE = Path(neuralchat.__file__).parent
ROOT = Path(__file__).parents[3]
ANYTHING = "anything"
# kind -> file -> what of it the file may do, each with its reason.
ALLOWED: dict[str, dict[str, set[str] | str]] = {
    "write": {
        # The one module that does it for all.
        "files.py": ANYTHING,
        # What it does for several files at once.
        "working_directories.py": ANYTHING,
        # /dev/null, so that what is printed goes nowhere; what a signal handler says, beneath the stream.
        "console/output.py": {"os.open", "os.write"},
        "data/templates/limits.py": {"os.open"},
        # Memory of this process alone, no file.
        "models/attention/pages.py": {"mmap.mmap"},
        # The lock's own descriptor, which files.open_own gave.
        "runs/lock.py": {"os.ftruncate", "os.write"},
        # Modes and times of what this user owns, which was looked at before.
        "cache.py": {"os.utime", "path.chmod"},
        # Taken from others, where it is this user's own.
        "console/question_history.py": {"path.chmod"},
        # Directories of its own for what libraries write or read there.
        "preparation/session.py": {"tempfile.TemporaryDirectory"},
        "checkpointing/select.py": {"tempfile.TemporaryDirectory"},
        # Asks Linux to begin counting this process's peak of memory anew; no file.
        "planning/process_memory.py": {"os.open", "os.write"},
        # To a stream of files.py.
        "data_tools/moving/row_writers.py": {"gzip.GzipFile"},
        # A private directory for a socket.
        "inference/engine/llama/llama_server.py": {"tempfile.TemporaryDirectory"},
    },
    # Each writes to a working directory of files.py or to a temporary one, and is put into its place from there.
    "library write": {
        "checkpointing/checkpointer.py": {"save_pretrained", "save_to_json"},
        "data/example_store.py": {"pyarrow.OSFile", "pyarrow.memory_map"},
        "export/adapter.py": {"save_pretrained"},
        "export/merge.py": {"save_pretrained"},
        "models/loading/fetch.py": {"save_pretrained"},
        "preparation/session.py": {"save_pretrained"},
        "training/manifest.py": {"save_pretrained"},
        # To a stream of files.py.
        "data_tools/moving/row_writers.py": {"pyarrow.parquet.ParquetWriter"},
        # Reads.
        "data/record_files/packed.py": {"pyarrow.OSFile"},
    },
    "print": {
        # Asks for a line, with a prompt of its own words.
        "console/questions.py": {"input"},
    },
    # A process of its own can write anything: the compiler, pip, the trial of a template.
    "start": {
        "models/kernels/compiled.py": {"subprocess.run"},
        "models/loading/fetch.py": {"subprocess.run"},
        "data/templates/limits.py": {"os.fork"},
    },
    "run code": {
        # Names of our own modules, and of a package of Intel's.
        "__init__.py": {"importlib.import_module"},
        "cli.py": {"importlib.import_module"},
        "distributed/backends.py": {"importlib.import_module"},
        # Functions of the system, and kernels that were compiled and sealed here.
        "models/kernels/compiled.py": {"ctypes.CDLL"},
        "models/kernels/allocator.py": {"ctypes.CDLL"},
        "models/kernels/elementwise.py": {"ctypes.CDLL"},
        "models/kernels/decoder.py": {"ctypes.CDLL"},
        "models/kernels/quantization.py": {"ctypes.CDLL"},
        "models/loading/read_pages.py": {"ctypes.CDLL"},
        "models/attention/segment_kernel.py": {"ctypes.CDLL"},
        "models/loading/fetch.py": {"ctypes.CDLL"},
        "models/compat/torch.py": {"ctypes.CDLL"},
        "models/compat/llama_cpp.py": {"ctypes.CDLL"},
        # Of an empty text.
        "models/compat/transformers.py": {"compile"},
        # The file that the user has named to be run.
        "evaluation/scoring/user_scorer.py": {"importlib.util.spec_from_file_location"},
        # A loader that takes neither tags nor aliases.
        "config/config_file.py": {"yaml.load"},
    },
    "connect": {
        # Where the user has asked for an upload; and which way leads to the first rank, for which nothing is sent.
        "export/hub.py": {"huggingface_hub.HfApi"},
        "distributed/launchers.py": {"socket.socket"},
        # To llama.cpp in the same process, by a socket of the file system.
        "inference/engine/llama/llama_server.py": {"http.client.HTTPConnection", "socket.socket"},
        # Listens where the user has said so, and is handed over.
        "inference/server/running.py": {"socket.socket"},
        "inference/server/serving.py": {"socket.socket"},
        # Asks the server whose address the user has typed.
        "inference/terminal/server_bot.py": {"httpx.Client"},
    },
    # What is written down as a date, the day that a template takes for today, and how long a thing was not used.
    "wall clock": {
        "cache.py": {"time.time"},
        "console/cache_page.py": {"time.strftime", "time.localtime"},
        "data/templates/chat_text.py": {"datetime.date.today"},
        "runs/lock.py": {"time.strftime"},
        # When an answer was rated, given, and a model loaded.
        "inference/page/feedback.py": {"datetime.datetime.now"},
        "inference/server/lineup.py": {"time.time"},
        "inference/server/shapes.py": {"time.time"},
        "training/manifest.py": {"time.strftime"},
    },
    "import": {},
}
# What no script of the project does: they write pages of this checkout, and print.
IN_SCRIPTS = {
    "start": {"setup_environment.py": {"subprocess.run"}},
    "connect": {"setup_environment.py": {"urllib.request.urlopen"}},
    "run code": {},
    "import": {},
    "library write": {},
}
DELETING = {f"os.{name}" for name in ("remove", "unlink", "rename", "replace", "rmdir")} | {"shutil.rmtree", "os.chmod"}


@cache
def found(root: Path) -> dict[tuple[str, str], set[str]]:
    """(kind, file) -> what it does, methods by their own name where that is how they are told."""
    rows: dict[tuple[str, str], set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        for kind, _, what in breaches(ast.parse(path.read_text(encoding="utf-8"))):
            method = what.rpartition(".")[2]
            name = method if kind == "library write" and what not in NAMES[kind] else what
            rows.setdefault((kind, str(path.relative_to(root))), set()).add(name)
    return rows


def test_doctests() -> None:
    assert doctest.testmod(finder).failed == 0


@pytest.mark.parametrize("kind", ALLOWED)
def test_nobody_else_does_it(kind: str) -> None:
    allowed = ALLOWED[kind]
    rows = {file: names for (its_kind, file), names in found(SOURCE).items() if its_kind == kind}
    assert {file for file, names in allowed.items() if names is ANYTHING} <= set(rows)
    exact = {file: names for file, names in allowed.items() if names is not ANYTHING}
    # What is allowed and not done any more is to be taken off the list.
    assert {file: names for file, names in rows.items() if allowed.get(file) is not ANYTHING} == exact


@pytest.mark.parametrize("kind", IN_SCRIPTS)
def test_scripts_start_nothing_else_and_run_no_text(kind: str) -> None:
    rows = {file: names for (its_kind, file), names in found(ROOT / "scripts").items() if its_kind == kind}
    assert rows == IN_SCRIPTS[kind]


def test_scripts_delete_nothing() -> None:
    rows = {file: names & DELETING for (kind, file), names in found(ROOT / "scripts").items() if kind == "write"}
    assert rows
    assert not any(rows.values())


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NAMES.items() for name in sorted(names)])
def test_every_name_is_found_however_it_is_imported(kind: str, name: str) -> None:
    module, _, function = name.rpartition(".")
    spellings = [f"{name}(x)", f"call({name})", f"f = {name}"]
    if module:
        spellings = [f"import {module}\n{text}" for text in spellings]
        spellings += [f"import {module} as m\nm.{function}(x)", f"from {module} import {function}\n{function}(x)"]
        spellings += [f"from {module} import {function} as g\ncall(g)", f"def f():\n    import {module}\n    {name}(x)"]
    else:
        spellings += [f"import builtins\nbuiltins.{name}(x)", f"from builtins import {name} as p\np(x)"]
    for code in spellings:
        assert {(found.kind, found.what) for found in breaches(ast.parse(code))} == {(kind, name)}, code


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in METHODS.items() for name in sorted(names)])
def test_every_method_is_found_on_whatever_it_is_called(kind: str, name: str) -> None:
    for code in (f"a.{name}(x)", f"(a / b).{name}(x)", f"f().{name}(x)", f"self.a.{name}(x)"):
        assert [found.kind for found in breaches(ast.parse(code))] == [kind], code


@pytest.mark.parametrize(
    "code",
    [
        "open('a', 'w')",
        "open('a', mode='ab')",
        "open('a', how)",
        "open(*words)",
        "open('a', **named)",
        "Path('a').open('w')",
        "path.open('r+')",
        "path.open(mode='x')",
        "call(open)",
        "import io\nio.open('a', 'w')",
        "import gzip\ngzip.open('b.gz', 'wb')",
        "import codecs\ncodecs.open('b', 'w')",
        "from codecs import open\nopen('b', 'w')",
        "from gzip import open as unpacked\nunpacked('b', 'wb')",
        "import zipfile\nzipfile.ZipFile('b', 'w')",
        "from zipfile import ZipFile\nZipFile('b', mode='a')",
        "import tarfile\ntarfile.open('b', 'w:gz')",
        "path.replace(target)",
        "(a / b).rename(c)",
    ],
)
def test_what_opens_for_writing_is_found(code: str) -> None:
    assert [found.kind for found in breaches(ast.parse(code))] == ["write"]


@pytest.mark.parametrize(
    "code",
    [
        "open('a')",
        "open('a', 'rb')",
        "open('a', encoding='utf-8')",
        "path.open()",
        "path.open('rb')",
        "import gzip\ngzip.open('w.gz')",
        "import zipfile\nzipfile.ZipFile('wax.zip')",
        "text.replace('a', 'b')",
        "replace(row, number=1)",
        "day.replace(hour=1)",
        "put('x')",
        "re.compile('x')",
        "model.eval()",
        "os.path.exists(a)",
        "json.dumps(a)",
        "yaml.safe_load(a)",
        "print = put",
    ],
)
def test_what_is_none_is_not_found(code: str) -> None:
    assert list(breaches(ast.parse(code))) == []


def test_names_of_everything_are_not_imported() -> None:
    assert [found.kind for found in breaches(ast.parse("from os import *"))] == ["import"]
