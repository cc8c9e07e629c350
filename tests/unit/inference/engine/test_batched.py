"""inference/engine/packed/batched.py: answers that are computed together are those that are given alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.engines.asking import (
    VOCABULARY,
    Asked,
    adapted,
    ask,
    ask_together,
    assert_answers_as_plain,
    assert_same,
    ids_of,
    plain_answer,
    random_prompt,
    random_requests,
    request_of,
    save_adapter,
)
from support.small_models import CAUSAL_FAMILIES, small_model

from neuralchat.inference.engine.interface import Ended, Request
from neuralchat.inference.engine.packed.batched import PackedAnswers
from neuralchat.inference.engine.shelf import Shelf
from neuralchat.inference.engine.torch_engine import TorchEngine
from neuralchat.models.families.table import family_of
from neuralchat.models.kernels.compiled import refuse_kernels

PROMPT = [5, 17, 33, 8, 61, 17]


@contextmanager
def together(model: Any, adapter: str | None = None, *, memory: int = 4096, **settings: Any) -> Iterator[TorchEngine]:
    shelf = Shelf(model, "base", adapter)
    assert family_of(shelf.base.config).take_pages(shelf.base)
    batch = PackedAnswers(shelf, memory, **settings)
    assert batch.proven
    engine = TorchEngine(shelf, batch, most_waiting=1000)
    try:
        yield engine
    finally:
        engine.close(drain=False)


def batch_of(engine: TorchEngine) -> PackedAnswers:
    assert isinstance(engine.batch, PackedAnswers)
    return engine.batch


def fresh(family: str = "llama", seed: int = 0) -> Any:
    return small_model(family, VOCABULARY, seed)


@pytest.mark.parametrize("kernels", ["compiled", "torch"])
@pytest.mark.parametrize("family", [*CAUSAL_FAMILIES, "gpt2", "gpt_neox"])
def test_answers_are_those_of_plain_transformers(family: str, kernels: str) -> None:
    """Prompts of many lengths at once, each longer than a window of the families that have one."""
    model = fresh(family)
    if kernels == "torch":
        refuse_kernels(model)
    rng = np.random.default_rng(1)
    requests = [request_of(random_prompt(rng, 60), max_new_tokens=12) for _ in range(6)]
    with together(model) as engine:
        for request, (tokens, ended) in zip(requests, ask_together(engine, requests), strict=True):
            expected, how, _ = plain_answer(fresh(family), request)
            assert assert_same(tokens, expected)
            assert ended.reason == how
        assert engine.status().memory_tokens_used == 0


def test_a_model_of_16_bits_answers_as_transformers_nearly() -> None:
    model = fresh().bfloat16()
    with together(model) as engine:
        tokens, _ = ask(engine, request_of(PROMPT, max_new_tokens=4))
    expected, _, _ = plain_answer(fresh().bfloat16(), request_of(PROMPT, max_new_tokens=4))
    assert tokens[0].logprob == pytest.approx(expected[0].logprob, abs=0.1)


def six_models(tmp_path: Any, engine: TorchEngine) -> list[str]:
    """The base, two of plain LoRA, one that needs a pass of its own, and two kinds of virtual tokens."""
    engine.add_adapter("lora", save_adapter(tmp_path / "lora", adapted(fresh(), lora_target_modules=["q_proj"])))
    wide = adapted(fresh(), seed=2, lora_all_linear=True, lora_rank=3)
    engine.add_adapter("wide", save_adapter(tmp_path / "wide", wide))
    engine.add_adapter("dora", save_adapter(tmp_path / "dora", adapted(fresh(), "lora_dora", seed=3)))
    engine.add_adapter("soft", save_adapter(tmp_path / "soft", adapted(fresh(), "prompt", seed=4)))
    engine.add_adapter("prefix", save_adapter(tmp_path / "prefix", adapted(fresh(), "prefix", seed=5)))
    return list(engine.models())


@pytest.mark.slow
def test_200_mixed_requests_at_once_are_answered_as_each_alone(tmp_path: Any) -> None:
    """Every parameter, five models, memory for a few of them only; ids and log-probabilities."""
    with together(fresh(), memory=600) as engine:
        models = six_models(tmp_path, engine)
        requests = random_requests(200, models)
        found = ask_together(engine, requests)
        alone = [ask(engine, request) for request in requests]
        ties = sum(not assert_same(one[0], other[0]) for one, other in zip(found, alone, strict=True))
        assert ties <= 2
        assert [one[1].reason for one in found] == [other[1].reason for other in alone]
        assert {request.model for request in requests} == set(models)
        assert engine.status().memory_tokens_used == 0
        # Each kind was computed in its own way.
        ways = {name: batch_of(engine).by_rows.get(kept.number) for name, kept in engine.shelf.adapters.items()}
        assert ways == {"lora": True, "wide": True, "dora": False, "soft": True, "prefix": True}


def test_each_of_many_models_answers_as_peft(tmp_path: Any) -> None:
    with together(fresh()) as engine:
        models = six_models(tmp_path, engine)
        references = [
            fresh(), adapted(fresh(), lora_target_modules=["q_proj"]),
            adapted(fresh(), seed=2, lora_all_linear=True, lora_rank=3), adapted(fresh(), "lora_dora", seed=3),
            adapted(fresh(), "prompt", seed=4), adapted(fresh(), "prefix", seed=5),
        ]  # fmt: skip
        requests = [request_of([*PROMPT, number], name) for number in (3, 4) for name in models]
        found = ask_together(engine, requests)
        for request, (tokens, _) in zip(requests, found, strict=True):
            assert assert_same(tokens, plain_answer(references[models.index(request.model)], request)[0])
        firsts = {request.model: tokens[0].logprob for request, (tokens, _) in zip(requests, found, strict=True)}
        assert len(set(firsts.values())) == 6


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "mistral"])
def test_lora_of_other_families_is_computed_by_rows(family: str) -> None:
    with together(adapted(fresh(family)), "tuned") as engine:
        assert list(batch_of(engine).by_rows.values()) == [True]
        requests = [request_of([*PROMPT, n], name, max_new_tokens=20) for n in (3, 4) for name in ("tuned", "base")]
        references = {"tuned": adapted(fresh(family)), "base": fresh(family)}
        for request, (tokens, _) in zip(requests, ask_together(engine, requests), strict=True):
            assert assert_same(tokens, plain_answer(references[request.model], request)[0])


def test_lora_of_the_head_is_not_computed_by_rows() -> None:
    """The head has the rows of last tokens only."""
    with together(adapted(fresh("llama_mha"), lora_target_modules=["q_proj", "lm_head"]), "tuned") as engine:
        assert list(batch_of(engine).by_rows.values()) != [True]
        requests = [request_of([*PROMPT, n], name) for n in (3, 4) for name in ("tuned", "base")]
        references = {
            "tuned": adapted(fresh("llama_mha"), lora_target_modules=["q_proj", "lm_head"]), "base": fresh("llama_mha")
        }  # fmt: skip
        for request, (tokens, _) in zip(requests, ask_together(engine, requests), strict=True):
            assert assert_same(tokens, plain_answer(references[request.model], request)[0])


@pytest.mark.parametrize("method", ["ia3", "llama_adapter"])
def test_other_methods_have_a_pass_of_their_own(method: str) -> None:
    with together(adapted(fresh(), method), "tuned") as engine:
        adapter = engine.shelf.adapters["tuned"]
        assert batch_of(engine).by_rows == {adapter.number: False}
        requests = [request_of([*PROMPT, n], name) for n in (3, 4) for name in ("tuned", "base")]
        references = {"tuned": adapted(fresh(), method), "base": fresh()}
        for request, (tokens, _) in zip(requests, ask_together(engine, requests), strict=True):
            assert assert_same(tokens, plain_answer(references[request.model], request)[0])


def test_what_was_computed_is_not_computed_again() -> None:
    """The next turn of a conversation, and another conversation with the same preamble."""
    rng = np.random.default_rng(0)
    preamble = rng.integers(3, VOCABULARY, 50).tolist()
    first = request_of([*preamble, *PROMPT], max_new_tokens=30)
    with together(fresh()) as engine:
        tokens, ended = ask(engine, first)
        assert ended == Ended("length", cached_tokens=0)
        turn = [*first.prompt_ids, *ids_of(tokens), 7, 8, 9]
        found, ended = ask(engine, request_of(turn))
        # The last token of an answer is not computed before another one follows.
        assert ended.cached_tokens == len(turn) - 4
        assert assert_same(found, plain_answer(fresh(), request_of(turn))[0])
        other, ended = ask(engine, request_of([*preamble, 96, 95]))
        assert ended.cached_tokens == 48
        assert assert_same(other, plain_answer(fresh(), request_of([*preamble, 96, 95]))[0])
        again, ended = ask(engine, first)
        assert ended.cached_tokens == 48
        assert assert_same(again, tokens)
        status = engine.status()
        assert status.cached_prompt_tokens_total == len(turn) - 4 + 96
        assert status.prompt_tokens_total == 2 * 56 + len(turn) + 52


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_the_next_turn_of_a_long_conversation(family: str) -> None:
    """Few tokens after many, with and without a window."""
    rng = np.random.default_rng(0)
    with together(fresh(family)) as engine:
        first = request_of(rng.integers(3, VOCABULARY, 400).tolist(), max_new_tokens=6)
        tokens, _ = ask(engine, first)
        turn = [*first.prompt_ids, *ids_of(tokens), *PROMPT]
        found, ended = ask(engine, request_of(turn))
        assert ended.cached_tokens == len(turn) - len(PROMPT) - 1
        assert assert_same(found, plain_answer(fresh(family), request_of(turn))[0])


@pytest.mark.parametrize("method", ["prompt", "ptun", "prefix"])
def test_virtual_tokens_are_computed_with_others_rows(method: str) -> None:
    """More of them than a page holds; found again like a beginning; counted as no tokens of the prompt."""
    settings = {"num_virtual_tokens": 21}
    with together(adapted(fresh(), method, **settings), "soft", memory=208) as engine:
        assert list(batch_of(engine).by_rows.values()) == [True]
        requests = [request_of([*PROMPT, n], name, max_new_tokens=40) for n in (3, 4, 5) for name in ("soft", "base")]
        references = {"soft": adapted(fresh(), method, **settings), "base": fresh()}
        for request, (tokens, ended) in zip(requests, ask_together(engine, requests), strict=True):
            assert assert_same(tokens, plain_answer(references[request.model], request)[0])
            assert ended.cached_tokens == 0
        long = request_of(PROMPT * 4, "soft", max_new_tokens=1000)
        tokens, ended = ask(engine, long)
        assert (len(tokens), ended.reason) == (208 - 21 - 24, "length")
        assert ask(engine, request_of(PROMPT * 4, "soft"))[1].cached_tokens == 32 - 21


def test_adapters_do_not_find_what_others_computed(tmp_path: Any) -> None:
    prompt = (PROMPT * 9)[:50]
    with together(fresh()) as engine:
        engine.add_adapter("a", save_adapter(tmp_path / "a", adapted(fresh())))
        ask(engine, request_of(prompt))
        tokens, ended = ask(engine, request_of(prompt, "a"))
        assert ended.cached_tokens == 0
        assert assert_same(tokens, plain_answer(adapted(fresh()), request_of(prompt))[0])
        assert ask(engine, request_of(prompt, "a"))[1].cached_tokens == 48
        # Another adapter under the same name is another one.
        engine.remove_adapter("a")
        engine.add_adapter("a", save_adapter(tmp_path / "b", adapted(fresh(), seed=2)))
        tokens, ended = ask(engine, request_of(prompt, "a"))
        assert ended.cached_tokens == 0
        assert assert_same(tokens, plain_answer(adapted(fresh(), seed=2), request_of(prompt))[0])


def test_equal_prompts_at_once_end_with_one_copy() -> None:
    request = request_of((PROMPT * 9)[:50], max_new_tokens=20)
    with together(fresh()) as engine:
        found = ask_together(engine, [request] * 4)
        expected, _, _ = plain_answer(fresh(), request)
        assert all(assert_same(tokens, expected) for tokens, _ in found)
        known = batch_of(engine).memory.known
        assert len(known) == (50 + 19) // 16
        assert ask(engine, request)[1].cached_tokens == 48


def test_memory_bounds_what_is_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that outgrow it are computed again, the oldest first; one that fills it alone ends at its end."""
    requests = [request_of([number, *PROMPT], max_new_tokens=70) for number in range(3, 9)]
    with together(fresh(), memory=160) as engine:
        batch, most, paused = batch_of(engine), 0, 0
        step = batch.step

        def watched() -> Any:
            nonlocal most, paused
            ended = step()
            most, paused = max(most, batch.memory_tokens_used), max(paused, len(batch.paused))
            return ended

        monkeypatch.setattr(batch, "step", watched)
        found = ask_together(engine, requests)
        for request, (tokens, ended) in zip(requests, found, strict=True):
            assert assert_same(tokens, plain_answer(fresh(), request)[0])
            assert ended.reason == "length"
        assert most <= 160
        assert paused > 0
        tokens, ended = ask(engine, request_of(PROMPT, max_new_tokens=500))
        assert (len(tokens), ended.reason) == (154, "length")
        assert engine.status().memory_tokens_used == 0


