"""A teacher behind a real HTTP server whose every answer is a function of what it is asked.

It fails as endpoints do: rubbish, half answers, duplicates, 429, 500, silence, connections that break. It bills what it
has computed once per Idempotency-Key, and remembers every request.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def words_in(text: str) -> list[str]:
    return text.split()


VERBS = words_in("Explain Compare List Describe Estimate Summarise Draft Plan Criticise Recommend Outline Justify Sort")
THINGS = words_in(
    "invoice payroll warehouse supplier tender contract router heatsink keyboard firmware compiler spreadsheet auction "
    "pension franchise turbine scanner modem socket battery cable ledger voucher catalogue patent bonus rack sensor "
    "bakery harbour museum clinic vineyard school theatre airport library farm shipyard brewery laboratory hostel "
    "quarry cinema stadium orchard tannery monastery observatory printer garage studio embassy relay"
)
ENDS = (
    "before winter begins",
    "for a nervous beginner",
    "under tight budgets",
    "after last year's flood",
    "with two colleagues only",
    "by means of an example",
    "in a lawyer's words",
    "as a table",
    "when nobody is on site",
    "without any jargon",
    "from outside",
)
DUPLICATE = "[generation] Explain what the processor of a computer does, in words for a beginner."
BAD_TASKS = (
    "[generation] Draw a picture of the attached diagram for the class.",
    "[generation] Erkläre mir bitte, wie man die Kosten der Firma für das Jahr auf die Abteilungen verteilt.",
    "[generation] , and so on",
    "[generation] Sum",
    DUPLICATE,
)
RUBBISH = ("", "I cannot do that.", "%%% 0x00 %%%", '{"error": [', "As an AI language model, I have no tasks.", "###")


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Who asked is gone, as killed processes are."""


