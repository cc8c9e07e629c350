"""arguments -> arguments that fit the model: its architecture, and the positions it has."""

from __future__ import annotations

import dataclasses
from typing import Any

from neuralchat.config.config import FinetuneConfig
from neuralchat.console import note
from neuralchat.errors import ArgumentsError, problem_list
from neuralchat.models.families.architecture import is_encoder_decoder, position_limit


def within_positions(arguments: FinetuneConfig, config: Any) -> FinetuneConfig:
    """`arguments` with lengths that the model has positions for, virtual tokens included, and a note for each change.

    Raises ArgumentsError for a length that was given and does not fit.
    """
    limit = position_limit(config)
    if limit is None:
        return arguments
    tuning, data = arguments.tuning, arguments.data
    virtual = tuning.num_virtual_tokens if tuning.method.virtual_tokens else 0
    room = limit - virtual
    reason = f"the model has {limit} positions" + (f", of which {virtual} are for virtual tokens" if virtual else "")
    if room < 2:
        raise ArgumentsError(
            f"--num_virtual_tokens {virtual} leaves no room for a text: the model has {limit} positions"
        )
    names = ("max_source_length", "max_target_length") if is_encoder_decoder(config) else ("max_seq_length",)
    too_long = [name for name in names if getattr(data, name) > room]
    if asked := [name for name in too_long if name in arguments.given]:
        problems = [f"--{name} {getattr(data, name)}: {reason}; give at most {room}" for name in asked]
        raise ArgumentsError(problem_list("these lengths do not fit the model:", problems))
    for name in too_long:
        note(f"--{name} {getattr(data, name)} becomes {room}: {reason}")
    shorter: dict[str, Any] = dict.fromkeys(too_long, room)
    return dataclasses.replace(arguments, data=dataclasses.replace(data, **shorter))


def check_architecture(arguments: FinetuneConfig, config: Any) -> None:
    """Raises ArgumentsError for flags that the model's architecture cannot follow, all at once."""
    given = arguments.given
    if is_encoder_decoder(config):
        problems = [
            (arguments.data.train_on_inputs, "--train_on_inputs: an encoder-decoder model does not predict its input"),
            (
                "max_seq_length" in given,
                "--max_seq_length is for causal models; use --max_source_length and --max_target_length",
            ),
        ]
    else:
        lengths = [name for name in ("max_source_length", "max_target_length") if name in given]
        problems = [
            (bool(lengths), f"--{' and --'.join(lengths)}: for encoder-decoder models; use --max_seq_length"),
        ]
    if wrong := [message for is_wrong, message in problems if is_wrong]:
        raise ArgumentsError(problem_list(f"these flags do not fit a {config.model_type} model:", wrong))
