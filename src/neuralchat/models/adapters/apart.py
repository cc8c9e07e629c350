"""LoRA's first matrices, set where the records differ most from general text, and left there.

A of a layer maps its input x [I] to r numbers, of which B makes what the adapter adds. What the adapter does to general
text is bounded by what A says of it. So A's rows span the r directions a in which the inputs of the layer are largest
for the records against those for general text,

    maximise  mean (a . x_records)^2 / (mean (a . x_general)^2 + DAMPING * mean square of x_general)

the first of the generalized eigenvectors of the two second moments (Fisher 1936; for LoRA a subspace that is weighed in
a similar way is in https://arxiv.org/abs/2505.23724). Only B is trained; A would leave these directions within a few
steps.

Texts of one template begin alike. Where rows are packed, such a beginning is computed once and counted as often as it
stands there.

Shapes: T tokens of all rows, N of one kind, I inputs of a layer, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralchat.data.layout import Layout
from neuralchat.data.packing import PackedBatch, padded
from neuralchat.data.tokenization import Example
from neuralchat.models.adapters.build import adapter_off
from neuralchat.models.compat.peft import LoraLinear, plain_lora
from neuralchat.models.families.table import family_of

# The part of the mean square of the inputs that counts as noise in every direction.
DAMPING = 0.01
# Tokens of general text that are looked at: as many as their inputs to the widest layer take in LOOKED_AT_BYTES of
# fp32, within bounds; and of one example at most. Of the records half as many do, since of them only a few large
# directions are wanted, of general text all that are small (benchmarks/LOG.md).
LOOKED_AT_BYTES, FEWEST, MOST, LONGEST = 2**27, 6144, 16384, 96
# Of the randomized search for the directions (https://arxiv.org/abs/0909.4061).
OVERSAMPLING, ROUNDS = 8, 4
# Columns of a moment that are computed at once.
BLOCK = 256
# Where the examples that are looked at come from.
RECORDS, GENERAL = "records", "general"


@dataclass(frozen=True)
class LaidTexts:
    """What the base model is to compute, and of which kind each token is.

    `shape`: the leading two dimensions of what its layers are given. `of_records`, `of_general`: int64 [T], how many
    examples of this kind the token stands in. `run`: its forward pass, given the base model.
    """

    shape: tuple[int, int]
    of_records: Tensor
    of_general: Tensor
    run: Callable[[Any], Any]


def set_apart(
    model: Any,
    records: Sequence[Example],
    general: Sequence[Example],
    *,
    pad_id: int,
    seed: int,
    layout: Layout | None = None,
    restored: bool = False,
) -> list[Tensor]:
    """Set A of every plain LoRA layer that a text runs through, and train it no more; returns these matrices.

    The model is PEFT's, with nothing trained yet; `layout`: in which it takes packed rows, None: padded ones.
    `restored`: a checkpoint has what the matrices hold, so it is only found which layers they are of.
    """
    # Asked here, since a layer whose adapter is switched off has no plain LoRA.
    loras = {layer: lora for layer in model.modules() if isinstance(layer, LoraLinear) and (lora := plain_lora(layer))}
    at_most = tokens_looked_at(max((lora.a.shape[-1] for lora in loras.values()), default=1))
    of_records = beginnings(records, seed, at_most // 2, RECORDS)
    of_general = beginnings(general, seed, at_most, GENERAL)
    if not of_records or not of_general:
        return []
    tokens_of_records = sum(len(example.input_ids) for example in of_records)
    chosen = of_records[:1] if restored else [*of_records, *of_general]
    texts = in_padded_rows(chosen, pad_id) if layout is None else in_packed_row(chosen, layout)
    shared: dict[str, Any] = {}
    found: list[Tensor] = []

    def look(layer: Any, inputs: tuple[Any, ...]) -> None:
        x, a = inputs[0], loras[layer].a
        # Experts are given the tokens that are theirs only.
        if x.shape[:2] != texts.shape or len(a) > min(x.shape[-1], tokens_of_records):
            return
        found.append(a)
        if restored:
            return
        # Layers side by side (query, key, value) have one input.
        if shared.get("input") is not x:
            records, general = (weighted(x, counts) for counts in (texts.of_records, texts.of_general))
            shared.update(input=x, directions=directions(records, general, len(a)))
        a.copy_(equal_rows(shared["directions"]))

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        hooks = [layer.register_forward_pre_hook(look) for layer in loras]
        try:
            with adapter_off(model) as base:
                texts.run(base)
        finally:
            for hook in hooks:
                hook.remove()
    for matrix in found:
        matrix.requires_grad_(False)
    return found


def in_padded_rows(examples: Sequence[Example], pad_id: int) -> LaidTexts:
    rows = [example.input_ids for example in examples]
    ids = torch.from_numpy(padded(rows, pad_id))
    mask = torch.from_numpy(padded([np.ones(len(row)) for row in rows], 0))
    of_records = mask.clone()
    of_records[[example.source != RECORDS for example in examples]] = 0

    def run(base: Any) -> None:
        device = base.get_input_embeddings().weight.device
        base.base_model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)

    return LaidTexts((ids.shape[0], ids.shape[1]), of_records.flatten(), (mask - of_records).flatten(), run)


def in_packed_row(examples: Sequence[Example], layout: Layout) -> LaidTexts:
    """The model must have been made ready by take_packed_rows."""
    row = layout.pack(examples)
    assert isinstance(row, PackedBatch), "general prompts are for causal models"
    counts = {kind: torch.zeros(len(row.input_ids), dtype=torch.int64) for kind in (RECORDS, GENERAL)}
    for segment, source in zip(row.segments, row.segment_sources, strict=True):
        # What several share is counted by each of them.
        if source:
            counts[source][segment.start : segment.end] += 1
            counts[source][segment.prefix_start : segment.prefix_end] += 1

    def run(base: Any) -> None:
        embedding, packed_states = base.get_input_embeddings(), family_of(base.config).packed_states
        assert packed_states is not None, "the layout says that this family takes packed rows"
        ids = torch.from_numpy(row.input_ids)[None].to(embedding.weight.device)
        packed_states(base, embedding(ids), row, None)

    return LaidTexts((1, len(row.input_ids)), counts[RECORDS], counts[GENERAL], run)


def weighted(x: Tensor, counts: Tensor) -> Tensor:
    """[N, I] in fp32: of x [.., I] the tokens that count, so that the sum of their squares counts them so often."""
    places = counts.nonzero()[:, 0]
    rows = x.flatten(0, -2)[places.to(x.device)].float()
    return rows.mul_(counts[places].sqrt().to(rows)[:, None])


def directions(records: Tensor, general: Tensor, rank: int) -> Tensor:
    """[I, r], whose columns span what `records` [N, I] are large in against `general` [N, I].

    >>> general = torch.tensor([[10.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> records = torch.tensor([[10.0, 2.0, 0.0]])
    >>> found = directions(records, general, 1)[:, 0]
    >>> bool(found[1] > 10 * found[0])
    True
    """
    moment = moment_of(general)
    moment.diagonal().add_(DAMPING * moment.diagonal().mean())
    root = torch.linalg.cholesky(moment)
    # Of the whitened records, root^-1 records^T, which are wide, only products with a few columns are formed.
    basis = torch.randn(records.shape[1], min(rank + OVERSAMPLING, records.shape[1])).to(records)
    for _ in range(ROUNDS + 1):
        seen = records @ torch.linalg.solve_triangular(root.t(), basis, upper=True)
        basis = torch.linalg.qr(torch.linalg.solve_triangular(root, records.t() @ seen, upper=False))[0]
    unwhitened = torch.linalg.solve_triangular(root.t(), basis, upper=True)
    turn = torch.linalg.svd(torch.linalg.qr(records @ unwhitened, mode="r")[1])[2]
    return unwhitened @ turn[:rank].t()


def moment_of(rows: Tensor) -> Tensor:
    """rows^T rows [I, I] of rows [N, I], of which a half is computed and the other is the same."""
    moment = rows.new_empty(rows.shape[1], rows.shape[1])
    for start in range(0, rows.shape[1], BLOCK):
        stop = start + BLOCK
        moment[start:stop, :stop] = rows[:, start:stop].t() @ rows[:, :stop]
        moment[:start, start:stop] = moment[start:stop, :start].t()
    return moment


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
    """Of general text, where `widest` is the number of inputs of the widest layer.

    >>> tokens_looked_at(1536), tokens_looked_at(4096), tokens_looked_at(11008)
    (16384, 8192, 6144)
    """
    return min(MOST, max(FEWEST, LOOKED_AT_BYTES // (4 * widest)))


def beginnings(examples: Sequence[Example], seed: int, tokens_at_most: int, kind: str) -> list[Example]:
    """Those of some of them, drawn with `seed`, about `tokens_at_most` tokens together, as being of `kind`."""
    chosen, tokens = [], 0
    for index in np.random.default_rng(seed).permutation(len(examples)):
        if tokens >= tokens_at_most:
            break
        ids = examples[int(index)].input_ids[:LONGEST]
        chosen.append(Example(ids, np.zeros(len(ids), dtype=bool), kind))
        tokens += len(ids)
    return chosen
