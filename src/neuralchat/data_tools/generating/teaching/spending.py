"""What asking a teacher costs, and a budget that is never passed: the most a request can cost is set aside first."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from neuralchat.data_tools.generating.teaching.journal import JournalRecord
from neuralchat.errors import NeuralChatError

PER = 1_000_000


class BudgetReachedError(NeuralChatError):
    """The next request could cost more than is left."""


@dataclass(frozen=True)
class SpendingLimits:
    """Prices per million tokens, in whatever currency the budget is in. None: without a limit."""

    price_prompt: Decimal = Decimal(0)
    price_answer: Decimal = Decimal(0)
    budget: Decimal | None = None
    token_budget: int | None = None

    def cost(self, prompt_tokens: int, answer_tokens: int) -> Decimal:
        return (self.price_prompt * prompt_tokens + self.price_answer * answer_tokens) / PER


class Spending:
    """Tokens that were paid, that may have been (nobody knows), and that are set aside for requests on their way."""

    def __init__(self, limits: SpendingLimits) -> None:
        self.limits = limits
        self.changed = threading.Condition()
        self.requests = 0
        # Each: of prompts, of answers.
        self.paid = [0, 0]
        self.unknown = [0, 0]
        self.reserved = [0, 0]
        self.on_way = 0

    def take_over(self, records: Iterable[JournalRecord]) -> None:
        """What earlier runs of the same journal have spent."""
        for record in records:
            for attempt in record.attempts:
                self.requests += 1
                if attempt.was_paid is None:
                    add_to(self.unknown, attempt.bound)
                elif attempt.was_paid and record.reply is not None:
                    add_to(self.paid, (record.reply.prompt_tokens, record.reply.answer_tokens))

    def reserve(self, bound: tuple[int, int]) -> None:
        """Waits while others on their way may give back what they do not need. Raises BudgetReachedError."""
        with self.changed:
            while not self.fits(bound):
                if not self.on_way:
                    raise BudgetReachedError(self.told_limit())
                self.changed.wait()
            add_to(self.reserved, bound)
            self.on_way += 1
            self.requests += 1

    def fits(self, bound: tuple[int, int]) -> bool:
        prompt, answer = (
            paid + unknown + reserved + new
            for paid, unknown, reserved, new in zip(self.paid, self.unknown, self.reserved, bound, strict=True)
        )
        limits = self.limits
        within_money = limits.budget is None or limits.cost(prompt, answer) <= limits.budget
        return within_money and (limits.token_budget is None or prompt + answer <= limits.token_budget)

    def settle(self, bound: tuple[int, int], paid: tuple[int, int] | None, *, may_be_paid: bool = False) -> None:
        """A request has come to its end. `paid`: tokens by the endpoint's own count; None where it did not answer."""
        with self.changed:
            add_to(self.reserved, (-bound[0], -bound[1]))
            self.on_way -= 1
            if paid is not None:
                add_to(self.paid, paid)
            elif may_be_paid:
                add_to(self.unknown, bound)
            self.changed.notify_all()

    @property
    def cost(self) -> Decimal:
        """What is known to be paid."""
        return self.limits.cost(*self.paid)

    @property
    def most_cost(self) -> Decimal:
        """With all that may have been paid."""
        return self.limits.cost(self.paid[0] + self.unknown[0], self.paid[1] + self.unknown[1])

    def told_limit(self) -> str:
        limits = self.limits
        spent = sum(self.paid) + sum(self.unknown)
        if limits.token_budget is not None and limits.budget is None:
            return f"--token_budget {limits.token_budget:,}: {spent:,} are spent, and the next request may need more"
        return f"--budget {limits.budget}: {self.most_cost:.4f} is spent, and the next request may cost more"


def add_to(sums: list[int], values: tuple[int, int]) -> None:
    sums[0] += values[0]
    sums[1] += values[1]
