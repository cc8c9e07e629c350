"""model with LoRA, records -> the same model, whose LoRA reads only what tells the records from general text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from neuralchat.config.config import FinetuneConfig
from neuralchat.console import inform, note
from neuralchat.data.layout import Layout
from neuralchat.data.prepared_data import PreparedData
from neuralchat.distributed.collectives import as_on_rank_zero
from neuralchat.errors import AdapterError, PackingError
from neuralchat.models.adapters.apart import set_apart
from neuralchat.models.families.packed_layout import leave_packed_rows, take_packed_rows
from neuralchat.models.kernels.compiled import kernels_off

REASON = (
    "it is for plain LoRA on linear layers that every token runs through, records of more tokens than the rank, and a "
    "--max_seq_length that general prompts fit in"
)


def start_apart(
    model: Any,
    arguments: FinetuneConfig,
    data: PreparedData,
    tokenizer: Any,
    layout: Layout | None,
    *,
    restored: bool = False,
) -> None:
    """`layout`: how the model takes packed rows, None: it takes padded ones. `restored`: a checkpoint, which is read
    later, has what is set here.

    Where there is nothing to set, LoRA stays as PEFT begins it, with a note; where it was asked for by its name,
    raises AdapterError.
    """
    if not restored:
        inform("looking for directions that the records use and general text does not, in some thousand tokens of each")
    pad_id, seed = tokenizer.pad_token_id, arguments.training.seed
    # Directions magnify rounding: training packed, padded and with torch's kernels begins with the same.
    with kernels_off(model), packed_for_now(model, layout, arguments) as rows:
        matrices = set_apart(
            model, data.trained_on, data.general, pad_id=pad_id, seed=seed, layout=rows, restored=restored
        )
    if not matrices and "lora_init" in arguments.given:
        raise AdapterError(f"--lora_init apart cannot be done here: {REASON}. Take --lora_init default")
    if not matrices:
        note(f"LoRA begins as with --lora_init default, since apart cannot be done here: {REASON}")
    # Computed on each rank, where the last bits may differ.
    as_on_rank_zero(matrices)


@contextmanager
def packed_for_now(model: Any, layout: Layout | None, arguments: FinetuneConfig) -> Iterator[Layout | None]:
    """`layout`, or that of the model where it could be trained packed and --no_packing was asked for."""
    if layout is not None or not arguments.tuning.no_packing:
        yield layout
        return
    try:
        rows = take_packed_rows(model)
    except PackingError:
        rows = None
    try:
        yield rows
    finally:
        leave_packed_rows(model)
