"""The table of model families: how each takes packed rows, and where it needs something that others do not.

A new family is one row of FAMILIES. Nothing else in the package asks for the type of a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.families.attention_interface import packed_states, take_page_attention, take_segment_attention
from neuralchat.models.families.mpt import mpt_prompt_sizes, packed_mpt_states, take_mpt_attention
from neuralchat.models.families.t5 import packed_t5_states, take_t5_attention


def never(_base: Any) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row. Everything but `matches` has the value that fits most families."""

    name: str
    matches: Callable[[Any], bool]
    """Whether a model of this configuration belongs to the family; the first row that matches counts."""
    take_segments: Callable[[Any], bool] = never
    """Makes a base model ready for packed rows; False, with the model unchanged, where it cannot take them."""
    take_pages: Callable[[Any], bool] = never
    """The same for keys and values in pages, by which answers are computed together."""
    packed_states: Callable[..., Tensor] | None = None
    """Hidden states that the head takes: (base, embeddings, batch, leading) of a causal model; an encoder-decoder
    model has the embeddings of sources and of decoder inputs in the place of one."""
    prompt_sizes: Callable[[Any], dict[str, Any]] = lambda _config: {}
    """What PEFT's prompt methods must be told of the configuration because they do not find it there."""
    ia3_targets: dict[str, Any] | None = None
    """IA3Config's target_modules and feedforward_modules where PEFT has no entry for the model type."""
    counts_padding: bool = False
    """Positions count padding between a prefix and the text (ALiBi), so such prompts are answered one at a time."""

    def task_type(self, config: Any) -> str:
        """PEFT's name of what a model of this configuration does."""
        return "SEQ_2_SEQ_LM" if is_encoder_decoder(config) else "CAUSAL_LM"


def of_type(model_type: str) -> Callable[[Any], bool]:
    return lambda config: config.model_type == model_type


FAMILIES: tuple[Family, ...] = (
    Family(
        name="MPT",
        matches=of_type("mpt"),
        take_segments=take_mpt_attention,
        packed_states=packed_mpt_states,
        prompt_sizes=mpt_prompt_sizes,
        # Queries, keys and values in one, and the inner activation of the MLP.
        ia3_targets={"target_modules": ["Wqkv", "down_proj"], "feedforward_modules": ["down_proj"]},
        counts_padding=True,
    ),
    Family(name="T5", matches=of_type("t5"), take_segments=take_t5_attention, packed_states=packed_t5_states),
    # Packing of other encoder-decoder models is not proven: they train with padded batches.
    Family(name="other encoder-decoder", matches=is_encoder_decoder),
    Family(
        name="causal, with the attention interface",
        matches=lambda _config: True,
        take_segments=take_segment_attention,
        take_pages=take_page_attention,
        packed_states=packed_states,
    ),
)


def family_of(config: Any) -> Family:
    return next(family for family in FAMILIES if family.matches(config))
