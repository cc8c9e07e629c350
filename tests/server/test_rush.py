"""Many clients at once, some of whom leave, send rubbish or ask for too much: no fault, and no place is lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import httpx
from support.bad_days.rush import EXPECTED, visit
from support.live_server import LiveServer, live_server, until

CLIENTS, REQUESTS = 24, 12
# What a client does: of a hundred.
DEEDS = {"ask": 40, "stream": 30, "leave": 12, "rubbish": 6, "too long": 6, "too large": 3, "nobody": 3}


async def scripted_visit(client: httpx.AsyncClient, deed: str, number: int) -> int:
    question = "slow" if deed == "leave" else f"say: {number}"
    status, words = await visit(client, deed, question, max_tokens=60)
    assert words == str(number) or deed != "ask" or status != 200
    return status


async def rush(server: LiveServer) -> Counter[tuple[str, int]]:
    found: Counter[tuple[str, int]] = Counter()

    async def client(number: int) -> None:
        chance = random.Random(number)
        async with httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False, verify=False) as own:
            for deed in chance.choices(list(DEEDS), list(DEEDS.values()), k=REQUESTS):
                found[deed, await scripted_visit(own, deed, number)] += 1

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return found


def test_a_rush() -> None:
    with live_server(max_open_requests=CLIENTS - 4) as server:
        found = asyncio.run(rush(server))
        assert sum(found.values()) == CLIENTS * REQUESTS
        assert {(deed, status) for deed, status in found if status not in (EXPECTED[deed], 429)} == set()
        assert all(found[deed, status] for deed, status in EXPECTED.items())
        until(lambda: not server.engine.running)
        until(lambda: server.served.desk.places.taken == 0)
        until(lambda: len(server.log) >= CLIENTS * REQUESTS)
        assert all(line.startswith("POST /v1/chat/completions ") for line in server.log)
        assert server.chat("say: a").status_code == 200
