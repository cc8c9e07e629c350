"""Which layers of a model --bits is for: linear layers that compute with their weight themselves."""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Any

from torch import nn


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
