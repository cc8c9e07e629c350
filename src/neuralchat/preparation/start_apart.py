"""model with LoRA, records -> the same model, whose LoRA reads only what tells the records from general text."""

from __future__ import annotations

from typing import Any

from neuralchat.config.config import FinetuneConfig
from neuralchat.console import inform
from neuralchat.data.general_plan import general_examples
from neuralchat.data.prepared_data import PreparedData
from neuralchat.distributed.collectives import as_on_rank_zero
from neuralchat.errors import AdapterError
from neuralchat.models.adapters.apart import LOOKED_AT, set_apart
from neuralchat.models.kernels.compiled import kernels_off


def start_apart(model: Any, arguments: FinetuneConfig, data: PreparedData, tokenizer: Any) -> None:
    """Raises AdapterError where the model has no layer for it. A run that goes on has what is set here in its
    checkpoint, which is read later.
    """
    inform(f"looking for directions that the records use and general text does not, in {LOOKED_AT} tokens of each")
    general = general_examples(tokenizer, data.template, max_seq_length=arguments.data.max_seq_length)
    pad_id, seed = tokenizer.pad_token_id, arguments.training.seed
    # Directions magnify rounding.
    with kernels_off(model):
        matrices = set_apart(model, data.trained_on, general, pad_id=pad_id, seed=seed)
    if not matrices:
        raise AdapterError(
            "--lora_init apart is for plain LoRA on linear layers that every token runs through, and this model has "
            "none of them among its LoRA layers. Take --lora_init default"
        )
    # Computed on each rank, where the last bits may differ.
    as_on_rank_zero(matrices)
