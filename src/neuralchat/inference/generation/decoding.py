"""padded prompts -> ids of the answers, with any method's virtual tokens where training had them.

PEFT's own generate gives virtual tokens to transformers under a name that it no longer reads, or again at every step
(PEFT 0.21 with transformers 5.24), so for prompt learning the base model's generate is called with them in place.

Shapes: B prompts, W width of the prompts with padding on the left, P virtual tokens, E hidden size, N new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from neuralchat.data.packing import VirtualTokens
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.virtual_tokens import virtual_tokens_of
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.families.table import family_of

# Logits processors of one call of generate, made anew for each.
Processors = Callable[[], Sequence[LogitsProcessor]]


def decode(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    settings: GenerationConfig,
    *,
    streamer: Any = None,
    processors: Processors = list,
) -> Tensor:
    """New ids [B, N] for prompts int64 [B, W] and their mask; `settings` stand in the model too.

    `processors`: what changes the scores besides what `settings` ask for, before anything is drawn.
    """
    options = options_of_call(settings, streamer, processors)
    virtual = virtual_tokens_of(model)
    seq2seq = is_encoder_decoder(base_model_of(model).config)
    if not virtual.count:
        output = model.generate(input_ids=ids, attention_mask=mask, **options)
        return output[:, 1 if seq2seq else ids.shape[1] :]
    if virtual.in_row:
        output = base_model_of(model).generate(**embedded_prompts(model, ids, mask, virtual), **options)
        # Given embeddings, a causal model returns what is new only.
        return output[:, 1:] if seq2seq else output
    return decode_after_prefix(model, ids, mask, virtual, settings, streamer, processors)


def options_of_call(settings: GenerationConfig, streamer: Any, processors: Processors) -> dict[str, Any]:
    return {
        "generation_config": settings,
        "streamer": streamer,
        "logits_processor": LogitsProcessorList(processors()),
    }


def embedded_prompts(model: Any, ids: Tensor, mask: Tensor, virtual: VirtualTokens) -> dict[str, Tensor]:
    """Padding, then virtual tokens, then text: as in training nothing lies between the last two."""
    embedded = base_model_of(model).get_input_embeddings()(ids)
    prompts = model.get_prompt(batch_size=1)[0, : virtual.count].to(embedded.dtype)
    padding = (1 - mask).sum(dim=1).tolist()
    rows = [torch.cat([row[:pads], prompts, row[pads:]]) for row, pads in zip(embedded, padding, strict=True)]
    return {"inputs_embeds": torch.stack(rows), "attention_mask": with_ones(mask, virtual.count, at_end=True)}


def with_ones(mask: Tensor, count: int, *, at_end: bool = False) -> Tensor:
    """`count` more ones; a mask that begins with zeros for padding takes them at its end."""
    ones = mask.new_ones(len(mask), count)
    return torch.cat([mask, ones] if at_end else [ones, mask], dim=1)


def decode_after_prefix(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    virtual: VirtualTokens,
    settings: GenerationConfig,
    streamer: Any,
    processors: Processors,
) -> Tensor:
    """Prefix tuning: its keys and values are a cache of P tokens, which stand before the text."""
    base = base_model_of(model)
    if family_of(base.config).counts_padding and not bool(mask.all()):
        # One prompt at a time has no padding between prefix and text.
        found = [
            decode(model, row[keep][None], keep[keep][None].long(), settings, processors=processors)[0]
            for row, keep in each(ids, mask)
        ]
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=settings.pad_token_id)
    options = options_of_call(settings, streamer, processors)
    cache = model.get_prompt(batch_size=len(ids) * (settings.num_beams or 1))
    # Transformers counts cached tokens among the ids; which they are does not matter.
    if is_encoder_decoder(base.config):
        # Transformers puts a start token before ids that do not begin with one.
        decoder_ids = ids.new_full((len(ids), virtual.count + 1), base.config.decoder_start_token_id)
        output = base.generate(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=decoder_ids,
            decoder_attention_mask=torch.ones_like(decoder_ids),
            cache=cache,
            **options,
        )
        return output[:, decoder_ids.shape[1] :]
    place = ids.new_full((len(ids), virtual.count), settings.pad_token_id)
    text = torch.cat([place, ids], dim=1)
    output = base.generate(input_ids=text, attention_mask=with_ones(mask, virtual.count), cache=cache, **options)
    return output[:, text.shape[1] :]


def each(ids: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(row, keep.bool()) for row, keep in zip(ids, mask, strict=True)]
