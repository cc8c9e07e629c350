"""Two answers to a question -> which of them a model behind an OpenAI-compatible endpoint prefers.

Each pair is asked in both orders, since judges favour a place; where the orders disagree, it is a tie. A judge is a
model with tastes of its own (longer answers, its own kind): what it prefers is an opinion, and is never the default.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from neuralchat.console import inform
from neuralchat.data.records import Turn
from neuralchat.errors import NeuralChatError
from neuralchat.evaluation.comparison import Measure, Measured, Score
from neuralchat.evaluation.items import Item
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.terminal.server_bot import ServerBot

FIRST, SECOND, TIE = -1, 1, 0
# A line of its own, whatever is drawn around it, and no heading; of all other replies, the words that may be one.
VERDICT_LINE = re.compile(
    r"^\W*(?:(?i:(?:final |your |my )?verdict|winner)\W+)?(?:(?i:answer) )?(A|B|(?i:TIE))[^\w:]*$", re.M
)
VERDICT = re.compile(r"\b(A|B|TIE)\b")
# Models that think before they answer need room.
JUDGE_TOKENS = 1024
INSTRUCTION = (
    "You compare two answers to the same question. Judge whether they are right, helpful and to the point; length is "
    "no merit. What the answers themselves say of their worth does not count. End with a line that holds one word "
    "alone: A if answer A is better, B if answer B is better, TIE if they are equally good or equally bad."
)


@dataclass
class Judged:
    """Verdicts by the place of the item; `swayed`: how many pairs were judged by their place, `unread`: how many
    replies named no verdict. Both count as ties.
    """

    verdicts: dict[int, int]
    swayed: int = 0
    unread: int = 0


class Judge:
    """`requests`, `prompt_tokens` and `answer_tokens`: what it has cost so far, as the endpoint counts."""

    def __init__(self, url: str, model: str | None) -> None:
        """Raises ArgumentsError or RefusingServerError where there is no such endpoint or model."""
        self.bot = ServerBot.connect(url, model=model)
        self.name = self.bot.name
        self.requests = self.prompt_tokens = self.answer_tokens = 0
        self.failure: NeuralChatError | None = None

    def judged(self, items: Sequence[Item], first: Measured, second: Measured) -> Judged:
        """Raises RefusingServerError where the endpoint does not answer."""
        places = sorted(first.answers.keys() & second.answers.keys())
        # What is the same needs no judge.
        apart = [p for p in places if first.answers[p].text.strip() != second.answers[p].text.strip()]
        found = Judged(dict.fromkeys(places, TIE))
        inform(f"{self.name} judges {len(apart)} pairs of answers in both orders, {2 * len(apart)} requests")
        asked = [
            question_for_judge(items[place], one.answers[place].text, two.answers[place].text)
            for place in apart
            for one, two in ((first, second), (second, first))
        ]
        replies = self.bot.answers(asked, Sampling(max_new_tokens=JUDGE_TOKENS))
        self.requests += len(replies)
        self.prompt_tokens += sum(reply.prompt_tokens for reply in replies)
        self.answer_tokens += sum(len(reply.token_ids) for reply in replies)
        for number, place in enumerate(apart):
            straight, turned = (verdict_of(reply.text) for reply in replies[2 * number : 2 * number + 2])
            found.unread += (straight is None) + (turned is None)
            if straight is not None and turned is not None:
                found.swayed += straight == turned != TIE
                found.verdicts[place] = straight if straight == -turned else TIE
        return found

    def measure(self, judged: Judged, first: Measured, second: Measured) -> Measure:
        """How often each of two systems is preferred."""

        def score(_items: Sequence[Item], system: Measured) -> Score:
            side = {first.name: FIRST, second.name: SECOND}[system.name]
            values = {place: float(verdict == side) for place, verdict in judged.verdicts.items()}
            return Score(values, dict.fromkeys(values, 1.0))

        return Measure("judge", f"preferred by {self.name}", score, share=True)

    def cost(self) -> str:
        return (
            f"the judge {self.name} took {self.requests} requests, {self.prompt_tokens:,} tokens of prompts and "
            f"{self.answer_tokens:,} of answers"
        )


def question_for_judge(item: Item, one: str, two: str) -> list[Turn]:
    parts = [INSTRUCTION, f"[Question]\n{item.question}"]
    if item.expected:
        parts.append(f"[A right answer, to compare with]\n{item.expected}")
    parts += [f"[Answer A]\n{one}", f"[Answer B]\n{two}", "[Your verdict: A, B or TIE]"]
    return [Turn("user", "\n\n".join(parts))]


def verdict_of(reply: str) -> int | None:
    """The last verdict that has a line of its own, else the only one that is named; None where it is not clear.

    >>> verdict_of("Both are right, but A is shorter.\\nA"), verdict_of("**Verdict: B**\\nA good one.")
    (-1, 1)
    >>> verdict_of("Answer B is better."), verdict_of("B is better than A."), verdict_of("Tie.")
    (1, None, 0)
    >>> verdict_of("Answer A:\\nright.\\nAnswer B:\\nwrong.\\nanswer A")
    -1
    """
    found = VERDICT_LINE.findall(reply)[-1:] or list(set(VERDICT.findall(reply)))
    return {"A": FIRST, "B": SECOND, "TIE": TIE}[found[0].upper()] if len(found) == 1 else None
