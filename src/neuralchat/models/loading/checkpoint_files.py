"""The files of a checkpoint, looked at before a library reads them: names, headers, and what config.json declares.

Only headers are read. What they say is compared with config.json, so that a few bytes cannot make the libraries build
a model that fills the memory.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neuralchat.errors import ModelError
from neuralchat.files import kind_of_mode, open_regular, read_file

MAX_JSON_BYTES = 16 << 20
# What libraries read whole; the largest tokenizers that are published have 35 MB.
READ_WHOLE = (
    "*config*.json",
    "*token*.json",
    "*vocab*.json",
    "*.index.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
)
MAX_READ_WHOLE_BYTES = 256 << 20
LFS_BEGINNING = b"version https://git-lfs"
# Sizes that are a dimension of some weight, or less than one.
SIZES = (
    "hidden_size",
    "d_model",
    "n_embd",
    "intermediate_size",
    "d_ff",
    "n_inner",
    "vocab_size",
    "head_dim",
    "d_kv",
    "num_attention_heads",
    "num_key_value_heads",
    "n_head",
    "n_heads",
    "num_heads",
    "n_positions",
    "relative_attention_num_buckets",
)
# Each layer has weights of its own.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
# The most that a library builds beside weights, such as a list with an entry a layer or a table of positions.
MAX_LAYERS = 10_000
LIMITS = {"max_position_embeddings": 1 << 26, "max_seq_len": 1 << 20, "expansion_ratio": 1000, "n_ctx": 1 << 26}
Shapes = Mapping[str, tuple[int, ...]]


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by the file's header. Raises ModelError where header and file disagree."""
    from safetensors import safe_open

    try:
        # Whether it may be read at all, which the library calls "not found".
        os.close(open_regular(path))
        # The library checks that the header's offsets, types and shapes cover the file exactly.
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # what a damaged header makes the library raise is not declared anywhere
        with path.open("rb") as stream:
            if stream.read(len(LFS_BEGINNING)) == LFS_BEGINNING:
                raise ModelError(
                    f"{path} is a pointer of Git LFS in the place of the weights; get them with 'git lfs pull'"
                ) from error
        raise ModelError(
            f"{path} is not a whole safetensors file: {error_line(error)}. Copy it again from where it came from."
        ) from error


def error_line(error: BaseException) -> str:
    """The most informative line of a library's message, cut to 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "mismatch" in line and not line.endswith("above report!")] or lines
    line = next((line for line in telling if not line.endswith(":")), type(error).__name__)[:300]
    return line if line.isprintable() else repr(line)[1:-1]


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file of names and values, such as config.json. Raises ModelError."""
    try:
        content = json.loads(read_file(path, MAX_JSON_BYTES).decode("utf-8"))
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ModelError(f"{path} {error.strerror}, so it is no configuration") from error
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error_line(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold names and values, found {type(content).__name__}")
    return content


def check_read_whole(directory: Path) -> None:
    """Raise ModelError for what a library would wait for, or fill the memory with, where it reads small files."""
    for path in sorted({path for pattern in READ_WHOLE for path in directory.glob(pattern) if path.exists()}):
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise ModelError(f"{path} is {kind_of_mode(status.st_mode)}, not a file")
        if status.st_size > MAX_READ_WHOLE_BYTES:
            raise ModelError(
                f"{path} is larger than {MAX_READ_WHOLE_BYTES >> 20} MiB; no tokenizer or configuration is"
            )


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights of a base model. Raises ModelError where an index names others than its own."""
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = directory / f"{single}.index.json"
        if (directory / single).is_file():
            return [directory / single]
        if index.is_file():
            names = read_json_object(index).get("weight_map")
            if not isinstance(names, dict) or not names:
                raise ModelError(f"{index} has no weight_map that says which file holds a weight")
            files = sorted({str(name) for name in names.values()})
            for name in files:
                # A name with a path in it would have a file read that is not of this model.
                if Path(name).name != name or not (directory / name).is_file():
                    raise ModelError(f"{index} names the file '{name[:100]}', which is not in {directory}")
            return [directory / name for name in files]
    return []


def check_base_directory(directory: Path, config_directory: Path) -> None:
    """Raise ModelError where the files of a base model contradict each other or config.json."""
    path = config_directory / "config.json"
    config = read_json_object(path)
    if (directory / "adapter_config.json").exists():
        raise ModelError(
            f"model directory {directory} holds an adapter (adapter_config.json) beside the model; which of them is "
            "meant? Give a directory with the base model alone."
        )
    if config.get("quantization_config"):
        raise ModelError(
            f"{path}: the weights are quantized (quantization_config); take the model with ordinary weights, which "
            "--bits 8 and --bits 4 keep in few bits while they are loaded"
        )
    check_numbers(path, config)
    files = weight_files(directory)
    if not files:
        raise ModelError(
            f"model directory {directory} has no weights: neither model.safetensors nor pytorch_model.bin, and no index"
        )
    shapes = shapes_of(files)
    size = sum(file.stat().st_size for file in files)
    check_sizes(path, config, shapes, size)


def shapes_of(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Shapes of all safetensors files together; empty where the weights are pickled, whose shapes no header tells."""
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        if file.suffix == ".safetensors":
            found |= safetensors_shapes(file)
    return found


def check_numbers(path: Path, config: Any) -> None:
    for name, value in named_values(config):
        if isinstance(value, float) and math.isnan(value):
            raise ModelError(f"{path}: {name} is not a number (NaN), and so would every answer be")


def named_values(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value inside a JSON value, with the name it stands under."""
    todo = [(name, value)]
    while todo:
        name, value = todo.pop()
        if isinstance(value, dict):
            todo += [(str(key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            todo += [(name, inner) for inner in value]
        else:
            yield name, value


def check_sizes(path: Path, config: dict[str, Any], shapes: Shapes, file_bytes: int) -> None:
    """Raise ModelError for a size in config.json that no weight can have."""
    largest = max((max(shape, default=1) for shape in shapes.values()), default=file_bytes)
    layers = min(len(shapes) or file_bytes // 100, MAX_LAYERS)
    limits = {**dict.fromkeys(SIZES, largest), **dict.fromkeys(LAYERS, layers), **LIMITS}
    for name, value in named_values(config):
        if name in limits and isinstance(value, int) and not 1 <= value <= limits[name]:
            raise ModelError(
                f"{path}: {name} is {str(value)[:40]}; with the weights that are there it can be 1 to {limits[name]}"
            )


def check_declared(name: str, declared: Shapes, elements: int, directory: Path) -> None:
    """Raise ModelError where the model that config.json declares is not the one in the files.

    `declared` are its shapes, `elements` the number of its parameters.
    """
    files = weight_files(directory)
    shapes = shapes_of(files)
    for weight in sorted(shapes.keys() & declared.keys()):
        if shapes[weight] != declared[weight]:
            raise ModelError(
                f"model '{name}': {weight} is {list(shapes[weight])} in the weights, config.json says "
                f"{list(declared[weight])}; are both of the same model?"
            )
    there = sum(math.prod(shape) for shape in shapes.values()) or sum(file.stat().st_size for file in files)
    # Tied weights are saved once; beyond that the rest would be made up.
    if elements > 2 * there:
        raise ModelError(
            f"model '{name}': config.json declares {elements:,} weights, the files hold {there:,}; "
            "are both of the same model?"
        )
