"""`neuralchat serve` as it is run: runs that were trained here answer over HTTP as their chatbots do."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support.checkpoints import edit_weights, save_run
from support.forks import Process, Streams, end_of, fork, nothing, start
from support.live_server import events_in, forked_engines, until
from support.small_models import save_checkpoint

from neuralchat.data.records import Turn
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling import Sampling

QUESTIONS = ("Name a colour.", "Name <|end|> a town 🙂", "What boils at one hundred degrees?")
ADDRESS = re.compile(r"at (http://127\.0\.0\.1:\d+)/v1")
ADMIN = "an-admins-key-for-runs"
KEY = "a-key-of-a-client-alone"


@dataclass
class Command:
    """`neuralchat serve` in a process of its own, with its engine in another."""

    process: Process
    log: Path
    url: str

    @property
    def said(self) -> str:
        return self.log.read_text()

    def post(self, path: str, body: Any, key: str = KEY) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=60, trust_env=False, verify=False)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False, verify=False)

    def chat(self, content: str, model: str, **fields: Any) -> httpx.Response:
        messages = [{"role": "user", "content": content}]
        return self.post("/v1/chat/completions", {"messages": messages, "model": model, **fields})

    def engine(self) -> psutil.Process:
        """The child that computes; multiprocessing has another one that only watches."""
        return max(psutil.Process(self.process.pid).children(), key=lambda child: child.memory_info().rss)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid or 0, number)


@contextmanager
def started(log: Path, *words: object, prepare: Callable[[], None] = nothing) -> Iterator[Command]:
    process = fork(["serve", *map(str, words), "--port", "0"], log.parent, log, prepare)
    try:
        until(lambda: (log.exists() and ADDRESS.search(log.read_text())) or process.exitcode is not None, 90)
        found = ADDRESS.search(log.read_text())
        assert found, log.read_text()
        yield Command(process, log, found[1])
    finally:
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served")
    base = save_checkpoint(directory / "small-base")
    save_run(directory / "support", base, "lora")
    sales = save_run(directory / "sales", base, "lora")
    edit_weights(
        sales / "adapter_model.safetensors",
        lambda weights: weights.update({n: -2 * w for n, w in weights.items() if "lora_B" in n}),
    )
    (directory / "later").mkdir()
    save_run(directory / "later" / "virtual", base, "ptun")
    save_run(directory / "later" / "other-base", save_checkpoint(directory / "other", "llama_mha"), "lora")
    for name, key in (("keys", KEY), ("admin-keys", ADMIN)):
        (directory / name).write_text(f"{key}\n")
        (directory / name).chmod(0o600)
    return directory


@pytest.fixture(scope="module")
def command(place: Path) -> Iterator[Command]:
    words = (
        "support", "second=sales", "--key_file", "keys", "--admin_key_file", "admin-keys", "--runs_directory", "later",
        "--max_new_tokens", 16,
    )  # fmt: skip
    with started(place / "log", *words) as running:
        yield running


class TestAnswers:
    @pytest.fixture(scope="class")
    def bots(self, place: Path) -> dict[str, Chatbot]:
        return {
            "support": Chatbot.load(place / "support"),
            "second": Chatbot.load(place / "sales"),
            "small-base": Chatbot.load(place / "small-base"),
        }

    def test_the_models_are_the_base_and_the_runs(self, command: Command) -> None:
        listed = [(model["id"], model["parent"]) for model in command.get("/v1/models").json()["data"]]
        assert listed == [("small-base", None), ("support", "small-base"), ("second", "small-base")]

    @pytest.mark.parametrize("model", ["support", "second", "small-base"])
    @pytest.mark.parametrize("question", QUESTIONS)
    def test_they_are_those_of_the_chatbot(
        self, command: Command, bots: dict[str, Chatbot], model: str, question: str
    ) -> None:
        bot, sampling = bots[model], Sampling(max_new_tokens=16)
        turns = [Turn("user", question)]
        body = {"messages": [{"role": "user", "content": question}], "model": model}
        assert command.post("/v1/render", body).json()["ids"] == bot.prompt(turns, sampling).ids
        expected = bot.answer(turns, sampling)
        choice = command.post("/v1/chat/completions", body).json()["choices"][0]
        assert choice["message"]["content"] == expected.text
        assert choice["finish_reason"] == ("stop" if expected.finished else "length")
        chunks = events_in(command.post("/v1/chat/completions", {**body, "stream": True}).text)
        pieces = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks[:-1]]
        assert "".join(pieces) == expected.text

    def test_several_models_and_settings_at_once(self, command: Command) -> None:
        """Each answer is the one that is given alone."""
        asked = [
            (question, model, {"temperature": heat, "seed": 5, "logprobs": True})
            for question in QUESTIONS
            for model in ("support", "second", "small-base")
            for heat in (0, 1)
        ]
        alone = [command.chat(question, model, **fields).json()["choices"] for question, model, fields in asked]
        together: dict[int, Any] = {}

        def ask(number: int) -> None:
            question, model, fields = asked[number]
            together[number] = command.chat(question, model, **fields).json()["choices"]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = [together[number][0]["message"]["content"] for number in range(len(asked))]
        assert found == [choices[0]["message"]["content"] for choices in alone]

    def test_a_run_is_loaded_while_it_serves(self, command: Command, place: Path) -> None:
        assert command.post("/v1/models", {"id": "virtual"}).status_code == 401
        loaded = command.post("/v1/models", {"id": "virtual"}, key=ADMIN)
        assert loaded.status_code == 200, loaded.text
        expected = Chatbot.load(place / "later" / "virtual").predict("Name a colour.", max_new_tokens=16)
        answer = command.chat("Name a colour.", "virtual").json()
        assert answer["choices"][0]["message"]["content"] == expected
        refused = command.post("/v1/models", {"id": "other-base"}, key=ADMIN)
        assert refused.status_code == 400
        assert "no adapter of the base model" in refused.json()["error"]["message"]

    def test_a_killed_engine_is_told_and_comes_back(self, command: Command) -> None:
        before = command.chat("Name a colour.", "support").json()["choices"]
        command.engine().send_signal(signal.SIGKILL)
        until(lambda: command.get("/ready").status_code == 503)
        statuses = []
        end = time.monotonic() + 60
        while time.monotonic() < end:
            response = command.chat("Name a colour.", "support")
            statuses.append(response.status_code)
            if response.status_code == 200:
                break
            assert response.status_code == 503, response.text
            assert response.headers["retry-after"]
            time.sleep(0.1)
        assert statuses[-1] == 200, statuses
        assert 503 in statuses
        assert command.get("/ready").status_code == 200
        assert response.json()["choices"] == before
        assert "Traceback" not in command.said

    def test_nothing_that_was_asked_is_in_the_log(self, command: Command) -> None:
        command.chat("what-nobody-else-may-read", "support")
        log = command.said
        assert "POST /v1/chat/completions 200" in log
        assert "what-nobody" not in log
        assert KEY not in log
        assert "uvicorn" not in log.lower()


class TestTheEnd:
    @pytest.fixture
    def own(self, place: Path, tmp_path: Path) -> Iterator[Command]:
        words = (place / "support", "--most_new_tokens", 1000)
        with started(tmp_path / "log", *words, prepare=forked_engines) as running:
            yield running

    def long_answer(self, own: Command, found: list[Any]) -> threading.Thread:
        body = {
            "messages": [{"role": "user", "content": "Name a colour."}], "model": "support", "max_tokens": 900,
            "stream": True, "logit_bias": {"2": -100},
        }  # fmt: skip

        def ask() -> None:
            try:
                found.append(events_in(own.post("/v1/chat/completions", body).text))
            except httpx.HTTPError as error:
                found.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: b"neuralchat_engine_running 1.0" in own.get("/metrics").content)
        return thread

    def test_sigterm_lets_answers_end_and_the_second_does_not(self, own: Command) -> None:
        found: list[Any] = []
        thread = self.long_answer(own, found)
        engine = own.engine()
        own.send(signal.SIGTERM)
        thread.join(60)
        assert end_of(own.process, 20) == 0
        assert found[0][-1] == "[DONE]"
        assert not engine.is_running()
        assert "Traceback" not in own.said

    def test_sigterm_while_it_loads_ends_it_and_its_engine(self, place: Path, tmp_path: Path) -> None:
        log = tmp_path / "log"
        process = fork(["serve", str(place / "support"), "--port", "0"], tmp_path, log)
        until(lambda: psutil.Process(process.pid).children() or process.exitcode is not None, 60)
        children = psutil.Process(process.pid).children()
        os.kill(process.pid or 0, signal.SIGTERM)
        assert end_of(process, 20) == 143
        psutil.wait_procs(children, 10)
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
        assert "Traceback" not in log.read_text()

    @pytest.mark.parametrize(("second", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_the_second_signal_ends_it_at_once(self, own: Command, second: signal.Signals, status: int) -> None:
        found: list[Any] = []
        thread = self.long_answer(own, found)
        engine = own.engine()
        own.send(signal.SIGTERM)
        time.sleep(0.1)
        start = time.monotonic()
        own.send(second)
        assert end_of(own.process, 20) == status
        assert time.monotonic() - start < 5
        thread.join(10)
        # Nobody is left who computes.
        until(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE)


def test_what_does_not_fit_together_is_refused_before_anything_is_loaded(
    run_cli: Callable[..., Any], place: Path, tmp_path: Path
) -> None:
    def told(*words: object) -> str:
        result = run_cli("serve", *words, "--port", 0)
        assert result.returncode == 2, result.stderr
        assert "Traceback" not in result.stderr
        return str(result.stderr)

    assert "a key is needed" in told(place / "support", "--host", "0.0.0.0")
    assert "two models would be named 'support'" in told(place / "support", place / "support")
    assert "two models would be named 'small-base'" in told(f"small-base={place / 'support'}")
    assert "several whole models" in told(place / "small-base", place / "other")
    assert "is no name of a model" in told(f"a b={place / 'support'}")
    assert "a server has one base model" in told(place / "support", place / "later" / "other-base")
    assert "does not exist" in told(place / "nowhere" / "at-all")
    assert "No such file" in told(place / "support", "--key_file", tmp_path / "none")
    (tmp_path / "open").write_text(KEY)
    # Whatever the umask is.
    (tmp_path / "open").chmod(0o644)
    assert "can be read by every user" in told(place / "support", "--key_file", tmp_path / "open")
    assert "unknown flag --key" in told(place / "support", "--key", KEY)
    assert "--num_beams" in told(place / "support", "--num_beams", 2)


def test_a_chatbot_of_a_program_serves_itself(place: Path, tmp_path: Path) -> None:
    run = str(place / "support")

    def program() -> int:
        import neuralchat
        from neuralchat.console import show_log

        show_log()
        bot = neuralchat.Chatbot.load(run)
        status = bot.serve(port=0, max_messages=3)
        # It is its own again.
        print("after:", bot.predict("Name a colour.", max_new_tokens=16), flush=True)
        return status

    log, out = tmp_path / "log", tmp_path / "out"
    process = start(program, tmp_path, Streams(out, log))
    until(lambda: (log.exists() and ADDRESS.search(log.read_text())) or process.exitcode is not None, 60)
    found = ADDRESS.search(log.read_text())
    assert found, log.read_text()
    own = Command(process, log, found[1])
    assert [model["id"] for model in own.get("/v1/models").json()["data"]] == ["base", "support"]
    answer = own.chat("Name a colour.", "support", max_tokens=16).json()["choices"][0]["message"]["content"]
    own.send(signal.SIGINT)
    assert end_of(process, 20) == 0
    assert answer == Chatbot.load(run).predict("Name a colour.", max_new_tokens=16)
    assert out.read_text() == f"after: {answer}\n"
