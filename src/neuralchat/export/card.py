"""What the model card of anything that leaves says: the run's facts, its evaluation's figures, the base's licence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuralchat.data.templates.template import Template
from neuralchat.inference.origin import Origin
from neuralchat.models.loading.base_licence import licence_of_base
from neuralchat.runs.directory import read_manifest
from neuralchat.runs.kept_evaluation import kept_evaluation
from neuralchat.runs.model_card import model_card

CARD_FILE = "README.md"


def manifest_of(origin: Origin, template: Template) -> dict[str, Any]:
    """The run's own; of a checkpoint or an adapter from elsewhere, what can be said of it."""
    if origin.kind == "run":
        return read_manifest(Path(origin.name))
    return manifest_of_checkpoint(origin, template)


def manifest_of_checkpoint(origin: Origin, template: Template) -> dict[str, Any]:
    """What the merged model must say of itself; a checkpoint has no results yet."""
    return {
        "base_model": {"name": origin.source.name, "revision": origin.source.revision},
        "template": template_facts(template),
        "adapter": {"method": origin.method},
        "precision": {"storage": origin.storage},
        "results": {},
    }


def template_facts(template: Template) -> dict[str, Any]:
    return {
        "name": template.name,
        "sha256": template.fingerprint(),
        "end_tokens": list(template.end_tokens),
        "definition": template.definition(),
    }


def card_of_export(
    origin: Origin, manifest: dict[str, Any], *, with_neuralchat: str = "", without_neuralchat: str = "", use: str = ""
) -> str:
    """`manifest`: of what leaves. One of several adapters has no figures: those of the run are not its own."""
    is_run = origin.kind == "run" and "combined" not in manifest
    return model_card(
        manifest,
        with_neuralchat=with_neuralchat,
        without_neuralchat=without_neuralchat,
        use=use,
        evaluation=kept_evaluation(Path(origin.name)) if is_run else (),
        licence=licence_of_base(origin.source),
    )
