"""arguments -> arguments that fit the model and the data: architecture, positions, rate, epochs and batch."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from neuralchat.config.config import FinetuneConfig
from neuralchat.config.methods import Method
from neuralchat.config.training_flags import DEFAULT_EPOCHS
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


def with_fitting_rate(arguments: FinetuneConfig, config: Any) -> FinetuneConfig:
    """`arguments` with the learning rate that suits the size of the model, where none was given."""
    if arguments.schema.original or "learning_rate" in arguments.given:
        return arguments
    return with_training(arguments, learning_rate=fitting_rate(arguments.tuning.method, config))


def fitting_rate(method: Method, config: Any) -> float:
    """The learning rate of the method for a model of this configuration."""
    hidden_size = getattr(config.get_text_config(), "hidden_size", None)
    if not isinstance(hidden_size, int) or hidden_size < 1:
        return method.learning_rate
    return method.learning_rate_for(hidden_size)


def with_fitting_start(arguments: FinetuneConfig, config: Any) -> FinetuneConfig:
    """`arguments` with what --lora_init auto means for the model and the method."""
    tuning = arguments.tuning
    if tuning.lora_init != "auto":
        return arguments
    plain = tuning.method.name == "lora" and not tuning.lora_dora
    apart = plain and tuning.keep_general and not is_encoder_decoder(config)
    return dataclasses.replace(arguments, tuning=dataclasses.replace(tuning, lora_init="apart" if apart else "default"))


# So many optimizer steps teach the demo's facts; batches get smaller for their sake, where there are few examples.
FITTING_STEPS = 250
FITTING_BATCHES = (16, 8, 4)
# Fewer records than make these steps are gone through more often for their sake, but not more often than this.
MOST_EPOCHS = 10


def with_fitting_length(arguments: FinetuneConfig, *, examples: int, units: int, world_size: int) -> FinetuneConfig:
    """`arguments` with the epochs that suit so many examples, and the batch that suits so many `units` for each."""
    return with_fitting_batch(with_fitting_epochs(arguments, examples), units, world_size)


def with_fitting_epochs(arguments: FinetuneConfig, examples: int) -> FinetuneConfig:
    """`arguments` with as many epochs as make enough steps of the smallest batch, where none were given.

    >>> [fitting_epochs(examples) for examples in (2, 100, 120, 334, 100_000)]
    [10, 10, 9, 3, 3]
    """
    training = arguments.training
    given = {"num_train_epochs", "max_steps"} & arguments.given
    if arguments.schema.original or given or not examples:
        return arguments
    return with_training(arguments, num_train_epochs=max(training.num_train_epochs, float(fitting_epochs(examples))))


def fitting_epochs(examples: int) -> int:
    """At least those that many records are gone through."""
    return min(MOST_EPOCHS, max(int(DEFAULT_EPOCHS), math.ceil(FITTING_STEPS * FITTING_BATCHES[-1] / examples)))


def with_fitting_batch(arguments: FinetuneConfig, units: int, world_size: int) -> FinetuneConfig:
    """`arguments` with a batch that makes enough steps of `units` examples or rows, where none was given.

    All processes together take as many, so that their number changes nothing.
    """
    given = {"per_device_train_batch_size", "gradient_accumulation_steps"} & arguments.given
    if arguments.schema.original or given:
        return arguments
    enough = (n for n in FITTING_BATCHES if units * arguments.training.num_train_epochs / n >= FITTING_STEPS)
    batch = max(next(enough, FITTING_BATCHES[-1]), world_size)
    return with_training(arguments, per_device_train_batch_size=-(-batch // world_size))


def with_training(arguments: FinetuneConfig, **values: Any) -> FinetuneConfig:
    return dataclasses.replace(arguments, training=dataclasses.replace(arguments.training, **values))
