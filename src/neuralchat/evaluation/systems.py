"""Names of runs -> what each of them, and the base model beneath, makes of the items."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from neuralchat.config.arguments import DataArguments
from neuralchat.console import inform, note
from neuralchat.console.waiting import waiting
from neuralchat.errors import ArgumentsError, NeuralChatError, problem_list
from neuralchat.evaluation.answers import answers_to, askable
from neuralchat.evaluation.comparison import Measured
from neuralchat.evaluation.harness import Harness
from neuralchat.evaluation.items import Item
from neuralchat.evaluation.loss import examples_of, losses_of
from neuralchat.evaluation.progress import AnswersToCome
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.effect import COMPARED_PROMPTS, check_effect
from neuralchat.inference.origin import origin_of
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.voice import Voice
from neuralchat.runs.directory import checkpoints

BASE = "base"


@dataclass(frozen=True)
class Candidate:
    """Something to evaluate, by the name that it is shown with. `step`: of a checkpoint along its run."""

    path: str
    name: str
    step: int | None = None


def along_training(run: str) -> list[Candidate]:
    """The checkpoints of a run, oldest first. Raises ArgumentsError where there are none."""
    found = checkpoints(Path(run))
    if not found:
        raise ArgumentsError(
            f"--checkpoints: {run} holds none; they are saved with --save_strategy steps --save_steps N, "
            "and --save_total_limit keeps more of them"
        )
    return [Candidate(str(path), path.name, int(path.name.removeprefix("checkpoint-"))) for path in found]


@dataclass(frozen=True)
class Loading:
    """How to load: as `Chatbot.load`."""

    trust_remote_code: bool = False
    template: str | None = None
    base_model: str | None = None

    def load(self, path: str) -> Chatbot:
        return Chatbot.load(
            path, trust_remote_code=self.trust_remote_code, template=self.template, base_model=self.base_model
        )

    def check(self, systems: Sequence[Candidate]) -> None:
        """All that can be read without a weight, of all of them. Raises what was wrong before any of them is asked."""

        def read(named: Candidate) -> None:
            Voice.load(
                named.path, trust_remote_code=self.trust_remote_code, template=self.template, base_model=self.base_model
            )

        check_each(systems, read)

    def has_adapter(self, path: str) -> bool:
        """Whether there is something whose effect can be looked for, read without a weight."""
        origin = origin_of(path, self.base_model)
        return origin.method is not None and not origin.is_whole_model


def check_each(systems: Sequence[Candidate], check: Callable[[Candidate], object]) -> None:
    """Raises what was wrong with each of them, all at once."""
    wrong: list[NeuralChatError] = []
    for named in systems:
        try:
            check(named)
        except NeuralChatError as error:
            wrong.append(without_frames(error))
        # Two models at a time may be more than memory holds.
        gc.collect()
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise ArgumentsError(problem_list("these cannot be evaluated:", [str(error) for error in wrong]))


def without_frames(error: NeuralChatError) -> NeuralChatError:
    """The same, and what it came of, without what was at work then: their frames hold a whole model in memory."""
    one: BaseException | None = error
    while one is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return error


def base_key(path: str, bot: Chatbot, loading: Loading) -> tuple[Any, ...]:
    """What decides how the base model answers: where all of it is the same, it is asked once."""
    origin = origin_of(path, loading.base_model)
    return origin.source.name, origin.base_sha256, origin.bits, bot.template.fingerprint(), len(bot.tokenizer)


class Laboratory:
    """Measures one system after another on the same parts, base models once. `parts`: name -> items."""

    def __init__(
        self, parts: dict[str, list[Item]], sampling: Sampling, data: DataArguments, harness: Harness | None = None
    ) -> None:
        self.parts = parts
        self.harness = harness
        self.sampling = sampling
        self.data = data
        self.progress = AnswersToCome()
        self.known: dict[tuple[Any, ...], list[int]] = {}
        self.bases: dict[tuple[Any, ...], dict[str, Measured]] = {}

    def check(self, bot: Chatbot) -> None:
        """Raises AdapterError where there is an adapter that changes nothing, ArgumentsError for tasks it cannot do."""
        if self.harness is not None:
            self.harness.check(bot)
        if bot.has_base:
            turns = (item.turns for items in self.parts.values() for item in items if item.turns)
            fitting = (t for t in turns if bot.question_problem(t, self.sampling) is None)
            check_effect(bot, list(islice(fitting, COMPARED_PROMPTS)), "every score would be that of the base model")

    def asked(self, bot: Chatbot, name: str) -> list[int]:
        """The places of the items that are asked; those that are too long for the model are told, once."""
        # What decides how long a prompt is, and how long it may be.
        key = (name, bot.template.fingerprint(), len(bot.tokenizer), bot.voice.window)
        if key in self.known:
            return self.known[key]
        found, reasons = askable(self.parts[name], bot, self.sampling)
        for place, reason in reasons.items():
            note(f"not asked: {self.parts[name][place].source}: {reason}")
        self.known[key] = found
        return found

    def expect(self, bot: Chatbot, systems: int) -> None:
        """Tell how many answers are coming from so many systems like this one."""
        questions = sum(len(self.asked(bot, part)) for part in self.parts)
        self.progress.expect(questions, systems, self.sampling.max_new_tokens)

    def measure(self, name: str, bot: Chatbot, step: int | None = None) -> dict[str, Measured]:
        found = {}
        for part, items in self.parts.items():
            losses = losses_of(name, bot, examples_of(items, bot, self.data))
            asked = self.asked(bot, part)
            self.progress.begin()
            with waiting(f"{part}: {name} answers"):
                answers = answers_to(items, asked, bot, self.sampling, self.progress.answered)
            found[part] = Measured(name, answers, losses, step)
        if self.harness is not None:
            found |= self.harness.measure(bot, name, step)
        return found

    def base_of(self, named: Candidate, bot: Chatbot, loading: Loading) -> dict[str, Measured]:
        key = base_key(named.path, bot, loading)
        if key not in self.bases:
            name = BASE if not self.bases else f"{BASE} of {named.name}"
            with bot.untuned() as base:
                self.bases[key] = self.measure(name, base)
        return self.bases[key]


def each_measured(
    systems: Sequence[Candidate],
    loading: Loading,
    laboratory_for: Callable[[Chatbot], Laboratory],
    *,
    compare: bool,
) -> Iterator[tuple[dict[str, Measured] | None, dict[str, Measured]]]:
    """(its base model, the system), part by part, in order; a model without a base model beside it has none.

    `laboratory_for` is given the first of them. Raises AdapterError for an adapter that changes nothing.
    """
    laboratory: Laboratory | None = None
    if len(systems) > 1:
        loading.check(systems)
        laboratory = checked_laboratory(systems, loading, laboratory_for)
    for place, named in enumerate(systems):
        bot = loading.load(named.path)
        if laboratory is None:
            if compare and not bot.has_base:
                note(f"{named.path} is a whole model, with no base model beside it to compare with")
            laboratory = laboratory_for(bot)
            laboratory.check(bot)
        if place == 0:
            laboratory.expect(bot, len(systems) + (compare and bot.has_base))
        if len(systems) > 1:
            inform(f"asking {named.name} ({place + 1} of {len(systems)})")
        tuned = laboratory.measure(named.name, bot, named.step)
        base = laboratory.base_of(named, bot, loading) if compare and bot.has_base else None
        # Two models at a time may be more than memory holds.
        del bot
        gc.collect()
        yield base, tuned


def checked_laboratory(
    systems: Sequence[Candidate], loading: Loading, laboratory_for: Callable[[Chatbot], Laboratory]
) -> Laboratory:
    """Each is loaded once more for that: what is wrong with the last is told before hours are spent on the first.

    What is wrong with the items is no fault of any of them, and ends it at once.
    """
    inform(f"looking whether each of {len(systems)} changes what its model says")
    first = [loading.load(systems[0].path)]
    laboratory = laboratory_for(first[0])

    def look(named: Candidate) -> None:
        if first:
            laboratory.check(first.pop())
        elif laboratory.harness is not None or loading.has_adapter(named.path):
            laboratory.check(loading.load(named.path))

    check_each(systems, look)
    return laboratory
