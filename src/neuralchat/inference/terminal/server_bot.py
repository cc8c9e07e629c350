"""A model behind a server with the OpenAI interface, as the terminal talks to it. Loads nothing here."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from neuralchat.console import note
from neuralchat.data.records import Turn
from neuralchat.errors import ArgumentsError, NeuralChatError
from neuralchat.inference.sampling import Sampling, sampling_from
from neuralchat.inference.terminal.saved import message_of
from neuralchat.secrets import remember_secret

CLIENT_KEY_VARIABLE = "NEURALCHAT_API_KEY"
CONNECT_S = 10.0
# Between two pieces: the prompt may be long, and others may be before it.
SILENCE_S = 600.0
# Conversations of a file that are asked at a time, so that the server can answer them together.
AT_ONCE = 8
MOST_TRIES, LONGEST_WAIT_S = 20, 60.0
# Options whose defaults here are not those of every server, and what the OpenAI interface calls them.
ALWAYS_SENT = {"max_new_tokens": "max_completion_tokens", "temperature": "temperature"}
TOO_LONG_CODE = "context_length_exceeded"


class RefusingServerError(NeuralChatError):
    """A server that cannot be reached, or that refuses a request; `code` as the OpenAI interface has it."""

    def __init__(self, message: str, *, code: str | None = None, status: int = 0, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.retry_after_s = retry_after_s


@dataclasses.dataclass(frozen=True)
class ServedAnswer:
    """As Answer; a server says how many tokens it made, not which."""

    text: str
    token_ids: Sequence[int]
    finished: bool
    prompt_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class ListedModel:
    """`parent`: the model that it was trained from; None for a base model."""

    id: str
    parent: str | None


def is_server_address(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


class ServerBot:
    """Speaks for one model of a server, with a conversation of its own."""

    def __init__(self, client: httpx.Client, models: Sequence[ListedModel], model: ListedModel) -> None:
        self.client = client
        self.models = models
        self.model = model
        self.name = model.id
        self.system: str | None = None
        self.history: list[Turn] = []
        self.last: ServedAnswer | None = None
        self.prompt_tokens = 0

    @classmethod
    def connect(cls, address: str, *, model: str | None = None, key: str | None = None) -> ServerBot:
        """`key`: in the place of that in the environment.

        Raises ArgumentsError for an address or a model that is none, RefusingServerError where nobody answers.
        """
        client = client_of(address, key)
        with server_failures_told(client):
            listed = accepted(client.get("models")).json()
        found = listed.get("data") if isinstance(listed, dict) else None
        models = [
            ListedModel(str(each["id"]), each.get("parent"))
            for each in (found if isinstance(found, list) else ())
            if isinstance(each, dict) and "id" in each
        ]
        names = ", ".join(each.id for each in models)
        if not models:
            raise RefusingServerError(f"the server at {client.base_url} has no model")
        chosen = next((each for each in models if each.id == model), None)
        if model is not None and chosen is None:
            raise ArgumentsError(f"--model {model}: the server has no such model; it has {names}")
        if chosen is None:
            # What was trained is what people want to talk to.
            chosen = next((each for each in models if each.parent), models[0])
            if len(models) > 1:
                note(f"the server has {names}; asking {chosen.id} (--model names another)")
        return cls(client, models, chosen)

    @contextmanager
    def untuned(self) -> Iterator[ServerBot]:
        """Raises ArgumentsError where the server does not say which model it is, or has it no more."""
        base = next((each for each in self.models if each.id == self.model.parent), None)
        if base is None:
            raise ArgumentsError(f"the server has no base model beside {self.name}")
        yield ServerBot(self.client, self.models, base)

    def reset(self) -> None:
        self.history = []

    def said_tokens(self) -> tuple[int, int | None]:
        answer = 0 if self.last is None or not self.history else len(self.last.token_ids)
        return (self.prompt_tokens + answer if self.history else 0), None

    def question_problem(self, turns: Sequence[Turn], sampling: Sampling) -> str | None:  # noqa: ARG002
        """The server says so when it is asked."""
        return None

    def stream(self, text: str, **options: Any) -> Iterator[str]:
        """As Chatbot.stream. Where the conversation has become too long, its first turns are left out, and told."""
        sampling, spoken, dropped = sampling_from(options), [*self.history, Turn("user", text)], 0
        while True:
            try:
                answer = yield from self.pieces([*self.system_turn(), *spoken], sampling)
                break
            except RefusingServerError as error:
                if error.code != TOO_LONG_CODE or len(spoken) < 2:
                    raise
                spoken, dropped = without_first(spoken), dropped + 1
        if dropped:
            note(
                "the conversation has become longer than the model can follow; its first "
                f"{len(self.history) + 1 - len(spoken)} turn(s) are left out of this answer (/new begins a new one)"
            )
        self.history = [*self.history, Turn("user", text), Turn("assistant", answer.text)]
        self.last = answer

    def system_turn(self) -> list[Turn]:
        return [Turn("system", self.system)] if self.system else []

    def pieces(self, turns: Sequence[Turn], sampling: Sampling) -> Generator[str, None, ServedAnswer]:
        body = {**self.body(turns, sampling), "stream": True, "stream_options": {"include_usage": True}}
        text, finish = "", None
        usage: dict[str, Any] = {}
        with server_failures_told(self.client), self.client.stream("POST", "chat/completions", json=body) as response:
            if response.is_error:
                response.read()
            accepted(response)
            for chunk in events_of(response):
                if "error" in chunk:
                    raise refusal_of(500, chunk)
                usage = chunk.get("usage") or usage
                for choice in chunk.get("choices") or ():
                    if piece := (choice.get("delta") or {}).get("content"):
                        text += piece
                        yield piece
                    finish = choice.get("finish_reason") or finish
        if finish is None:
            raise RefusingServerError("the connection to the server ended before the answer did")
        return self.answer_of(text, finish, usage)

    def answers(self, conversations: Sequence[Sequence[Turn]], sampling: Sampling) -> list[ServedAnswer]:
        """Replies to many conversations, some at a time. A server that is busy is asked again."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda turns: self.patient_answer(turns, sampling), conversations))

    def patient_answer(self, turns: Sequence[Turn], sampling: Sampling) -> ServedAnswer:
        for _ in range(MOST_TRIES):
            try:
                return self.answer(turns, sampling)
            except RefusingServerError as error:
                if error.status not in (429, 503):
                    raise
                time.sleep(min(error.retry_after_s, LONGEST_WAIT_S))
        return self.answer(turns, sampling)

    def answer(
        self, turns: Sequence[Turn], sampling: Sampling, headers: Mapping[str, str] | None = None
    ) -> ServedAnswer:
        with server_failures_told(self.client):
            body = self.body(turns, sampling)
            found = accepted(self.client.post("chat/completions", json=body, headers=headers)).json()
        choice = found["choices"][0]
        return self.answer_of(choice["message"].get("content") or "", choice["finish_reason"], found.get("usage") or {})

    def answer_of(self, text: str, finish: str, usage: Mapping[str, Any]) -> ServedAnswer:
        # Several are asked at a time: each answer has its own number.
        self.prompt_tokens = prompt_tokens = usage.get("prompt_tokens") or 0
        return ServedAnswer(text, range(usage.get("completion_tokens") or 0), finish != "length", prompt_tokens)

    def body(self, turns: Sequence[Turn], sampling: Sampling) -> dict[str, Any]:
        """What is not set is left out, so that a server that does not know it does not mind."""
        if sampling.num_beams > 1:
            raise ArgumentsError(f"num_beams is {sampling.num_beams}: a server does not search with beams; set it to 1")
        body: dict[str, Any] = {"model": self.name, "messages": [message_of(turn) for turn in turns]}
        for field in dataclasses.fields(sampling):
            value = getattr(sampling, field.name)
            if field.name in ALWAYS_SENT or value != field.default:
                body[ALWAYS_SENT.get(field.name, field.name)] = value
        return body


