"""training/train.py: whose answers stand for those before training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, TaskType, get_peft_model
from support.small_models import small_model

from neuralchat.config.methods import METHODS
from neuralchat.training import train
from neuralchat.training.train import Asked, answers_before, answers_now


def test_answers_before_are_the_base_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual tokens begin at random: with them a model has forgotten before it is trained."""
    model: Any = get_peft_model(
        small_model(), PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)
    ).eval()
    tuning = SimpleNamespace(sample_tokens=4, method=METHODS["prefix"])
    session: Any = SimpleNamespace(model=model, tokenizer=None, data=None, arguments=SimpleNamespace(tuning=tuning))
    ids = torch.arange(1, 9)[None]
    logits = []

    def ask(asked: Any, *_others: Any) -> list[str]:
        with torch.no_grad():
            logits.append(asked(input_ids=ids).logits)
        return []

    monkeypatch.setattr(train, "ask", ask)
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    answers_before(session, Asked())
    answers_now(session, Asked())
    with torch.no_grad():
        expected = small_model()(input_ids=ids).logits
    torch.testing.assert_close(logits[0], expected)
    assert not torch.allclose(logits[-1], expected, atol=0.1)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trained
