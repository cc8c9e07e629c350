"""Whether an adapter changes what its model says at all: otherwise scores and exports of it are the base model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neuralchat.data.records import Turn
from neuralchat.errors import AdapterError
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling import Sampling
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.families.architecture import is_encoder_decoder

# Of logits; what rounding alone makes of an adapter of zeros is below.
SMALLEST_EFFECT = 1e-6
COMPARED_PROMPTS = 4


def check_effect(bot: Chatbot, conversations: Sequence[Sequence[Turn]], so: str) -> float:
    """The largest difference of logits between base and tuned model on the first prompts.

    Raises AdapterError where there is none; `so`: what would follow, as a clause.
    """
    asked = list(conversations[:COMPARED_PROMPTS]) or [[Turn("user", "Hello, who are you?")]]
    prompts = [bot.prompt(turns, Sampling(max_new_tokens=1)).ids for turns in asked]
    tuned = [last_logits(bot.model, ids) for ids in prompts]
    with bot.untuned() as base:
        largest = max(
            float((last_logits(base.model, ids) - one).abs().max()) for ids, one in zip(prompts, tuned, strict=True)
        )
    if largest <= SMALLEST_EFFECT:
        raise AdapterError(
            f"the adapter of {bot.name} has no effect: with it and without it the model says the same "
            f"(logits of {len(prompts)} prompt(s) differ by {largest:.1g} at most), so that {so}. Is it the run that "
            "was meant, and did its training take a step?"
        )
    return largest


@torch.inference_mode()
def last_logits(model: Any, ids: Sequence[int]) -> Tensor:
    """Logits [V] of what comes after `ids`."""
    base = base_model_of(model)
    inputs = torch.tensor([list(ids)], device=base.device)
    more: dict[str, Any] = {"use_cache": False}
    if is_encoder_decoder(base.config):
        more["decoder_input_ids"] = torch.full((1, 1), base.config.decoder_start_token_id, device=base.device)
    return model(input_ids=inputs, attention_mask=torch.ones_like(inputs), **more).logits[0, -1].float()
