"""model -> how its micro-batches are packed, proven; or a note why they are padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from neuralchat.config.config import FinetuneConfig
from neuralchat.console import inform, note
from neuralchat.data.layout import Layout
from neuralchat.data.prepared_data import PreparedData
from neuralchat.data.tokenization import Example
from neuralchat.distributed.collectives import all_gather_object
from neuralchat.errors import PackingError
from neuralchat.models.adapters.build import add_adapter, base_model_of
from neuralchat.models.adapters.rehearsal import skeleton_of
from neuralchat.models.families.packed_layout import leave_packed_rows, take_packed_rows
from neuralchat.models.loading.precision import Precision
from neuralchat.planning.packing_proof import proof_examples, prove_packing


def prepare_packing(
    model: Any, arguments: FinetuneConfig, data: PreparedData, tokenizer: Any, precision: Precision
) -> Layout | None:
    """Prove packing; returns how micro-batches are packed, None for padded ones.

    A model that does not take packed rows trains with padded batches, told in one note. Raises PackingError instead
    where --verify_packing was given.
    """
    tuning = arguments.tuning
    if tuning.no_packing:
        return None
    examples = proof_examples(data.trained_on) if tuning.verify_packing else []
    layout, reason = proven_layout(model, examples, pad_id=tokenizer.pad_token_id, dtype=precision.compute)
    # Every rank must train alike.
    reason = next((reason for reason in all_gather_object(reason) if reason is not None), None)
    if reason is None:
        return layout
    family = type(base_model_of(model)).__name__
    asked = "verify_packing" in arguments.given and tuning.verify_packing and tuning.from_run is None
    if asked:
        raise PackingError(
            f"{family} cannot be trained packed: {reason}. Leave out --verify_packing to train it padded"
        )
    leave_packed_rows(model)
    rows = "; --dataset_concatenation has no effect" if arguments.data.dataset_concatenation else ""
    note(f"{family} trains with padded batches, which is slower: {reason}{rows}")
    return None


def proven_layout(
    model: Any, examples: Sequence[Example], *, pad_id: int, dtype: torch.dtype
) -> tuple[Layout | None, str | None]:
    """(layout, None), or the reason why the model cannot be packed. No examples: it is not proven."""
    try:
        layout = take_packed_rows(model)
        if layout is None:
            return None, "its layers do not attend through transformers' attention interface alone"
        if examples:
            worst = prove_packing(model, layout, examples, pad_id=pad_id, dtype=dtype)
            inform(f"packing is exact: largest difference {worst:.0e}")
        return layout, None
    except PackingError as error:
        return None, str(error)


def layout_without_weights(arguments: FinetuneConfig, config: Any) -> Layout | None:
    """The layout that `prepare_packing` takes where packing proves exact, by a model that takes no memory.

    Raises ModelError where transformers has no class for the configuration.
    """
    tuning = arguments.tuning
    if tuning.no_packing:
        return None
    model = skeleton_of(config)
    if tuning.method.virtual_tokens:
        with torch.device("meta"):
            model = add_adapter(model, tuning, tell=lambda _text: None)
    return take_packed_rows(model)
