"""Time to the first words of an answer over HTTP: of a short question, and of the next turn of a long conversation.

`python benchmarks/first_token.py MODEL [--tokens 1000]` starts `neuralchat serve MODEL` and asks in turns: a short
question that nobody has asked, and one of the same length after a conversation of so many tokens. What the server has
computed of the conversation it should not compute again, so the ratio of the two is what is looked at (aim: 1.3).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from typing import Any

import httpx
from servers import ours, served

NAMES = (
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Greta",
    "Hugo",
    "Ida",
    "Jonas",
    "Karla",
    "Leo",
    "Mia",
    "Noah",
)
ANSWER_TOKENS = 16
# Of a conversation, before another one of the same length begins.
TURNS = 4
Message = dict[str, str]


def question(chance: random.Random) -> Message:
    first, second = chance.sample(NAMES, 2)
    words = (
        f"{first} has {chance.randrange(100, 1000)} apples, {second} has {chance.randrange(100, 1000)}. Who has more?"
    )
    return {"role": "user", "content": words}


def answered(client: httpx.Client, messages: list[Message]) -> tuple[float, Message, int]:
    """(milliseconds to the first words, the answer, tokens of the prompt that were not known)"""
    body = {
        "messages": messages, "stream": True, "max_tokens": ANSWER_TOKENS, "temperature": 0,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    begun, first, words, usage = time.perf_counter(), 0.0, "", {}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            said = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
            if said and not first:
                first = time.perf_counter()
            words += said
    new = usage["prompt_tokens"] - (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return 1000 * (first - begun), {"role": "assistant", "content": words}, new


def tokens_of(client: httpx.Client, messages: list[Message]) -> int:
    return len(client.post("/v1/render", json={"messages": messages}).raise_for_status().json()["ids"])


def long_conversation(client: httpx.Client, chance: random.Random, tokens: int) -> list[Message]:
    messages: list[Message] = []
    while not messages or tokens_of(client, messages) < tokens:
        messages += [question(chance), {"role": "assistant", "content": f"{chance.choice(NAMES)} has more of them."}]
    return messages


def measured(client: httpx.Client, tokens: int, rounds: int) -> dict[str, Any]:
    chance = random.Random(0)
    fresh: list[tuple[float, int]] = []
    following: list[tuple[float, int]] = []
    while len(following) < rounds:
        talk = long_conversation(client, chance, tokens)
        # The first turn has nothing to go on from.
        for turn in range(TURNS + 1):
            short_ms, _, short_new = answered(client, [question(chance)])
            talk.append(question(chance))
            next_ms, answer, next_new = answered(client, talk)
            talk.append(answer)
            if turn:
                fresh.append((short_ms, short_new))
                following.append((next_ms, next_new))
    short, later = (statistics.median(ms for ms, _ in found) for found in (fresh, following))
    return {
        "tokens": [tokens_of(client, [question(chance)]), tokens_of(client, talk)],
        "new_tokens": [statistics.median(new for _, new in found) for found in (fresh, following)],
        "short_ms": [round(ms) for ms, _ in fresh],
        "next_turn_ms": [round(ms) for ms, _ in following],
        "medians_ms": [round(short), round(later)],
        "ratio": round(later / short, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=16)
    options = parser.parse_args()
    with served(ours(options.model)) as server:
        print(json.dumps(measured(server.client, options.tokens, options.rounds)))


if __name__ == "__main__":
    main()
