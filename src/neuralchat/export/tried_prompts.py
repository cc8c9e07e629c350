"""A chatbot -> the tokens that its model is tried on, to see what folding its adapter in changes."""

from __future__ import annotations

from neuralchat.data.general_prompts import measured_prompts
from neuralchat.inference.chatbot import Chatbot
from neuralchat.models.adapters.merging import TRIED_TOKENS


def ids_to_try(bot: Chatbot) -> list[int]:
    """General prompts as the model is asked them, one behind the other, as many tokens as it has positions for."""
    ids: list[int] = []
    for prompt in measured_prompts():
        ids += bot.voice.whole_prompt(prompt.turns)
        if len(ids) >= TRIED_TOKENS:
            break
    return ids[: bot.voice.window.limit]
