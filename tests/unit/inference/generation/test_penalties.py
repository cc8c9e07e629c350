"""inference/generation/penalties.py: what generate is given besides its own settings."""

from __future__ import annotations

import torch
from support.engines.asking import VOCABULARY, ids_of, plain_answer, request_of
from support.small_models import small_model

from neuralchat.inference.generation.decoding import decode
from neuralchat.inference.generation.penalties import answer_penalties
from neuralchat.inference.generation.settings import generation_settings
from neuralchat.inference.sampling import Sampling

PROMPTS = [[5, 17, 33, 8], [9, 8]]


def test_generate_honours_presence_and_frequency() -> None:
    """Two prompts of unequal length at once, each as it is answered alone by whole passes."""
    model = small_model("llama", VOCABULARY)
    ids, mask = torch.tensor([PROMPTS[0], [0, 0, *PROMPTS[1]]]), torch.tensor([[1] * 4, [0, 0, 1, 1]])
    found = {}
    for sampling in (
        Sampling(max_new_tokens=12),
        Sampling(max_new_tokens=12, presence_penalty=2.0),
        Sampling(max_new_tokens=12, frequency_penalty=-2.0, repetition_penalty=1.3),
    ):
        with generation_settings(model, sampling, end_ids=[], pad_id=0) as settings:
            answers = decode(model, ids, mask, settings, processors=lambda s=sampling: answer_penalties(s))
        expected = [ids_of(plain_answer(model, request_of(p, **vars(sampling)))[0]) for p in PROMPTS]
        # The reference counts a prompt's padding as nothing, transformers as a token that may not come.
        assert answers.tolist() == expected
        found[sampling] = answers.tolist()
    assert len(found) == len({str(answers) for answers in found.values()})


def test_without_penalties_generate_is_given_nothing() -> None:
    assert answer_penalties(Sampling(repetition_penalty=1.5, temperature=0.5)) == []
