"""Attention inside segments of a packed row: causal within each, prefix attended by all that share it.

Entered through transformers' attention interface, so model classes stay untouched. No S x S mask is built. On CPU
the kernel compiled for the machine does it all (segment_kernel.py). Without a compiler a segment is one causal call
of torch's flash kernel, a shared prefix one call without a mask for all tokens that follow it, and the two are
merged by their log-sum-exp, which is exact (https://arxiv.org/abs/2205.14135, section 3). Capped scores, sliding
windows and dropout are computed segment by segment (dense.py).

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
from neuralchat.models.attention.dense import dense_segments, masked_attention
from neuralchat.models.attention.flex import flex_segments
from neuralchat.models.attention.segment_kernel import SegmentKernel, kernel_for
from neuralchat.models.compat.torch import flash_backward, flash_forward
from neuralchat.models.kernels.compiled import takes_kernels

SEGMENT_ATTENTION = "neuralchat_segments"
# Arguments that some families hand to the interface and that change nothing here: `is_causal` is looked at, and the
# positions are in the queries and keys already.
WITHOUT_EFFECT = ("is_causal", "position_ids", "cache_position", "use_cache", "return_dict")
# Arguments that say what else the model shall return.
ASKS_FOR_MORE = "output_"
NOT_GIVEN = -1
# The attribute by which a mask carries the row that it stands for.
ROW = "packed_row"


def register() -> None:
    """Register SEGMENT_ATTENTION with transformers; called without segments, it computes transformers' own SDPA."""
    AttentionInterface.register(SEGMENT_ATTENTION, segment_attention)
    AttentionMaskInterface.register(SEGMENT_ATTENTION, AttentionMaskInterface()["sdpa"])


def row_mask(
    segments: Sequence[Segment], leading: Sequence[tuple[Tensor, Tensor]] | None, device: torch.device
) -> Tensor:
    """What to pass as attention_mask with segments: a mask of four dimensions is never expanded to S x S.

    It carries the row to the layers of families that hand on the mask alone.
    """
    return mask_with(ROW, (segments, leading), device)


def mask_with(attribute: str, row: Any, device: torch.device) -> Tensor:
    """A mask that masks nothing and carries `row`."""
    mask = torch.zeros(1, 1, 1, 1, device=device)
    setattr(mask, attribute, row)
    return mask


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
    sliding_window: int | None = NOT_GIVEN,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    leading_keys_values: Sequence[tuple[Tensor, Tensor]] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention interface. Raises PackingError for what a family asks beyond plain attention.

    softcap: scores become softcap * tanh(scores / softcap). s_aux: [H], the score of a sink, a key without a value.
    `leading_keys_values`: for each layer the keys and values [1, K, P, D] that all tokens of the row see first.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if segments is None and attention_mask is not None and attention_mask.numel() == 1 < query.shape[2]:
        row = getattr(attention_mask, ROW, None)
        if row is None:
            raise PackingError(f"{type(module).__name__} is not told what the packed row is made of")
        segments, leading_keys_values = row
    if segments is None:
        if softcap is not None or s_aux is not None:
            causal = getattr(module, "is_causal", True) and kwargs.get("is_causal") is not False
            return masked_attention(query, key, value, attention_mask, scale, dropout, softcap, s_aux, causal), None
        kwargs |= {"scaling": scaling, "dropout": dropout}
        if sliding_window != NOT_GIVEN:
            kwargs["sliding_window"] = sliding_window
        return AttentionInterface()["sdpa"](module, query, key, value, attention_mask, **kwargs)
    refuse_other_attention(module, attention_mask, kwargs)
    if sliding_window == NOT_GIVEN:
        sliding_window = sliding_window_of(module)
    if leading_keys_values is not None:
        leading_keys, leading_values = leading_keys_values[int(module.layer_idx)]  # type: ignore[arg-type]
        key = torch.cat([leading_keys.to(key.dtype), key], dim=2)
        value = torch.cat([leading_values.to(value.dtype), value], dim=2)
    leading = key.shape[2] - query.shape[2]
    windowed = sliding_window is not None and any(
        leading + s.end - s.start + s.prefix_end - s.prefix_start > sliding_window for s in segments
    )
    window = sliding_window if windowed else None
    if dropout or windowed or softcap is not None:
        if query.is_cuda and not dropout and softcap is None and s_aux is None:
            return flex_segments(query, key, value, tuple(segments), scale, window, alibi_slopes), None
        limits = (dropout, window, alibi_slopes, softcap, s_aux)
        return dense_segments(query, key, value, segments, scale, *limits), None
    return whole_segments(module, query, key, value, tuple(segments), scale, alibi_slopes, s_aux), None


