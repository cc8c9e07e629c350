"""Self-Instruct for a domain: tasks are asked for in lists, filtered, and answered one at a time (Wang et al., 2022).

For classification the teacher writes the label before the input, so that not all inputs are of the commonest label.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from neuralchat.data.records import Turn
from neuralchat.data_tools.generating.critic import AskedCritic, critic_request, passes_critic
from neuralchat.data_tools.generating.filters import (
    FilterSettings,
    Refusal,
    label_refusal,
    record_refusal,
    task_refusal,
)
from neuralchat.data_tools.generating.languages import TOLD_LANGUAGES
from neuralchat.data_tools.generating.made_records import (
    NO_REPLY,
    UNREADABLE,
    Draft,
    MadeRecords,
    TaskCandidate,
    alpaca_row,
    alpaca_turns,
    generated_row,
)
from neuralchat.data_tools.generating.parsing import read_answer, read_classes, read_tasks, read_turns
from neuralchat.data_tools.generating.prompts import (
    MOST_LABELS,
    answer_prompt,
    classes_prompt,
    conversation_prompt,
    instructions_prompt,
)
from neuralchat.data_tools.generating.seed_tasks import ShownTask, drawn_tasks
from neuralchat.data_tools.generating.teaching.exchange import TeacherReply, TeacherRequest

LIST_TOKENS = 1024
# Of eight tasks that a request asks for, so many are expected to pass: more requests would pay for what nobody wants.
EXPECTED_PER_LIST = 4
# Lists on their way do not know of each other's tasks, and a small budget is to bring records, not only lists.
MOST_LISTS = 4
SELF_INSTRUCT = "self-instruct"


@dataclass(frozen=True)
class DomainSettings:
    """`turns`: how often the user speaks in a record. `least_score`: of the critic; None for no critic.

    `patience`: after so many lists (or passages) in a row of which nothing is taken, nothing more is asked for; and
    after the answers to as many lists of which none became a record.
    """

    domain: str
    count: int
    seed: int = 0
    turns: int = 1
    answer_tokens: int = 1024
    least_score: int | None = None
    patience: int = 20
    filters: FilterSettings = field(default_factory=FilterSettings)

    @property
    def language(self) -> str | None:
        named = TOLD_LANGUAGES.get(self.filters.language)
        return named.name if named else None


@dataclass(frozen=True)
class AskedList:
    shown: tuple[str, ...]


@dataclass(frozen=True)
class AskedAnswer:
    candidate: TaskCandidate


AskedOfDomain = AskedList | AskedAnswer | AskedCritic


class DomainPlan:
    """A RequestPlan. `teacher`: its name, for provenance. `barren`: lists in a row that brought nothing new.
    `fruitless`: answers in a row that became no record, which a teacher can go on with for ever.
    """

    def __init__(self, seeds: Sequence[ShownTask], settings: DomainSettings, made: MadeRecords, teacher: str) -> None:
        self.seeds, self.settings, self.made, self.teacher = seeds, settings, made, teacher
        self.candidates: deque[TaskCandidate] = deque()
        self.drafts: deque[Draft] = deque()
        self.machine: list[ShownTask] = []
        self.lists_asked = self.barren = self.fruitless = 0
        self.on_way = {AskedList: 0, AskedAnswer: 0, AskedCritic: 0}
        for seed in seeds:
            made.note_text(seed.id, seed.instruction)

    @property
    def is_barren(self) -> bool:
        return self.barren >= self.settings.patience

    @property
    def is_fruitless(self) -> bool:
        return self.fruitless >= self.settings.patience * EXPECTED_PER_LIST

    @property
    def why_given_up(self) -> str | None:
        if self.is_barren:
            return f"{self.barren} requests in a row brought no new task (--patience); another --seed or --domain may"
        if self.is_fruitless:
            return f"{self.fruitless} answers in a row became no record (--patience); a larger teacher may help"
        return None

    def next_request(self, *, is_replayed: bool) -> tuple[TeacherRequest, AskedOfDomain] | None:
        made = self.made_request(is_replayed)
        if made is not None:
            self.on_way[type(made[1])] += 1
        return made

    def made_request(self, is_replayed: bool) -> tuple[TeacherRequest, AskedOfDomain] | None:
        settings = self.settings
        if self.is_fruitless and not is_replayed:
            return None
        if self.drafts:
            draft = self.drafts.popleft()
            return critic_request(settings.domain, draft, settings.answer_tokens), AskedCritic(draft)
        coming = len(self.made.rows) + self.on_way[AskedAnswer] + self.on_way[AskedCritic]
        if self.candidates and (is_replayed or coming < settings.count):
            candidate = self.candidates.popleft()
            return self.answer_request(candidate), AskedAnswer(candidate)
        coming += len(self.candidates) + EXPECTED_PER_LIST * self.on_way[AskedList]
        is_wanted = coming < settings.count and not self.is_barren and self.on_way[AskedList] < MOST_LISTS
        return self.list_request() if is_replayed or is_wanted else None

    def list_request(self) -> tuple[TeacherRequest, AskedList]:
        rng = random.Random(f"{self.settings.seed} {self.lists_asked}")
        self.lists_asked += 1
        shown = drawn_tasks(self.seeds, self.machine, rng)
        prompt = instructions_prompt(self.settings.domain, shown, self.settings.language)
        return TeacherRequest("list", prompt, min(LIST_TOKENS, self.settings.answer_tokens)), AskedList(
            tuple(task.id for task in shown)
        )

    def answer_request(self, candidate: TaskCandidate) -> TeacherRequest:
        settings = self.settings
        if settings.turns > 1:
            prompt = conversation_prompt(settings.domain, candidate.instruction, settings.turns, settings.language)
            return TeacherRequest("conversation", prompt, settings.answer_tokens)
        if candidate.is_classification:
            prompt = classes_prompt(candidate.instruction, settings.language)
            return TeacherRequest("classes", prompt, settings.answer_tokens)
        prompt = answer_prompt(settings.domain, candidate.instruction, settings.language)
        return TeacherRequest("answer", prompt, settings.answer_tokens)

    def take(self, number: int, asked: AskedOfDomain, reply: TeacherReply) -> None:
        self.on_way[type(asked)] -= 1
        rows, drafts, candidates = len(self.made.rows), len(self.drafts), len(self.candidates)
        self.take_reply(number, asked, reply)
        if isinstance(asked, AskedList):
            # A list that was refused brings nothing either, and the next one may be refused again.
            self.barren = 0 if len(self.candidates) > candidates else self.barren + 1
        if len(self.made.rows) > rows:
            self.fruitless = 0
        elif isinstance(asked, AskedCritic) or (isinstance(asked, AskedAnswer) and len(self.drafts) == drafts):
            self.fruitless += 1

    def take_reply(self, number: int, asked: AskedOfDomain, reply: TeacherReply) -> None:
        if isinstance(asked, AskedCritic):
            if passes_critic(self.made, asked.draft, number, reply, self.settings.least_score or 0):
                self.accept(asked.draft)
        elif reply.problem:
            self.made.refuse(Refusal(NO_REPLY, reply.problem))
        elif isinstance(asked, AskedList):
            self.take_list(number, asked, reply)
        else:
            self.take_answer(number, asked.candidate, reply)

    def take_list(self, number: int, asked: AskedList, reply: TeacherReply) -> None:
        tasks = read_tasks(reply.text, is_whole=reply.finished)
        if not tasks:
            self.made.refuse(Refusal(UNREADABLE, f"no task in: {reply.text}"))
        for task in tasks:
            refusal = task_refusal(task.instruction, self.settings.filters)
            nearest, alike = self.made.alike(task.instruction) if refusal is None else (None, None)
            refusal = refusal or alike
            if refusal is not None:
                self.made.refuse(refusal)
                continue
            assert nearest is not None
            self.made.note_near(nearest, task.instruction)
            like = "" if nearest.place is None else self.made.ids[nearest.place]
            self.candidates.append(
                TaskCandidate(task.instruction, task.is_classification, [number], asked.shown, (nearest.score, like))
            )
            self.made.note_text(f"request {number}", task.instruction)

    def take_answer(self, number: int, candidate: TaskCandidate, reply: TeacherReply) -> None:
        candidate.asked_in.append(number)
        if not reply.finished:
            self.made.refuse(Refusal("cut", f"the answer was longer than asked for: {candidate.instruction}"))
            return
        rows = self.rows_of(candidate, reply.text)
        if not rows:
            self.made.refuse(Refusal(UNREADABLE, f"no answer in: {reply.text}"))
        for row, turns in rows:
            refusal = record_refusal(turns, self.settings.filters)
            if refusal is not None:
                self.made.refuse(refusal)
                continue
            draft = Draft(row, asked_before(turns), turns[-1].content, "", self.provenance(candidate))
            if self.settings.least_score is None:
                self.accept(draft)
            else:
                self.drafts.append(draft)

    def rows_of(self, candidate: TaskCandidate, text: str) -> list[tuple[dict[str, Any], list[Turn]]]:
        if self.settings.turns > 1:
            spoken = read_turns(text)
            turns = [Turn("user" if role == "user" else "assistant", content) for role, content in spoken]
            return [(generated_row(spoken), turns)] if turns else []
        if not candidate.is_classification:
            answer = read_answer(text)
            rows = [] if answer is None else [alpaca_row(candidate.instruction, *answer)]
            return [(row, alpaca_turns(row)) for row in rows]
        rows = []
        for example in read_classes(text)[:MOST_LABELS]:
            if refusal := label_refusal(example.output, example.input):
                self.made.refuse(refusal)
            else:
                rows.append(alpaca_row(candidate.instruction, *example))
        return [(row, alpaca_turns(row)) for row in rows]

    def provenance(self, candidate: TaskCandidate) -> dict[str, Any]:
        score, like = candidate.nearest
        found: dict[str, Any] = {
            "way": SELF_INSTRUCT,
            "teacher": self.teacher,
            "domain": self.settings.domain,
            "kind": "classification" if candidate.is_classification else "generation",
            "shown": list(candidate.shown),
            "requests": list(candidate.asked_in),
        }
        return {**found, "nearest": {"rouge_l": round(score, 4), "to": like}} if like else found

    def accept(self, draft: Draft) -> None:
        name = self.made.accept(draft)
        instruction = draft.row.get("instruction") or draft.question
        is_classification = draft.provenance["kind"] == "classification"
        if not self.machine or self.machine[-1].instruction != instruction:
            self.machine.append(ShownTask(name, instruction, is_classification))


def asked_before(turns: Sequence[Turn]) -> str:
    """What was asked, as a critic reads it: all turns but the last."""
    if len(turns) == 2:
        return f"{turns[0].content}\n{turns[0].context}".strip()
    return "\n".join(f"{turn.role}: {turn.content}" for turn in turns[:-1])
