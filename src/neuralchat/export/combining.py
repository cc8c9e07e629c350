"""`--with RUN=WEIGHT`: several LoRA adapters of one base model become one, by PEFT's add_weighted_adapter."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neuralchat.config.methods import trained_file
from neuralchat.console import note, put
from neuralchat.errors import AdapterError, ArgumentsError, problem_list
from neuralchat.export.effect import SO_COMBINED, check_adapter_effect
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.loading import checked_weights, knows_base
from neuralchat.inference.origin import Origin, mapping_in, origin_of
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.files import load_adapter_beside
from neuralchat.models.loading.checkpoint_files import error_line
from neuralchat.runs.directory import read_manifest

# --combine: what it does, and whether it takes --density.
WAYS_TO_COMBINE: dict[str, tuple[str, bool]] = {
    "cat": ("the weighted sum of what each adapter changes, exactly", False),
    "linear": ("weighted sums of their two matrices, a rough stand-in for that", False),
    "ties": ("the largest numbers of each, by the sign that most of them have", True),
    "dare_linear": ("numbers drawn at random and made larger, then linear", True),
    "dare_ties": ("numbers drawn at random and made larger, then by their signs", True),
}
DENSITY, COMBINED = 0.5, "combined"


@dataclass(frozen=True, kw_only=True)
class Others:
    """What is combined with the run `own`: origins and weights, its own weight, and how."""

    own: Origin
    origins: Sequence[Origin]
    weights: Sequence[float]
    own_weight: float
    how: str
    density: float | None

    def facts(self) -> dict[str, Any]:
        """For the manifest: without places of this machine."""
        named = zip(self.origins, self.weights, strict=True)
        return {
            "how": self.how,
            "density": self.density,
            "run": adapter_facts(self.own, self.own_weight),
            "with": [adapter_facts(origin, weight) for origin, weight in named],
        }


def adapter_facts(origin: Origin, weight: float) -> dict[str, Any]:
    """`examples`, `train_fingerprint`: what it was trained on, where it is a finished run."""
    data = mapping_in(read_manifest(Path(origin.name)), "data") if origin.kind == "run" else {}
    return {
        "name": Path(origin.name).absolute().name,
        "weight": weight,
        "examples": mapping_in(mapping_in(data, "counts"), "train").get("examples"),
        "train_fingerprint": data.get("train_fingerprint"),
    }


def combined_manifest(manifest: dict[str, Any], others: Others) -> dict[str, Any]:
    """That of the run, without what it says of the run alone: results, data, and how much was trained."""
    adapter = {name: value for name, value in manifest["adapter"].items() if name != "trained_parameters"}
    return {**manifest, "results": {}, "data": {}, "adapter": adapter, "combined": others.facts()}


def others_of(options: argparse.Namespace, origin: Origin) -> Others | None:
    """Read before a weight is loaded. None where no run is named beside.

    Raises ArgumentsError with all that is wrong with the flags, AdapterError with all that keeps adapters apart.
    """
    wrong, named = flag_problems(options), []
    for text in options.with_runs or ():
        name, sign, weight = text.rpartition("=")
        if not sign or not name or (number := weight_of(weight)) is None:
            wrong.append(f"--with is '{text}'; it takes a run and its weight, as in --with runs/b=0.5")
        else:
            named.append((name, number))
    if wrong:
        raise ArgumentsError("\n".join(wrong))
    if not named:
        return None
    others = [origin_of(name) for name, _ in named]
    problems = [
        *named_twice(origin, others),
        *combining_problems(origin),
        *(text for other in others for text in [*combining_problems(other), *apart(origin, other)]),
    ]
    if problems:
        raise AdapterError(problem_list("these adapters cannot be combined:", problems))
    for each in (origin, *others):
        if each.directory is not None:
            weights = each.directory / trained_file("lora")
            check_adapter_effect(each.name, weights, SO_COMBINED, allowed=options.allow_no_effect)
    for other in others:
        if other.bits != origin.bits and "adapter" not in (origin.kind, other.kind):
            note(
                f"{other.name} was trained on the base model {bits_told(other.bits)}, {origin.name} "
                f"{bits_told(origin.bits)}; they are combined on that of {origin.name}, so {other.name} "
                "does not answer quite as it did alone"
            )
    how = options.combine or "cat"
    return Others(
        own=origin,
        origins=others,
        weights=[weight for _, weight in named],
        own_weight=1.0 if options.weight is None else options.weight,
        how=how,
        density=(DENSITY if options.density is None else options.density) if WAYS_TO_COMBINE[how][1] else None,
    )


def bits_told(bits: int | None) -> str:
    return "as it is" if bits is None else f"in {bits} bits"


def flag_problems(options: argparse.Namespace) -> list[str]:
    wrong = []
    how = options.combine or "cat"
    of_others = {"--weight": options.weight, "--combine": options.combine, "--density": options.density}
    if not options.with_runs:
        wrong += [f"{flag} belongs to --with RUN=WEIGHT" for flag, value in of_others.items() if value is not None]
    if how not in WAYS_TO_COMBINE:
        wrong.append(f"--combine is '{how}'; allowed are {', '.join(WAYS_TO_COMBINE)}")
    elif options.density is not None and not WAYS_TO_COMBINE[how][1]:
        takes = ", ".join(name for name, (_, density) in WAYS_TO_COMBINE.items() if density)
        wrong.append(f"--density belongs to --combine {takes}; --combine {how} keeps all numbers")
    if options.density is not None and not 0 < options.density <= 1:
        wrong.append(f"--density is {options.density:g}; allowed is above 0 and at most 1")
    if options.weight is not None and weight_of(str(options.weight)) is None:
        wrong.append(f"--weight is {options.weight:g}; allowed is any finite number but 0")
    return wrong


def weight_of(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) and found else None


def combining_problems(origin: Origin) -> list[str]:
    """What keeps one adapter from being combined with any other."""
    config = checked_weights(origin)
    if config is None:
        gone = "" if Path(origin.name).exists() else ": there is no such directory"
        return [f"{origin.name} has no adapter of its own{gone}"]
    if config["peft_type"] != "LORA":
        return [f"{origin.name} is an adapter of {config['peft_type']}; only LoRA can be combined"]
    told = {
        "use_dora": "has DoRA",
        "modules_to_save": "holds whole layers",
        "trainable_token_indices": "holds embeddings of added tokens",
        "target_parameters": "changes experts",
    }
    return [f"{origin.name} {what}, which PEFT cannot combine" for name, what in told.items() if config.get(name)]


def named_twice(origin: Origin, others: Sequence[Origin]) -> list[str]:
    """Runs that are there already, by whatever name."""
    found, seen = [], {os.path.realpath(origin.name)}
    for other in others:
        place = os.path.realpath(other.name)
        if place == os.path.realpath(origin.name):
            found.append(f"{other.name} is the run itself, whose own weight is --weight; name another run with --with")
        elif place in seen:
            found.append(f"{other.name} is named twice; name it once, with the sum of its weights")
        seen.add(place)
    return found


def apart(origin: Origin, other: Origin) -> list[str]:
    """What keeps two adapters from being one."""
    found = []
    if knows_base(origin) and knows_base(other) and origin.base_sha256 != other.base_sha256:
        found.append(f"{other.name} was trained on another base model ({other.source.name}, not {origin.source.name})")
    if other.template_sha256 is not None and other.template_sha256 != origin.template_sha256:
        found.append(f"{other.name} was trained with another prompt template than {origin.name}")
    return found


def combine(bot: Chatbot, others: Others) -> None:
    """Give the bot's model one adapter in the place of all. Raises AdapterError."""
    model, names = bot.model, [bot.model.active_adapter]
    for number, origin in enumerate(others.origins, start=1):
        assert origin.directory is not None
        names.append(f"with_{number}")
        load_adapter_beside(base_model_of(model), model, origin.directory, names[-1])
    density = {} if others.density is None else {"density": others.density}
    # dare draws; the same command is to give the same model.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model.add_weighted_adapter(
                names, [others.own_weight, *others.weights], COMBINED, combination_type=others.how, **density
            )
        except (ValueError, RuntimeError) as error:
            raise AdapterError(
                f"PEFT cannot combine these adapters by '{others.how}': {error_line(error)}. --combine cat takes "
                "adapters of any rank and of other layers"
            ) from error
    model.set_adapter(COMBINED)
    for name in names:
        model.delete_adapter(name)
    listed = ", ".join(f"{fact['name']} ({fact['weight']:g})" for fact in others.facts()["with"])
    put(f"combined by {others.how}: {Path(bot.name).absolute().name} ({others.own_weight:g}), {listed}")
