"""Engines asked from tests, and what plain transformers answers to the same requests, whole text by whole text."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuralchat.config.arguments import TuningArguments
from neuralchat.inference.engine.interface import Ended, Engine, Event, Request, Token
from neuralchat.inference.engine.next_token import Chooser
from neuralchat.inference.sampling import Sampling
from neuralchat.models.adapters.build import add_adapter, base_model_of
from support.cells import settings_of

VOCABULARY = 97
# Two tokens whose log-probabilities are nearer than this are as likely as each other.
TIE = 1e-4
SECONDS = 60


class Asked:
    """The events of one answer as they come. `whole` waits for the end."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.tokens: list[Token] = []
        self.ended: Ended | None = None
        self.ticket = engine.submit(request, self.events.put)

    def next(self) -> Event:
        event = self.events.get(timeout=SECONDS)
        if isinstance(event, Ended):
            self.ended = event
        else:
            self.tokens.append(event)
        return event

    def whole(self) -> tuple[list[Token], Ended]:
        while self.ended is None:
            self.next()
        return self.tokens, self.ended


def ask(engine: Engine, request: Request) -> tuple[list[Token], Ended]:
    return Asked(engine, request).whole()


def ask_together(engine: Engine, requests: Sequence[Request]) -> list[tuple[list[Token], Ended]]:
    asked = [Asked(engine, request) for request in requests]
    return [one.whole() for one in asked]


def ids_of(tokens: Sequence[Token]) -> list[int]:
    return [token.id for token in tokens]


def request_of(prompt: Sequence[int], model: str = "base", **sampling: Any) -> Request:
    """With log-probabilities of the three likeliest."""
    return Request(
        prompt_ids=tuple(prompt), model=model, sampling=Sampling(**{"max_new_tokens": 8, **sampling}), top_logprobs=3
    )


def random_prompt(rng: np.random.Generator, longest: int = 40) -> list[int]:
    return rng.integers(3, VOCABULARY, int(rng.integers(1, longest))).tolist()


def random_requests(count: int, models: Sequence[str], seed: int = 0, longest: int = 40) -> list[Request]:
    """Every parameter is mixed with every other; some prompts begin alike."""
    rng = np.random.default_rng(seed)
    beginnings = [random_prompt(rng, longest), []]
    requests = []
    for number in range(count):
        prompt = beginnings[number % 2] + random_prompt(rng, longest)
        request = request_of(
            prompt, models[int(rng.integers(len(models)))],
            max_new_tokens=int(rng.integers(1, 12)),
            temperature=float(rng.choice([0.0, 0.5, 1.0, 1.5])),
            top_p=float(rng.choice([1.0, 0.5, 0.9])),
            top_k=int(rng.choice([0, 1, 5])),
            min_p=float(rng.choice([0.0, 0.1])),
            repetition_penalty=float(rng.choice([1.0, 1.3, 0.8])),
            presence_penalty=float(rng.choice([0.0, 1.0])),
            frequency_penalty=float(rng.choice([0.0, -0.5])),
            seed=int(rng.integers(1 << 30)),
        )  # fmt: skip
        ends = frozenset(rng.integers(0, VOCABULARY, 3).tolist()) if number % 3 == 0 else frozenset()
        bias = {int(rng.integers(VOCABULARY)): 4.0} if number % 4 == 0 else {}
        requests.append(replace(request, end_ids=ends, logit_bias=bias))
    return requests


def adapted(base: Any, method: str = "lora", seed: int = 1, **settings: Any) -> Any:
    """`base` with an adapter none of whose weights is zero."""
    tuning: TuningArguments = replace(settings_of(method), **settings)
    model = add_adapter(base, tuning)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def save_adapter(directory: Path, model: Any) -> str:
    """Saved as PEFT saves it."""
    model.save_pretrained(directory)
    return str(directory)


@torch.no_grad()
def plain_logits(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """Logits [V] of the token that follows, by one forward of the whole text without a cache."""
    base = base_model_of(model)
    if base.config.is_encoder_decoder:
        start = base.config.decoder_start_token_id
        ids = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([[start, *answer]])}
    else:
        ids = {"input_ids": torch.tensor([[*prompt, *answer]])}
    mask = torch.ones_like(ids["input_ids"])
    return model(**ids, attention_mask=mask, use_cache=False).logits[0, -1].float()


def plain_answer(model: Any, request: Request) -> tuple[list[Token], str, list[torch.Tensor]]:
    """(tokens, how it ended, logits of each) of plain transformers."""
    base = base_model_of(model)
    before = [base.config.decoder_start_token_id] if base.config.is_encoder_decoder else request.prompt_ids
    chooser = Chooser(request, before)
    tokens: list[Token] = []
    found: list[torch.Tensor] = []
    while len(tokens) < request.sampling.max_new_tokens:
        found.append(plain_logits(model, request.prompt_ids, ids_of(tokens)))
        tokens.append(chooser.choose(found[-1]))
        if tokens[-1].id in request.end_ids:
            return tokens, "stop", found
    return tokens, "length", found


def assert_same(found: Sequence[Token], expected: Sequence[Token]) -> bool:
    """Ids and log-probabilities; False where two as likely tokens were taken the one for the other, once."""
    for place, (one, other) in enumerate(zip(found, expected, strict=False)):
        if one.id != other.id:
            assert one.logprob is not None
            assert other.logprob is not None
            assert abs(one.logprob - other.logprob) < TIE, (place, found, expected)
            return False
        if other.logprob is not None:
            assert one.logprob is not None
            assert abs(one.logprob - other.logprob) < TIE, (place, one, other)
        assert len(one.top) == len(other.top)
        for (_, a), (_, b) in zip(one.top, other.top, strict=True):
            assert abs(a - b) < TIE
    assert len(found) == len(expected)
    return True


def assert_answers_as_plain(engine: Engine, model: Any, request: Request) -> None:
    tokens, ended = ask(engine, request)
    expected, how, _ = plain_answer(model, request)
    assert (ended.reason, ended.error) == (how, "")
    assert assert_same(tokens, expected)
