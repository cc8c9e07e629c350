"""inference/engine/next_token.py: what is drawn from, beside transformers' own processors; draws; log-probabilities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.engines.asking import request_of
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from neuralchat.inference.engine import next_token
from neuralchat.inference.engine.interface import Request
from neuralchat.inference.engine.next_token import Chooser, choose_tokens
from neuralchat.inference.sampling import Sampling

V = 600


def logits_of(seed: int, size: int = V) -> torch.Tensor:
    return 3 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def transformers_probabilities(logits: torch.Tensor, ids: list[int], s: Sampling) -> torch.Tensor:
    processors: Any = [RepetitionPenaltyLogitsProcessor(s.repetition_penalty), TemperatureLogitsWarper(s.temperature)]
    processors += [TopKLogitsWarper(s.top_k)] if s.top_k else []
    processors += [TopPLogitsWarper(s.top_p)] if s.top_p < 1 else []
    processors += [MinPLogitsWarper(s.min_p)] if s.min_p else []
    scores = LogitsProcessorList(processors)(torch.tensor([ids]), logits[None].clone())
    return torch.softmax(scores[0], dim=0)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(
    "bounds",
    [
        {"top_k": 7}, {"top_p": 0.4}, {"top_p": 0.97}, {"min_p": 0.05}, {"top_k": 50, "top_p": 0.9, "min_p": 0.02},
        {"top_p": 1e-6}, {"top_k": 1}, {"repetition_penalty": 1.5, "top_p": 0.9},
        {"repetition_penalty": 0.7, "min_p": 0.1}, {"top_k": V + 5, "top_p": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_drawn_from_is_what_transformers_draws_from(
    bounds: dict[str, Any], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So few that more have to be looked at, again and again.
    monkeypatch.setattr(next_token, "FIRST_CANDIDATES", 2)
    monkeypatch.setattr(next_token, "MORE_CANDIDATES", 3)
    logits, prompt, answer = logits_of(1), [3, 3, 9], [17, 9]
    sampling = Sampling(temperature=temperature, **bounds)
    chooser = Chooser(Request(prompt_ids=tuple(prompt), model="m", sampling=sampling), prompt)
    for id_ in answer:
        chooser.take(id_, logits)
    scores = chooser.changed(logits.clone())
    weights = ((scores - scores.max()) / temperature).exp()
    kept, ids = next_token.candidates(weights, sampling.top_k, sampling.top_p, sampling.min_p)
    found = torch.zeros(V).index_put((ids,), kept / kept.sum())
    torch.testing.assert_close(found, transformers_probabilities(logits, [*prompt, *answer], sampling))


@pytest.mark.parametrize("bounds", [{}, {"top_k": 3}])
def test_draws_are_as_frequent_as_they_are_likely(bounds: dict[str, int]) -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, float("-inf")])
    chooser = Chooser(request_of([1], temperature=1.0, seed=3, **bounds), [])
    drawn = torch.tensor([chooser.choose(logits).id for _ in range(4000)])
    likely = logits.clone()
    if bounds:
        likely[2] = float("-inf")
    frequencies = torch.bincount(drawn, minlength=5) / len(drawn)
    assert (frequencies - torch.softmax(likely, 0)).abs().max() < 0.03
    assert frequencies[4] == 0


def test_presence_and_frequency_count_the_answer_alone() -> None:
    logits = torch.zeros(6)
    chooser = Chooser(request_of([1, 2], presence_penalty=0.5, frequency_penalty=0.25), [1, 2])
    for id_ in (4, 5, 5):
        chooser.take(id_, logits)
    assert chooser.changed(logits.clone()).tolist() == [0, 0, 0, 0, -0.75, -1.0]


def test_bias_comes_before_everything_else() -> None:
    logits = torch.tensor([2.0, -1.0, 0.0])
    request = Request(
        prompt_ids=(1,), model="m", sampling=Sampling(repetition_penalty=2.0), logit_bias={1: -3.0, 0: -1.0}
    )
    assert Chooser(request, [0, 1]).changed(logits.clone()).tolist() == [0.5, -8.0, 0.0]


def test_log_probabilities_are_those_of_the_model() -> None:
    """Whatever temperature, bias and penalties make of them."""
    logits = logits_of(2)
    request = Request(
        prompt_ids=(5,), model="m", top_logprobs=4, logit_bias={7: 100.0},
        sampling=Sampling(temperature=0.1, repetition_penalty=1.4, top_k=2),
    )  # fmt: skip
    token = Chooser(request, [5]).choose(logits)
    expected = torch.log_softmax(logits, 0)
    assert token.id == 7
    assert token.logprob == pytest.approx(float(expected[7]), abs=1e-5)
    values, ids = expected.topk(4)
    assert [id_ for id_, _ in token.top] == ids.tolist()
    assert [value for _, value in token.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_no_log_probabilities_of_others_are_none() -> None:
    token = Chooser(Request(prompt_ids=(5,), model="m", top_logprobs=0), [5]).choose(logits_of(2))
    assert token.top == ()
    assert token.logprob is not None


def test_a_seed_is_a_draw_whatever_is_computed_beside() -> None:
    logits = torch.stack([logits_of(seed) for seed in range(6)])
    requests = [request_of([1], temperature=1.0, top_p=p, seed=seed) for seed, p in ((1, 1.0), (2, 0.9), (3, 1.0))]
    together = [Chooser(request, []) for request in requests]
    found = [choose_tokens(logits[[i, i + 1, i + 2]], together) for i in range(3)]
    for place, request in enumerate(requests):
        alone = Chooser(request, [])
        torch.rand(5)
        assert [alone.choose(logits[place + i]) for i in range(3)] == [row[place] for row in found]


def test_without_a_seed_draws_differ_and_torchs_own_generator_stays() -> None:
    before = torch.random.get_rng_state()
    logits = torch.zeros(10_000)
    drawn = {Chooser(request_of([1], temperature=1.0), []).choose(logits).id for _ in range(5)}
    assert len(drawn) > 1
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("temperature", [1e-30, 1e-3])
def test_a_low_temperature_is_nearly_greedy(temperature: float) -> None:
    logits = logits_of(4)
    chooser = Chooser(request_of([1], temperature=temperature, seed=1), [])
    assert chooser.choose(logits).id == int(logits.argmax())


def test_the_logits_stay_as_they_are() -> None:
    logits = logits_of(5)
    before = logits.clone()
    request = request_of([1], temperature=0.7, repetition_penalty=1.2, presence_penalty=1.0, top_p=0.8)
    Chooser(request, [1]).choose(logits)
    assert torch.equal(logits, before)


def test_plain_answers_are_chosen_together_with_others() -> None:
    logits = torch.stack([logits_of(1), logits_of(2)])
    plain = Request(prompt_ids=(1,), model="m")
    penalized = Request(prompt_ids=(1,), model="m", logit_bias={3: 1000.0})
    assert [token.id for token in choose_tokens(logits, [Chooser(plain, []), Chooser(penalized, [])])] == [
        int(logits[0].argmax()),
        3,
    ]
