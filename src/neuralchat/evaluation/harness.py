"""Tasks of lm-evaluation-harness -> what a system scores in each of their documents, so that systems can be paired.

The tasks, their prompts and their scores are the harness's own; who answers is the model that is evaluated.
"""

from __future__ import annotations

import copy
import io
import logging
import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuralchat.config.command.suggestions import did_you_mean, nearest
from neuralchat.console import inform
from neuralchat.console.terminal import is_terminal
from neuralchat.data.records import Turn
from neuralchat.data.templates.portable import portable_template
from neuralchat.errors import ArgumentsError, problem_list
from neuralchat.evaluation.comparison import Measure, Measured, Score
from neuralchat.evaluation.items import Item
from neuralchat.inference.chatbot import Chatbot
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.virtual_tokens import virtual_tokens_of
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.quiet import quiet_libraries

INSTALL_HARNESS = "--harness_tasks needs the package lm-eval: pip install 'neuralchat[harness]'"
GENERATION = "generate_until"
# Those of its own command, so that examples in prompts are the same ones.
SEED, FEWSHOT_SEED = 0, 1234
BATCH = 8


class Harness:
    """Tasks whose data is there. `limit`: of each only its first documents; `chat`: asked in the run's prompts."""

    def __init__(self, loaded: dict[str, Any], *, limit: int | None, chat: bool) -> None:
        self.loaded = loaded
        self.limit = limit
        self.chat = chat
        self.items: dict[str, list[Item]] = {}

    @classmethod
    def load(cls, names: Sequence[str], *, limit: int | None, chat: bool) -> Harness:
        """`names`: of its tasks, groups and tags, or files of tasks. Raises ArgumentsError with all that is wrong."""
        try:
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise ArgumentsError(INSTALL_HARNESS) from error
        found: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
        problems = []
        with quiet_harness():
            # Its own index is thousands of files.
            manager = TaskManager(include_defaults=not all(is_task_file(name) for name in names))
            for name in names:
                if not is_task_file(name) and name not in manager.all_tasks:
                    problems.append(unknown_task(name, manager.all_tasks))
                    continue
                try:
                    parts = manager.load([name])
                except Exception as error:  # whatever the libraries raise over its data
                    problems.append(f"{name} cannot be loaded: {said_by(error)}")
                    continue
                for part in found:
                    found[part] |= parts.get(part, {})
        problems += [text for name, task in found["tasks"].items() if (text := task_problem(name, task)) is not None]
        if problems:
            raise ArgumentsError(problem_list("--harness_tasks:", problems))
        for task in found["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
        return cls(found, limit=limit, chat=chat)

    @property
    def names(self) -> list[str]:
        return list(self.loaded["tasks"])

    def check(self, bot: Chatbot) -> None:
        """Raises ArgumentsError for tasks that cannot be asked of this model."""
        wrong = []
        if self.chat and portable_template(bot.template) is None:
            wrong.append("--harness_chat: this model's prompt format cannot be said as one chat template")
        generating = [name for name, task in self.loaded["tasks"].items() if task.OUTPUT_TYPE == GENERATION]
        if generating and virtual_tokens_of(bot.model).count:
            wrong.append(
                f"the tasks {', '.join(generating)} let the harness write answers by itself, which it cannot with the "
                f"virtual tokens of {bot.name}; tasks that choose among answers can be asked"
            )
        if wrong:
            raise ArgumentsError("\n".join(wrong))

    def measure(self, bot: Chatbot, name: str, step: int | None) -> dict[str, Measured]:
        """By the task. Raises ArgumentsError where the harness fails."""
        from lm_eval.evaluator import evaluate as evaluate_tasks
        from lm_eval.models.huggingface import HFLM

        self.check(bot)
        tokenizer = copy.deepcopy(bot.tokenizer)
        if self.chat:
            tokenizer.chat_template = portable_template(bot.template)
        inform(f"lm-evaluation-harness asks {name}: {', '.join(self.names)}")
        kind = "seq2seq" if is_encoder_decoder(base_model_of(bot.model).config) else "causal"
        with quiet_harness():
            try:
                model = HFLM(
                    bot.model, backend=kind, tokenizer=tokenizer, max_length=longest_text(bot), batch_size=BATCH
                )
                for task in self.loaded["tasks"].values():
                    task.set_fewshot_seed(FEWSHOT_SEED)
                told = evaluate_tasks(
                    model,
                    self.loaded,
                    limit=self.limit,
                    bootstrap_iters=0,
                    apply_chat_template=self.chat,
                    fewshot_as_multiturn=self.chat,
                )
            except Exception as error:  # tasks are programs of others
                raise ArgumentsError(f"--harness_tasks: asking {name} failed: {said_by(error)}") from error
        for task, samples in told["samples"].items():
            self.items.setdefault(task, items_of_samples(task, samples))
        return {
            task: measured_task(name, step, samples, told["results"][task]) for task, samples in told["samples"].items()
        }


def is_task_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()


def unknown_task(name: str, known: Sequence[str]) -> str:
    return f"the harness has no task '{name}', and there is no such .yaml file{did_you_mean(nearest(name, known), '')}"


def task_problem(name: str, task: Any) -> str | None:
    if getattr(task, "UNSAFE_CODE", False):
        return f"{name} runs code that the model writes, which is not done here"
    if getattr(task, "MULTIMODAL", False):
        return f"{name} asks about pictures or sounds"
    return None


def said_by(error: BaseException) -> str:
    """The name and the first line of whatever was raised."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def longest_text(bot: Chatbot) -> int | None:
    """Tokens; None where the harness is to find it out."""
    limits = [limit for limit in (bot.window.limit, bot.window.trained) if limit is not None]
    return None if bot.window.apart or not limits else min(limits)


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Its advice is for its own command, its bars are for a terminal. What it draws at random is always the same."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    kept, kept_numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(quiet_libraries())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if not is_terminal(sys.stderr):
            stack.enter_context(redirect_stderr(io.StringIO()))
        logger.setLevel(logging.ERROR)
        random.seed(SEED)
        np.random.seed(FEWSHOT_SEED)
        torch.manual_seed(FEWSHOT_SEED)
        try:
            yield
        finally:
            logger.setLevel(level)
            random.setstate(kept)
            np.random.set_state(kept_numpy)


# What the harness found, as the rest of the evaluation takes it


def items_of_samples(task: str, samples: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Its documents in order: what the model was given, and what is right."""
    found: dict[int, Item] = {}
    for sample in samples:
        place, given = int(sample["doc_id"]), sample["arguments"]
        asked = str(given[0][0]) if given and given[0] else ""
        found.setdefault(
            place, Item(f"{task} document {place}", (Turn("user", asked),), expected=str(sample["target"]), kind=task)
        )
    return [found[place] for place in sorted(found)]


def metric_key(metric: str, answers_filter: str) -> str:
    """
    >>> metric_key("acc", "none"), metric_key("exact_match", "strict-match")
    ('acc', 'exact_match (strict-match)')
    """
    return metric if answers_filter == "none" else f"{metric} ({answers_filter})"


def measured_task(
    name: str, step: int | None, samples: Sequence[Mapping[str, Any]], results: Mapping[str, Any]
) -> Measured:
    """Metrics that are the mean of a number for each document are given by document, all others as a figure."""
    figures = {
        metric_key(*key.rsplit(",", 1)): float(value)
        for key, value in results.items()
        if "," in key and "_stderr," not in key and is_finite_number(value)
    }
    by_document: dict[str, dict[int, Any]] = {}
    places = {document: place for place, document in enumerate(sorted({int(s["doc_id"]) for s in samples}))}
    for sample in samples:
        for metric in sample["metrics"]:
            key = metric_key(metric, sample["filter"])
            by_document.setdefault(key, {})[places[int(sample["doc_id"])]] = sample[metric]
    given = {}
    for key, values in by_document.items():
        if key in figures and all(map(is_finite_number, values.values())):
            numbers = {place: float(value) for place, value in values.items()}
            if math.isclose(sum(numbers.values()) / len(numbers), figures[key], rel_tol=1e-9, abs_tol=1e-12):
                given[key] = numbers
    return Measured(
        name, step=step, given=given, figures={key: value for key, value in figures.items() if key not in given}
    )


def is_finite_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number) and math.isfinite(value)


def harness_measures(task: Any, systems: Sequence[Measured]) -> list[Measure]:
    """What the systems can be compared by, in the order of the task; `task`: the harness's own."""
    better = task.higher_is_better()
    keys = dict.fromkeys(key for system in systems for key in system.given)
    return [
        Measure(
            key,
            key,
            partial(given_score, key),
            share=all(value in (0.0, 1.0) for system in systems for value in system.given.get(key, {}).values()),
            better={True: "higher", False: "lower"}.get(better.get(key.split(" (")[0]), ""),
        )
        for key in keys
    ]


def given_score(key: str, _items: Sequence[Item], system: Measured) -> Score:
    values = system.given.get(key, {})
    return Score(values, dict.fromkeys(values, 1.0))
