"""hidden states -> logits as the model itself makes them: its matrix, and the scale, cap or bias that comes after it.

Families multiply logits (Cohere, Granite), cap them (Gemma 2) or put layers before the matrix. Which does what is not
asked by name: the model's own forward is run on given states, with its body left out, and compared with its matrix.

Shapes: C states, E hidden size, V vocabulary.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuralchat.errors import PackingError

# How far, in norm, the scaled matrix may be from the model's own logits in fp32.
HEAD_TOLERANCE = 1e-5
TRIED_STATES = 4


@dataclass(frozen=True)
class Head:
    """Logits of states [C, E] are `scale` times those of `module`, where there is one; else what `own` computes."""

    own: Callable[[Tensor], Tensor]
    module: nn.Module | None
    scale: float = 1.0


# The head of each model that was packed once: how it computes does not change while it is trained.
heads: weakref.WeakKeyDictionary[nn.Module, Head] = weakref.WeakKeyDictionary()


def head_of(base: Any, dtype: torch.dtype) -> Head:
    """The head of a causal model for hidden states of `dtype`.

    Raises PackingError where its logits cannot be had from hidden states alone.
    """
    found = heads.get(base)
    if found is None:
        found = heads[base] = measured_head(base, dtype)
    return found


@torch.no_grad()
def measured_head(base: Any, dtype: torch.dtype) -> Head:
    module = base.get_output_embeddings()
    weight = base.get_input_embeddings().weight
    width = getattr(module, "in_features", weight.shape[1])
    generator = torch.Generator().manual_seed(0)
    # Large ones too: a cap shows on large logits.
    sizes = torch.logspace(-1, 2, TRIED_STATES)[:, None]
    states = (sizes * torch.randn(TRIED_STATES, width, generator=generator)).to(weight.device, dtype)
    was_training = base.training
    base.eval()
    try:
        own = logits_after_body(base, states)
        wanted = own(states).double()
        plain = None if module is None else module(states).double()
    except Exception as error:  # the forward of any family is run on what it was not made for
        raise PackingError(
            f"its logits cannot be computed from hidden states ({type(error).__name__}: {error})"
        ) from error
    finally:
        base.train(was_training)
    if plain is None or plain.shape != wanted.shape or not bool(plain.norm() > 0):
        return Head(own, None)
    scale = float((wanted * plain).sum() / plain.square().sum())
    # Each state by itself: the large ones must not hide the small.
    worst = float(((scale * plain - wanted).norm(dim=1) / wanted.norm(dim=1)).max())
    if torch.equal(wanted, plain):
        return Head(own, module)
    # A scale can be measured in fp32 only, and be moved from logits to states only where no bias is added between.
    scales = dtype == torch.float32 and getattr(module, "bias", None) is None
    return Head(own, module, scale) if scales and worst <= HEAD_TOLERANCE else Head(own, None)


def logits_after_body(base: Any, states: Tensor) -> Callable[[Tensor], Tensor]:
    """The function from states [C, E] to logits [C, V], tried on `states`: the model's forward with its body left out.

    The body is what the forward calls: the whole base model, or the decoder inside it (OPT).
    """
    reference = weakref.ref(base)
    for body in (base.base_model, base.get_decoder()):
        called: list[bool] = []
        with body_giving(body, states[None], called):
            base(inputs_embeds=states[None], use_cache=False)
        if called:
            place = weakref.ref(body)
            return lambda states: own_logits(reference(), place(), states)
    raise PackingError("its forward calls another body than the one it names")


def own_logits(base: Any, body: Any, states: Tensor) -> Tensor:
    """Logits [C, V] of states [C, E] by the model's own forward, whose body gives these states."""
    with body_giving(body, states[None], []):
        return base(inputs_embeds=states[None], use_cache=False).logits[0]


@contextmanager
def body_giving(body: nn.Module, states: Tensor, called: list[bool]) -> Iterator[None]:
    """Within, `body` returns states [1, C, E] whatever it is called with, and notes each call."""
    before = vars(body).get("forward")

    def forward(*_args: Any, **_kwargs: Any) -> BodyOutput:
        called.append(True)
        return BodyOutput(states)

    body.forward = forward
    try:
        yield
    finally:
        if before is None:
            del body.forward
        else:
            body.forward = before


class BodyOutput:
    """What a body returns: states, and None for whatever else is asked for."""

    def __init__(self, states: Tensor) -> None:
        self.last_hidden_state = states

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __getitem__(self, place: int | slice) -> Any:
        return (self.last_hidden_state,)[place]

    def get(self, _name: str, default: Any = None) -> Any:
        return default
