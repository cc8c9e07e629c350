"""A teacher that never makes a record is given up, whatever it writes: generating ends by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.teachers.scripted_teacher import answer_to

from neuralchat.data_tools.generating.documents.passages import Passage
from neuralchat.data_tools.generating.documents_plan import DocumentsPlan, GroundedSettings
from neuralchat.data_tools.generating.domain_plan import DomainPlan, DomainSettings
from neuralchat.data_tools.generating.made_records import MadeRecords
from neuralchat.data_tools.generating.seed_tasks import ShownTask
from neuralchat.data_tools.generating.teaching.exchange import TeacherReply, TeacherRequest

SEEDS = [ShownTask(f"seed-{n}", f"Name {what} of an office.", False) for n, what in enumerate(("a desk", "the rent"))]
Answer = Callable[[TeacherRequest], TeacherReply]


def asked_until_the_end(plan: Any, answer: Answer, *, most: int = 500) -> list[str]:
    """What each request was for."""
    asked: list[str] = []
    while len(asked) < most and (made := plan.next_request(is_replayed=False)) is not None:
        request, thing = made
        asked.append(request.purpose)
        plan.take(len(asked), thing, answer(request))
    return asked


def domain_plan(**more: Any) -> DomainPlan:
    return DomainPlan(SEEDS, DomainSettings("offices", count=1000, patience=3, **more), MadeRecords(), "teacher-1")


def test_answers_that_are_all_cut_end_it() -> None:
    plan = domain_plan()
    asked = asked_until_the_end(
        plan, lambda request: TeacherReply(answer_to(request.prompt), request.purpose == "list")
    )
    # Four answers for each of the lists that may bring nothing.
    assert len(asked) - asked.count("list") == 12
    assert plan.why_given_up == ("12 answers in a row became no record (--patience); a larger teacher may help")


def test_lists_that_are_all_refused_end_it() -> None:
    """As where the prompt is longer than the model can read, or an endpoint refuses each of them."""
    plan = domain_plan()
    asked = asked_until_the_end(plan, lambda _: TeacherReply("", problem="the question is too long"))
    assert asked == ["list"] * 3
    assert plan.why_given_up is not None
    assert plan.why_given_up.startswith("3 requests in a row brought no new task (--patience)")


def test_a_critic_that_likes_nothing_ends_it() -> None:
    def answer(request: TeacherRequest) -> TeacherReply:
        return TeacherReply("Score: 1" if request.purpose == "critic" else answer_to(request.prompt))

    asked = asked_until_the_end(plan := domain_plan(least_score=5), answer)
    assert asked.count("critic") == 12
    assert plan.why_given_up is not None


def test_records_now_and_then_are_enough_to_go_on() -> None:
    answers = iter(range(10**6))

    def answer(request: TeacherRequest) -> TeacherReply:
        return TeacherReply(answer_to(request.prompt), request.purpose == "list" or next(answers) % 10 == 0)

    plan = domain_plan()
    assert len(asked_until_the_end(plan, answer, most=200)) == 200
    assert plan.why_given_up is None


def test_passages_of_which_nothing_is_taken_end_it() -> None:
    passages = [
        Passage("a.md", f"paragraph {n}", f"Desk {n} stands beside the window of the office.") for n in range(40)
    ]
    settings = DomainSettings("offices", count=1000, patience=3)
    plan = DocumentsPlan(passages, settings, GroundedSettings(4, 1), MadeRecords(), "teacher-1")
    assert len(asked_until_the_end(plan, lambda _: TeacherReply("I see a text about desks."))) == 3
    told = "of 3 passages in a row nothing was taken (--patience), 37 were not asked about; a larger teacher may help"
    assert plan.why_given_up == told