def client_of(address: str, key: str | None = None) -> httpx.Client:
    """`key`: by default that in the environment.

    Raises ArgumentsError for an address that is none, or that holds a password.
    """
    try:
        parts = urlsplit(address)
        port_is_one = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_one = urlsplit(""), False
    if not parts.hostname or not port_is_one:
        raise ArgumentsError(f"{address} is no address of a server; http://127.0.0.1:8000 would be")
    if parts.username or parts.password:
        raise ArgumentsError(
            f"an address may be seen by others, so it takes no password; {CLIENT_KEY_VARIABLE} holds the key"
        )
    if parts.query or parts.fragment:
        raise ArgumentsError(f"{address}: leave out what follows ? or #")
    path = parts.path.rstrip("/").removesuffix("/v1")
    key = os.environ.get(CLIENT_KEY_VARIABLE, "") if key is None else key
    remember_secret(key)
    return httpx.Client(
        base_url=f"{parts.scheme.lower()}://{parts.netloc}{path}/v1/",
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(CONNECT_S, read=SILENCE_S),
    )


@contextmanager
def server_failures_told(client: httpx.Client) -> Iterator[None]:
    """What goes wrong on the way becomes an error that names the server."""
    try:
        yield
    except httpx.ConnectError as error:
        raise RefusingServerError(f"no server answers at {client.base_url}: {error}") from error
    except httpx.TimeoutException as error:
        raise RefusingServerError(f"the server at {client.base_url} is silent for too long") from error
    except httpx.HTTPError as error:
        raise RefusingServerError(f"the connection to {client.base_url} broke off: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RefusingServerError(f"what {client.base_url} answers is not the OpenAI interface: {error}") from error


def accepted(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    try:
        body = response.json()
    except ValueError:
        body = None
    raise refusal_of(response.status_code, body, seconds_of(response.headers))


def seconds_of(headers: Mapping[str, str]) -> float:
    """What Retry-After asks for, which is seconds or a date; 1 where it asks for nothing.

    >>> seconds_of({"Retry-After": "0.5"}), seconds_of({})
    (0.5, 1.0)
    >>> now = "Sun, 06 Nov 1994 08:49:37 GMT"
    >>> seconds_of({"Retry-After": "Sun, 06 Nov 1994 08:50:07 GMT", "Date": now})
    30.0
    """
    asked = headers.get("Retry-After", "")
    with suppress(ValueError, TypeError):
        return max(0.0, float(asked)) if math.isfinite(float(asked)) else 1.0
    with suppress(ValueError, TypeError):
        # By the server's own clock.
        later = parsedate_to_datetime(asked) - parsedate_to_datetime(headers.get("Date", ""))
        return max(0.0, later.total_seconds())
    return 1.0


def refusal_of(status: int, body: Any, seconds: float = 1.0) -> RefusingServerError:
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    said = error.get("message") or (body.get("detail") if isinstance(body, dict) else None) or f"status {status}"
    hint = f" ({CLIENT_KEY_VARIABLE} holds the key)" if status in (401, 403) else ""
    later = f"; ask again in {seconds:.0f} s" if status == 429 else ""
    message = f"the server refuses: {said}{hint}{later}"
    return RefusingServerError(message, code=error.get("code"), status=status, retry_after_s=seconds)


def events_of(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The chunks of a stream of server-sent events. Only line feeds end a line: a text may hold other separators."""
    waiting = ""
    for block in response.iter_text():
        *lines, waiting = (waiting + block).split("\n")
        for line in lines:
            data = line.strip().removeprefix("data:").strip()
            if data == "[DONE]":
                return
            if line.startswith("data:"):
                yield json.loads(data)


def without_first(spoken: Sequence[Turn]) -> list[Turn]:
    """Without the first question and what was answered to it."""
    at = next((n for n, turn in enumerate(spoken[1:], start=1) if turn.role == "user"), len(spoken) - 1)
    return list(spoken[at:])
