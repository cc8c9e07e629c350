"""`neuralchat eval` with a scripted bot in the place of a loaded one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.chatbots.silent_bot import SilentBot
from support.small_models import small_model

from neuralchat import cli, verbs
from neuralchat.config.command.flag_parser import FlagParser
from neuralchat.evaluation import systems
from neuralchat.evaluation.evaluate import evaluate

Evaluate = Callable[..., tuple[int, SilentBot]]


@pytest.fixture(scope="module")
def tuned_model() -> Any:
    torch.manual_seed(3)
    model = get_peft_model(small_model(), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    return model.eval()


@pytest.fixture
def run_evaluate(tuned_model: Any, write_records: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    def run(
        rows: list[dict[str, Any]],
        answers: Sequence[str],
        before: Sequence[str] | None = None,
        *flags: str,
        bots: Sequence[SilentBot] = (),
        model: Any = None,
        runs: Sequence[str] = (),
    ) -> tuple[int, SilentBot]:
        waiting = list(bots) or [SilentBot(model or tuned_model, answers, before)]
        first = waiting[0]

        loaded: dict[str, SilentBot] = {}

        def load(path: str, **options: Any) -> SilentBot:
            bot = loaded.get(path) or loaded.setdefault(path, waiting.pop(0))
            bot.loaded_with = options
            return bot

        monkeypatch.setattr(systems.Chatbot, "load", load)
        monkeypatch.setattr(systems, "base_key", lambda *_: "base")
        monkeypatch.setattr(systems.Loading, "check", lambda *_: None)
        monkeypatch.setattr(systems.Loading, "has_adapter", lambda *_: True)
        parser = FlagParser()
        verbs.add_eval(parser)
        parser.set_defaults(work=cli.run_eval)
        named = [] if "--questions" in flags or not rows else ["--questions", str(write_records(rows))]
        return evaluate(parser.parse_args([*(runs or ["run"]), *named, *flags])), first

    return run
