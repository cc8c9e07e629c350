"""What makes a row wrong, and what stands in a right one besides."""

from __future__ import annotations

import random
from typing import Any

MAIN = ("output", "response", "answer", "completion", "messages", "conversations", "text")


def main_field(row: dict[str, Any]) -> str:
    return next(name for name in MAIN if name in row)


def spoil_value(rng: random.Random, row: dict[str, Any]) -> bool:
    """A value of another type, or nothing, where the answer should be."""
    row[main_field(row)] = rng.choice([None, 7, True, "", " \n", [], {}, [7], {"a": 7}, float("nan"), "\ud83d"])
    return True


def spoil_name(rng: random.Random, row: dict[str, Any]) -> bool:
    name = main_field(row)
    row[name.upper() + "x"] = row.pop(name)
    return True


def spoil_side(rng: random.Random, row: dict[str, Any]) -> bool:
    """A field beside the answer that is no text or list."""
    if main_field(row) == "text":
        return False
    row[rng.choice(["tools", "facts"])] = rng.choice([7, {"a": 1}, ["", 7], "x"])
    return True


def listed_turns(row: dict[str, Any]) -> list[Any] | None:
    found = row.get("messages", row.get("conversations", row.get("prompt")))
    return found if isinstance(found, list) and found else None


def spoil_order(rng: random.Random, row: dict[str, Any]) -> bool:
    turns = listed_turns(row)
    if turns is None:
        return False
    turns.insert(0, dict(turns[-1]) if "prompt" not in row else {"role": "assistant", "content": "a"})
    return True


def spoil_turn(rng: random.Random, row: dict[str, Any]) -> bool:
    turns = listed_turns(row)
    if turns is None:
        return False
    at = rng.randrange(len(turns))
    broken = [
        7, None, "Hi", [], {}, {"role": "user"}, {"role": "narrator", "content": "a", "from": "x"},
        {**turns[at], "weight": 0.5}, {**turns[at], "train": "yes"}, {**turns[at], "name": 7},
        {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, {"role": "user", "content": {"a": 1}},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "{}"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": "x"}]},
    ]  # fmt: skip
    turns[at] = rng.choice(broken)
    return True


def spoil_history(rng: random.Random, row: dict[str, Any]) -> bool:
    if "instruction" not in row:
        return False
    row["history"] = rng.choice([7, "x", [["a"]], [["a", 7]], [["a", ""]], {"a": "b"}, [7]])
    return True


SPOILERS = [spoil_value, spoil_value, spoil_name, spoil_side, spoil_order, spoil_turn, spoil_history]


def add_unused(rng: random.Random, row: dict[str, Any]) -> set[str]:
    """Fields that nobody reads, which must be named; those without a value are not."""
    named = set()
    for name, value in (("id", 7), ("note", None), ("source", "web"), ("", "0")):
        if rng.random() < 0.15:
            row[name] = value
            named |= {name or "a column without a name"} if value is not None else set()
    turns = listed_turns(row)
    if turns and rng.random() < 0.15:
        turns[-1]["score"] = 1
        named.add(
            ("messages" if "messages" in row else "conversations" if "conversations" in row else "prompt") + "[].score"
        )
    return named
