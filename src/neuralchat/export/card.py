"""What the model card of anything that leaves says: the run's facts, its evaluation's figures, the base's licence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuralchat.config.schema import SCHEMA
from neuralchat.data.templates.template import Template
from neuralchat.inference.origin import Origin, mapping_in
from neuralchat.models.loading.base_licence import licence_of_base
from neuralchat.models.loading.hub_id import hub_id_of
from neuralchat.runs.directory import MANIFEST, read_manifest
from neuralchat.runs.kept_evaluation import kept_evaluation
from neuralchat.runs.model_card import model_card

CARD_FILE = "README.md"
# As transformers writes a tokenizer's template.
CHAT_TEMPLATE_FILE = "chat_template.jinja"


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


def portable_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a model says of itself wherever it is taken: no place of this machine, no question and no answer."""
    base, data, results = (mapping_in(manifest, part) for part in ("base_model", "data", "results"))
    kept = ("neuralchat", "created", "template", "adapter", "precision", "versions", "combined")
    arguments, counts = mapping_in(manifest, "arguments"), mapping_in(data, "counts")
    return {
        **{name: manifest[name] for name in kept if name in manifest},
        "base_model": {
            **{name: base.get(name) for name in ("revision", "architecture", "commit")},
            "name": name_elsewhere(str(base.get("name"))),
        },
        "data": {
            **{name: found for name, found in data.items() if name.endswith("_fingerprint")},
            "counts": {part: only_numbers(mapping_in(counts, part)) for part in counts},
        },
        # Names of files and places are of no use elsewhere.
        "arguments": {
            name: value
            for name, value in arguments.items()
            if name in SCHEMA.arguments and not SCHEMA.arguments[name].facts.path
        },
        "results": {**only_numbers(results), "samples": []} if results else {},
    }


def name_elsewhere(base: str) -> str:
    """A base model's name as it may be called on another machine: of a directory the last part."""
    return Path(base).name if Path(base).is_absolute() or Path(base).is_dir() else base


def only_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is None or isinstance(value, int | float)}


def template_facts(template: Template) -> dict[str, Any]:
    return {
        "name": template.name,
        "sha256": template.fingerprint(),
        "end_tokens": list(template.end_tokens),
        "definition": template.definition(),
    }


def card_of_export(
    origin: Origin,
    manifest: dict[str, Any],
    *,
    with_neuralchat: str = "",
    without_neuralchat: str = "",
    use: str = "",
    template_in: str = MANIFEST,
) -> str:
    """`manifest`: of what leaves. What is combined just now has no figures: those of the run are not its own."""
    is_run = origin.kind == "run" and manifest.get("combined") == read_manifest(Path(origin.name)).get("combined")
    return model_card(
        manifest,
        with_neuralchat=with_neuralchat,
        without_neuralchat=without_neuralchat,
        use=use,
        evaluation=kept_evaluation(Path(origin.name)) if is_run else (),
        licence=licence_of_base(origin.source),
        # A model of which all weights were trained is its own source.
        hub_id=hub_id_of(str(mapping_in(manifest, "base_model").get("name")), origin.source.name),
        template_in=template_in,
    )
