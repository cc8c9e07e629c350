"""What a source file does by itself that one module is to do for all: writing, printing, starting, running code.

Names are followed through imports (`from shutil import rmtree as gone`), and a name that is only mentioned, as to be
called by somebody else, counts as a call.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Breach(NamedTuple):
    kind: str
    line: int
    what: str


def listed(names: str) -> set[str]:
    """
    >>> sorted(listed("print os: remove unlink sys.stdout: write"))
    ['os.remove', 'os.unlink', 'print', 'sys.stdout.write']
    """
    found, module = set(), ""
    for word in names.split():
        if word.endswith(":"):
            module = word.removesuffix(":") + "."
        else:
            found.add(module + word)
    return found


# kind -> the names that do it, wherever they are mentioned.
NAMES: dict[str, set[str]] = {
    "write": listed("""
        os: remove unlink rename renames replace rmdir removedirs link symlink mkdir makedirs mkfifo mknod truncate
        ftruncate write pwrite writev sendfile copy_file_range splice open fdopen chmod fchmod lchmod chown fchown
        lchown utime setxattr removexattr
        shutil: rmtree move copy copy2 copyfile copyfileobj copymode copystat copytree chown make_archive unpack_archive
        tempfile: mkdtemp mkstemp mktemp NamedTemporaryFile TemporaryFile SpooledTemporaryFile TemporaryDirectory
        logging: FileHandler basicConfig
        logging.handlers: RotatingFileHandler TimedRotatingFileHandler WatchedFileHandler
        io: FileIO mmap: mmap sqlite3: connect dbm: open fileinput: input
    """),
    # Functions of libraries that write where they are told to.
    "library write": listed("""
        numpy: save savez savez_compressed savetxt memmap torch: save json: dump pickle: dump yaml: dump_all
        safetensors.torch: save_file save_model safetensors.numpy: save_file torch.utils.tensorboard: SummaryWriter
        pyarrow.parquet: write_table write_to_dataset ParquetWriter pyarrow.feather: write_feather
        pyarrow.csv: write_csv CSVWriter pyarrow: OSFile memory_map output_stream
    """),
    "print": listed("""
        print input sys.stdout: write writelines buffer sys.stderr: write writelines buffer
        sys: __stdout__ __stderr__ displayhook pprint: pprint pp rich: print warnings: showwarning
        traceback: print_exc print_exception print_stack print_tb logging: StreamHandler
    """),
    "start": listed("""
        subprocess: run Popen call check_call check_output getoutput getstatusoutput
        os: system popen fork forkpty execv execve execvp execvpe execl execle execlp execlpe posix_spawn posix_spawnp
        spawnl spawnle spawnlp spawnlpe spawnv spawnve spawnvp spawnvpe startfile
        asyncio: create_subprocess_exec create_subprocess_shell pty: spawn fork webbrowser: open
        multiprocessing: Process Pool multiprocessing.pool: Pool concurrent.futures: ProcessPoolExecutor
    """),
    # What may run what a file says.
    "run code": listed("""
        eval exec compile __import__ pickle: load loads Unpickler marshal: load loads shelve: open torch: load
        torch.jit: load torch.export: load numpy: load yaml: load unsafe_load full_load load_all joblib: load
        dill: load loads cloudpickle: load loads runpy: run_path run_module code: interact importlib: import_module
        importlib.util: spec_from_file_location importlib.machinery: SourceFileLoader ctypes: CDLL PyDLL
        ctypes.cdll: LoadLibrary torch.ops: load_library torch.utils.cpp_extension: load
    """),
    "connect": listed("""
        socket: socket create_connection create_server socketpair fromfd
        urllib.request: urlopen urlretrieve build_opener
        huggingface_hub: HfApi hf_hub_download snapshot_download upload_file upload_folder login whoami
        http.client: HTTPConnection HTTPSConnection ftplib: FTP smtplib: SMTP asyncio: open_connection start_server
        requests: get post put head delete patch request Session
        httpx: get post put head delete patch request Client AsyncClient stream
    """),
    # Clocks that are set, by people and by the network: they jump.
    "wall clock": listed("""
        time: time time_ns localtime gmtime ctime asctime strftime datetime.datetime: now utcnow today
        datetime.date: today
    """),
}
# Methods, of whatever they are called on.
METHODS: dict[str, set[str]] = {
    "write": listed("""
        write_text write_bytes unlink rmdir symlink_to hardlink_to touch mkdir rename chmod lchmod extract extractall
    """),
    "library write": listed("""
        save_pretrained save_to_json to_json to_csv to_parquet to_pickle to_feather to_excel save_to_disk tofile savefig
        save_vocabulary save_model save_state save_config push_to_hub to_json_file export_chrome_trace
    """),
    "print": listed("print_exc pprint"),
}
# open of a module takes the mode in its second place, as the builtin does; a method such as Path.open in its first.
OPENING_MODULES = {"io", "gzip", "bz2", "lzma", "codecs", "tarfile", "zipfile", "tokenize"}
ARCHIVES = {"zipfile.ZipFile", "tarfile.TarFile", "gzip.GzipFile", "bz2.BZ2File", "lzma.LZMAFile"}
# `open` of these takes no mode in that place.
OPEN_WITHOUT_MODE = {"ExampleStore.open", "archive.open"}


def breaches(tree: ast.AST) -> Iterator[Breach]:
    """Every mention of what writes, deletes, prints, starts, connects, runs what it reads, or asks for the date."""
    aliases = imported(tree)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from of_call(node, aliases)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = qualified(node, aliases)
            yield from (Breach(kind, node.lineno, name) for kind, names in NAMES.items() if name in names)
            if name == "open" and id(node) not in called:
                yield Breach("write", node.lineno, "open")
        elif isinstance(node, ast.ImportFrom):
            # from os import *
            yield from (Breach("import", node.lineno, "*") for alias in node.names if alias.name == "*")


def imported(tree: ast.AST) -> dict[str, str]:
    """A name of the file -> what it is the name of."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                found[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def qualified(node: ast.expr, aliases: Mapping[str, str]) -> str:
    """a.b.c of an expression that is a name, with what its first part stands for; "" of any other."""
    if isinstance(node, ast.Name):
        name = aliases.get(node.id, node.id)
        return name.removeprefix("builtins.")
    if isinstance(node, ast.Attribute):
        before = qualified(node.value, aliases)
        return f"{before}.{node.attr}".removeprefix("builtins.") if before else ""
    return ""


