"""Bodies that nobody meant: whatever they are, the server answers, never with a fault of its own."""

from __future__ import annotations

import copy
import json
import os
import random
from typing import Any

import pytest
from support.live_server import LiveServer, until

# NEURALCHAT_FUZZ_BODIES=1000 tries as many.
BODIES = int(os.environ.get("NEURALCHAT_FUZZ_BODIES", "320"))
# What of WHOLE a path does not take.
PATHS = {
    "/v1/chat/completions": ("prompt",),
    "/v1/render": ("prompt",),
    "/v1/completions": ("messages", "tools", "tool_choice", "response_format", "top_logprobs", "logprobs"),
    "/v1/models": (),
}
WHOLE: dict[str, Any] = {
    "model": "support",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "say: a"}]},
        {"role": "assistant", "content": "b", "tool_calls": None},
        {"role": "user", "content": "say: c"},
    ],
    "prompt": "say: d", "max_tokens": 8, "temperature": 0.5, "top_p": 0.9, "n": 2, "stop": ["x"], "stream": True,
    "stream_options": {"include_usage": True}, "seed": 1, "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], "tool_choice": "none",
    "response_format": {"type": "text"},
}  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, -(2**70), 1e308, 0.1, "", "a", "\x00", "\u202e", "🙂" * 50, "<|end|>",
    "a" * 9000,
    [], {}, [None], [[]], {"": None}, {"role": "user"}, ["a", 1], [[[[[]]]]], {"type": "text"}, "NaN", "{{ 7 * 7 }}",
    "{% for i in range(9**9) %}a{% endfor %}", "../../etc/passwd", "%s%n", {"type": {"type": {}}},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        found += places(item, (*path, key))
    return found


def changed(chance: random.Random, path: str) -> Any:
    body = {name: copy.deepcopy(value) for name, value in WHOLE.items() if name not in PATHS[path]}
    for name in chance.sample(sorted(body), chance.randrange(len(body) // 2)):
        del body[name]
    for _ in range(chance.randrange(4)):
        spots = places(body)
        if not spots:
            break
        *way, last = chance.choice(spots)
        holder = body
        for key in way:
            holder = holder[key]
        action, odd = chance.randrange(4), copy.deepcopy(chance.choice(ODD))
        if action == 0:
            del holder[last]
        elif action == 1 and isinstance(holder, dict):
            holder[chance.choice(["x", "", "weight", "content", "type", "\ud800", "a" * 400])] = odd
        else:
            holder[last] = odd
    return body


def bytes_of(body: Any, chance: random.Random) -> bytes:
    data = bytearray(json.dumps(body, ensure_ascii=chance.random() < 0.7).encode("utf-8", "surrogatepass"))
    # Some are damaged as bytes, too.
    if chance.random() < 0.2:
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(data))
            data[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
            if not data:
                break
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_every_body_is_answered(server: LiveServer, seed: int) -> None:
    chance = random.Random(seed)
    statuses: dict[int, int] = {}
    with server.client(**{"Content-Type": "application/json"}) as client:
        for _ in range(BODIES // 4):
            path = chance.choice(sorted(PATHS))
            content = bytes_of(changed(chance, path), chance)
            response = client.post(path, content=content)
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            assert response.status_code < 500, content
            if response.status_code >= 400:
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}
                assert "Traceback" not in response.text
    assert statuses.get(200, 0) > 5, statuses
    assert statuses[400] > 20
    assert not any("has failed" in line or "Traceback" in line for line in server.log)
    until(lambda: server.served.desk.places.taken == 0)
