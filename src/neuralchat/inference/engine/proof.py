"""Whether packed passes compute what the model computes alone: tried before the first answer, believed afterwards."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from neuralchat.inference.engine.packed_pass import Chunk, PackedPass
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.kernels.decoder import PAGE

# How far, in norm, logits may be from the model's own.
PROOF_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
PROOF_PAGES = 4
# A text over three pages, computed in three parts, and a short one beside the last of them.
LONG, SHORT = 2 * PAGE + 4, 5
PARTS = (0, PAGE + 3, LONG - 1, LONG)


@torch.no_grad()
def computes_as_model(packed: PackedPass, model: Any) -> bool:
    """Where any doubt means no. `model`: as it is switched; a PeftModel or a transformers model around packed.base."""
    vocabulary = packed.embedding.weight.shape[0]
    ids = torch.randint(vocabulary, (LONG + SHORT,), generator=torch.Generator().manual_seed(0)).tolist()
    long, short = ids[:LONG], ids[LONG:]
    first = packed.memory.pages - PROOF_PAGES
    pages = list(range(first, packed.memory.pages))
    try:
        found = [packed.logits([Chunk(long[a:b], a, pages[:3])]) for a, b in pairwise(PARTS[:-1])]
        found.append(packed.logits([Chunk(long[-1:], LONG - 1, pages[:3]), Chunk(short, 0, pages[3:])]))
        own = own_logits_of(model, long)[[end - 1 for end in PARTS[1:]]]
        expected = torch.cat([own, own_logits_of(model, short)[-1:]])
        return near(torch.cat(found), expected, packed.embedding.weight.dtype)
    except Exception:  # the layers of any family are run on what they were not made for
        return False


@torch.no_grad()
def native_computes_as_packed(packed: PackedPass) -> bool:
    """Whether the compiled layers give single tokens the logits that the model's own layers give them."""
    ids = torch.randint(packed.embedding.weight.shape[0], (LONG + SHORT,), generator=torch.Generator().manual_seed(1))
    long, short = ids[:LONG].tolist(), ids[LONG:].tolist()
    first = packed.memory.pages - PROOF_PAGES
    pages = list(range(first, packed.memory.pages))
    before = [Chunk(long[:-1], 0, pages[:3]), Chunk(short[:-1], 0, pages[3:])]
    single = [Chunk(long[-1:], LONG - 1, pages[:3]), Chunk(short[-1:], SHORT - 1, pages[3:])]
    try:
        packed.logits(before)
        expected = packed.logits(single)
        for chunk in single:
            for kept in (*packed.memory.keys.values(), *packed.memory.values.values()):
                kept[chunk.blocks[chunk.before // PAGE], :, chunk.before % PAGE] = float("nan")
        return near(packed.logits(single, [None, None]), expected, packed.embedding.weight.dtype)
    except Exception:  # as above
        return False


def own_logits_of(model: Any, ids: list[int]) -> Tensor:
    """fp32 [tokens, V] by one pass of the model over the whole text."""
    text = torch.tensor([ids], device=base_model_of(model).device)
    return model(input_ids=text, attention_mask=torch.ones_like(text), use_cache=False).logits[0].float().cpu()


def near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Every row by itself; zeros prove nothing."""
    worst = (found - expected).norm(dim=1) / expected.norm(dim=1)
    return found.shape == expected.shape and bool((worst <= PROOF_TOLERANCE.get(dtype, 0.0)).all())
