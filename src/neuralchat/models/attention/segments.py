"""Attention inside segments of a packed row: causal within each, prefix attended by all that share it.

Entered through transformers' attention interface, so model classes stay untouched. No S x S mask is built. On CPU
the kernel compiled for the machine does it all (segment_kernel.py). Without a compiler a segment is one causal call
of torch's flash kernel, a shared prefix one call without a mask for all tokens that follow it, and the two are
merged by their log-sum-exp, which is exact (https://arxiv.org/abs/2205.14135, section 3).

Shapes: T tokens of the row, P leading keys without queries (virtual tokens of prefix tuning), H query heads, K
key/value heads (H a multiple of K), D head size. query [1, H, T, D]; key, value [1, K, P + T, D]; output [1, T, H, D].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from neuralchat.data.packing import Segment
from neuralchat.errors import PackingError
from neuralchat.models.attention.flex import flex_segments
from neuralchat.models.attention.segment_kernel import SegmentKernel, kernel_for
from neuralchat.models.compat.torch import flash_backward, flash_forward
from neuralchat.models.kernels.compiled import takes_kernels

SEGMENT_ATTENTION = "neuralchat_segments"
# Arguments some families hand to the interface that change the result and that segments do not compute.
UNSUPPORTED_ARGUMENTS = ("softcap", "s_aux", "position_bias")


def register() -> None:
    """Register SEGMENT_ATTENTION with transformers; called without segments, it computes transformers' own SDPA."""
    AttentionInterface.register(SEGMENT_ATTENTION, segment_attention)
    AttentionMaskInterface.register(SEGMENT_ATTENTION, AttentionMaskInterface()["sdpa"])


def no_mask(device: torch.device) -> Tensor:
    """What to pass as attention_mask with segments: a mask of four dimensions is never expanded to S x S."""
    return torch.zeros(1, 1, 1, 1, device=device)


def segment_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Sequence[Segment] | None = None,
    sliding_window: int | None = None,
    alibi_slopes: Tensor | None = None,
    leading_keys_values: Sequence[tuple[Tensor, Tensor]] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention interface. Raises PackingError for what a family asks beyond plain attention.

    `leading_keys_values`: for each layer the keys and values [1, K, P, D] that all tokens of the row see first.
    """
    if segments is None:
        kwargs |= {"scaling": scaling, "dropout": dropout, "sliding_window": sliding_window}
        return AttentionInterface()["sdpa"](module, query, key, value, attention_mask, **kwargs)
    asked = [name for name in UNSUPPORTED_ARGUMENTS if kwargs.get(name) is not None]
    if asked or not getattr(module, "is_causal", True):
        raise PackingError(
            f"{type(module).__name__} needs {', '.join(asked) or 'attention in both directions'}, which packed "
            "attention does not compute; train it with --no_packing"
        )
    if leading_keys_values is not None:
        leading_keys, leading_values = leading_keys_values[int(module.layer_idx)]  # type: ignore[arg-type]
        key = torch.cat([leading_keys.to(key.dtype), key], dim=2)
        value = torch.cat([leading_values.to(value.dtype), value], dim=2)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    leading = key.shape[2] - query.shape[2]
    windowed = sliding_window is not None and any(
        leading + s.end - s.start + s.prefix_end - s.prefix_start > sliding_window for s in segments
    )
    if not dropout and not windowed:
        kernel = kernel_for(query) if takes_kernels(module) else None
        if kernel is not None:
            return CompiledSegments.apply(query, key, value, tuple(segments), scale, alibi_slopes, kernel), None
        if query.device.type == "cpu" and alibi_slopes is None and not leading:
            return FlashSegments.apply(query, key, value, tuple(segments), scale), None
    window = sliding_window if windowed else None
    if query.is_cuda and not dropout:
        return flex_segments(query, key, value, tuple(segments), scale, window, alibi_slopes), None
    return dense_segments(query, key, value, segments, scale, dropout, window, alibi_slopes), None


def dense_segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Sequence[Segment],
    scale: float,
    dropout: float,
    window: int | None,
    slopes: Tensor | None,
) -> Tensor:
    """Segment by segment through SDPA with a small mask each; works on any device, with dropout, windows and ALiBi."""
    leading = key.shape[2] - query.shape[2]
    outputs = []
    for s in segments:
        shared = leading + s.prefix_end - s.prefix_start
        parts = (slice(0, leading), *(slice(leading + a, leading + b) for a, b in segment_keys(s)))
        keys, values = (torch.cat([x[:, :, part] for part in parts], dim=2) for x in (key, value))
        own = torch.arange(shared, shared + s.end - s.start, device=query.device)
        distance = own[:, None] - torch.arange(keys.shape[2], device=query.device)[None, :]
        allowed = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        bias = allowed
        if slopes is not None:
            bias = (-slopes[:, None, None] * distance).masked_fill(~allowed, float("-inf")).to(query.dtype)
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, s.start : s.end],
                keys,
                values,
                attn_mask=bias,
                dropout_p=dropout,
                scale=scale,
                enable_gqa=True,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2)


def segment_keys(s: Segment) -> tuple[tuple[int, int], tuple[int, int]]:
    return (s.prefix_start, s.prefix_end), (s.start, s.end)


def prefix_runs(segments: Sequence[Segment]) -> list[tuple[int, int, int, int]]:
    """(prefix_start, prefix_end, start, end): neighbouring segments that share a prefix, joined."""
    runs: list[tuple[int, int, int, int]] = []
    for s in segments:
        if s.prefix_end == s.prefix_start:
            continue
        if runs and runs[-1][:2] == (s.prefix_start, s.prefix_end) and runs[-1][3] == s.start:
            runs[-1] = (*runs[-1][:3], s.end)
        else:
            runs.append((s.prefix_start, s.prefix_end, s.start, s.end))
    return runs


class CompiledSegments(torch.autograd.Function):
    """The kernel of segment_kernel.py, forward and backward, memory linear in T."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: tuple[Segment, ...],
        scale: float,
        slopes: Tensor | None,
        kernel: SegmentKernel,
    ) -> Tensor:
        query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
        output, lse = kernel.forward(query, key, value, segments, scale, slopes)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.settings, ctx.kernel = (segments, scale, slopes), kernel
        return output.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.kernel.backward(grad_output.transpose(1, 2), *ctx.saved_tensors, *ctx.settings)
        return (*grads, None, None, None, None)


