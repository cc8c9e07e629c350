"""What a run found -> neuralchat.json, README.md, report.html and the summary on the terminal."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from neuralchat.checkpointing.store import write_files
from neuralchat.export.python_code import with_neuralchat, without_neuralchat, written_base
from neuralchat.files import write_file
from neuralchat.inference.generation.settings import end_token_ids
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.loading.base_fingerprint import commit_of
from neuralchat.models.loading.base_licence import licence_of_base
from neuralchat.models.loading.base_model import resolve
from neuralchat.models.loading.gguf_base import is_gguf_file
from neuralchat.models.loading.hub_id import hub_id_of
from neuralchat.runs.advice import advice
from neuralchat.runs.directory import MANIFEST, REPORT, json_text, read_metrics
from neuralchat.runs.model_card import model_card
from neuralchat.runs.report import render_report
from neuralchat.runs.results import RunResults

if TYPE_CHECKING:
    from neuralchat.preparation.session import Session


def finish(output: Path, session: Session, results: RunResults) -> dict[str, Any] | None:
    """Write what a finished run holds; returns its manifest, or None where another process writes it."""
    if not session.training.should_save:
        return None
    metrics = read_metrics(output) if session.training.do_train else []
    if metrics:
        found = advice(results, metrics, keeps_general=session.arguments.tuning.keep_general)
        results = replace(results, advice=found)
    manifest = make_manifest(session, results)
    if session.training.do_train:
        generation = base_model_of(session.model).generation_config
        # Beside, and then into its place: what is there may be a link of somebody else.
        write_files(output, lambda directory: generation.save_pretrained(str(directory)))
        write_file(output / "README.md", card_of(session, manifest))
        write_file(output / REPORT, render_report(manifest, metrics))
        # Last: a directory with a manifest is a finished run.
        write_file(output / MANIFEST, json_text(manifest))
    return manifest


def card_of(session: Session, manifest: dict[str, Any]) -> str:
    template, config = session.data.template, base_model_of(session.model).config
    code = without_neuralchat(
        written_base(manifest["base_model"]),
        template,
        end_token_ids(session.tokenizer, template),
        session.tokenizer.pad_token_id,
        method=session.arguments.tuning.peft,
        dtype=manifest["precision"]["storage"],
        encoder_decoder=is_encoder_decoder(config),
        revision=session.source.revision,
        tokens_added=bool(session.arguments.data.special_tokens),
        bits=manifest["precision"]["bits"],
    )
    whole = session.arguments.tuning.method.trains_base
    return model_card(
        manifest,
        with_neuralchat=with_neuralchat(whole=whole),
        without_neuralchat=code,
        licence=licence_of_base(session.source),
        hub_id=hub_id_of(session.source.name),
    )


def place_of_base_model(session: Session) -> str:
    """A GGUF file itself, and not what is kept of it in the cache."""
    name = session.source.name
    return os.path.abspath(name) if is_gguf_file(name) else resolve(name, cache_dir=session.source.cache_dir)


def model_of_run(session: Session) -> dict[str, Any]:
    """What is needed to load the model of this run again; checkpoints hold it too."""
    template = session.data.template
    return {
        "base_model": {
            "name": session.arguments.model.model_name_or_path,
            "path": absolute(place_of_base_model(session)),
            "config_name": session.source.config_name,
            "revision": session.source.revision,
            "cache_dir": session.source.cache_dir,
            "trust_remote_code": session.source.trust_remote_code,
            "architecture": type(base_model_of(session.model)).__name__,
            "commit": commit_of(session.source),
        },
        "template": {
            "name": template.name,
            "sha256": template.fingerprint(),
            "end_tokens": list(template.end_tokens),
            "definition": template.definition(),
        },
        "adapter": {"method": session.arguments.tuning.peft},
        "precision": {**session.precision.as_dict(), "adapter": "float32"},
    }


def make_manifest(session: Session, results: RunResults) -> dict[str, Any]:
    arguments, data = session.arguments, session.data
    model = model_of_run(session)
    return {
        "neuralchat": version("neuralchat"),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **model,
        "adapter": {
            **model["adapter"],
            "trained_parameters": results.trained_parameters,
            "total_parameters": results.total_parameters,
        },
        "data": {
            "train_fingerprint": data.train.fingerprint if data.train is not None else None,
            "validation_fingerprint": data.validation.fingerprint if data.validation is not None else None,
            "counts": data.counts,
            # Which of the records a Python program handed over; a file's name stands in the arguments.
            "given_in_python": [s.given.name for s in (data.train_source, data.validation_source) if s.given],
        },
        "identity": session.identity,
        "arguments": arguments.as_dict(),
        "working_directory": session.started_in,
        "results": asdict(results),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "peft", "accelerate", "tokenizers")},
        },
        "machine": {"platform": system_name(), "threads": torch.get_num_threads()},
    }


def system_name() -> str:
    """As platform.platform() says it, which starts a program for a part that it leaves out here."""
    system = os.uname()
    return f"{system.sysname}-{system.release}-{system.machine}-with-{''.join(platform.libc_ver())}"


def absolute(name: str) -> str:
    """A directory's whole path; a hub id as it is."""
    return str(Path(name).absolute()) if Path(name).is_dir() else name
