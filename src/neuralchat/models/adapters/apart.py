"""LoRA's first matrices, set where the records differ most from general text, and left there.

A of a layer maps its input x [I] to r numbers, of which B makes what the adapter adds. What the adapter does to general
text is bounded by what A says of it. So A's rows span the r directions a in which the inputs of the layer are largest
for the records against those for general text,

    maximise  mean (a . x_records)^2 / (mean (a . x_general)^2 + DAMPING * mean square of x_general)

the first of the generalized eigenvectors of the two second moments (Fisher 1936; for LoRA a subspace that is weighed in
a similar way is in https://arxiv.org/abs/2505.23724). Only B is trained; A would leave these directions within a few
steps.

Shapes: N tokens, I inputs of a layer, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralchat.data.packing import padded
from neuralchat.data.tokenization import Example
from neuralchat.models.adapters.build import adapter_off, base_model_of
from neuralchat.models.compat.peft import LoraLinear, plain_lora

# The part of the mean square of the inputs that counts as noise in every direction.
DAMPING = 0.01
# Tokens of the records, and as many of general text, that are looked at: as many as their inputs to the widest layer
# take in LOOKED_AT_BYTES of fp32, within bounds; and of one example at most.
LOOKED_AT_BYTES, FEWEST, MOST, LONGEST = 2**27, 4096, 16384, 96
# Of the randomized search for the directions (https://arxiv.org/abs/0909.4061).
OVERSAMPLING, ROUNDS = 8, 4


def set_apart(
    model: Any,
    records: Sequence[Example],
    general: Sequence[Example],
    *,
    pad_id: int,
    seed: int,
    restored: bool = False,
) -> list[Tensor]:
    """Set A of every plain LoRA layer that a text runs through, and train it no more; returns these matrices.

    The model is PEFT's, with nothing trained yet, and takes padded batches. `restored`: a checkpoint has what the
    matrices hold, so it is only found which layers they are of.
    """
    # Asked here, since a layer whose adapter is switched off has no plain LoRA.
    loras = {layer: lora for layer in model.modules() if isinstance(layer, LoraLinear) and (lora := plain_lora(layer))}
    looked_at = tokens_looked_at(max((lora.a.shape[-1] for lora in loras.values()), default=1))
    of_each = [beginnings(examples, seed, looked_at) for examples in (records, general)]
    if not all(of_each):
        return []
    tokens_of_records = sum(map(len, of_each[0]))
    if restored:
        of_each = [of_each[0][:1], []]
    rows = [*of_each[0], *of_each[1]]
    ids = torch.from_numpy(padded(rows, pad_id))
    mask = torch.from_numpy(padded([np.ones(len(row)) for row in rows], 0)).bool()
    device = base_model_of(model).get_input_embeddings().weight.device
    of_records, of_general = mask.clone(), mask.clone()
    of_records[len(of_each[0]) :] = False
    of_general[: len(of_each[0])] = False
    shared: dict[str, Any] = {}
    found: list[Tensor] = []

    def look(layer: Any, inputs: tuple[Any, ...]) -> None:
        x, a = inputs[0], loras[layer].a
        # Experts are given the tokens that are theirs only.
        if x.shape[:2] != mask.shape or len(a) > min(x.shape[-1], tokens_of_records):
            return
        found.append(a)
        if restored:
            return
        # Layers side by side (query, key, value) have one input.
        if shared.get("input") is not x:
            x_records, x_general = (x[chosen.to(x.device)].float() for chosen in (of_records, of_general))
            shared.update(input=x, directions=directions(x_records, x_general, len(a)))
        a.copy_(equal_rows(shared["directions"]))

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        hooks = [layer.register_forward_pre_hook(look) for layer in loras]
        try:
            with adapter_off(model) as base:
                base.base_model(input_ids=ids.to(device), attention_mask=mask.long().to(device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
    for matrix in found:
        matrix.requires_grad_(False)
    return found


def directions(records: Tensor, general: Tensor, rank: int) -> Tensor:
    """[I, r], whose columns span what `records` [N, I] are large in against `general` [N, I].

    >>> general = torch.tensor([[10.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> records = torch.tensor([[10.0, 2.0, 0.0]])
    >>> found = directions(records, general, 1)[:, 0]
    >>> bool(found[1] > 10 * found[0])
    True
    """
    moment = general.t() @ general / len(general)
    moment.diagonal().add_(DAMPING * moment.diagonal().mean())
    root = torch.linalg.cholesky(moment)
    whitened = torch.linalg.solve_triangular(root, records.t(), upper=False)
    wanted = min(rank + OVERSAMPLING, *whitened.shape)
    left, _, _ = torch.svd_lowrank(whitened, q=wanted, niter=ROUNDS)
    return torch.linalg.solve_triangular(root.t(), left[:, :rank], upper=True)


def equal_rows(columns: Tensor) -> Tensor:
    """[r, I]: rows that span what `columns` [I, r] span, none more important than another, as large as PEFT's own.

    They are the same whichever way round the columns are turned within what they span, so that rounding, which may
    decide that, does not reach the result.
    """
    # Drawn on the CPU, for any device alike.
    drawn = torch.randn(columns.shape).to(columns)
    rotation, triangle = torch.linalg.qr(columns.t() @ drawn)
    rows = (columns @ (rotation * triangle.diagonal().sign())).t()
    return rows / rows.norm(dim=1, keepdim=True) / math.sqrt(3)


def tokens_looked_at(widest: int) -> int:
    """Of each kind of text, where `widest` is the number of inputs of the widest layer.

    >>> tokens_looked_at(1536), tokens_looked_at(4096), tokens_looked_at(11008)
    (16384, 8192, 4096)
    """
    return min(MOST, max(FEWEST, LOOKED_AT_BYTES // (4 * widest)))


def beginnings(examples: Sequence[Example], seed: int, tokens_at_most: int) -> list[np.ndarray]:
    """Those of some of them, drawn with `seed`: ids, about `tokens_at_most` together."""
    chosen, tokens = [], 0
    for index in np.random.default_rng(seed).permutation(len(examples)):
        if tokens >= tokens_at_most:
            break
        chosen.append(examples[int(index)].input_ids[:LONGEST])
        tokens += len(chosen[-1])
    return chosen
