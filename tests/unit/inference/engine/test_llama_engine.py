"""The engine of llama.cpp: its answers are those of torch, token by token, and what it cannot do it refuses by name."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.engines.llama_cpp import apart
from support.small_models import save_checkpoint

from neuralchat.data.records import Turn
from neuralchat.errors import ArgumentsError
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.engine.choosing import started_llama, wants_llama
from neuralchat.inference.engine.interface import Ended, Engine, Request, UnknownModelError, tokens_of
from neuralchat.inference.engine.llama.exported import exported_model
from neuralchat.inference.engine.llama.llama_engine import LlamaEngine, LlamaSizes, llama_engine
from neuralchat.inference.engine.llama.llama_server import AnswerPiece, LlamaServer, TokenLeftOutError
from neuralchat.inference.engine.process import EngineStartError, ProcessEngine
from neuralchat.inference.engine_chatbot import EngineChatbot
from neuralchat.inference.origin import origin_of
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.voice import Voice

HAS_LLAMA = importlib.util.find_spec("xllamacpp") is not None
needs_llama = pytest.mark.skipif(not HAS_LLAMA, reason="the extra 'llamacpp' (package xllamacpp) is not installed")
QUESTIONS = ["Name an animal.", "What is blue?", "Name a colour of the sky, and the fruit that is red.", "é 世界 🙂"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("llama") / "model", "llama")


@pytest.fixture(scope="module")
def engine(checkpoint: Path, cache_of_the_session: None) -> Iterator[Engine]:
    origin = origin_of(checkpoint)
    engine = started_llama(origin, Voice.of(origin), name="small")
    yield engine
    engine.close(drain=False)


@pytest.fixture(scope="module")
def bots(checkpoint: Path, engine: Engine) -> tuple[Chatbot, EngineChatbot]:
    ours = Chatbot.load(checkpoint)
    return ours, EngineChatbot(engine, ours.voice, name="small")


@needs_llama
@pytest.mark.parametrize("question", QUESTIONS)
def test_greedy_answers_are_those_of_torch(bots: tuple[Chatbot, EngineChatbot], question: str) -> None:
    """Random weights say bytes that are no whole character: none of them may be lost."""
    ours, theirs = bots
    sampling = Sampling(max_new_tokens=40)
    expected = ours.answer([Turn("user", question)], sampling)
    pieces: list[str] = []
    found = theirs.answer([Turn("user", question)], sampling, pieces.append)
    assert found == expected
    assert "".join(pieces) == expected.text


@needs_llama
def test_a_repetition_penalty_is_that_of_torch(bots: tuple[Chatbot, EngineChatbot]) -> None:
    ours, theirs = (bot.predict(QUESTIONS[0], max_new_tokens=20, repetition_penalty=1.3) for bot in bots)
    assert ours == theirs != bots[0].predict(QUESTIONS[0], max_new_tokens=20)


def ids_of(engine: Engine, **options: Any) -> tuple[list[int], Ended]:
    request = Request(prompt_ids=(5, 9, 30), model="small", **options)
    *tokens, ended = tokens_of(engine, request)
    assert isinstance(ended, Ended)
    return [token.id for token in tokens if not isinstance(token, Ended)], ended


@needs_llama
def test_seeds_repeat_and_differ(engine: Engine) -> None:
    def drawn(seed: int) -> list[int]:
        return ids_of(engine, sampling=Sampling(max_new_tokens=12, temperature=1.5, top_k=50, seed=seed))[0]

    assert drawn(7) == drawn(7) != drawn(8)


def streamed_and_whole(file: str, count: int, pipe: Any) -> None:
    """For some seeds: (ids of a stream as far as it went, ids of one answer without a stream)."""
    server = LlamaServer(Path(file), positions=256, slots=1, threads=1)
    for seed in range(6):
        settings = {"temperature": 1.5, "seed": seed, "samplers": ["temperature"]}
        ids = []
        with suppress(TokenLeftOutError):
            for piece in server.stream((5, 9, 30), count, 0, settings):
                ids += piece.ids
        pipe.send((ids, server.piece((5, 9, 30), count, 0, settings).ids))


@needs_llama
def test_streams_say_what_is_said_without_them(checkpoint: Path, cache_of_the_session: None) -> None:
    """Random weights say half of characters too: there a stream ends, with the ids before."""
    origin = origin_of(checkpoint)
    file = exported_model(origin, Voice.of(origin)).file
    with apart(streamed_and_whole, str(file), 24) as (pipe, _):
        found = [pipe.recv() for _ in range(6)]
    assert all(whole[: len(ids)] == ids for ids, whole in found)
    assert {len(whole) for _, whole in found} == {24}
    assert any(ids for ids, _ in found)
    assert any(len(ids) < 24 for ids, _ in found)


@needs_llama
def test_ends_bias_and_length(engine: Engine) -> None:
    greedy, ended = ids_of(engine, sampling=Sampling(max_new_tokens=9))
    assert (len(greedy), ended.reason) == (9, "length")
    stopped, ended = ids_of(engine, sampling=Sampling(max_new_tokens=9), end_ids=frozenset({greedy[4]}))
    assert (stopped, ended.reason) == (greedy[: greedy.index(greedy[4]) + 1], "stop")
    forced, _ = ids_of(engine, sampling=Sampling(max_new_tokens=3), logit_bias={42: 1000.0})
    assert forced == [42, 42, 42]


@needs_llama
def test_an_answer_goes_on_after_what_only_llama_cpp_takes_for_an_end(engine: Engine) -> None:
    """Id 2 is <|end|>, which its file names as an end; this request does not."""
    forced, ended = ids_of(engine, sampling=Sampling(max_new_tokens=5), logit_bias={2: 1000.0})
    assert (forced, ended.reason) == ([2] * 5, "length")


@needs_llama
def test_many_at_a_time_are_answered_as_alone(bots: tuple[Chatbot, EngineChatbot]) -> None:
    ours, theirs = bots
    questions = QUESTIONS * 5
    assert theirs.chat_many(questions, max_new_tokens=12) == [ours.predict(q, max_new_tokens=12) for q in questions]


@needs_llama
def test_a_cancelled_answer_ends(engine: Engine) -> None:
    loop = tokens_of(engine, Request(prompt_ids=(5, 9), model="small", sampling=Sampling(max_new_tokens=900)))
    next(loop)
    loop.close()
    while engine.status().running:
        pass
    assert engine.status().generated_tokens_total < 10_000


@needs_llama
def test_what_is_not_done_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(ArgumentsError, match=r"--presence_penalty: .*\n.*logprobs: "):
        ids_of(engine, sampling=Sampling(presence_penalty=1.0), top_logprobs=2)
    with pytest.raises(UnknownModelError, match="there is no model 'other' here; there are: small"):
        engine.submit(Request(prompt_ids=(1,), model="other"), lambda event: None)
    with pytest.raises(ArgumentsError, match="has one model and no adapters"):
        engine.add_adapter("a", "b")
    with pytest.raises(ArgumentsError, match="the prompt has 9000 tokens; prompt and answer have room for"):
        engine.submit(Request(prompt_ids=(5,) * 9000, model="small"), lambda event: None)


@needs_llama
def test_a_damaged_file_is_one_error(tmp_path: Path) -> None:
    from neuralchat.errors import ModelError

    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(200))
    sizes = LlamaSizes(positions=256, rows=10, memory_tokens=256, most_running=1, most_waiting=1)
    engine = ProcessEngine(functools.partial(llama_engine, tmp_path / "model.gguf", "x", sizes, 1))
    with pytest.raises(ModelError, match=r"llama.cpp cannot load model.gguf"):
        engine.wait_ready(60)
    engine.close()
    assert engine.starts == 1


def dies() -> Any:
    import os

    os.abort()


def test_a_process_that_dies_while_it_loads_is_not_started_again() -> None:
    engine = ProcessEngine(dies, start_method="fork")
    with pytest.raises(EngineStartError, match="ended with signal SIGABRT while it loaded its model"):
        engine.wait_ready(60)
    engine.thread.join(5)
    assert (engine.starts, engine.thread.is_alive()) == (1, False)
    engine.close()


class ScriptedServer:
    """Says 0, 1, 2, ... behind any prompt; streams stop before each id of `left_out`, as llama.cpp leaves them out."""

    def __init__(self, left_out: Sequence[int] = ()) -> None:
        self.left_out, self.asked, self.seeds = left_out, [], []

    def piece(self, ids: Sequence[int], count: int, slot: int, settings: Any) -> AnswerPiece:
        said = len(ids) - len(SCRIPTED_PROMPT)
        self.asked.append((said, count))
        self.seeds.append(settings["seed"])
        return AnswerPiece(list(range(said, said + count)), 1)

    def stream(self, ids: Sequence[int], count: int, slot: int, settings: Any) -> Iterator[AnswerPiece]:
        for id_ in self.piece(ids, count, slot, settings).ids:
            if id_ in self.left_out:
                raise TokenLeftOutError("left out")
            yield AnswerPiece([id_], 1)

    def close(self) -> None:
        pass


SCRIPTED_PROMPT = (90, 91, 92)


def scripted(server: ScriptedServer, count: int) -> list[int]:
    sizes = LlamaSizes(positions=512, rows=400, memory_tokens=512, most_running=1, most_waiting=1)
    engine = LlamaEngine("small", server, sizes)  # type: ignore[arg-type]
    request = Request(prompt_ids=SCRIPTED_PROMPT, model="small", sampling=Sampling(max_new_tokens=count))
    *tokens, ended = tokens_of(engine, request)
    assert isinstance(ended, Ended)
    assert (ended.reason, ended.cached_tokens) == ("length", 1)
    engine.close()
    return [token.id for token in tokens if not isinstance(token, Ended)]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_an_answer_is_asked_for_as_few_streams(count: int) -> None:
    """A slot stands still wherever one follows another."""
    server = ScriptedServer()
    assert scripted(server, count) == list(range(count))
    assert len(server.asked) == -(-count // 64)


@pytest.mark.parametrize("left_out", [[0], [7], [64, 65, 66], [70, 73], [99]])
def test_tokens_that_streams_leave_out_are_asked_for_again_with_the_same_dice(left_out: list[int]) -> None:
    server = ScriptedServer(left_out)
    assert scripted(server, 100) == list(range(100))
    began = [said for said, _ in server.asked]
    first = left_out[0] // 64 * 64
    assert began.count(first) == 2
    assert {server.seeds[at] for at, said in enumerate(began) if said == first} == {server.seeds[began.index(first)]}


def test_without_the_package_the_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not wants_llama("auto")
    with pytest.raises(ArgumentsError, match=r"--engine llamacpp: .*pip install 'neuralchat\[llamacpp\]'"):
        wants_llama("llamacpp")


def test_its_process_starts_without_the_libraries_of_training() -> None:
    look = "sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    code = f"import sys, neuralchat.inference.engine.llama.llama_engine; {look}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
