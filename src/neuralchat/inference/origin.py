"""A path or a name -> what a chatbot is made of, read before anything is loaded.

There are four kinds, told apart by the files of a directory (KINDS); what is no directory is the name of a base model.

    runs/a                     neuralchat.json      a finished run
    runs/a/checkpoint-20       checkpoint.json      a checkpoint of a run, finished or not
    adapters/b                 adapter_config.json  a PEFT adapter from elsewhere
    models/c, org/c, smollm2…  config.json          a base model: directory, hub id, fetched model
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neuralchat.config.arguments import BITS
from neuralchat.config.methods import METHODS
from neuralchat.console import note
from neuralchat.errors import ArgumentsError, RunDirectoryError
from neuralchat.models.adapters.files import check_adapter_files
from neuralchat.models.loading.base_model import ModelSource, is_cached
from neuralchat.models.loading.checkpoint_files import read_json_object
from neuralchat.models.loading.fetch import PACKAGED_MODELS
from neuralchat.models.loading.gguf_base import is_gguf_file
from neuralchat.paths import expanded
from neuralchat.runs.directory import IDENTITY, MANIFEST, METRICS, check_values, read_manifest

ADAPTER_CONFIG, MODEL_CONFIG = "adapter_config.json", "config.json"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """`directory`: where the trained weights lie; None for a base model.

    `method`: the value of --peft, PEFT's own name of it for an adapter from elsewhere, None for a base model.
    `template_name`, `template_sha256`: what is known of the prompt format; `template_variables` and `template_date` are
    those that its chat template was given. `storage`: dtype of the weights, where it is known. `bits`: in how many
    the base model's frozen weights were kept, where they were fewer. `base_sha256`: the
    fingerprint of the base model, None where it is not known.
    """

    name: str
    kind: str
    source: ModelSource
    directory: Path | None = None
    method: str | None = None
    template_name: str | None = None
    template_sha256: str | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    template_date: str | None = None
    storage: str | None = None
    bits: int | None = None
    base_sha256: str | None = None
    # The base model's place was guessed, or is the caller's word, so that the fingerprint has to be compared.
    check_base: bool = False

    @property
    def is_whole_model(self) -> bool:
        """After full fine-tuning there is no adapter: the directory holds all weights."""
        return trains_base(self.method)


def origin_of(name: str | os.PathLike[str], base_model: str | os.PathLike[str] | None = None) -> Origin:
    """What a directory or name stands for, on the base model at `base_model` where that is given.

    Raises RunDirectoryError, AdapterError or ModelError for a directory that is none of the four kinds, and as
    `on_other_base`.
    """
    origin = origin_as_left(expanded(name))
    return origin if base_model is None else on_other_base(origin, base_model)


def origin_as_left(name: str) -> Origin:
    """On the base model that it was trained on, where that was then."""
    path = Path(name)
    if is_base_name(name) or is_gguf_file(name):
        return Origin(name=name, kind="base model", source=ModelSource(name=name))
    for _, recognised, read in KINDS:
        if path.is_dir() and recognised(path):
            return read(path)
    # It says what is missing.
    return origin_of_run(path)


def on_other_base(origin: Origin, base_model: str | os.PathLike[str]) -> Origin:
    """The same, on the base model at another place. Raises ArgumentsError where there is none beside it."""
    if origin.method is None or origin.is_whole_model:
        raise ArgumentsError(f"--base_model: {origin.name} is a whole model, there is no base model beside it")
    source = ModelSource(name=expanded(base_model))
    return replace(origin, source=source, check_base=True)


def is_base_name(name: str) -> bool:
    """Whether a name that is no path on this machine may be that of a base model."""
    if name.lower() in PACKAGED_MODELS:
        return True
    # Beside a directory that is there, a name is a path with a mistake in it.
    return HUB_ID.fullmatch(name) is not None and not (
        name.startswith(".") or os.path.lexists(name) or ("/" in name and os.path.isdir(os.path.dirname(name)))
    )


def has(name: str) -> Callable[[Path], bool]:
    """Whether a directory holds a file, and is not a run that has no manifest yet."""
    return lambda path: (path / name).is_file() and not (path / METRICS).exists()


def trains_base(method: str | None) -> bool:
    return method in METHODS and METHODS[method].trains_base


def origin_of_run(path: Path) -> Origin:
    return from_manifest(path, "run", read_manifest(path))


def from_manifest(path: Path, kind: str, manifest: dict[str, Any], **more: Any) -> Origin:
    method, template = manifest["adapter"]["method"], manifest["template"]
    definition = mapping_in(template, "definition")
    return Origin(
        name=str(path),
        kind=kind,
        source=ModelSource(name=str(path))
        if method in METHODS and METHODS[method].trains_base
        else base_source(manifest["base_model"]),
        directory=path,
        method=method,
        template_name=template.get("name"),
        template_sha256=str(template.get("sha256")),
        template_variables=mapping_in(definition, "kwargs"),
        template_date=definition.get("date") if isinstance(definition.get("date"), str) else None,
        storage=manifest.get("precision", {}).get("storage"),
        bits=bits_in(path, manifest),
        base_sha256=fingerprint_in(manifest.get("identity")),
        **more,
    )


def bits_in(path: Path, manifest: dict[str, Any]) -> int | None:
    """In how many bits the base model was kept. Raises RunDirectoryError for a number that is not known here."""
    bits = manifest.get("precision", {}).get("bits")
    if bits is not None and str(bits) not in BITS:
        raise RunDirectoryError(
            f"{path} was trained on a base model in {bits} bits; this version of NeuralChat knows {' and '.join(BITS)}"
        )
    return bits


def mapping_in(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def fingerprint_in(identity: Any) -> str | None:
    """The base model's fingerprint in what a run or checkpoint says of itself."""
    found = identity.get("base_model") if isinstance(identity, dict) else None
    return found if isinstance(found, str) else None


