"""A GGUF file as a base model: dequantized by transformers once, and kept as ordinary fp32 safetensors in the cache."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from neuralchat.cache import WORK_PREFIX, broken_seal, cache_directory, keep_within_limit, seal, trusted_directory
from neuralchat.console import inform, note
from neuralchat.console.waiting import waiting
from neuralchat.errors import ModelError, NeuralChatError, is_panic, system_error_in, system_error_line
from neuralchat.files import move, open_regular, remove_tree, sweep_abandoned, working_directory_in
from neuralchat.models.gguf.splits import split_name, steps_of
from neuralchat.models.loading.file_hashes import remembered_sha256
from neuralchat.models.quiet import quiet_libraries

MAGIC = b"GGUF"
# What is made of a file changes with it.
READER_VERSION = 1


def is_gguf_file(name: str | os.PathLike[str]) -> bool:
    path = Path(name)
    with suppress(OSError):
        return path.suffix.lower() == ".gguf" and path.is_file()
    return False


def converted_gguf(path: Path) -> Path:
    """The directory in the cache that holds the model of a GGUF file. Raises ModelError."""
    check_magic(path)
    kind = trusted_directory(cache_directory() / "gguf")
    entry = kind / f"base-{READER_VERSION}-{remembered_sha256(path)}"
    if entry.is_dir() and broken_seal(entry) is None:
        return entry
    inform(f"reading {path} (once; it is kept as fp32 in {kind})")
    try:
        sweep_abandoned(kind, WORK_PREFIX)
        with working_directory_in(kind, WORK_PREFIX) as work:
            with waiting("converting"), quiet_libraries():
                convert(path, work / "entry")
            seal(work / "entry")
            # Another process may have made it meanwhile.
            if broken_seal(entry) is not None:
                remove_tree(entry)
                move(work / "entry", entry)
    except NeuralChatError:
        raise
    except BaseException as error:  # files of others are trusted with nothing, and the libraries raise what they meet
        if (refused := system_error_in(error)) is not None:
            raise ModelError(
                f"{kind} cannot be written: {system_error_line(refused)}; NEURALCHAT_HOME names another place"
            ) from error
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{path} cannot be read: {reason:.300}\nIts architecture must be one that transformers reads from GGUF, "
            "and the file whole; name the model that it was made from instead"
        ) from error
    keep_within_limit(keep=entry)
    return entry


def check_magic(path: Path) -> None:
    with open(open_regular(path), "rb") as stream:
        found = stream.read(len(MAGIC))
    if found != MAGIC:
        raise ModelError(f"{path} is no GGUF file: it begins with {found!r}; copy it again from where it came from")


def convert(path: Path, target: Path) -> None:
    from neuralchat.models.loading.fetch import convert_gguf

    convert_gguf(path.absolute(), target, repair_splits)


def repair_splits(path: Path, tokenizer: Any) -> None:
    """Have the tokenizer split texts as the file says; transformers takes GPT-2's way for most."""
    import gguf
    from tokenizers import pre_tokenizers

    field = gguf.GGUFReader(path).get_field("tokenizer.ggml.pre")
    wanted = None if field is None else str(field.contents())
    stated = json.loads(tokenizer.backend_tokenizer.to_str())
    if wanted is None or stated["model"]["type"] != "BPE" or stated["model"].get("byte_fallback"):
        return
    if split_name(stated) == wanted:
        return
    if (steps := steps_of(wanted)) is None:
        note(
            f"{path} splits texts in the way '{wanted}', which is not known here; tokens may be others than the model's"
        )
        return
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
