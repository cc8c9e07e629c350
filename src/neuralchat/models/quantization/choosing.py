"""Which layers of a model --bits is for, linear layers that compute with their weight themselves, and in how many bits.

Not all suffer alike from being rounded. With --bits 4 small ones that suffer most are kept in 8 (`is_sensitive`).
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from neuralchat.models.quantization.formats import BIT_FORMATS

# As the families call them that have fewer of these than of queries.
SHARED_BY_HEADS = ("k_proj", "v_proj")


def quantizable_layers(model: Any) -> list[str]:
    """The paths of the layers whose weight may be kept in 8 or 4 bits; the model may be without weights.

    Not among them: embeddings and the head, which share their matrix in many models and decide single words; what
    chooses experts; experts that are parameters, which are no layers; and layers whose owner reads their weight.
    """
    # It brings PEFT with it, which takes long to import.
    from neuralchat.models.adapters.targets import in_router, leaf_of

    head, kinds = model.get_output_embeddings(), set[Any](map(type, model.modules()))
    read_past = {name for kind in kinds for name in numbers_read_by(kind)}
    return [
        path
        for path, module in model.named_modules()
        # A class derived from it may compute something else.
        if type(module) is nn.Linear and module is not head and not in_router(path) and leaf_of(path) not in read_past
    ]


def is_sensitive(path: str, layer: nn.Linear) -> bool:
    """Whether a layer is small and its rounding costs much: keys and values that several heads of attention share.

    In SmolLM2-135M, whose three heads share each, they are 6 % of what is in few bits and a quarter of the loss that
    rounding to 4 bits brings (benchmarks/LOG.md, 2026-11-27).
    """
    # It brings PEFT with it, which takes long to import.
    from neuralchat.models.adapters.targets import leaf_of

    return layer.out_features < layer.in_features and leaf_of(path) in SHARED_BY_HEADS


def bits_of_layers(model: Any, bits: int) -> dict[str, int]:
    """How many bits each of `quantizable_layers` gets with --bits `bits`."""
    finer = BIT_FORMATS[bits].finer_bits
    return {
        path: finer if is_sensitive(path, model.get_submodule(path)) else bits for path in quantizable_layers(model)
    }


@dataclass(frozen=True)
class QuantizableWeights:
    """Numbers of weights of a model that --bits is for. `sensitive`: those of them that are kept in finer bits."""

    count: int = 0
    sensitive: int = 0

    def bytes_in(self, bits: int) -> int:
        """
        >>> QuantizableWeights(count=100, sensitive=20).bytes_in(8)
        100
        """
        row = BIT_FORMATS[bits]
        finer = BIT_FORMATS[row.finer_bits]
        return int((self.count - self.sensitive) * row.bytes_per_weight + self.sensitive * finer.bytes_per_weight)


def quantizable_weights(model: Any) -> QuantizableWeights:
    """Of a model that may be without weights."""
    layers = {path: model.get_submodule(path) for path in quantizable_layers(model)}
    return QuantizableWeights(
        count=sum(layer.weight.numel() for layer in layers.values()),
        sensitive=sum(layer.weight.numel() for path, layer in layers.items() if is_sensitive(path, layer)),
    )


def nothing_to_quantize(what: str, bits: int) -> str:
    return (
        f"--bits {bits}: {what} has no linear layers whose weight could be kept in {bits} bits; leave it out (--bf16 "
        "True halves what the weights take)"
    )


@cache
def numbers_read_by(kind: type) -> frozenset[str]:
    """The names of the parts whose weight the code of a class computes with, as far as its text tells.

    To ask what a weight is (T5: is it a tensor, of which dtype) is not to compute with it.
    """
    try:
        code = inspect.getsource(kind)
    except (OSError, TypeError):
        return frozenset()
    asked = re.sub(r"isinstance\(\s*self\.\w+\.weight\s*,", "", code)
    return frozenset(re.findall(r"self\.(\w+)\.weight\b(?!\.)", asked))
