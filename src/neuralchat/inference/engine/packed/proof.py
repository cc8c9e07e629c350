"""Whether packed passes compute what the model computes alone: tried before the first answer, believed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from neuralchat.inference.engine.packed.packed_pass import Chunk, PackedPass
from neuralchat.inference.engine.packed.virtual_start import VirtualStart
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.attention.pages import PagedMemory
from neuralchat.models.kernels.decoder import PAGE

LogitsOf = Callable[[Sequence[Chunk]], Tensor]
# How far, in norm, logits may be from the model's own, and how many texts are tried. In bf16 a real model rounds one
# text in dozens further than that, whoever computes it; what is wrong is wrong for all of them.
PROOF_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
PROOF_TEXTS = {torch.float32: 1, torch.bfloat16: 3}
# A text over three pages, computed in three parts, and a short one beside the last of them.
LONG, SHORT = 2 * PAGE + 4, 5
PROOF_PARTS = (0, PAGE + 3, LONG - 1, LONG)


@torch.no_grad()
def computes_as_model(
    packed: PackedPass, model: Any, logits_of: LogitsOf | None = None, start: VirtualStart | None = None
) -> bool:
    """Where any doubt means no. `model`: as it is switched; a PeftModel or a transformers model around packed.base.

    `logits_of`: computes the passes, packed.logits where it is not given. `start`: what all texts of it begin with.
    """
    compute = logits_of or packed.logits

    def found_and_expected(ids: list[int]) -> tuple[Tensor, Tensor]:
        long, short = ProvenText(ids[:LONG], 0, start), ProvenText(ids[LONG:], 1, start)
        with packed.in_memory(PagedMemory(2 * long.pages)):
            long.begin(packed.memory)
            short.begin(packed.memory)
            found = torch.cat([compute(chunks) for chunks in passes(long, short)])
        own = own_logits_of(model, ids[:LONG])[[end - 1 for end in PROOF_PARTS[1:]]]
        return found, torch.cat([own, own_logits_of(model, ids[LONG:])[-1:]])

    return proven(packed, found_and_expected, seed=0)


def proven(packed: PackedPass, found_and_expected: Callable[[list[int]], tuple[Tensor, Tensor]], seed: int) -> bool:
    """Whether each place of the proof has the logits that are expected there, for one text of those that are tried.

    found_and_expected: ids -> two of fp32 [places, V].
    """
    vocabulary, dtype = packed.embedding.weight.shape[0], packed.embedding.weight.dtype
    generator = torch.Generator().manual_seed(seed)
    believed = torch.zeros(len(PROOF_PARTS), dtype=torch.bool)
    for _ in range(PROOF_TEXTS.get(dtype, 1)):
        ids = torch.randint(vocabulary, (LONG + SHORT,), generator=generator).tolist()
        try:
            believed |= near(*found_and_expected(ids), dtype)
        except Exception:  # the layers of any family are run on what they were not made for
            return False
        if bool(believed.all()):
            return True
    return False


class ProvenText:
    """A text in pages of its own: the first ones for number 0, those after them for number 1."""

    def __init__(self, ids: list[int], number: int, start: VirtualStart | None) -> None:
        self.start = start
        self.virtual = 0 if start is None else start.count
        self.ids = [*([] if start is None else start.ids), *ids]
        self.pages = -(-(LONG + self.virtual) // PAGE)
        self.blocks = list(range(number * self.pages, (number + 1) * self.pages))

    @property
    def has_keys(self) -> bool:
        return self.start is not None and self.start.leading is not None

    def begin(self, memory: PagedMemory) -> None:
        if self.start is not None and self.has_keys:
            self.start.write(memory, self.blocks)

    def chunk(self, first: int, end: int) -> Chunk:
        """Its tokens [first, end), virtual ones before them where it begins."""
        before = self.virtual + first if first or self.has_keys else 0
        virtual = None if self.start is None else self.start.embedded
        return Chunk(self.ids[before : self.virtual + end], before, self.blocks, virtual=virtual)


def passes(long: ProvenText, short: ProvenText) -> list[list[Chunk]]:
    """The long text in its parts, the short one beside the last of them."""
    alone = [[long.chunk(first, end)] for first, end in pairwise(PROOF_PARTS[:-1])]
    return [*alone, [long.chunk(LONG - 1, LONG), short.chunk(0, SHORT)]]


@torch.no_grad()
def native_computes_as_packed(packed: PackedPass) -> bool:
    """Whether the compiled layers give the logits that the model's own layers give, on the passes of the proof above.

    Called before the first answer.
    """

    def found_and_expected(ids: list[int]) -> tuple[Tensor, Tensor]:
        # The first pages, which no answer holds yet.
        long, short = ProvenText(ids[:LONG], 0, None), ProvenText(ids[LONG:], 1, None)
        used = [*long.blocks, short.blocks[0]]
        try:
            expected = torch.cat([packed.logits(chunks) for chunks in passes(long, short)])
            fill(packed.memory, used, float("nan"))
            found = [packed.logits(chunks, [None] * len(chunks)).clone() for chunks in passes(long, short)]
            return torch.cat(found), expected
        finally:
            fill(packed.memory, used, 0.0)

    return proven(packed, found_and_expected, seed=1)


def fill(memory: PagedMemory, blocks: Sequence[int], number: float) -> None:
    for pages in (*memory.keys.values(), *memory.values.values()):
        pages[blocks] = number


def own_logits_of(model: Any, ids: list[int]) -> Tensor:
    """fp32 [tokens, V] by one pass of the model over the whole text."""
    text = torch.tensor([ids], device=base_model_of(model).device)
    return (
        model(input_ids=text, attention_mask=torch.ones_like(text), use_cache=False)
        .logits[0, -len(ids) :]
        .float()
        .cpu()
    )


def near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> Tensor:
    """bool [rows], every row by itself; zeros prove nothing. Raises ValueError for other shapes."""
    if found.shape != expected.shape:
        raise ValueError(f"{tuple(found.shape)} is not {tuple(expected.shape)}")
    worst = (found - expected).norm(dim=1) / expected.norm(dim=1)
    return worst <= PROOF_TOLERANCE.get(dtype, 0.0)