class ScriptedTeacher:
    """`fault`: (key, how often it came before) -> one of ok, rubbish, half, 429, 500, silent, broken, no_json, 400.

    `billed`: key -> (tokens of the prompt, of the answer), once each; `asked`: how often each key came; `computed`: how
    often something was computed for it, which an endpoint that does not know the key would bill. `counts`: it says how
    many tokens it took.
    """

    def __init__(
        self,
        fault: Callable[[str, int], str] = lambda _key, _times: "ok",
        delay_s: float = 0.0,
        counts: bool = True,
        lists_models: bool = True,
        thinks: bool = False,
    ) -> None:
        self.lists_models, self.thinks = lists_models, thinks
        self.fault, self.delay_s, self.counts = fault, delay_s, counts
        self.asked: Counter[str] = Counter()
        self.computed: Counter[str] = Counter()
        self.billed: dict[str, tuple[int, int]] = {}
        self.kept: dict[str, tuple[str, str]] = {}
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.together = self.most_together = 0
        self.lock = threading.Lock()
        self.url = ""

    def __enter__(self) -> ScriptedTeacher:
        self.server = QuietServer(("127.0.0.1", 0), handler_of(self))
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def tokens_billed(self) -> int:
        return sum(sum(pair) for pair in self.billed.values())

    def reply(self, key: str, body: dict[str, Any]) -> tuple[str, str, str]:
        """(how it fails, text, finish reason); what is computed is billed, unless the key has been before."""
        prompt = body["messages"][-1]["content"]
        with self.lock:
            kind = self.fault(key, self.asked[key])
            self.asked[key] += 1
            self.bodies.append(body)
            if kind in ("429", "400"):
                return kind, "", ""
            self.computed[key] += 1
            if key not in self.kept:
                text, finish = answer_to(prompt), "stop"
                if kind == "rubbish":
                    text = random.Random(key).choice(RUBBISH)
                elif kind == "half":
                    text, finish = text[: len(text) * 2 // 3], "length"
                self.kept[key] = ("<think>Hm, 1. first.\nOutput: x</think>\n" if self.thinks else "") + text, finish
                self.billed[key] = len(prompt) // 4, min(len(text) // 4 + 1, body["max_completion_tokens"])
        return kind, *self.kept[key]


def handler_of(teacher: ScriptedTeacher) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status = 200 if teacher.lists_models else 404
            self.send(status, {"data": [{"id": "teacher-1"}]} if teacher.lists_models else {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with teacher.lock:
                teacher.headers.append(dict(self.headers))
                teacher.together += 1
                teacher.most_together = max(teacher.most_together, teacher.together)
            try:
                if teacher.delay_s:
                    time.sleep(teacher.delay_s)
                self.answer(*teacher.reply(self.headers.get("Idempotency-Key", ""), body))
            finally:
                with teacher.lock:
                    teacher.together -= 1

        def answer(self, kind: str, text: str, finish: str) -> None:
            if kind == "429":
                self.send(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.02"})
            elif kind in ("500", "400"):
                self.send(int(kind), {"error": {"message": "it broke" if kind == "500" else "not so"}})
            elif kind == "silent":
                time.sleep(1.5)
                self.close_connection = True
            elif kind == "broken":
                self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"choi')
                self.close_connection = True
            elif kind == "no_json":
                self.send_bytes(200, b"<html>Bad gateway</html>")
            else:
                choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
                prompt, answer = teacher.billed[self.headers.get("Idempotency-Key", "")]
                usage = {"prompt_tokens": prompt, "completion_tokens": answer}
                self.send(200, {"choices": [choice], **({"usage": usage} if teacher.counts else {})})

        def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            self.send_bytes(status, json.dumps(body).encode(), headers)

        def send_bytes(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                # Who asked is gone.
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def answer_to(prompt: str) -> str:
    """A helpful answer to a prompt of prompts.py; the same for the same prompt."""
    rng = random.Random(hashlib.sha256(prompt.encode()).hexdigest())
    if "Go on with this list" in prompt:
        return listed_tasks(prompt, rng)
    if "Label: the label" in prompt:
        thing, other = rng.sample(THINGS, 2)
        examples = (
            f"Label: about the {thing}\nInput: The {thing} arrived and works.",
            f"Label: {other}\nInput: No {other} here.",
        )
        return "\n\n".join(examples)
    if "Write a conversation" in prompt:
        thing, place = rng.sample(THINGS, 2)
        first = f"User: What about the {thing}?\nAssistant: It is kept in the {place}."
        return f"{first}\nUser: And its price?\nAssistant: It costs little there."
    if "<passage>" in prompt and "Write" in prompt:
        return facts_of_passage(prompt)
    if "other ways" in prompt:
        return wordings_of(prompt)
    if "Score:" in prompt:
        return f"It is fine.\nScore: {rng.choice((2, 4, 5))}"
    thing, place = rng.sample(THINGS, 2)
    return f"Input: none\nOutput: The {thing} of the {place} is looked at first; number {rng.randrange(10**6)} decides."


def listed_tasks(prompt: str, rng: random.Random) -> str:
    first = int(re.findall(r"write the tasks (\d+)", prompt)[0])
    tasks = []
    for _ in range(8):
        if rng.random() < 0.2:
            tasks.append(rng.choice(BAD_TASKS))
            continue
        kind = "classification" if rng.random() < 0.2 else "generation"
        things = " ".join(rng.sample(THINGS, 5))
        tasks.append(f"[{kind}] {rng.choice(VERBS)} {things} {rng.choice(ENDS)}.")
    return "\n".join(f"{number}. {task}" for number, task in enumerate(tasks, start=first))


def facts_of_passage(prompt: str) -> str:
    """A question about each sentence, one with a quote that is made up and one with a number that is."""
    passage = prompt.partition("<passage>\n")[2].partition("\n</passage>")[0]
    sentences = [text for text in re.split(r"(?<=[.])\s+", passage) if len(text.split()) > 4]
    given = [(f"{' '.join(text.split()[:7])}, or not?", text, text) for text in sentences]
    given += [
        ("Which colour has the moon of that firm?", "It is green.", "The moon is green, said the boss."),
        ("How many people work in that office?", "There are 987654.", sentences[0]),
        ("What does the passage say first?", sentences[0], sentences[0]),
    ]
    blocks = [
        f"Question: {question}\nAnswer: {answer}\nQuote: {quote}\nKey: {answer.split()[-1].strip('.')}"
        for question, answer, quote in given
    ]
    return "\n\n".join(blocks)


def wordings_of(prompt: str) -> str:
    question = re.findall(r"^Question: (.*)$", prompt, re.MULTILINE)[0].rstrip("?")
    forms = (
        "Please tell me: {}.",
        "I wonder: {}?",
        "{}, in short?",
        "Could somebody say it, {}?",
        "{}?",
        "Hello, {}, please?",
    )
    return "\n".join(f"{number}. {form.format(question)}" for number, form in enumerate(forms, start=1))


def mixed_faults(key: str, times: int) -> str:
    """Of the keys a part fail at first and then work; some answers are rubbish or cut."""
    draw = int(key[:8], 16) % 100
    first = ("429", "500", "broken", "no_json", "429", "500")
    if draw < 36 and times < 1 + draw % 2:
        return first[draw % len(first)]
    return "rubbish" if 36 <= draw < 44 else "half" if 44 <= draw < 50 else "ok"
