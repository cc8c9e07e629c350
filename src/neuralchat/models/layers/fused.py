"""Layers of transformers in one pass over memory each way, same formulas, proven before they go in.

RMSNorm, SwiGLU and rotary positions by the compiled kernels (elementwise.py). Without a compiler RMSNorm still has a
torch form with fewer passes than transformers'; the others stay as they are.

Shapes: T tokens, E hidden size, I inner size, H heads, D head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from neuralchat.models.compat.torch import is_hooked
from neuralchat.models.compat.transformers import rotary_function, with_rotary_function
from neuralchat.models.kernels.elementwise import Elementwise, kernels_for

# How far, in norm, a fused layer may be from transformers' own in the proof.
FUSED_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# Sizes of the random numbers: small ones tell where an epsilon is added, large ones where something is clamped.
MAGNITUDES = (1e-3, 1.0, 1e3)


class RMSNormProduct(torch.autograd.Function):
    """x / rms(x) * weight, weight not trained (https://arxiv.org/abs/1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, kernels: Elementwise | None) -> Tensor:
        ctx.kernels = kernels
        if kernels is not None:
            y, inverse = kernels.rms_norm(x, weight, epsilon)
        else:
            mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
            # As in the kernel: squares that overflow must not end as zeros.
            mean_square.masked_fill_(mean_square.isinf(), float("nan"))
            inverse = mean_square.add_(epsilon).rsqrt_()
            y = (x * inverse).mul_(weight)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        if ctx.kernels is not None:
            return ctx.kernels.rms_norm_gradient(grad, x, weight, inverse), None, None, None
        scaled = grad * weight
        along = (scaled * x).sum(dim=-1, keepdim=True).mul_(inverse.pow(3)).div_(-x.shape[-1])
        return torch.addcmul(scaled.mul_(inverse), x, along), None, None, None


class FusedRMSNorm(nn.Module):
    """Takes over an RMSNorm in place; its weight and variance_epsilon stay where they are."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        kernels = kernels_for(hidden_states, self) if hidden_states.is_contiguous() else None
        return RMSNormProduct.apply(hidden_states, self.weight.detach(), self.variance_epsilon, kernels)


class SwiGLUProduct(torch.autograd.Function):
    """silu(gate) * up (https://arxiv.org/abs/2002.05202); nothing is kept but the inputs."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, kernels: Elementwise) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.kernels = kernels
        return kernels.swiglu(gate, up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*ctx.kernels.swiglu_gradients(grad, *ctx.saved_tensors), None)


class FusedSwiGLU(nn.Module):
    """Takes over a gated MLP in place; its three projections, which may be adapted, stay where they are."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x).contiguous(), self.up_proj(x).contiguous()
        kernels = kernels_for(gate, self)
        if kernels is None:
            return self.down_proj(nn.functional.silu(gate) * up)
        return self.down_proj(SwiGLUProduct.apply(gate, up, kernels))


class RotaryProduct(torch.autograd.Function):
    """x * cos + rotate_half(x) * sin (https://arxiv.org/abs/2104.09864) of x [1, H, T, D], cos and sin [T, D]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor, kernels: Elementwise) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        ctx.kernels = kernels
        return kernels.rotary(x, cosine, sine)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.kernels.rotary(grad, *ctx.saved_tensors, transposed=True), None, None, None


def fused_rotary(plain: Callable[..., Any]) -> Callable[..., Any]:
    """transformers' apply_rotary_pos_emb for one row of heads of full size; anything else goes to `plain`."""

    def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        kernels = kernels_for(q)
        fits = q.dim() == 4 and len(q) == 1 and cos.shape == (1, q.shape[2], q.shape[3]) and q.dtype == cos.dtype
        if kernels is None or args or kwargs or not fits:
            return plain(q, k, cos, sin, *args, **kwargs)
        cosine, sine = cos[0].contiguous(), sin[0].contiguous()
        return tuple(RotaryProduct.apply(x, cosine, sine, kernels) for x in (q, k))

    apply_rotary_pos_emb.plain = plain  # type: ignore[attr-defined]
    return apply_rotary_pos_emb


def random_like(weight: Tensor, *shape: int, seed: int = 0) -> Tensor:
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return numbers.to(weight.device, weight.dtype)


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two results are the same but for rounding; zeros prove nothing."""
    return bool(b.norm() > 0) and bool((a - b).norm() <= FUSED_TOLERANCE[a.dtype] * b.norm())


def take_over(
    model: nn.Module,
    fused: type[nn.Module],
    weight_of: Callable[[Any], Tensor | None],
    same: Callable[[Any, Tensor], bool],
) -> int:
    """Turn modules of `model` into `fused`, each kind of them proven once by `same`; returns how many.

    `weight_of` gives a weight of a module that can be taken over, None for any other. A module that is called in
    another way than `fused`, or whose proof fails in whatever way, stays as it is.
    """
    count = 0
    proven: dict[Hashable, bool] = {}
    for module in model.modules():
        weight = None if type(module) is fused or is_hooked(module) else weight_of(module)
        if weight is None or weight.dtype not in FUSED_TOLERANCE or not called_alike(type(module), fused):
            continue
        kind = kind_of(module)
        if kind not in proven:
            proven[kind] = proves(same, module, weight)
        if proven[kind]:
            module.__class__ = fused
            count += 1
    return count


def called_alike(kind: type[nn.Module], fused: type[nn.Module]) -> bool:
    """Whether the forward of a class takes the arguments of the fused one, under the same names, and no others."""
    own, other = (list(inspect.signature(inspect.unwrap(c.forward)).parameters.values()) for c in (kind, fused))
    return [(p.name, p.kind) for p in own] == [(p.name, p.kind) for p in other]


def kind_of(module: nn.Module) -> Hashable:
    """What decides the formula of a module: its class, its settings, and its parts that have no weights."""
    own = {name: value for name, value in sorted(vars(module).items()) if name not in ("training", "layer_idx")}
    settings = tuple((name, value) for name, value in own.items() if isinstance(value, bool | int | float | str | None))
    functions = tuple((name, value) for name, value in own.items() if inspect.isroutine(value))
    parts = tuple((name, repr(part)) for name, part in module.named_children() if not list(part.parameters()))
    return type(module), settings, functions, parts


def proves(same: Callable[[Any, Tensor], bool], module: nn.Module, weight: Tensor) -> bool:
    """`same`, where any doubt means no: a layer that cannot be tried on random numbers is another layer."""
    try:
        return same(module, weight)
    except Exception:  # layers of any family are tried, and what they raise for foreign numbers is not declared
        return False


def fuse_norms(model: nn.Module) -> int:
    """Fuse the frozen RMSNorms; returns how many."""
    return take_over(model, FusedRMSNorm, norm_weight, computes_rms_norm)


def norm_weight(module: Any) -> Tensor | None:
    weight = getattr(module, "weight", None)
    if not hasattr(module, "variance_epsilon") or not isinstance(weight, Tensor) or weight.requires_grad:
        return None
    # In bf16 only the kernel computes in fp32 inside, as transformers does.
    return weight if weight.dtype == torch.float32 or kernels_for(weight, module) is not None else None


@torch.no_grad()
def computes_rms_norm(module: Any, weight: Tensor) -> bool:
    inputs = [size * random_like(weight, 3, weight.shape[-1]) for size in MAGNITUDES]
    return all(equal(module(x), FusedRMSNorm.forward(module, x)) for x in inputs)


def fuse_mlps(model: nn.Module) -> int:
    """Fuse the gated MLPs that use SiLU; returns how many."""
    return take_over(model, FusedSwiGLU, mlp_weight, computes_swiglu)


def mlp_weight(module: Any) -> Tensor | None:
    if not all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return None
    weight = next(module.parameters())
    return weight if kernels_for(weight, module) is not None else None


@torch.no_grad()
def computes_swiglu(module: Any, weight: Tensor) -> bool:
    """Whether the MLP computes SwiGLU. In evaluation mode, since an adapter's dropout would make two calls differ."""
    size = getattr(module.gate_proj, "in_features", None)
    if size is None:
        return False
    was_training = module.training
    module.eval()
    try:
        inputs = [magnitude * random_like(weight, 1, 3, size) for magnitude in MAGNITUDES]
        return all(equal(module(x), FusedSwiGLU.forward(module, x)) for x in inputs)
    finally:
        module.train(was_training)


def fuse_rotary(model: nn.Module) -> int:
    """Give the attention layers that turn queries and keys by halves the fused function; returns how many.

    The function that they call is a global of transformers' module. It stays as it is: each layer becomes one of a
    subclass whose forward calls ours, so no other model of the process is affected.
    """
    if kernels_for(next(model.parameters()), model) is None:
        return 0
    count = 0
    fused: dict[type[nn.Module], type[nn.Module] | None] = {}
    for module in model.modules():
        kind = type(module)
        if not hasattr(module, "q_proj"):
            continue
        if kind not in fused:
            fused[kind] = fused_attention(kind)
        if (replacement := fused[kind]) is not None:
            module.__class__ = replacement
            count += 1
    return count


def fused_attention(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The attention class with the fused rotary function; None where it has it already, or computes another one."""
    plain = rotary_function(kind)
    if plain is None or hasattr(plain, "plain") or not turns_by_halves(plain):
        return None
    return with_rotary_function(kind, fused_rotary(plain))


@torch.no_grad()
def turns_by_halves(plain: Callable[..., Any]) -> bool:
    weight = torch.empty(0)
    q, k = (random_like(weight, 1, heads, 5, 16, seed=heads) for heads in (4, 2))
    cos, sin = (random_like(weight, 1, 5, 16, seed=seed) for seed in (6, 7))
    try:
        expected = plain(q, k, cos, sin)
        return all(equal(a, b) for a, b in zip(expected, fused_rotary(plain)(q, k, cos, sin), strict=True))
    except Exception:  # as in `proves`: a function that cannot be tried is another one
        return False
