"""batch -> loss sum of a causal model: packed rows through segments, padded batches through the model's forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralchat.data.packing import PackedBatch, pack, padded, split_by_tokens
from neuralchat.data.tokenization import Example
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.teacher import Teacher
from neuralchat.models.adapters.virtual_tokens import embed_row, leading_keys_values
from neuralchat.models.families.table import family_of
from neuralchat.models.losses.divergence import divergence_sum
from neuralchat.models.losses.head import head_of
from neuralchat.models.losses.supervised import plain_head, supervised_loss


def causal_packed_loss_sum(model: Any, batch: PackedBatch, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum of the cross entropies of all targets of `batch`. `model`: a causal LM or a PeftModel around one.

    The model must have been made ready by take_packed_rows.
    """
    return loss_of_states(model, row_states(model, batch), batch, label_smoothing=label_smoothing)


def causal_packed_sums(
    model: Any, batch: PackedBatch, known: KnownStates, *, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(the same sum, sum of the divergences from `known` over the compared predictions), by one forward."""
    states = row_states(model, batch)
    loss = loss_of_states(model, states, batch, label_smoothing=label_smoothing)
    if not len(batch.compared_positions):
        return loss, torch.zeros_like(loss)
    compared, head = predictions(model, states, batch.compared_positions)
    numbers = torch.from_numpy(batch.compared_numbers).to(known.states.device)
    return loss, divergence_sum(compared, head, known.states[numbers], known.head, grad=torch.is_grad_enabled())


def loss_of_states(model: Any, states: Tensor, batch: PackedBatch, *, label_smoothing: float) -> Tensor:
    if not len(batch.target_positions):
        # General prompts only.
        return states.new_zeros((), dtype=torch.float32)
    targets, head = predictions(model, states, batch.target_positions)
    ids = torch.from_numpy(batch.target_ids).to(targets.device)
    return supervised_loss(targets, head, ids, label_smoothing=label_smoothing, grad=torch.is_grad_enabled())


def row_states(model: Any, batch: PackedBatch) -> Tensor:
    """The hidden states [T, E] of a packed row."""
    base = base_model_of(model)
    embedding = base.get_input_embeddings()
    ids = torch.from_numpy(batch.input_ids)[None].to(embedding.weight.device)
    packed_states = family_of(base.config).packed_states
    assert packed_states is not None, "the layout says that this family takes packed rows"
    return packed_states(base, embed_row(model, embedding, ids), batch, leading_keys_values(model))[0]


def predictions(model: Any, states: Tensor, positions: np.ndarray) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """(the states [N, E] at int64 positions [N], the function from them to logits [N, V])."""
    chosen = states.index_select(0, torch.from_numpy(positions).to(states.device))
    head = head_of(base_model_of(model), chosen.dtype)
    return chosen if head.scale == 1.0 else chosen * head.scale, head.module or head.own


@dataclass(frozen=True)
class KnownStates:
    """What the base model says at the compared places of general prompts.

    states: [M, E], from which `head` makes the logits of the M predictions, as they were before training.
    """

    states: Tensor
    head: Callable[[Tensor], Tensor]


# Tokens of a row in which the base model is asked: whatever training computes at once, what it says stays the same.
ASKED_AT_ONCE = 1024


def causal_known_states(model: Any, teacher: Teacher, groups: Sequence[Sequence[Example]]) -> KnownStates:
    """Those of the examples of `groups`, whose targets are numbered from 0; numbers that are left out have none."""
    found: list[tuple[np.ndarray, Tensor]] = []
    with teacher.at_hand(model) as base:
        for rows in (rows for group in groups for rows in split_by_tokens(group, ASKED_AT_ONCE)):
            batch = pack(rows)
            states, base_head = predictions(base, row_states(base, batch), batch.compared_positions)
            found.append((batch.compared_numbers, states))

    def head_without_adapter(states: Tensor) -> Tensor:
        with teacher.at_hand(model):
            return base_head(states)

    # Of a copy nothing else is needed any more; a bare matrix has no adapter that would have to be switched off.
    bare = teacher.copy is not None or plain_head(base_head)
    head = torch.no_grad()(base_head) if bare else head_without_adapter
    numbers = torch.from_numpy(np.concatenate([numbers for numbers, _ in found]))
    states = torch.cat([states for _, states in found])
    table = states.new_zeros(int(numbers.max()) + 1, states.shape[1])
    table[numbers.to(table.device)] = states
    return KnownStates(table, head)


def causal_padded_loss_sum(
    model: Any, examples: Sequence[Example], *, pad_id: int, label_smoothing: float = 0.0
) -> Tensor:
    """The same sum by the model's own forward on a right-padded batch: slow, works for every family and method."""
    logits, target_ids = padded_logits(model, examples, pad_id=pad_id)
    return torch.nn.functional.cross_entropy(
        logits.float(), target_ids, reduction="sum", label_smoothing=label_smoothing
    )


def padded_logits(model: Any, examples: Sequence[Example], *, pad_id: int) -> tuple[Tensor, Tensor]:
    """(logits [N, V], ids [N]) of the targets of a right-padded batch."""
    ids = padded([example.input_ids for example in examples], pad_id)
    mask = padded([np.ones(len(example.input_ids)) for example in examples], 0)
    supervised = padded([example.supervised for example in examples], 0)
    width = ids.shape[1]
    base = base_model_of(model)
    device = base.get_input_embeddings().weight.device
    input_ids = torch.from_numpy(ids).to(device)
    logits = model(input_ids=input_ids, attention_mask=torch.from_numpy(mask).to(device), use_cache=False).logits
    # Virtual tokens of prompt methods stand before the text; positions are counted from the end.
    rows, columns = (torch.from_numpy(x).to(device) for x in np.nonzero(supervised))
    return logits[:, logits.shape[1] - width :][rows, columns - 1], input_ids[rows, columns]


def causal_padded_divergence_sum(model: Any, teacher: Teacher, examples: Sequence[Example], *, pad_id: int) -> Tensor:
    """Sum of KL(teacher || model) over the targets of a right-padded batch, by the forwards of both."""
    with teacher.at_hand(model) as base:
        known, _ = padded_logits(base, examples, pad_id=pad_id)
    logits, _ = padded_logits(model, examples, pad_id=pad_id)
    found, known = (torch.log_softmax(x.float(), dim=1) for x in (logits, known))
    return torch.nn.functional.kl_div(found, known, reduction="sum", log_target=True)
