"""Many clients at once, some of whom leave, send rubbish or ask for too much: no fault, and no place is lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import httpx
from support.live_server import LiveServer, live_server, until

CLIENTS, REQUESTS = 24, 12
# What a client does: of a hundred.
DEEDS = {"ask": 40, "stream": 30, "leave": 12, "rubbish": 6, "too long": 6, "too large": 3, "nobody": 3}
# Or 429, when all places are taken.
EXPECTED = {
    "ask": 200, "stream": 200, "leave": 200, "rubbish": 400, "too long": 400, "too large": 413, "nobody": 404,
}  # fmt: skip


def asked(words: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": words}], **fields}


async def visit(client: httpx.AsyncClient, deed: str, number: int) -> int:
    path = "/v1/chat/completions"
    if deed == "rubbish":
        response = await client.post(path, content=b'{"messages": [', headers={"Content-Type": "application/json"})
    elif deed == "too long":
        response = await client.post(path, json=asked("colour " * 500))
    elif deed == "too large":
        response = await client.post(path, json=asked("a" * (1 << 21)))
    elif deed == "nobody":
        response = await client.post(path, json=asked("a", model="nobody"))
    elif deed == "ask":
        response = await client.post(path, json=asked(f"say: {number}"))
        if response.status_code == 200:
            assert response.json()["choices"][0]["message"]["content"] == str(number)
    else:
        body = asked("slow" if deed == "leave" else f"say: {number}", stream=True, max_tokens=60)
        async with client.stream("POST", path, json=body) as response:
            async for line in response.aiter_lines():
                if deed == "leave" and line:
                    break
    return response.status_code


async def rush(server: LiveServer) -> Counter[tuple[str, int]]:
    found: Counter[tuple[str, int]] = Counter()

    async def client(number: int) -> None:
        chance = random.Random(number)
        async with httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False, verify=False) as own:
            for deed in chance.choices(list(DEEDS), list(DEEDS.values()), k=REQUESTS):
                found[deed, await visit(own, deed, number)] += 1

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