def test_a_cancelled_answer_frees_its_memory_within_a_step() -> None:
    with together(fresh()) as engine:
        asked = [Asked(engine, request_of([number, *PROMPT], max_new_tokens=900)) for number in (3, 4)]
        for one in asked:
            one.next()
        held = engine.status().memory_tokens_used
        steps = len(asked[1].tokens)
        asked[0].ticket.cancel()
        tokens, ended = asked[0].whole()
        assert ended.reason == "cancelled"
        assert len(tokens) < steps + 200
        assert engine.status().running == 1
        assert engine.status().memory_tokens_used < held + 64 * 16
        asked[1].ticket.cancel()
        asked[1].whole()
        assert engine.status().memory_tokens_used == 0


def test_an_adapter_that_is_removed_answers_to_the_end(tmp_path: Any) -> None:
    with together(fresh()) as engine:
        for number in (1, 2):
            engine.add_adapter(f"{number}", save_adapter(tmp_path / f"{number}", adapted(fresh(), seed=number)))
        request = request_of(PROMPT, "1", max_new_tokens=60)
        asked = Asked(engine, request)
        asked.next()
        engine.remove_adapter("1")
        assert assert_same(asked.whole()[0], plain_answer(adapted(fresh(), seed=1), request)[0])
        assert_answers_as_plain(engine, adapted(fresh(), seed=2), request_of(PROMPT, "2"))


