"""MPT in packed rows. transformers' MPT has no attention interface, so its blocks are run here, on segments.

ALiBi is by the place of a key among those a query sees, so a segment gets the biases it would have alone.

Shapes: T tokens of the row, E hidden size, H heads, D head size, P leading keys (prefix tuning).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from neuralchat.data.packing import PackedBatch, Segment
from neuralchat.models.attention.segments import segment_attention
from neuralchat.models.compat.transformers_models import MptAttention


@dataclass(frozen=True)
class MptRow:
    """What the attention of every block needs, passed as its position bias.

    alibi_slopes: fp32 [H]. leading: keys and values [1, H, P, D] of each block.
    """

    segments: Sequence[Segment]
    alibi_slopes: Tensor
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
            self,
            query,
            key,
            value,
            None,
            scaling=self.softmax_scale,
            dropout=self.attn_dropout_p if self.training else 0.0,
            segments=position_bias.segments,
            alibi_slopes=position_bias.alibi_slopes,
            leading_keys_values=position_bias.leading,
        )
        return self.out_proj(attended.flatten(2)), None


def take_mpt_attention(base: Any) -> bool:
    for module in base.modules():
        if type(module) is MptAttention:
            module.__class__ = SegmentMptAttention
    return True


def packed_mpt_states(
    base: Any, embedded: Tensor, batch: PackedBatch, leading: Sequence[tuple[Tensor, Tensor]] | None
) -> Tensor:
    """Last hidden states [1, T, E] of an MPT model on embeddings [1, T, E] of a row."""
    decoder = base.base_model
    # The bias of the key one place before the query is minus the slope.
    slopes = -decoder.build_mpt_alibi_tensor(decoder.num_heads, 2, device=embedded.device)[:, 0, 0]
    row = MptRow(batch.segments, slopes.float().contiguous(), leading)
    hidden = embedded
    for block in decoder.blocks:
        hidden = block(hidden, position_bias=row, attention_mask=None)[0]
    return decoder.norm_f(hidden)


def mpt_prompt_sizes(config: Any) -> dict[str, int]:
    """The sizes that PEFT's prompt methods read from most configurations, which MPT's has under other names."""
    return {"num_layers": config.n_layers, "token_dim": config.d_model, "num_attention_heads": config.n_heads}
