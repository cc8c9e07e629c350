"""`neuralchat data generate` with a model that really computes, over HTTP and by itself.

It is built from a config, so that all it says is rubbish: nothing is taken, and the report says why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support.live_server import live_server
from support.small_models import SIZES, make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from neuralchat.cli import main
from neuralchat.data.templates.making import make_template
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.engine.building import engine_around
from neuralchat.inference.server.lineup import Lineup
from neuralchat.inference.voice import Voice
from neuralchat.inference.window import Window

# What a request takes of a tokenizer that knows few words.
POSITIONS = 8192


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": POSITIONS}
    LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@contextmanager
def teacher_flags(way: str, checkpoint: Path) -> Iterator[list[str]]:
    if way == "--teacher":
        yield [way, str(checkpoint)]
        return
    bot = Chatbot.load(checkpoint)
    engine = engine_around(bot.model, "base")
    voice = Voice(bot.tokenizer, make_template("chat", bot.tokenizer), Window(None, POSITIONS))
    with live_server(engine, lineup=Lineup(engine, {"base": voice}, runs_directory=None)) as server:
        yield [way, server.url]


@pytest.mark.parametrize("way", ["--base_url", "--teacher"])
def test_all_is_asked_written_down_and_refused_for_a_reason(
    way: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, report = tmp_path / "a.jsonl", tmp_path / "report.json"
    with teacher_flags(way, checkpoint) as flags:
        words = ["data", "generate", *flags, "--output", str(output), "--report", str(report)]
        words += ["--count", "12", "--patience", "2", "--max_new_tokens", "12"]
        assert main(words) == 1
        journal = (tmp_path / "a.jsonl.journal").read_bytes()
        told = json.loads(report.read_text())
        assert main(words) == 1
    assert output.read_bytes() == b""
    assert (tmp_path / "a.jsonl.journal").read_bytes() == journal
    assert told["records"] == 0
    assert told["tokens"]["answers"] <= 12 * told["requests"]
    assert told["tokens"]["prompts"] > 500 * told["requests"] > 1000
    # A list that holds nothing brings one refusal at least; a task that is taken is refused when its answer is.
    assert told["requests"] <= 2 * sum(found["count"] for found in told["refused"].values())
    assert all(found["because"] and found["examples"] for found in told["refused"].values())
    assert "requests in a row brought no new task" in told["ended"]
    shown = capsys.readouterr().out
    assert told["advice"] in " ".join(shown.split())
    assert "most was refused: " in shown