class FlashSegments(torch.autograd.Function):
    """CPU flash attention by segment, forward and backward, memory linear in T."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...], scale: float
    ) -> Tensor:
        _, heads, tokens, size = query.shape
        output = query.new_empty(1, tokens, heads, size).transpose(1, 2)
        # Log-sum-exp of the scores of each query, [1, H, T].
        lse = query.new_empty(1, heads, tokens, dtype=torch.float32)
        for s in segments:
            own = slice(s.start, s.end)
            out_own, lse_own = flash_forward(query[:, :, own], key[:, :, own], value[:, :, own], 0.0, True, scale=scale)
            output[:, :, own] = out_own
            lse[:, :, own] = lse_own.view(1, heads, -1)
        for prefix_start, prefix_end, start, end in prefix_runs(segments):
            shared, own = slice(prefix_start, prefix_end), slice(start, end)
            out_shared, lse_shared = flash_forward(
                query[:, :, own], key[:, :, shared], value[:, :, shared], 0.0, False, scale=scale
            )
            lse_own, lse_shared = lse[:, :, own], lse_shared.view(1, heads, -1)
            # exp(own) / (exp(own) + exp(shared)): the share of the weight that stays in the segment.
            share = torch.sigmoid(lse_own - lse_shared).unsqueeze(-1).to(output.dtype)
            output[:, :, own] = torch.lerp(out_shared, output[:, :, own], share)
            lse[:, :, own] = torch.logaddexp(lse_own, lse_shared)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.segments, ctx.scale = segments, scale
        return output.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors
        grad_output = grad_output.transpose(1, 2)
        # Laid out as [T, heads, D], like the projections that these flow back into.
        grads = [torch.empty_like(x.transpose(1, 2)).transpose(1, 2) for x in (query, key, value)]
        for s in ctx.segments:
            own = slice(s.start, s.end)
            parts = flash_backward(
                grad_output[:, :, own],
                query[:, :, own],
                key[:, :, own],
                value[:, :, own],
                output[:, :, own],
                lse[:, :, own].contiguous(),
                0.0,
                True,
                scale=ctx.scale,
            )
            for grad, part in zip(grads, parts, strict=True):
                grad[:, :, own] = part
        for prefix_start, prefix_end, start, end in prefix_runs(ctx.segments):
            shared, own = slice(prefix_start, prefix_end), slice(start, end)
            parts = flash_backward(
                grad_output[:, :, own],
                query[:, :, own],
                key[:, :, shared],
                value[:, :, shared],
                output[:, :, own],
                lse[:, :, own].contiguous(),
                0.0,
                False,
                scale=ctx.scale,
            )
            grads[0][:, :, own] += parts[0]
            grads[1][:, :, shared] += parts[1]
            grads[2][:, :, shared] += parts[2]
        return (*grads, None, None)
