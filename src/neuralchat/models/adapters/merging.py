"""A base model and its adapter -> one model with both in its weights, which gives the same logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from neuralchat.config.methods import METHODS
from neuralchat.errors import AdapterError
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.layers.quantized_linear import dequantize_linears, in_fp32

# How far, in norm, merged logits may be from unmerged ones: weights are rounded once more.
MERGE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
# So many as keep the logits of a large vocabulary small beside the weights.
TRIED_TOKENS, MADE_UP_TOKENS, TRIED_IDS = 128, 16, 1000


def check_mergeable(method: str) -> None:
    """Raises AdapterError, with the reason, where the method cannot be merged."""
    if method in METHODS and METHODS[method].mergeable:
        return
    reason = METHODS[method].unmergeable if method in METHODS else "PEFT cannot merge it"
    mergeable = ", ".join(row.name for row in METHODS.values() if row.mergeable)
    raise AdapterError(f"--peft {method} cannot be merged: {reason}. Methods that can: {mergeable}")


def merged(model: Any, method: str) -> Any:
    """See `measured_merge`."""
    return measured_merge(model, method)[0]


def measured_merge(
    model: Any, method: str, *, allow_lossy: bool = False, ids: Sequence[int] | None = None
) -> tuple[Any, str]:
    """(the base model with the adapter in its weights, a sentence on how far this moves logits).

    `ids`: of a text to try it on, of which the first TRIED_TOKENS are taken; else made-up tokens.

    Merged in fp32, then rounded to the dtype that the weights had; those that were kept in few bits become the numbers
    that training computed with. A head that is the embedding's matrix becomes one of
    its own where LoRA was put on either of them. Raises AdapterError where the method cannot be merged, and, unless
    `allow_lossy`, where the logits differ by more than rounding.
    """
    check_mergeable(method)
    dtype = base_model_of(model).dtype
    in_fp32(model.eval())
    tried = tried_ids(base_model_of(model), ids)
    expected = tried_logits(base_model_of(model), tried)
    dequantize_linears(model, torch.float32)
    untie_adapted_head(base_model_of(model))
    whole = model.merge_and_unload()
    exact = tried_logits(whole, tried)
    whole = whole.to(dtype)
    found = tried_logits(whole, tried)
    difference = float((found - expected).norm() / expected.norm())
    changed = int((found.argmax(-1) != expected.argmax(-1)).sum())
    if not allow_lossy and not difference <= MERGE_TOLERANCE.get(dtype, MERGE_TOLERANCE[torch.bfloat16]):
        raise AdapterError(
            f"the merged model is another one than base model and adapter: its logits differ by "
            f"{100 * difference:.2g} % of their size, and the likeliest next token at {changed} of {len(tried)} "
            "positions, more than rounding explains. Nothing was written; use the adapter as it is, or --allow_lossy"
        )
    told = f"merging moves no logit by more than {float((exact - expected).abs().max()):.1e}"
    if dtype != torch.float32:
        rounding = float((found - exact).abs().max())
        told += f"; storing and computing it in {str(dtype).removeprefix('torch.')} by up to {rounding:.2g}"
    text = "made-up tokens" if ids is None else "general prompts"
    size = float(expected.square().mean().sqrt())
    return whole, (
        f"{told}, where they are about {size:.2g} in size: the logits differ by {100 * difference:.2g} % in all, the "
        f"likeliest next token at {changed} of {len(tried)} positions of {text}"
    )


def tried_ids(base: Any, ids: Sequence[int] | None) -> torch.Tensor:
    """[T] int64, on the model's device."""
    if ids is not None:
        return torch.tensor(ids[:TRIED_TOKENS], device=base.device)
    rows = base.get_input_embeddings().weight.shape[0]
    made_up = torch.randint(min(rows, TRIED_IDS), (MADE_UP_TOKENS,), generator=torch.Generator().manual_seed(0))
    return made_up.to(base.device)


@torch.inference_mode()
def tried_logits(base: Any, ids: torch.Tensor | None = None) -> torch.Tensor:
    """Logits [T, V] in fp32, of ids: [T], else of a few made-up ones."""
    ids = (tried_ids(base, None) if ids is None else ids)[None]
    decoder = {"decoder_input_ids": ids} if is_encoder_decoder(base.config) else {}
    return base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **decoder).logits[0].float()


def untie_adapted_head(base: Any) -> None:
    """Give head and embedding, if they share a matrix and LoRA is on one of them, a matrix each: two sums do not fit
    into one.
    """
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    plain_embedding, plain_head = (getattr(module, "base_layer", module) for module in (embedding, head))
    adapted = plain_embedding is not embedding or plain_head is not head
    if head is None or not adapted or plain_head.weight is not plain_embedding.weight:
        return
    plain_head.weight = torch.nn.Parameter(plain_embedding.weight.detach().clone(), requires_grad=False)
    base.config.tie_word_embeddings = False
    base.config.get_text_config().tie_word_embeddings = False
