"""`neuralchat eval`: ask runs and their base model the same, score what they say, and tell what can be seen of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path

from neuralchat.console import inform, note, put, show_page
from neuralchat.console.output import OutputLostError
from neuralchat.console.tables import Page
from neuralchat.data.records import Fact
from neuralchat.errors import ArgumentsError, NeuralChatError
from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.comparison import Measure, Measured, compare_pairs, measures_for
from neuralchat.evaluation.facts import alternatives_of
from neuralchat.evaluation.harness import Harness, harness_measures
from neuralchat.evaluation.held_out import data_arguments, held_out_items
from neuralchat.evaluation.items import GENERAL, HELD_OUT, QUESTIONS, Item, general_items, items_of_file
from neuralchat.evaluation.scoring.judge import Judge
from neuralchat.evaluation.scoring.user_scorer import UserScorer
from neuralchat.evaluation.systems import Candidate, Laboratory, Loading, along_training, each_measured
from neuralchat.evaluation.telling.kept_figures import keep_figures
from neuralchat.evaluation.telling.outcome import EvaluationOutcome, PartOutcome, Side
from neuralchat.evaluation.telling.page import render_evaluation
from neuralchat.evaluation.telling.terminal_tables import comparison_page, figures_table, number_asked, runs_table
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling_flags import sampling_of
from neuralchat.inference.terminal.server_bot import RefusingServerError
from neuralchat.runs.differences import share_text
from neuralchat.runs.output_files import Input, json_report, page_report, report_problems, write_reports
from neuralchat.runs.summary import before_and_after

# Of more pairs of systems the terminal shows the headline and the loss only.
MOST_PAIRS = 3
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
        found = [
            part_outcome(n, items, measures_for(items, more), measured, options, judge) for n, items in parts.items()
        ]
        outcome = EvaluationOutcome(options.detect / 100, [*found, *harness_outcomes(harness, measured, options)])
    except Exception:
        # A fault of this program; the answers took longer than it.
        write_answers(parts, measured, options)
        raise
    failures = [scoring.failure for scoring in (judge, own) if scoring is not None and scoring.failure is not None]
    # What took hours is told and kept, whatever becomes of either; a disk may be full, and a reader gone.
    for work in (
        lambda: tell_all(outcome, judge, show=options.show),
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


def tell_all(outcome: EvaluationOutcome, judge: Judge | None, *, show: bool) -> None:
    if show:
        for part in outcome.parts:
            print_wrong(part)
    tell(outcome)
    if judge is not None:
        put(judge.cost())


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
    measured: Sequence[tuple[Mapping[str, Measured] | None, Mapping[str, Measured]]],
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


def every_answer(
    parts: Mapping[str, Sequence[Item]],
    measured: Sequence[tuple[Mapping[str, Measured] | None, Mapping[str, Measured]]],
) -> Iterator[tuple[Item, Answered]]:
    """Every answer of every system, with what was asked."""
    for name, items in parts.items():
        for system in (system[name] for pair in measured for system in pair if system is not None):
            yield from ((items[place], answer) for place, answer in system.answers.items())


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
    wrong += report_problems([("--output", options.output), ("--report", options.report)], inputs_of(options))
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


def harness_outcomes(
    harness: Harness | None,
    measured: Sequence[tuple[Mapping[str, Measured] | None, Mapping[str, Measured]]],
    options: argparse.Namespace,
) -> list[PartOutcome]:
    """A part for each task. No judge: the harness has scores of its own."""
    if harness is None:
        return []
    found = []
    for name, items in harness.items.items():
        systems = [system[name] for pair in measured for system in pair if system is not None]
        measures = harness_measures(harness.loaded["tasks"][name], systems)
        found.append(part_outcome(name, items, measures, measured, options, None))
    return found


def pairs_of_systems(
    measured: Sequence[tuple[Mapping[str, Measured] | None, Mapping[str, Measured]]], part: str, *, along: bool
) -> list[tuple[Measured, Measured]]:
    """Each system beside its base model; then each beside the next along training, or each beside each other."""
    own = [(base[part], tuned[part]) for base, tuned in measured if base is not None]
    tuned = [system[part] for _, system in measured]
    return [*own, *(pairwise(tuned) if along else combinations(tuned, 2))]


def part_outcome(
    name: str,
    items: Sequence[Item],
    measures: Sequence[Measure],
    measured: Sequence[tuple[Mapping[str, Measured] | None, Mapping[str, Measured]]],
    options: argparse.Namespace,
    judge: Judge | None,
) -> PartOutcome:
    pairs = pairs_of_systems(measured, name, along=options.checkpoints)
    return PartOutcome(
        name=name,
        items=items,
        sides=sides_of_part(name, items, measures, measured),
        compared=compare_pairs(
            items,
            measures,
            pairs,
            detect=options.detect / 100,
            of_pair=lambda first, second: opinion_of(judge, items, first, second),
        ),
    )


def sides_of_part(
    name: str,
    items: Sequence[Item],
    measures: Sequence[Measure],
    measured: Sequence[tuple[Mapping[str, Measured] | None, Mapping[str, Measured]]],
) -> list[Side]:
    """Base models first, each once, then the systems."""
    bases = {base[name].name: base[name] for base, _ in measured if base is not None}
    sides = [Side.of(base, items, measures, is_base=True) for base in bases.values()]
    return [*sides, *(Side.of(system[name], items, measures, is_base=False) for _, system in measured)]


def opinion_of(judge: Judge | None, items: Sequence[Item], first: Measured, second: Measured) -> list[Measure]:
    """What the judge prefers, if there is one; after it has failed it is not asked again."""
    if judge is None or judge.failure is not None:
        return []
    try:
        judged = judge.judged(items, first, second)
    except RefusingServerError as error:
        judge.failure = error
        return []
    doubts = {"preferred the same place in both orders": judged.swayed, "named no verdict": judged.unread}
    for what, count in doubts.items():
        if count:
            note(f"{judge.name} {what} {count} time(s); such pairs are ties")
    return [judge.measure(judged, first, second)]


def print_wrong(part: PartOutcome) -> None:
    """The wrong answers of the last system."""
    last = part.sides[-1]
    for place, score in last.scores.get("right", {}).items():
        item, answer = part.items[place], last.system.answers[place]
        if not score:
            asked = facts_text(item.facts) or ", ".join(f"{name} {value}" for name, value in item.checks.items())
            put(f"wrong  {item.question}\n       said: {answer.text}\n       facts: {asked}")


def facts_text(facts: Sequence[Fact]) -> str:
    return ", ".join(" or ".join(alternatives_of(fact)) for fact in facts)


def tell(outcome: EvaluationOutcome) -> None:
    for part in outcome.parts:
        pairs = part.by_pair()
        for rows in pairs if len(pairs) <= MOST_PAIRS else ():
            show_page(comparison_page(part.name, rows, outcome.detect))
        if len(part.sides) > 1 and (figures := figures_table(part)) is not None:
            show_page(Page([f"\n{part.name}: figures of the whole, which have no interval", figures]))
        if len(pairs) > 1:
            chance = f"of pairs that do not differ, about one in twenty seems to; these are {len(pairs)} pairs"
            show_page(Page([f"\n{part.name}: {number_asked(pairs[0][0])}", runs_table(part.compared), chance]))
        if len(pairs) > MOST_PAIRS:
            put("--report FILE.html and --output FILE.json hold the other measures of each pair")
    for part in outcome.parts:
        if (said := kept_and_lost(part)) is not None:
            put(f"{part.name}{of_whom(part)}: {said}")
    for part in outcome.parts:
        tell_right(part)


def of_whom(part: PartOutcome) -> str:
    """The name of the last system, where there are several beside base models."""
    return f" of {part.sides[-1].system.name}" if sum(not side.is_base for side in part.sides) > 1 else ""


def kept_and_lost(part: PartOutcome) -> str | None:
    """Of the last system and its base model."""
    pair = part.last_pair()
    if pair is None or not all("right" in side.scores for side in pair):
        return None
    before, after = (side.scores["right"] for side in pair)
    said = before_and_after(
        [{"right_before": before[p] > 0, "right_after": after[p] > 0} for p in before if p in after]
    )
    lost = ", ".join(f"{row.kind} {row.lost}" for row in part.by_kind() if row.lost)
    return f"{said}; lost of {lost}" if lost else said


def tell_right(part: PartOutcome) -> None:
    """How many answers of the last system are right; of one that nothing was compared with, the other scores too."""
    last = part.sides[-1]
    if not part.compared and len(part.sides) == 1:
        for title, text in last.figures():
            put(f"{part.name}: {title} {text}")
    right = last.scores.get("right")
    if right:
        count, what = (
            sum(value > 0 for value in right.values()),
            "general answers" if part.name == GENERAL else "answers",
        )
        only_facts = not any(part.items[place].checks for place in right)
        verb = "state the right fact" if only_facts else "are right"
        sure = share_text(count / len(right), last.means["right"].interval)
        put(f"{count} of {len(right)} {what}{of_whom(part)} {verb} ({sure} with 95 % confidence)")
        cut = sum(not value and not last.system.answers[place].finished for place, value in right.items())
        if cut:
            put(f"of the others, cut off before their end: {cut}; a larger --max_new_tokens lets answers end")
