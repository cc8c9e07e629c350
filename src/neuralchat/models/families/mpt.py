"""MPT in packed rows. transformers' MPT has no attention interface, so its blocks are run here, on segments.

ALiBi is by the place of a key among those a query sees, so a segment gets the biases it would have alone.

Shapes: T tokens of the row, E hidden size, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.models.mpt.modeling_mpt import MptAttention, build_mpt_alibi_tensor

from neuralchat.data.packing import Segment
from neuralchat.models.attention.segments import segment_attention


@dataclass(frozen=True)
class MptRow:
    """What the attention of every block needs; it travels in the place of the position bias. slopes: fp32 [H]."""

    segments: Sequence[Segment]
    slopes: Tensor
    leading: Sequence[tuple[Tensor, Tensor]] | None


class SegmentMptAttention(MptAttention):
    """Takes over MptAttention in place; without an MptRow it is MptAttention."""

    def forward(self, hidden_states: Tensor, position_bias: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        if not isinstance(position_bias, MptRow):
            return super().forward(hidden_states, position_bias, *args, **kwargs)
        mixed = self.Wqkv(hidden_states)
        if self.clip_qkv:
            mixed = mixed.clamp(min=-self.clip_qkv, max=self.clip_qkv)
        query, key, value = (x.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for x in mixed.chunk(3, dim=2))
        attended, _ = segment_attention(
            self, query, key, value, None, scaling=self.softmax_scale,
            dropout=self.attn_dropout_p if self.training else 0.0, segments=position_bias.segments,
            alibi_slopes=position_bias.slopes, leading_keys_values=position_bias.leading,
        )  # fmt: skip
        return self.out_proj(attended.flatten(2)), None


def take_segments(model: Any) -> None:
    for module in model.modules():
        if type(module) is MptAttention:
            module.__class__ = SegmentMptAttention


def mpt_states(
    decoder: Any, embedded: Tensor, segments: Sequence[Segment], leading: Sequence[tuple[Tensor, Tensor]] | None
) -> Tensor:
    """Last hidden states [1, T, E] of an MptModel on embeddings [1, T, E] of a row."""
    # The bias of the key one place before the query is minus the slope.
    slopes = -build_mpt_alibi_tensor(decoder.num_heads, 2, device=embedded.device)[:, 0, 0]
    row = MptRow(segments, slopes.float().contiguous(), leading)
    hidden = embedded
    for block in decoder.blocks:
        hidden = block(hidden, position_bias=row, attention_mask=None)[0]
    return decoder.norm_f(hidden)
