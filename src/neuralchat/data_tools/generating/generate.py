"""`neuralchat data generate`: a teacher, seed tasks or documents -> a file of records, and word of what was refused."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuralchat.console import inform, note, put, show_page
from neuralchat.console.tables import Page
from neuralchat.data_tools.generating.documents.passages import Passage, passages_of
from neuralchat.data_tools.generating.documents_plan import DocumentsPlan, GroundedSettings
from neuralchat.data_tools.generating.domain_plan import DomainPlan, DomainSettings
from neuralchat.data_tools.generating.filters import FilterSettings
from neuralchat.data_tools.generating.flag_checks import check_generate_flags, key_of_file
from neuralchat.data_tools.generating.flags import DEFAULT_COUNT
from neuralchat.data_tools.generating.made_records import MadeRecords
from neuralchat.data_tools.generating.outcome import GenerationOutcome
from neuralchat.data_tools.generating.prompts import PROMPT_VERSION
from neuralchat.data_tools.generating.seed_tasks import ShownTask, package_seeds, read_seed_tasks
from neuralchat.data_tools.generating.teaching.exchange import AskedTeacher
from neuralchat.data_tools.generating.teaching.journal import Journal, journal_of
from neuralchat.data_tools.generating.teaching.local_teacher import LocalTeacher
from neuralchat.data_tools.generating.teaching.pipeline import WINDOW, Pipeline
from neuralchat.data_tools.generating.teaching.server_teacher import Manners, ServerTeacher, connected_bot
from neuralchat.data_tools.generating.teaching.spending import Spending, SpendingLimits
from neuralchat.errors import DataError
from neuralchat.files import append_line, write_file
from neuralchat.inference.sampling import Sampling
from neuralchat.runs.directory import json_text
from neuralchat.runs.output_files import json_report, write_reports

WITHOUT_END = 1 << 40
TELL_EVERY = 25


def generate_data(options: argparse.Namespace) -> int:
    """Raises ArgumentsError, DataError, JournalError and TeacherGoneError; what was said until then is kept."""
    sampling = check_generate_flags(options)
    output = Path(options.output)
    # Before anybody is asked, and before there is a journal.
    material = material_of(options)
    settings = domain_settings(options)
    grounded = GroundedSettings(options.per_passage, options.wordings)
    spending = Spending(limits_of(options))
    with teacher_source(options) as source:
        asked_with = asked_settings(options, source.name, sampling, material)
        journal = Journal(journal_of(output), asked_with)
        try:
            spending.take_over(journal.records.values())
            teacher = source.teacher(sampling, journal, spending)
            writer = RecordWriter(output, replayed=sum(1 for each in journal.records.values() if each.reply))
            made = MadeRecords(writer.keep)
            plan = plan_of(material, settings, grounded, made, source.name)
            pipeline: Pipeline[Any] = Pipeline(plan, teacher, journal, asked_with)
            writer.progress = lambda: pipeline.processed
            try:
                pipeline.run()
            finally:
                teacher.close()
                writer.finish()
        finally:
            journal.close()
    return told_outcome(options, GenerationOutcome(made, spending, settings, why_ended(plan, pipeline, made)), output)


@dataclass(frozen=True)
class Material:
    """What requests are made from: seed tasks, or passages of documents."""

    seeds: tuple[ShownTask, ...] = ()
    passages: tuple[Passage, ...] = ()

    @property
    def sha256(self) -> str:
        """Tells apart what would give other requests."""
        return hashlib.sha256(repr(self).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def material_of(options: argparse.Namespace) -> Material:
    """Raises DataError for seed tasks or documents that cannot be used."""
    if options.documents is None:
        return Material(seeds=tuple(read_seed_tasks(Path(options.seeds) if options.seeds else package_seeds())))
    passages, others = passages_of(Path(options.documents))
    if others:
        note(f"{len(others)} file(s) of --documents are no documents and are left out: {', '.join(others[:5])}")
    if not passages:
        raise DataError(f"--documents {options.documents} holds no text that could be asked about")
    return Material(passages=tuple(passages))


def plan_of(
    material: Material, settings: DomainSettings, grounded: GroundedSettings, made: MadeRecords, teacher: str
) -> DomainPlan | DocumentsPlan:
    if material.passages:
        return DocumentsPlan(material.passages, settings, grounded, made, teacher)
    return DomainPlan(material.seeds, settings, made, teacher)


def domain_settings(options: argparse.Namespace) -> DomainSettings:
    unlimited = WITHOUT_END if options.documents else DEFAULT_COUNT
    return DomainSettings(
        domain=" ".join(options.domain.split()),
        count=options.count or unlimited,
        seed=options.seed,
        turns=options.turns,
        answer_tokens=options.max_new_tokens,
        least_score=options.critic,
        patience=options.patience,
        filters=FilterSettings(options.language, options.blacklist),
    )


def limits_of(options: argparse.Namespace) -> SpendingLimits:
    prices = {
        f"price_{part}": getattr(options, f"price_{part}")
        for part in ("prompt", "answer")
        if getattr(options, f"price_{part}") is not None
    }
    return SpendingLimits(**prices, budget=options.budget, token_budget=options.token_budget)


def asked_settings(options: argparse.Namespace, teacher: str, sampling: Sampling, material: Material) -> dict[str, Any]:
    """All that shapes a prompt or what is made of its answer: what must not change between two runs of a journal."""
    found = {
        "prompts": PROMPT_VERSION,
        "teacher": teacher,
        "domain": " ".join(options.domain.split()),
        "seed": options.seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_new_tokens": options.max_new_tokens,
        "language": options.language,
        "blacklist": list(options.blacklist),
        "critic": options.critic,
    }
    if material.passages:
        shape = {"documents": material.sha256, "per_passage": options.per_passage, "wordings": options.wordings}
    else:
        shape = {"seed tasks": material.sha256, "turns": options.turns}
    return {**found, **shape}


class ServerSource:
    """`name`: the model that the endpoint answers with."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        key = key_of_file(Path(options.key_file)) if options.key_file else None
        self.bot = connected_bot(options.base_url, options.model, key)
        self.name = self.bot.name

    def teacher(self, sampling: Sampling, journal: Journal, spending: Spending) -> AskedTeacher:
        options = self.options
        manners = Manners(options.parallel, options.timeout, options.requests_per_minute)
        return ServerTeacher(self.bot, sampling, journal, spending, manners)