def of_call(call: ast.Call, aliases: Mapping[str, str]) -> Iterator[Breach]:
    """What cannot be told by a name alone: methods, and whether something is opened for writing."""
    name = qualified(call.func, aliases)
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    is_known = any(name in names for names in NAMES.values())
    for kind, methods in METHODS.items():
        if method in methods and not is_known:
            yield Breach(kind, call.lineno, name or method)
    if method == "replace" and len(call.args) == 1 and not call.keywords and not is_known:
        # Path.replace; that of a text has two arguments, that of a dataclass or a date names its own.
        yield Breach("write", call.lineno, name or method)
    module, _, function = name.rpartition(".")
    if is_known or name in OPEN_WITHOUT_MODE or not (name in ARCHIVES or "open" in (function, method)):
        return
    place = 1 if name in ARCHIVES or name == "open" or module in OPENING_MODULES else 0
    if opens_for_writing(call, place):
        yield Breach("write", call.lineno, name or method)


def opens_for_writing(call: ast.Call, place: int) -> bool:
    """Whether the mode, which is argument `place`, writes, or is not known."""
    modes = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    modes += call.args[place : place + 1]
    # Whatever they hold may be a mode.
    unknown = [node for node in (*call.args[: place + 1], *call.keywords) if is_unpacked(node)]
    return bool(unknown) or any(
        not isinstance(mode, ast.Constant) or set("wax+") & set(str(mode.value)) for mode in modes
    )


def is_unpacked(node: ast.AST) -> bool:
    return isinstance(node, ast.Starred) or (isinstance(node, ast.keyword) and node.arg is None)
