"""Items -> the loss of their answers, with the packed rows of training where the model takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from neuralchat.config.arguments import DataArguments
from neuralchat.console import note
from neuralchat.data.layout import Layout
from neuralchat.data.prepared_data import make_encoder
from neuralchat.data.tokenization import Example
from neuralchat.data.tokens.counts import TokenizationCounts
from neuralchat.evaluation.items import Item
from neuralchat.inference.chatbot import Chatbot
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.families.packed_layout import leave_packed_rows, take_packed_rows
from neuralchat.models.losses.loss_sum import packed_loss_sum, padded_loss_sum
from neuralchat.models.quiet import quiet_libraries


class AnswerLoss(NamedTuple):
    """Sum of the cross entropies of the answers of an item, in nats, and how many tokens they have."""

    total: float
    tokens: int


def examples_of(items: Sequence[Item], bot: Chatbot, data: DataArguments) -> dict[int, list[Example]]:
    """By the place of the item, what the loss is measured on: answers alone, whatever was trained on.

    What cannot be made an example (too long, nothing to learn) is told, and left out.
    """
    encoder = make_encoder(
        data, bot.tokenizer, bot.template, encoder_decoder=is_encoder_decoder(base_model_of(bot.model).config)
    )
    encoder.train_on_inputs = False
    counts = TokenizationCounts()
    found = {
        place: examples
        for place, item in enumerate(items)
        if item.record is not None and (examples := encoder.encode([item.record], counts))
    }
    for text in counts.unusable:
        note(f"no loss of {text}")
    return found


@torch.inference_mode()
def losses_of(name: str, bot: Chatbot, examples: dict[int, list[Example]]) -> dict[int, AnswerLoss]:
    """By the place of the item. Of each by itself, so that differences can be paired.

    Those that are infinite or no number are told, with the `name` of the system, and left out.
    """
    if not examples:
        return {}
    with quiet_libraries():
        layout = take_packed_rows(bot.model)
        try:
            measured = {place: loss_of(bot, layout, some) for place, some in examples.items()}
        finally:
            leave_packed_rows(bot.model)
    found = {place: loss for place, loss in measured.items() if math.isfinite(loss.total)}
    if not found:
        what = f"the loss of all {len(measured)} items is infinite or no number, so that it has none"
        note(f"{name}: {what}; its training may have diverged")
    elif left_out := len(measured) - len(found):
        note(f"{name}: the loss of {left_out} of {len(measured)} items is infinite or no number, and is left out")
    return found


def loss_of(bot: Chatbot, layout: Layout | None, examples: list[Example]) -> AnswerLoss:
    total: Any
    if layout is not None:
        total = packed_loss_sum(bot.model, layout.pack(examples))
    else:
        total = padded_loss_sum(bot.model, examples, pad_id=bot.voice.pad_id)
    return AnswerLoss(float(total), sum(int(example.supervised.sum()) for example in examples))
