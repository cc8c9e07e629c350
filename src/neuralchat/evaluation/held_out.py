"""A finished run -> the records that it held out, as they were then, and how it made examples of records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuralchat.config.arguments import DataArguments
from neuralchat.config.from_run import values_of_run
from neuralchat.config.schema import SCHEMA
from neuralchat.data.prepared_data import counts_of, prepare
from neuralchat.data.record_source import find_records
from neuralchat.errors import DataError
from neuralchat.evaluation.items import Item, items_of_records, raw_rows
from neuralchat.inference.chatbot import Chatbot
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.runs.directory import MANIFEST, read_manifest

ELSE = "name questions: --questions FILE, or --general N"


def run_around(path: Path) -> Path | None:
    """The finished run that a directory is, or is a checkpoint of; None for anything else."""
    return next((place for place in (path, path.absolute().parent) if (place / MANIFEST).is_file()), None)


def data_arguments(path: Path) -> DataArguments:
    """Those of the run; of anything else, such as the merged model of a checkpoint, the defaults."""
    run = run_around(path)
    known = run is not None and isinstance(read_manifest(run).get("arguments"), dict)
    values = values_of_run(run, SCHEMA)[0] if run is not None and known else {}
    return DataArguments(**{a.name: values[a.name] for a in SCHEMA.of_part("data") if a.name in values})


def held_out_items(path: Path, bot: Chatbot, cluster_by: str | None, limit: int | None) -> list[Item]:
    """The first `limit` records that the run of `path` held out, or all.

    Raises DataError where it held none out, or where they are not what they were.
    """
    run = run_around(path)
    if run is None:
        raise DataError(f"{path} is no finished run, so that nothing is known of held-out records; {ELSE}")
    manifest, data = read_manifest(run), data_arguments(run)
    if "merged" in manifest["adapter"]:
        raise DataError(f"{run} is a merged model, which does not say where records are; {ELSE}")
    known = mapping(manifest, "data")
    counts, given = mapping(known, "counts").get("validation"), known.get("given_in_python")
    if not isinstance(counts, dict):
        raise DataError(f"{run} held no records out; {ELSE}")
    if given or (data.dataset_name and cluster_by is not None):
        where = "a program gave them" if given else "--cluster_by reads files only, they are a data set of a hub"
        raise DataError(f"the held-out records of {run} cannot be read again: {where}; {ELSE}")
    definition = mapping(mapping(manifest, "template"), "definition")
    prepared = prepare(
        data,
        bot.tokenizer,
        encoder_decoder=is_encoder_decoder(base_model_of(bot.model).config),
        template_date=definition.get("date"),
    )
    found = prepared.validation
    now = {} if found is None else counts_of(found)
    if found is None or any(counts.get(name) != number for name, number in now.items()):
        raise DataError(
            f"the held-out records of {run} are not what they were: their files are "
            f"others now, or lie elsewhere; {ELSE}"
        )
    source = prepared.train_source if data.validation_split_percentage else prepared.validation_source
    names = list(dict.fromkeys(found[i].source for i in range(len(found))))[:limit]
    records = find_records(source, names)
    rows = raw_rows(source.files) if source.files else {}
    return items_of_records(records, rows, cluster_by)


def mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}