def base_source(base: dict[str, Any]) -> ModelSource:
    cache_dir, name = base.get("cache_dir"), name_of_base(base["name"], base.get("path"))
    return ModelSource(
        name=name,
        config_name=base.get("config_name"),
        revision=base.get("revision") or "main",
        # Whoever wrote the run does not say where models are downloaded to, but may say where this one lies.
        cache_dir=cache_dir
        if cache_dir and not os.path.isdir(name) and is_cached(name, MODEL_CONFIG, cache_dir)
        else None,
    )


def name_of_base(name: str, path: str | None) -> str:
    """Where the base model is to be found: its place in training, else what its name leads to from here.

    `path` is whole where it was a directory or file, so that a run can be used from any directory. What was one is not
    looked for on a hub: there the name may be anybody's.
    """
    if not path or os.path.isdir(path) or is_gguf_file(path):
        return path or name
    is_found = os.path.isdir(name) or is_gguf_file(name) or name.lower() in PACKAGED_MODELS
    return path if os.path.isabs(path) and not is_found else name


def origin_of_checkpoint(path: Path) -> Origin:
    """A checkpoint says under "run" what a manifest says of the model."""
    file = path / IDENTITY
    identity = read_json_object(file)
    if "run" not in identity:
        return origin_of_early_checkpoint(path, identity)
    if not isinstance(identity["run"], dict):
        raise RunDirectoryError(f"{file} is damaged: run must hold names and values")
    manifest = {**identity["run"], "results": {}, "identity": identity}
    check_values(file, manifest)
    return from_manifest(path, "checkpoint", manifest)


def origin_of_early_checkpoint(path: Path, identity: dict[str, Any]) -> Origin:
    """Version 0.1 wrote down what decides the result only: of base model and template the fingerprints."""
    file, arguments = path / IDENTITY, identity.get("arguments")
    if not isinstance(arguments, dict) or str(arguments.get("peft")) not in METHODS:
        raise RunDirectoryError(f"{file} is damaged: it does not say with which arguments the run was begun")
    manifest = {
        "identity": identity,
        "base_model": {"name": str(identity.get("base_model"))},
        "template": {"name": "", "sha256": identity.get("template")},
        "adapter": {"method": arguments.get("peft")},
        "precision": {"storage": "bfloat16" if arguments.get("bf16") else "float32"},
        "results": {},
    }
    check_values(file, manifest)
    manifest["template"] = {"sha256": identity["template"]}
    if trains_base(arguments["peft"]):
        return from_manifest(path, "checkpoint", manifest)
    manifest["base_model"] = {"name": place_of_base(path, named_base(path))}
    return from_manifest(path, "checkpoint", manifest, check_base=True)


def named_base(path: Path) -> str:
    base = check_adapter_files(path).get("base_model_name_or_path")
    if not base:
        raise RunDirectoryError(f"{path / ADAPTER_CONFIG} names no base model")
    return base


def place_of_base(checkpoint: Path, name: str) -> str:
    """Where the base model of an older checkpoint lies: as the run was told, seen from here or from above the run."""
    places = [Path(name), *(parent / name for parent in checkpoint.absolute().parents)]
    found = next((str(place) for place in places if (place / MODEL_CONFIG).is_file()), name)
    note(f"{checkpoint} is of an earlier version and names its base model only as '{name}'; taking {found}")
    return found


def origin_of_adapter(path: Path) -> Origin:
    method = check_adapter_files(path)["peft_type"].lower()
    return Origin(
        name=str(path), kind="adapter", source=ModelSource(name=named_base(path)), directory=path, method=method
    )


def origin_of_base(path: Path) -> Origin:
    return Origin(name=str(path), kind="base model", source=ModelSource(name=str(path)))


# (kind, how a directory of it is recognised, how it is read); the first that fits.
KINDS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path], Origin]], ...] = (
    ("run", lambda path: (path / MANIFEST).exists(), origin_of_run),
    ("checkpoint", lambda path: (path / IDENTITY).is_file(), origin_of_checkpoint),
    ("adapter", has(ADAPTER_CONFIG), origin_of_adapter),
    ("base model", has(MODEL_CONFIG), origin_of_base),
)
