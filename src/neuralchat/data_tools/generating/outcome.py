"""What a generation came to: records, what was refused and why with examples, how alike the tasks are, what it cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuralchat.console.tables import Figures, Part, Table
from neuralchat.data_tools.generating.diversity import verbs_and_nouns
from neuralchat.data_tools.generating.domain_plan import DomainSettings
from neuralchat.data_tools.generating.made_records import RATHER_ALIKE, TOO_ALIKE, MadeRecords
from neuralchat.data_tools.generating.teaching.spending import Spending

VERBS_SHOWN, NOUNS_SHOWN = 12, 4
# reason -> what it means.
REASONS = {
    "no_reply": "the teacher refused, or failed again and again",
    "unreadable": "nothing of the form asked for was in the reply",
    "cut": "the reply was cut at its longest length",
    "length": "too short or too long",
    "punctuation": "begins or ends oddly, or has few letters",
    "remark": "the teacher speaks of itself or of its list",
    "blacklist": "needs more than text, or has a word of --blacklist",
    "language": "is not in --language",
    "too_alike": f"ROUGE-L of at least {TOO_ALIKE} with a task that was there",
    "no_label": "a classification without a short label",
    "no_input": "a classification without anything to classify",
    "empty": "a turn without text",
    "quote_not_found": "its quote does not stand in the passage",
    "number_not_found": "the answer has a number that the passage has not",
    "points_at_text": "the question speaks of a text that its reader does not see",
    "same_wording": "a wording with the same words",
    "low_score": "the critic scored it below --critic",
}
# What to do where most is refused for one reason; for others the examples say it.
ADVICE = {
    "no_reply": "look at what the teacher says of them (the log of its server); a local one needs a larger window",
    "unreadable": "small models do not keep to a form; take a larger teacher, or --temperature 0.3",
    "cut": "raise --max_new_tokens; a small model that does not find an end needs a larger one in its place",
    "length": "the teacher writes no tasks; take a larger one",
    "punctuation": "small models do not keep to a form; take a larger teacher",
    "remark": "the teacher talks about its task in the place of doing it; take another one",
    "blacklist": "narrow --domain to what text alone can do",
    "language": "say with --language which language is wanted, or any",
    "too_alike": "the teacher repeats what it is shown: raise --temperature, widen --domain, or take a larger teacher",
    "no_input": "small models make up no material; take a larger teacher",
    "quote_not_found": "the teacher does not copy word for word; take a larger one, or --temperature 0",
    "low_score": "lower --critic, or read the records that the report names",
}


@dataclass
class GenerationOutcome:
    """`ended`: why nothing more was asked."""

    made: MadeRecords
    spending: Spending
    settings: DomainSettings
    ended: str

    def parts(self, output: Path) -> list[Part]:
        made = self.made
        parts: list[Part] = [
            f"{len(made.rows):,} records in {output}, {self.refused_count:,} refused: {self.ended}",
            "",
            Figures(self.figures()),
        ]
        if made.refused:
            rows = [
                (name, f"{found.count:,}", REASONS.get(name, "a check of data check")) for name, found in self.refused
            ]
            parts += ["", Table(("refused", "count", "because"), rows)]
            parts += [f"  {name}: {example}" for name, found in self.refused for example in found.examples[:1]]
            parts += [f"most was refused: {self.advice}"] if self.advice else []
        if tasks := self.tasks():
            verbs = verbs_and_nouns(tasks)
            shown = [(verb or "-", f"{nouns.total():,}", noun_list(nouns)) for verb, nouns in verbs.items()]
            parts += ["", Table(("verb", "tasks", "about"), shown[:VERBS_SHOWN])]
        return parts

    @property
    def refused(self) -> list[tuple[str, Any]]:
        return sorted(self.made.refused.items(), key=lambda pair: (-pair[1].count, pair[0]))

    @property
    def refused_count(self) -> int:
        return sum(found.count for found in self.made.refused.values())

    @property
    def advice(self) -> str:
        """What to do where more was refused than taken; empty where nothing can be said."""
        if self.refused_count <= len(self.made.rows):
            return ""
        name, found = self.refused[0]
        because = REASONS.get(name, f"data check finds {name}")
        todo = f"; {ADVICE[name]}" if name in ADVICE else ""
        return f"{found.count:,} of {self.refused_count:,} times {name}, {because}{todo}"

    def tasks(self) -> list[str]:
        """Each once, though a classification has several records and a fact several wordings."""
        found: dict[str, str] = {}
        for row in self.made.rows:
            text = row.get("instruction") or row["messages"][0]["content"]
            found.setdefault(row.get("group") or text, text)
        return list(found.values())

    def figures(self) -> list[tuple[str, str]]:
        spending, near = self.spending, self.made.near
        prompts, answers = spending.paid
        tasks = self.tasks()
        pairs = {(verb, noun) for verb, nouns in verbs_and_nouns(tasks).items() for noun in nouns}
        rows = [
            ("tasks", f"{len(tasks):,}, {len(pairs):,} pairs of verb and noun"),
            ("near", f"{len(near):,} tasks with ROUGE-L from {RATHER_ALIKE} to {TOO_ALIKE} with one before"),
            ("requests", f"{spending.requests:,}"),
            ("tokens", f"{prompts:,} of prompts, {answers:,} of answers"),
        ]
        if sum(spending.unknown):
            rows.append(
                ("lost", f"at most {sum(spending.unknown):,} tokens of requests that broke off, which may be billed")
            )
        if spending.limits.price_prompt or spending.limits.price_answer:
            rows.append(("cost", f"{spending.cost:.4f}" + self.most_cost()))
        if self.made.scores:
            rows.append(("scores", ", ".join(f"{score}: {count}" for score, count in sorted(self.made.scores.items()))))
        return rows

    def most_cost(self) -> str:
        spending = self.spending
        return f", at most {spending.most_cost:.4f}" if spending.most_cost > spending.cost else ""

    def as_json(self) -> dict[str, Any]:
        made, spending = self.made, self.spending
        tasks = self.tasks()
        near = sorted(made.near, reverse=True)
        return {
            "records": len(made.rows),
            "ended": self.ended,
            "advice": self.advice,
            "refused": {
                name: {"count": found.count, "because": REASONS.get(name, ""), "examples": found.examples}
                for name, found in self.refused
            },
            "tasks": len(tasks),
            "kinds": dict(Counter(row["provenance"].get("kind", row["provenance"]["way"]) for row in made.rows)),
            "verbs": {
                verb: {"tasks": nouns.total(), "nouns": dict(nouns.most_common())}
                for verb, nouns in verbs_and_nouns(tasks).items()
            },
            "near": {
                "count": len(near),
                "from": RATHER_ALIKE,
                "to": TOO_ALIKE,
                "nearest": [{"rouge_l": score, "task": one, "like": other} for score, one, other in near[:50]],
            },
            "scores": {str(score): count for score, count in sorted(made.scores.items())},
            "requests": spending.requests,
            "tokens": {"prompts": spending.paid[0], "answers": spending.paid[1]},
            "tokens_that_may_be_billed": sum(spending.unknown),
            "cost": str(spending.cost),
            "most_cost": str(spending.most_cost),
        }


def noun_list(nouns: Counter[str]) -> str:
    return ", ".join(f"{noun} {count}" for noun, count in nouns.most_common(NOUNS_SHOWN) if noun)
