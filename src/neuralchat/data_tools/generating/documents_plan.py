"""Passages of documents -> questions and answers that rest on a quote, each in several wordings."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuralchat.data_tools.generating.critic import AskedCritic, critic_request, passes_critic
from neuralchat.data_tools.generating.documents.passages import Passage, quote_place
from neuralchat.data_tools.generating.domain_plan import DomainSettings
from neuralchat.data_tools.generating.filters import (
    POINTS_AT_TEXT,
    Refusal,
    record_refusal,
    task_refusal,
    unfounded_number,
)
from neuralchat.data_tools.generating.made_records import (
    NO_REPLY,
    UNREADABLE,
    Draft,
    MadeRecords,
    alpaca_row,
    alpaca_turns,
)
from neuralchat.data_tools.generating.parsing import ReadFact, read_facts, read_tasks
from neuralchat.data_tools.generating.prompts import questions_prompt, wordings_prompt
from neuralchat.data_tools.generating.rouge_index import rouge_words
from neuralchat.data_tools.generating.teaching.exchange import TeacherReply, TeacherRequest
from neuralchat.evaluation.facts import states_facts

QUESTIONS_TOKENS = 2048
WORDINGS_TOKENS = 1024
GROUNDED = "documents"


@dataclass(frozen=True)
class GroundedSettings:
    """`per_passage`: questions asked for of each passage. `wordings`: of each question, with its first one."""

    per_passage: int = 4
    wordings: int = 1


@dataclass(frozen=True)
class AskedPassage:
    passage: Passage


@dataclass(frozen=True)
class AskedWordings:
    """`draft`: of the first wording, which is accepted already; `place`: that of its question in the index."""

    draft: Draft
    place: int


AskedOfDocuments = AskedPassage | AskedWordings | AskedCritic


class DocumentsPlan:
    """A RequestPlan: a request for each passage; for each fact a critic, if wanted, then its wordings. `barren`:
    passages in a row of which no fact was taken.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        settings: DomainSettings,
        grounded: GroundedSettings,
        made: MadeRecords,
        teacher: str,
    ) -> None:
        self.settings, self.grounded, self.made, self.teacher = settings, grounded, made, teacher
        # So that what is asked first is of all documents.
        self.passages = deque(random.Random(settings.seed).sample(list(passages), len(passages)))
        self.drafts: deque[Draft] = deque()
        self.accepted: deque[AskedWordings] = deque()
        self.places: dict[str, int] = {}
        self.facts = self.barren = 0

    @property
    def why_given_up(self) -> str | None:
        if self.barren < self.settings.patience:
            return None
        left = f", {len(self.passages)} were not asked about" if self.passages else ""
        return f"of {self.barren} passages in a row nothing was taken (--patience){left}; a larger teacher may help"

    def next_request(self, *, is_replayed: bool) -> tuple[TeacherRequest, AskedOfDocuments] | None:
        settings = self.settings
        if self.drafts:
            draft = self.drafts.popleft()
            return critic_request(settings.domain, draft, settings.answer_tokens), AskedCritic(draft)
        if self.accepted:
            asked = self.accepted.popleft()
            prompt = wordings_prompt(
                asked.draft.question, asked.draft.answer, self.grounded.wordings - 1, settings.language
            )
            return TeacherRequest("wordings", prompt, min(WORDINGS_TOKENS, settings.answer_tokens)), asked
        is_wanted = len(self.made.rows) < settings.count and self.barren < settings.patience
        if self.passages and (is_replayed or is_wanted):
            passage = self.passages.popleft()
            prompt = questions_prompt(passage.text, self.grounded.per_passage, settings.language)
            return (
                TeacherRequest("questions", prompt, min(QUESTIONS_TOKENS, settings.answer_tokens)),
                AskedPassage(passage),
            )
        return None

    def take(self, number: int, asked: AskedOfDocuments, reply: TeacherReply) -> None:
        taken = len(self.made.rows) + len(self.drafts)
        self.take_reply(number, asked, reply)
        if len(self.made.rows) + len(self.drafts) > taken:
            self.barren = 0
        elif isinstance(asked, AskedPassage):
            self.barren += 1

    def take_reply(self, number: int, asked: AskedOfDocuments, reply: TeacherReply) -> None:
        if isinstance(asked, AskedCritic):
            if passes_critic(self.made, asked.draft, number, reply, self.settings.least_score or 0):
                self.accept_fact(asked.draft)
        elif reply.problem:
            self.made.refuse(Refusal(NO_REPLY, reply.problem))
        elif isinstance(asked, AskedPassage):
            self.take_facts(number, asked.passage, reply)
        else:
            self.take_wordings(number, asked, reply)

    def take_facts(self, number: int, passage: Passage, reply: TeacherReply) -> None:
        facts = read_facts(reply.text)
        if not facts:
            self.made.refuse(Refusal(UNREADABLE, f"no question in: {reply.text}"))
        for fact in facts if reply.finished else facts[:-1]:
            refusal = self.fact_refusal(fact, passage)
            nearest, alike = self.made.alike(fact.question) if refusal is None else (None, None)
            refusal = refusal or alike
            if refusal is not None:
                self.made.refuse(refusal)
                continue
            assert nearest is not None
            self.made.note_near(nearest, fact.question)
            draft = self.draft_of(fact, passage, number)
            self.places[fact.question] = self.made.note_text(f"request {number}", fact.question)
            if self.settings.least_score is None:
                self.accept_fact(draft)
            else:
                self.drafts.append(draft)

    def fact_refusal(self, fact: ReadFact, passage: Passage) -> Refusal | None:
        refusal = self.question_refusal(fact.question)
        if refusal is not None:
            return refusal
        if quote_place(fact.quote, passage.text) is None:
            return Refusal("quote_not_found", f"{fact.quote or 'no quote'} (of {passage.document}): {fact.question}")
        if number := unfounded_number(fact.answer, f"{passage.text} {fact.question}"):
            return Refusal("number_not_found", f"{number} (of {passage.document}): {fact.answer}")
        return record_refusal(alpaca_turns(alpaca_row(fact.question, "", fact.answer)), self.settings.filters)

    def question_refusal(self, question: str) -> Refusal | None:
        if pointed := POINTS_AT_TEXT.search(question):
            return Refusal("points_at_text", f"{pointed[0]}: {question}")
        return task_refusal(question, self.settings.filters)

    def draft_of(self, fact: ReadFact, passage: Passage, number: int) -> Draft:
        span = quote_place(fact.quote, passage.text)
        assert span is not None
        quote = passage.text[slice(*span)]
        row: dict[str, Any] = alpaca_row(fact.question, "", fact.answer)
        # What eval counts as right: only what answer and quote both hold.
        if fact.key and states_facts(fact.answer, [fact.key]) and states_facts(quote, [fact.key]):
            row["facts"] = [fact.key]
        provenance = {
            "way": GROUNDED,
            "teacher": self.teacher,
            "domain": self.settings.domain,
            "document": passage.document,
            "place": passage.place,
            "quote": quote,
            "requests": [number],
        }
        return Draft(row, fact.question, fact.answer, passage.text, provenance)

    def accept_fact(self, draft: Draft) -> None:
        """The record of its first wording; the others are asked for."""
        self.facts += 1
        draft.row["group"] = f"fact-{self.facts:05}"
        draft.provenance["wording"] = 1
        self.made.accept(draft)
        if self.grounded.wordings > 1:
            self.accepted.append(AskedWordings(draft, self.places[draft.question]))

    def take_wordings(self, number: int, asked: AskedWordings, reply: TeacherReply) -> None:
        """They are alike by intent: refused are only the same words, and what is like the wording of another fact."""
        first = asked.draft
        seen = {tuple(rouge_words(first.question))}
        wording = 1
        own = [asked.place]
        found = read_tasks(reply.text, is_whole=reply.finished)
        if not found:
            self.made.refuse(Refusal(UNREADABLE, f"no wording in: {reply.text}"))
        for task in found[: self.grounded.wordings - 1]:
            question = task.instruction
            refusal = self.question_refusal(question)
            words = tuple(rouge_words(question))
            if refusal is None and words in seen:
                refusal = Refusal("same_wording", question)
            if refusal is None:
                refusal = self.made.alike(question, but=own)[1] or record_refusal(
                    alpaca_turns(alpaca_row(question, "", first.answer)), self.settings.filters
                )
            if refusal is not None:
                self.made.refuse(refusal)
                continue
            seen.add(words)
            wording += 1
            own.append(self.made.note_text(f"request {number}", question))
            row = {**first.row, "instruction": question}
            provenance = {**first.provenance, "wording": wording, "requests": [*first.provenance["requests"], number]}
            self.made.accept(Draft(row, question, first.answer, first.passage, provenance))
