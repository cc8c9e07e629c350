"""inference/engine/alone.py: every family and every method, one answer at a time, as plain transformers computes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.cells import TAKES_LLAMA_ADAPTER
from support.engines.asking import (
    VOCABULARY,
    Asked,
    adapted,
    ask,
    assert_answers_as_plain,
    ids_of,
    request_of,
    save_adapter,
)
from support.families import PACKED
from support.small_models import ALL_FAMILIES, small_model

from neuralchat.errors import ArgumentsError
from neuralchat.inference.engine.interface import Ended, Request, Token, UnknownModelError, tokens_of
from neuralchat.inference.engine.shelf import Shelf
from neuralchat.inference.engine.torch_engine import TorchEngine
from neuralchat.inference.sampling import Sampling

PROMPT = [5, 17, 33, 8, 61, 17]
METHODS = ("lora", "prefix", "prompt", "ptun", "ia3", "llama_adapter", "lora_dora")
assert PACKED


@contextmanager
def opened(model: Any, adapter: str | None = None, **settings: Any) -> Iterator[TorchEngine]:
    engine = TorchEngine(Shelf(model, "base", adapter), **settings)
    try:
        yield engine
    finally:
        engine.close(drain=False)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_base_model_answers_as_transformers(family: str) -> None:
    model = small_model(family, VOCABULARY)
    with opened(model) as engine:
        assert_answers_as_plain(engine, model, request_of(PROMPT))
        drawn = request_of(PROMPT, temperature=0.9, top_p=0.9, repetition_penalty=1.2, presence_penalty=0.5, seed=4)
        assert_answers_as_plain(engine, model, drawn)
        expected = model.generate(torch.tensor([PROMPT]), max_new_tokens=6, do_sample=False, eos_token_id=None)
        tokens, _ = ask(engine, request_of(PROMPT, max_new_tokens=6))
        assert ids_of(tokens) == expected[0].tolist()[-6:]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "mpt", "t5"])
@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_answers_as_peft_and_the_base_beside_it_as_before(family: str, method: str) -> None:
    if method == "llama_adapter" and family not in TAKES_LLAMA_ADAPTER:
        pytest.skip("PEFT does not have it")
    plain, model = small_model(family, VOCABULARY), adapted(small_model(family, VOCABULARY), method)
    reference = adapted(small_model(family, VOCABULARY), method)
    with opened(model, "tuned") as engine:
        assert engine.models() == ("base", "tuned")
        for request in (request_of(PROMPT, "tuned"), request_of(PROMPT, "tuned", temperature=0.8, seed=2)):
            assert_answers_as_plain(engine, reference, request)
        assert_answers_as_plain(engine, plain, request_of(PROMPT, "base"))
        assert_answers_as_plain(engine, reference, request_of([9, 9], "tuned"))


def test_adapters_come_and_go(tmp_path: Any) -> None:
    base = small_model("llama", VOCABULARY)
    others = [adapted(small_model("llama", VOCABULARY), seed=seed) for seed in (1, 2, 3)]
    soft = adapted(small_model("llama", VOCABULARY), "prompt")
    with opened(base) as engine:
        for number, other in enumerate(others):
            engine.add_adapter(f"lora{number}", save_adapter(tmp_path / f"{number}", other))
        engine.add_adapter("soft", save_adapter(tmp_path / "soft", soft))
        assert engine.models() == ("base", "lora0", "lora1", "lora2", "soft")
        for number, other in enumerate(others):
            assert_answers_as_plain(engine, other, request_of(PROMPT, f"lora{number}"))
        assert_answers_as_plain(engine, soft, request_of(PROMPT, "soft"))
        with pytest.raises(ArgumentsError, match="there is a model 'lora0' already"):
            engine.add_adapter("lora0", str(tmp_path / "1"))
        engine.remove_adapter("lora1")
        with pytest.raises(UnknownModelError, match=r"no model 'lora1' here; there are: base, lora0, lora2, soft"):
            engine.submit(request_of(PROMPT, "lora1"), print)
        assert_answers_as_plain(engine, others[2], request_of(PROMPT, "lora2"))
        assert_answers_as_plain(engine, small_model("llama", VOCABULARY), request_of(PROMPT))
        with pytest.raises(ArgumentsError, match="is the base model"):
            engine.remove_adapter("base")
        with pytest.raises(UnknownModelError):
            engine.remove_adapter("lora1")


def test_an_answer_of_a_removed_adapter_goes_on(tmp_path: Any) -> None:
    others = [adapted(small_model("llama", VOCABULARY), seed=seed) for seed in (1, 2)]
    with opened(small_model("llama", VOCABULARY)) as engine:
        for number, other in enumerate(others):
            engine.add_adapter(f"{number}", save_adapter(tmp_path / f"{number}", other))
        expected, _ = ask(engine, request_of(PROMPT, "0", max_new_tokens=200))
        asked = Asked(engine, request_of(PROMPT, "0", max_new_tokens=200))
        asked.next()
        engine.remove_adapter("0")
        assert asked.whole()[0] == expected
        assert_answers_as_plain(engine, others[1], request_of(PROMPT, "1"))


def test_an_end_token_ends_an_answer_and_is_reported() -> None:
    model = small_model("llama", VOCABULARY)
    with opened(model) as engine:
        tokens, _ = ask(engine, request_of(PROMPT))
        end = ids_of(tokens)[3]
        place = ids_of(tokens).index(end)
        request = Request(prompt_ids=tuple(PROMPT), model="base", end_ids=frozenset({end, 96}))
        assert ask(engine, request) == ([Token(id_) for id_ in ids_of(tokens)[: place + 1]], Ended("stop"))


def test_an_answer_ends_at_the_last_position() -> None:
    model = small_model("gpt2", VOCABULARY)
    with opened(model) as engine:
        prompt = [7] * 1020
        tokens, ended = ask(engine, request_of(prompt, max_new_tokens=50))
        assert (len(tokens), ended.reason) == (4, "length")
        with pytest.raises(ArgumentsError, match=r"the prompt has 1024 tokens; .* room for 1024 together"):
            engine.submit(request_of([7] * 1024), print)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_ids": ()}, "the prompt is empty"),
        ({"prompt_ids": (3, 97)}, "the prompt holds the token id 97; ids are from 0 to 96"),
        ({"prompt_ids": (-1,)}, "holds the token id -1"),
        ({"sampling": Sampling(num_beams=2)}, "--num_beams is 2; an engine computes no beams"),
        ({"logit_bias": {97: 1.0}}, "logit_bias names the token id 97"),
        ({"logit_bias": {3: float("nan")}}, "the logit_bias of token 3 is nan"),
        ({"top_logprobs": 98}, "top_logprobs must be from 0 to 97, found 98"),
    ],
)
def test_an_impossible_request_is_refused(changes: dict[str, Any], message: str) -> None:
    events: list[Any] = []
    with opened(small_model("llama", VOCABULARY)) as engine:
        with pytest.raises(ArgumentsError, match=message):
            engine.submit(Request(**{"prompt_ids": (1,), "model": "base", **changes}), events.append)
        assert ask(engine, request_of([1]))[1].reason == "length"
    assert events == []


def test_the_loop_of_an_answer_can_be_left() -> None:
    with opened(small_model("llama", VOCABULARY)) as engine:
        for event in tokens_of(engine, request_of(PROMPT, max_new_tokens=900)):
            assert isinstance(event, Token)
            break
        events = list(tokens_of(engine, request_of(PROMPT, max_new_tokens=2)))
        assert [type(event) for event in events] == [Token, Token, Ended]
        assert engine.status().generated_tokens_total < 300


def test_the_base_models_own_settings_are_not_used() -> None:
    model = small_model("llama", VOCABULARY)
    model.generation_config.suppress_tokens = [ids_of_first(model)]
    with opened(model) as engine:
        assert_answers_as_plain(engine, model, request_of(PROMPT))


def ids_of_first(model: Any) -> int:
    with torch.no_grad():
        return int(model(torch.tensor([PROMPT])).logits[0, -1].argmax())
