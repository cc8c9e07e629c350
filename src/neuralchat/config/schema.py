"""All arguments by name, read from the fields of their dataclasses."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

from neuralchat.config.arguments import DataArguments, DistributedArguments, ModelArguments, TuningArguments
from neuralchat.config.facts import METADATA_KEY, OF_THE_FIELD, Facts
from neuralchat.config.training_flags import TRAINING_FACTS, TrainingFlags

MOST_CHOICES = 16
PARTS = ("model", "data", "tuning", "distributed", "training")
# What finetune_clm.py and finetune_seq2seq.py of the original do where their commands are silent.
ORIGINAL_DEFAULTS = {
    "lora_rank": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_all_linear": False,
    "keep_general": False,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "template": "auto",
}


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument: the field of a dataclass, and what the program knows of it."""

    # Attribute of FinetuneConfig that holds the dataclass.
    part: str
    field: dataclasses.Field[Any]
    hint: Any
    facts: Facts
    # Of a schema with defaults of its own.
    own_default: Any = OF_THE_FIELD

    @property
    def name(self) -> str:
        return self.field.name

    @property
    def meaning(self) -> str:
        """Its help, and the choices where there are not too many."""
        # transformers writes for argparse.
        text = self.facts.help or self.field.metadata.get("help", "").replace("%%", "%")
        if 0 < len(self.choices) <= MOST_CHOICES:
            return f"{text.rstrip('. ')}. One of: {', '.join(self.choices)}."
        return text

    @property
    def default(self) -> Any:
        """What holds where nothing is given; a list is a new one each time."""
        stated = (default for default in (self.own_default, self.facts.default) if default is not OF_THE_FIELD)
        return next(stated, self.field_default)

    @property
    def field_default(self) -> Any:
        factory = self.field.default_factory
        return self.field.default if factory is dataclasses.MISSING else factory()

    @cached_property
    def kinds(self) -> tuple[type, ...]:
        """The types that a value may have, without their parameters and without None.

        `list[str] | None` gives (list,).
        """
        return tuple(kind for kind in kinds_of(self.hint) if kind is not type(None))

    @property
    def is_switch(self) -> bool:
        return bool in self.kinds

    @property
    def takes_many(self) -> bool:
        return list in self.kinds

    @property
    def choices(self) -> tuple[str, ...]:
        enums = [kind for kind in self.kinds if issubclass(kind, enum.Enum)]
        stated = self.facts.choices or self.field.metadata.get("choices", ())
        return tuple(stated) or tuple(member.value for kind in enums for member in kind)


def kinds_of(hint: Any) -> Iterator[type]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for member in typing.get_args(hint):
            yield from kinds_of(member)
    elif origin is Literal:
        yield str
    else:
        yield origin or (hint if isinstance(hint, type) else object)


@dataclasses.dataclass(frozen=True)
class Schema:
    """The dataclasses of all arguments, by their attribute in FinetuneConfig.

    `original`: the defaults are those of the original NeuralChat's scripts, and nothing is fitted to model and data.
    """

    model: type[ModelArguments] = ModelArguments
    data: type[DataArguments] = DataArguments
    tuning: type[TuningArguments] = TuningArguments
    distributed: type[DistributedArguments] = DistributedArguments
    training: type[TrainingFlags] = TrainingFlags
    original: bool = False

    @cached_property
    def arguments(self) -> dict[str, Argument]:
        own = ORIGINAL_DEFAULTS if self.original else {}
        return {
            argument.name: dataclasses.replace(argument, own_default=own.get(argument.name, OF_THE_FIELD))
            for part in PARTS
            for argument in arguments_of(part, getattr(self, part))
        }

    @cached_property
    def negations(self) -> dict[str, str]:
        """no_NAME -> NAME for each switch that is on by default."""
        return {f"no_{a.name}": a.name for a in self.arguments.values() if a.is_switch and a.field_default is True}

    def of_part(self, part: str) -> list[Argument]:
        return [argument for argument in self.arguments.values() if argument.part == part]


def arguments_of(part: str, kind: type) -> Iterator[Argument]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.init:
            facts = field.metadata.get(METADATA_KEY) or TRAINING_FACTS[field.name]
            yield Argument(part, field, hints[field.name], facts)


SCHEMA = Schema()
ORIGINAL_SCHEMA = Schema(original=True)
