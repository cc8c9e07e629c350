"""Fine-tuning from Python: the arguments of the command, records from a program, a Run as the result."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback

from neuralchat.checkpointing.process_state import process_state_kept
from neuralchat.config.config import PYTHON_CALL, FinetuneConfig
from neuralchat.console import log_shown
from neuralchat.data.given_records import TRAIN_RECORDS, VALIDATION_RECORDS, GivenRecords
from neuralchat.distributed.launchers import export_world, read_world
from neuralchat.errors import ArgumentsError
from neuralchat.library.run import Run
from neuralchat.models.quiet import quiet_libraries
from neuralchat.secrets import secrets_hidden_in_errors
from neuralchat.training.finetune import finetune_in

PathLike = str | os.PathLike[str]
# A list of dicts or a datasets.Dataset, which is no Sequence by name.
Records = Any


def finetune(
    model: PathLike | None = None,
    train_file: PathLike | Sequence[PathLike] | Records | None = None,
    *,
    output_dir: PathLike | None = None,
    train_records: Records | None = None,
    validation_records: Records | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    verbose: bool = False,
    **options: Any,
) -> Run:
    """Fine-tune a model on records, as `neuralchat finetune` does, and return the finished run.

    `model`: a directory, a hub id or a fetched name. `train_file`: one or several record files, or the records
    themselves as `train_records`: a list of dicts or a `datasets.Dataset`. `validation_records` (or the option
    `validation_file`) are measured, never trained on. `options`: every flag of the command by its name, with its
    default. `callbacks`: transformers' TrainerCallbacks. Nothing is printed unless `verbose`.

    Raises the command's errors with its texts, all of them NeuralChatErrors, before anything is written. Ctrl-C stops
    after the micro-batch at hand, saves, and raises InterruptedTrainingError; the same call with
    `resume_from_checkpoint="auto"` goes on to the same result.

    >>> run = finetune(                                              # doctest: +SKIP
    ...     model="smollm2-135m-instruct",
    ...     train_records=[{"instruction": "How do I reset my badge?", "output": "At the front desk."}],
    ...     output_dir="runs/a",
    ...     num_train_epochs=3,
    ... )
    >>> run.results.mean_loss                                        # doctest: +SKIP
    1.9
    """
    files, given = told_apart(train_file, train_records, options.pop("validation_file", None), validation_records)
    refuse_commands(options)
    if model is not None:
        if options.get("model_name_or_path") is not None:
            raise ArgumentsError("model and model_name_or_path are the same: give one")
        options["model_name_or_path"] = model
    values = {**options, **files, "output_dir": output_dir}
    # The command's flags are texts; True stands for the flag alone.
    config = FinetuneConfig.from_values(values, prog=PYTHON_CALL, implied={"do_train": True})
    return run_of(config, callbacks=callbacks, given_records=given, verbose=verbose)


def finetune_model(config: FinetuneConfig | Mapping[str, Any], *, verbose: bool = False) -> Run:
    """Fine-tuning by the name that the original NeuralChat gives it: all arguments in one configuration.

    >>> config = {"model_name_or_path": "m", "train_file": "a.json", "output_dir": "runs/a"}
    >>> finetune_model(config).results.steps                         # doctest: +SKIP
    18
    """
    if isinstance(config, Mapping):
        return finetune(**{"verbose": verbose, **config})
    if not config.training.do_train:
        raise ArgumentsError("--do_train is missing from the configuration: there is nothing to fine-tune")
    return run_of(dataclasses.replace(config, prog=PYTHON_CALL), verbose=verbose)


def run_of(
    config: FinetuneConfig,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    given_records: Sequence[GivenRecords] = (),
    verbose: bool,
) -> Run:
    model = config.model.model_name_or_path
    with secrets_hidden_in_errors(os.environ, model), log_shown(verbose), quiet_libraries(), process_state_kept():
        world = read_world(os.environ)
        export_world(world, os.environ)
        finetune_in(world, config, callbacks, given_records)
    return Run(config.output_dir)


def told_apart(
    train_file: Any, train_records: Records | None, validation_file: Any, validation_records: Records | None
) -> tuple[dict[str, Any], list[GivenRecords]]:
    """(values of train_file and validation_file, records that stand under a name in them)."""
    files, given = {}, []
    for flag, file, name, records in (
        ("train_file", train_file, TRAIN_RECORDS, train_records),
        ("validation_file", validation_file, VALIDATION_RECORDS, validation_records),
    ):
        if file is not None and records is not None:
            raise ArgumentsError(f"{flag} and {name}: give one source of records")
        if file is not None and not are_paths(file):
            file, records = None, file
        if records is not None:
            given.append(GivenRecords(name, records))
            file = name
        files[flag] = file
    return files, given


def are_paths(value: Any) -> bool:
    """
    >>> are_paths("a.json"), are_paths(["a.json", "b.json"]), are_paths([{"instruction": "a", "output": "b"}])
    (True, True, False)
    """
    listed = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(item, str | os.PathLike) for item in listed)


def refuse_commands(options: Mapping[str, Any]) -> None:
    """Raise ArgumentsError for options that make sense for a command only."""
    count = options.get("num_processes")
    if count not in (None, "", 1, "1"):
        raise ArgumentsError(
            f"--num_processes {count}: a call trains in the process that makes it. Put it into a script and start "
            "that several times: torchrun --nproc_per_node 2 script.py"
        )
    if options.get("do_train", True) in (False, "False", "false"):
        raise ArgumentsError(
            "--do_train false: this call is made to train; 'neuralchat finetune --do_eval' measures only"
        )