def test_long_prompts_are_computed_in_parts_beside_running_answers() -> None:
    rng = np.random.default_rng(0)
    long = request_of(rng.integers(3, VOCABULARY, 700).tolist(), max_new_tokens=3)
    with together(fresh()) as engine:
        running = Asked(engine, request_of(PROMPT, max_new_tokens=300))
        running.next()
        asked = Asked(engine, long)
        asked.next()
        # 700 tokens, at most 128 of them in a step.
        assert len(running.tokens) + running.events.qsize() >= 5
        assert assert_same(asked.whole()[0], plain_answer(fresh(), long)[0])
        assert assert_same(running.whole()[0][:20], plain_answer(fresh(), shortened(running_request(), 20))[0])


def running_request() -> Request:
    return request_of(PROMPT, max_new_tokens=300)


def shortened(request: Request, tokens: int) -> Request:
    return replace(request, sampling=replace(request.sampling, max_new_tokens=tokens))


def test_one_failing_pass_ends_all_and_the_next_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    with together(fresh()) as engine:
        packed = batch_of(engine).packed
        with monkeypatch.context() as patch:
            patch.setattr(packed, "logits", fail)
            found = ask_together(engine, [request_of(PROMPT)] * 2)
        assert [ended.error for _, ended in found] == ["there is not enough memory for the answer"] * 2
        assert_answers_as_plain(engine, fresh(), request_of(PROMPT))


def fail(*_args: Any) -> Any:
    raise MemoryError


def test_a_family_whose_passes_cannot_be_proven_is_answered_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(fresh(), "base")
    assert family_of(shelf.base.config).take_pages(shelf.base)
    with monkeypatch.context() as patch:
        patch.setattr("neuralchat.inference.engine.packed.packed_pass.PackedPass.logits", fail)
        batch = PackedAnswers(shelf, 100)
    assert not batch.proven
    engine = TorchEngine(shelf, batch)
    assert_answers_as_plain(engine, fresh(), request_of(PROMPT))
    assert batch.generated_tokens == 0
    engine.close()