class LocalSource:
    def __init__(self, options: argparse.Namespace) -> None:
        from neuralchat.inference.chatbot import Chatbot

        self.bot = Chatbot.load(options.teacher)
        self.name = self.bot.name or str(options.teacher)

    def teacher(self, sampling: Sampling, journal: Journal, spending: Spending) -> AskedTeacher:
        return LocalTeacher(self.bot, self.name, sampling, journal, spending, most_on_way=WINDOW)


@contextmanager
def teacher_source(options: argparse.Namespace) -> Iterator[ServerSource | LocalSource]:
    if options.teacher is not None:
        yield LocalSource(options)
        return
    source = ServerSource(options)
    try:
        yield source
    finally:
        source.bot.client.close()


class RecordWriter:
    """Writes records as they are accepted. Those of replies that the journal has are written at once, in a new file:
    what stood there was computed from the same replies.
    """

    def __init__(self, output: Path, replayed: int) -> None:
        self.output, self.replayed = output, replayed
        self.held: list[str] = []
        self.is_open = False
        self.count = 0
        self.progress = lambda: 0
        if replayed:
            inform(f"{replayed} replies are in {journal_of(output)} already; they are not asked for again")

    def keep(self, row: Mapping[str, Any]) -> None:
        line = json_text(row, indent=None).rstrip("\n")
        self.count += 1
        if self.progress() < self.replayed:
            self.held.append(line)
            return
        self.open()
        append_line(self.output, line)
        if self.count % TELL_EVERY == 0:
            inform(f"{self.count} records accepted")

    def open(self) -> None:
        if not self.is_open:
            self.is_open = True
            write_file(self.output, "".join(f"{line}\n" for line in self.held))
            self.held = []

    def finish(self) -> None:
        self.open()


def why_ended(plan: DomainPlan | DocumentsPlan, pipeline: Pipeline[Any], made: MadeRecords) -> str:
    if pipeline.ended_by is not None:
        return str(pipeline.ended_by)
    if len(made.rows) >= plan.settings.count:
        return f"--count {plan.settings.count} is reached"
    return plan.why_given_up or "there is nothing more to ask"


def told_outcome(options: argparse.Namespace, outcome: GenerationOutcome, output: Path) -> int:
    show_page(Page(outcome.parts(output)))
    if options.report:
        write_reports([("--report", options.report, lambda: json_report(outcome.as_json()))])
        put(f"report: {options.report}")
    # A file without a record is no success.
    return 0 if outcome.made.rows else 1
