"""A long rush: many clients ask `neuralchat serve` for minutes; some leave, send rubbish, or ask for too much.

Nobody gets a status of 500 or more, no place is lost, no client waits for ever, and after its first minute the server
takes no more memory. Prints what was seen, as JSON.

python tests/support/bad_days/rush.py MODEL --clients 64 --seconds 300
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil

# What a client does: of a hundred.
DEEDS = {"ask": 45, "stream": 35, "leave": 10, "rubbish": 5, "too long": 2, "too large": 2, "nobody": 1}
# Or 429, when all places are taken.
EXPECTED = {
    "ask": 200, "stream": 200, "leave": 200, "rubbish": 400, "too long": 400, "too large": 413, "nobody": 404,
}  # fmt: skip
RUBBISH = (b'{"messages": [', b"[]", b'{"messages": "a"}', b'{"messages": [{}], "stream": 7}', b"\xff\xfe", b"null")
PATH = "/v1/chat/completions"


def asked(words: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": words}], "max_tokens": 24, **fields}


async def visit(
    client: httpx.AsyncClient, deed: str, question: str, *, rubbish: bytes = RUBBISH[0], lines: int = 0, **fields: Any
) -> tuple[int, str]:
    """(status, the words of a whole answer). Who leaves a stream has seen `lines` of it."""
    if deed == "rubbish":
        headers = {"Content-Type": "application/json"}
        return (await client.post(PATH, content=rubbish, headers=headers)).status_code, ""
    bodies = {
        "too long": asked("colour " * 20_000),
        "too large": asked("a" * (1 << 21)),
        "nobody": asked("a", model="nobody"),
        "ask": asked(question, **fields),
    }
    if deed in bodies:
        response = await client.post(PATH, json=bodies[deed])
        answered = deed == "ask" and response.status_code == 200
        return response.status_code, response.json()["choices"][0]["message"]["content"] if answered else ""
    async with client.stream("POST", PATH, json=asked(question, stream=True, **fields)) as response:
        seen = 0
        async for line in response.aiter_lines():
            seen += bool(line)
            if deed == "leave" and seen > lines:
                break
    return response.status_code, ""


async def chance_visit(client: httpx.AsyncClient, deed: str, chance: random.Random) -> int:
    question = f"What is {chance.randrange(100)} plus {chance.randrange(100)}?"
    fields = {"temperature": chance.choice((0, 1)), "n": chance.choice((1, 1, 2))} if deed == "ask" else {}
    how = {"rubbish": chance.choice(RUBBISH), "lines": chance.randrange(12)}
    return (await visit(client, deed, question, **how, **fields))[0]


async def rush(url: str, clients: int, seconds: float) -> tuple[Counter[tuple[str, int]], float]:
    """How often which deed met which status, and the longest that anybody waited, in seconds."""
    found: Counter[tuple[str, int]] = Counter()
    longest, end = 0.0, time.monotonic() + seconds

    async def client(number: int) -> None:
        nonlocal longest
        chance = random.Random(number)
        async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False, verify=False) as own:
            while time.monotonic() < end:
                (deed,) = chance.choices(list(DEEDS), list(DEEDS.values()))
                start = time.monotonic()
                status = await chance_visit(own, deed, chance)
                longest = max(longest, time.monotonic() - start)
                found[deed, status] += 1
                if status == 429:
                    await asyncio.sleep(1)

    await asyncio.gather(*(client(number) for number in range(clients)))
    return found, longest


async def watched(server: psutil.Process, memory: list[int]) -> None:
    """Bytes of the server and its children, now and every five seconds."""
    while True:
        memory.append(sum(process.memory_info().rss for process in (server, *server.children(recursive=True))))
        await asyncio.sleep(5)


async def whole(url: str, server: psutil.Process, clients: int, seconds: float) -> dict[str, Any]:
    memory: list[int] = []
    watch = asyncio.create_task(watched(server, memory))
    found, longest = await rush(url, clients, seconds)
    watch.cancel()
    # The first minute, at most half of them, is for caches to fill.
    settled = memory[min(12, len(memory) // 2) :]
    with httpx.Client(base_url=url, timeout=60, trust_env=False, verify=False) as client:
        gauges = re.findall(r"^(neuralchat_\w*(?:running|waiting|open)\w*) (\S+)$", client.get("/metrics").text, re.M)
        afterwards = client.post(PATH, json=asked("Is it over?")).status_code
    return {
        "statuses": {f"{deed}: {status}": number for (deed, status), number in sorted(found.items())},
        "unexpected": sum(n for (deed, status), n in found.items() if status not in (EXPECTED[deed], 429)),
        "longest_wait_seconds": round(longest, 1),
        "gauges_afterwards": dict(gauges),
        "status_afterwards": afterwards,
        "memory_mib": [round(size / 2**20) for size in memory[:: max(1, len(memory) // 12)]],
        "memory_grew_by": round(max(settled) / settled[0] - 1, 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="what neuralchat serve takes")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "neuralchat.cli", "serve", options.model, "--port", "0"]
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            while not (address := re.search(r"at (http://\S+)/v1", log.read_text())):
                if process.poll() is not None:
                    sys.exit(log.read_text())
                time.sleep(0.2)
            seen = asyncio.run(whole(address[1], psutil.Process(process.pid), options.clients, options.seconds))
            process.send_signal(signal.SIGTERM)
            seen["exit_status"] = process.wait(60)
        finally:
            process.kill()
        seen["tracebacks"] = log.read_text().count("Traceback")
    print(json.dumps(seen, indent=1))
    return int(
        bool(seen["unexpected"] or seen["tracebacks"] or seen["exit_status"] or seen["status_afterwards"] != 200)
    )


if __name__ == "__main__":
    sys.exit(main())