def whole_segments(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: tuple[Segment, ...],
    scale: float,
    slopes: Tensor | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention to all keys that a segment sees, by the fastest path of the device."""
    size = value.shape[-1]
    if size < query.shape[-1]:
        # Latent attention has narrower values than keys; zeros beside them change nothing.
        wide = torch.nn.functional.pad(value, (0, query.shape[-1] - size))
        return whole_segments(module, query, key, wide, segments, scale, slopes, sinks)[..., :size]
    leading, alike = key.shape[2] - query.shape[2], size == query.shape[-1]
    if alike and takes_kernels(module) and (kernel := kernel_for(query)) is not None:
        return CompiledSegments.apply(query, key, value, segments, scale, slopes, sinks, kernel)
    if alike and query.device.type == "cpu" and slopes is None and sinks is None and not leading:
        return FlashSegments.apply(query, key, value, segments, scale)
    if query.is_cuda and sinks is None:
        return flex_segments(query, key, value, segments, scale, None, slopes)
    return dense_segments(query, key, value, segments, scale, 0.0, None, slopes, None, sinks)


def refuse_other_attention(module: torch.nn.Module, mask: Tensor | None, arguments: dict[str, Any]) -> None:
    """Raise PackingError where a layer asks for something that is not computed here."""
    asked = [
        name
        for name, value in arguments.items()
        if not name.startswith(ASKS_FOR_MORE)
        and name not in WITHOUT_EFFECT
        and value is not None
        and value is not False
    ]
    if mask is not None and mask.numel() > 1:
        asked.append("a mask of its own")
    if not getattr(module, "is_causal", True) or arguments.get("is_causal") is False:
        asked.append("attention in both directions")
    if asked:
        raise PackingError(f"{type(module).__name__} needs {', '.join(asked)}, which packed attention does not compute")


def sliding_window_of(module: torch.nn.Module) -> int | None:
    """The sliding window of a layer that does not hand it over, since transformers puts it into the mask alone."""
    config: Any = getattr(module, "config", None)
    kinds, layer = getattr(config, "layer_types", None), getattr(module, "layer_idx", None)
    if kinds is not None and layer is not None and kinds[int(layer)] != "sliding_attention":
        return None
    return getattr(config, "sliding_window", None)


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
        sinks: Tensor | None,
        kernel: SegmentKernel,
    ) -> Tensor:
        query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
        output, lse = kernel.forward(query, key, value, segments, scale, slopes)
        if sinks is not None:
            # One key more, whose value is zero: it takes its share of the weight and adds nothing.
            whole = torch.logaddexp(lse, sinks.float()[None, :, None])
            output.mul_((lse - whole).exp_().unsqueeze(-1))
            lse = whole
        ctx.save_for_backward(query, key, value, output, lse, sinks)
        ctx.settings, ctx.kernel = (segments, scale, slopes), kernel
        return output.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        *saved, output, lse, sinks = ctx.saved_tensors
        grad = grad_output.transpose(1, 2)
        # With the sink in the log-sum-exp, the gradients of the other keys are those of one row of scores more.
        grads = ctx.kernel.backward(grad, *saved, output, lse, *ctx.settings)
        grad_sinks = None
        if sinks is not None and ctx.needs_input_grad[6]:
            weight = (sinks.float()[None, :, None] - lse).exp_()
            grad_sinks = -(weight * (grad.float() * output.float()).sum(dim=-1)).sum(dim=(0, 2)).to(sinks.dtype)
        return (*grads, None, None, None, grad_sinks, None)


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
