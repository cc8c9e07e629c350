"""`neuralchat eval`: ask runs and their base model the same, score what they say, and tell what can be seen of it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from neuralchat.console import inform, note
from neuralchat.console.output import OutputLostError
from neuralchat.errors import ArgumentsError, NeuralChatError
from neuralchat.evaluation.comparison import measures_for
from neuralchat.evaluation.harness import Harness
from neuralchat.evaluation.held_out import data_arguments, held_out_items
from neuralchat.evaluation.items import GENERAL, HELD_OUT, QUESTIONS, Item, general_items, items_of_file
from neuralchat.evaluation.outcomes import SystemPairs, every_answer, harness_outcomes, part_outcome, sides_of_part
from neuralchat.evaluation.scoring.judge import Judge
from neuralchat.evaluation.scoring.user_scorer import UserScorer
from neuralchat.evaluation.systems import Candidate, Laboratory, Loading, along_training, each_measured
from neuralchat.evaluation.telling.kept_figures import keep_figures
from neuralchat.evaluation.telling.on_terminal import tell_outcome
from neuralchat.evaluation.telling.outcome import EvaluationOutcome, PartOutcome
from neuralchat.evaluation.telling.page import render_evaluation
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling_flags import sampling_of
from neuralchat.runs.output_files import Input, ReportKind, json_report, page_report, report_problems, write_reports

# No number of questions shows less.
LEAST_POINTS = 0.01


def evaluate(options: argparse.Namespace) -> int:
    sampling = sampling_of(options)
    check_flags(options)
    own = UserScorer(options.run_code) if options.run_code else None
    judge = Judge(options.judge_url, options.judge_model) if options.judge_url else None
    # Before a model is loaded: what is wrong with a file is told at once.
    of_file = items_of_file(options.questions, options.cluster_by) if options.questions else []
    harness = harness_of(options)
    systems = [named for run in options.runs for named in systems_of(run, checkpoints=options.checkpoints)]
    if options.checkpoints and options.tuned_only:
        inform(told_without_base([named.name for named in systems]))
    parts: dict[str, list[Item]] = {}

    def laboratory_for(bot: Chatbot) -> Laboratory:
        parts.update(asked_parts(options, of_file, bot))
        return Laboratory(parts, sampling, data_arguments(Path(systems[0].path)), harness)

    loading = Loading(options.trust_remote_code, options.template, options.base_model)
    measured = list(each_measured(systems, loading, laboratory_for, compare=not options.tuned_only))
    try:
        more = own.scorers(every_answer(parts, measured)) if own is not None else []
        length = sampling.max_new_tokens
        found = [
            part_outcome(n, items, measures_for(items, more), measured, options, judge, max_new_tokens=length)
            for n, items in parts.items()
        ]
        outcome = EvaluationOutcome(options.detect / 100, [*found, *harness_outcomes(harness, measured, options)])
    except Exception:
        # A fault of this program; the answers took longer than it.
        write_answers(parts, measured, options)
        raise
    failures = [scoring.failure for scoring in (judge, own) if scoring is not None and scoring.failure is not None]
    # What took hours is told and kept, whatever becomes of either; a disk may be full, and a reader gone.
    for work in (
        lambda: tell_outcome(outcome, judge, show=options.show),
        lambda: keep_figures(systems, outcome, options.questions),
        lambda: write_outcome(outcome, options),
    ):
        try:
            work()
        except NeuralChatError as error:
            failures.append(error)
    # A reader that ended, such as `head`, is no fault of the evaluation.
    failures.sort(key=lambda failure: isinstance(failure, OutputLostError))
    for failure in failures[1:]:
        note(str(failure))
    if failures:
        # Only now: the answers took longer than what failed on them.
        raise failures[0]
    return 0


def write_outcome(outcome: EvaluationOutcome, options: argparse.Namespace) -> None:
    """Raises NeuralChatError with what could not be written; the other is."""
    write_reports(
        [
            ("--output", options.output, lambda: json_report(outcome.as_json())),
            ("--report", options.report, lambda: page_report(render_evaluation(outcome))),
        ]
    )


def write_answers(
    parts: Mapping[str, Sequence[Item]],
    measured: SystemPairs,
    options: argparse.Namespace,
) -> None:
    """Those of all systems as --output has them, with losses and without a figure; why they could not be is told."""
    if options.output is None:
        return
    bare = [PartOutcome(name, items, sides_of_part(name, items, [], measured), []) for name, items in parts.items()]
    outcome = EvaluationOutcome(options.detect / 100, bare)
    try:
        write_reports([("--output", options.output, lambda: json_report(outcome.as_json()))])
    except NeuralChatError as error:
        note(str(error))
    else:
        note(f"the figures could not be computed; {options.output} holds the answers without them")


def inputs_of(options: argparse.Namespace) -> list[Input]:
    """All files and directories that are read, as messages call them."""
    files: list[Input] = [("--questions", options.questions)] if options.questions else []
    if options.run_code:
        files.append(("the file of --run_code", options.run_code.rpartition(":")[0]))
    if options.base_model:
        files.append(("--base_model", options.base_model))
    files += [("--harness_tasks", name.strip()) for name in (options.harness_tasks or "").split(",") if name.strip()]
    return [*files, *(("the run", run) for run in options.runs)]


def check_flags(options: argparse.Namespace) -> None:
    """Raises ArgumentsError with all that is wrong with them."""
    wrong = []
    if options.general is not None and options.general < 0:
        wrong.append(f"--general is {options.general}; allowed is 0 or more, or 'all'")
    if options.max_questions is not None and options.max_questions < 1:
        wrong.append(f"--max_questions is {options.max_questions}; allowed is 1 or more")
    if not LEAST_POINTS <= options.detect <= 100:
        wrong.append(f"--detect is {options.detect:g}; allowed is {LEAST_POINTS:g} to 100 points")
    if len(set(options.runs)) < len(options.runs):
        wrong.append("a run is named twice; name each once")
    if options.harness_limit is not None and options.harness_limit < 1:
        wrong.append(f"--harness_limit is {options.harness_limit}; allowed is 1 or more")
    if not options.harness_tasks and (options.harness_limit is not None or options.harness_chat):
        wrong.append("--harness_limit and --harness_chat belong to --harness_tasks, which is missing")
    if options.judge_model and not options.judge_url:
        wrong.append("--judge_model names a model of --judge_url, which is missing")
    if options.checkpoints and len(options.runs) > 1:
        wrong.append(f"--checkpoints follows one run along its training, found {len(options.runs)} runs; name one")
    reports = [("--output", options.output, ReportKind.JSON), ("--report", options.report, ReportKind.PAGE)]
    wrong += report_problems(reports, inputs_of(options))
    if wrong:
        raise ArgumentsError("\n".join(wrong))


def told_without_base(names: Sequence[str]) -> str:
    """What --tuned_only leaves of the comparisons of --checkpoints.

    >>> told_without_base(["checkpoint"])
    '--tuned_only: checkpoint is the only checkpoint, so nothing is compared; without the flag the base model is asked'
    """
    if len(names) == 1:
        alone = f"{names[0]} is the only checkpoint, so nothing is compared"
        return f"--tuned_only: {alone}; without the flag the base model is asked"
    beside = "each is compared with the one before it, and none with the base model"
    return f"--tuned_only: of the {len(names)} checkpoints {beside}: 'before' is the earlier checkpoint"


def systems_of(run: str, *, checkpoints: bool) -> list[Candidate]:
    return along_training(run) if checkpoints else [Candidate(run, run)]


def asked_parts(options: argparse.Namespace, of_file: Sequence[Item], bot: Chatbot) -> dict[str, list[Item]]:
    """What is asked, by the name of the part. Where no questions are named, those that the first run held out."""
    parts = {}
    if of_file:
        parts[QUESTIONS] = list(of_file[: options.max_questions])
    if options.held_out or not (options.questions or options.general != 0 or options.harness_tasks):
        parts[HELD_OUT] = held_out_items(Path(options.runs[0]), bot, options.cluster_by, options.max_questions)
    if options.general != 0:
        parts[GENERAL] = general_items(options.general)
    return parts


def harness_of(options: argparse.Namespace) -> Harness | None:
    if not options.harness_tasks:
        return None
    names = [name.strip() for name in options.harness_tasks.split(",") if name.strip()]
    return Harness.load(list(dict.fromkeys(names)), limit=options.harness_limit, chat=options.harness_chat)
