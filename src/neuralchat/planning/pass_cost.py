"""What a forward and backward pass costs in memory and time, measured on a few real examples.

Memory grows with the tokens that are computed at once, time with their work; each has a part that does not grow. Both
are found from a small pass and a larger one:

    bytes at the peak of a micro-batch = fixed_bytes + bytes_per_token x tokens
    seconds of a micro-batch           = fixed_seconds + seconds_per_work x work

What backward keeps is counted besides: every tensor that autograd saves, each storage once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from neuralchat.checkpointing.rng import rng_state, set_rng_state
from neuralchat.data.batch_plan import rng_for
from neuralchat.data.example_store import ExampleStore
from neuralchat.data.layout import Layout, Packed
from neuralchat.data.packing import PackedBatch
from neuralchat.data.seq2seq_packing import PackedSeq2Seq
from neuralchat.data.tokenization import Example
from neuralchat.models.adapters.build import base_model_of
from neuralchat.planning.process_memory import WorkResult, peak_of

LossOf = Callable[[Sequence[Example]], torch.Tensor]
# The larger pass: of so many tokens, or as many as take so long, but at least so many times the small one.
LARGER_PASS_TOKENS, LARGER_PASS_SECONDS, LARGER_PASS_FACTOR = 512, 10.0, 3
# A pass in which memory is touched for the first time is slower; one shorter than this is timed again without that.
RETIMED_BELOW_SECONDS, TIMED_PASSES = 4.0, 3
# What is compared is computed once more than what is learned: by the model as it was.
COMPARED_PRODUCTS = 1.5
# A general prompt in a padded batch is computed forward by the model as it was, and both ways by the trained one.
PADDED_GENERAL_PASSES = 1.35


@dataclass(frozen=True)
class MicroBatchSize:
    """`tokens`: computed at once, padding included. `work`: the same with what the head computes, as so many tokens."""

    tokens: int
    work: float

    def __add__(self, other: MicroBatchSize) -> MicroBatchSize:
        return MicroBatchSize(self.tokens + other.tokens, self.work + other.work)


@dataclass(frozen=True)
class SizeRule:
    """How large a micro-batch is. `head_share`: multiplications of the head for a position over those of the layers."""

    head_share: float

    def of_packed(self, batch: Packed) -> MicroBatchSize:
        tokens = packed_tokens(batch)
        if isinstance(batch, PackedSeq2Seq):
            predicted = float(len(batch.target_ids))
        else:
            predicted = batch.supervised_tokens + compared_weight(batch)
        return MicroBatchSize(tokens, tokens + self.head_share * predicted)

    def of_padded(self, examples: Sequence[Example]) -> MicroBatchSize:
        """Every position of a padded batch has logits."""
        tokens = padded_tokens(examples)
        return MicroBatchSize(tokens, tokens * (1 + self.head_share))

    def of_padded_general(self, examples: Sequence[Example]) -> MicroBatchSize:
        plain = self.of_padded(examples)
        return MicroBatchSize(plain.tokens, PADDED_GENERAL_PASSES * plain.work)

    def of_examples(self, examples: Sequence[Example], layout: Layout | None) -> MicroBatchSize:
        return self.of_padded(examples) if layout is None else self.of_packed(layout.pack(examples))


def packed_tokens(batch: Packed) -> int:
    """Computed at once."""
    if isinstance(batch, PackedSeq2Seq):
        return len(batch.source_ids) + len(batch.decoder_ids)
    return len(batch.input_ids)


def padded_tokens(examples: Sequence[Example]) -> int:
    """The same, padding included."""
    return len(examples) * max(len(example.input_ids) for example in examples)


def compared_weight(batch: PackedBatch) -> float:
    return COMPARED_PRODUCTS * len(batch.compared_positions)


def size_rule(model: Any) -> SizeRule:
    base = base_model_of(model)
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    total = sum(parameter.numel() for parameter in base.parameters())
    own_head = getattr(head, "weight", embedding.weight)
    tables = {id(weight): weight.numel() for weight in (embedding.weight, own_head)}
    return SizeRule(own_head.numel() / max(1, total - sum(tables.values())))


@dataclass(frozen=True)
class PassCost:
    """`kept_bytes_per_token`: what autograd keeps, counted. The other bytes are measured at the peak of a pass, beside
    weights and gradients; None where the system does not tell.
    """

    kept_bytes_per_token: float
    fixed_seconds: float
    seconds_per_work: float
    fixed_bytes: int | None = None
    bytes_per_token: float | None = None

    def seconds(self, micro_batches: float, work: float) -> float:
        return micro_batches * self.fixed_seconds + work * self.seconds_per_work


def measure_pass(
    model: Any, loss_of: LossOf, examples: Sequence[Example], size_of: Callable[[Sequence[Example]], MicroBatchSize]
) -> PassCost:
    """By passes over the first of the examples and over more of them, as time allows.

    No gradient and no random number is left behind.
    """
    few = examples[:1]
    with as_in_training(model):
        # The first pass compiles kernels, and touches what is needed only once.
        kept, seconds = with_seconds(lambda: kept_bytes(model, loss_of, few))
        more = larger_part(examples, seconds)
        (_, few_seconds), few_peak = peak_of(lambda: with_seconds(lambda: one_pass(loss_of, few)))
        (_, more_seconds), more_peak = peak_of(lambda: with_seconds(lambda: one_pass(loss_of, more)))
        if more_seconds < RETIMED_BELOW_SECONDS:
            few_seconds, more_seconds = (usual_seconds(loss_of, chosen) for chosen in (few, more))
    small, large = size_of(few), size_of(more)
    fixed_seconds, seconds_per_work = line_through((small.work, few_seconds), (large.work, more_seconds))
    cost = PassCost(kept / small.tokens, fixed_seconds, seconds_per_work)
    if few_peak is None or more_peak is None:
        return cost
    fixed_bytes, bytes_per_token = line_through((small.tokens, few_peak), (large.tokens, more_peak))
    return replace(cost, fixed_bytes=int(fixed_bytes), bytes_per_token=bytes_per_token)


def larger_part(examples: Sequence[Example], seconds_of_first: float) -> Sequence[Example]:
    """As many of the examples, in their order, as the larger pass is to have."""
    first = len(examples[0].input_ids)
    affordable = first * LARGER_PASS_SECONDS / max(seconds_of_first, 1e-9)
    room = max(min(LARGER_PASS_TOKENS, affordable), LARGER_PASS_FACTOR * first)
    tokens, count = 0, 0
    while count < len(examples) and tokens < room:
        tokens += len(examples[count].input_ids)
        count += 1
    return examples[:count]


def examples_to_measure(store: ExampleStore) -> list[Example]:
    """Examples from all over the data, enough for the larger pass; the first is the shortest of them."""
    wanted: list[Example] = []
    tokens = 0
    for index in rng_for(store.content_fingerprint, 0, "measured").permutation(len(store)):
        if wanted and tokens >= LARGER_PASS_TOKENS:
            break
        wanted.append(store[int(index)])
        tokens += len(wanted[-1].input_ids)
    return sorted(wanted, key=lambda example: len(example.input_ids))


@contextmanager
def as_in_training(model: Any) -> Iterator[None]:
    """Within, gradients are there to be added to, as for every micro-batch of a step but the first."""
    was_training, rng = model.training, rng_state()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.grad for parameter in trained]
    model.train()
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    try:
        yield
    finally:
        for parameter, gradient in zip(trained, before, strict=True):
            parameter.grad = gradient
        set_rng_state(rng)
        model.train(was_training)


def one_pass(loss_of: LossOf, examples: Sequence[Example]) -> None:
    loss_of(examples).backward()


def kept_bytes(model: Any, loss_of: LossOf, examples: Sequence[Example]) -> int:
    """Bytes that autograd keeps of a forward pass, weights apart; a backward pass follows."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # Alive until all is counted: storages that are freed would give their addresses to others.
        loss = loss_of(examples)
    loss.backward()
    return sum(seen.values())


def with_seconds(work: Callable[[], WorkResult]) -> tuple[WorkResult, float]:
    """(what `work` returns, its seconds)"""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def usual_seconds(loss_of: LossOf, examples: Sequence[Example]) -> float:
    return median(with_seconds(lambda: one_pass(loss_of, examples))[1] for _ in range(TIMED_PASSES))


def line_through(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """(a, b) of y = a + b x through two points; neither is negative, and a is 0 where the points do not tell.

    >>> line_through((1, 3), (2, 5)), line_through((1, 2), (2, 6)), line_through((4, 8), (4, 8))
    ((1.0, 2.0), (0.0, 3.0), (0.0, 2.0))
    """
    (x, y), (further, higher) = first, second
    slope = (higher - y) / (further - x) if further > x else 0.0
    start = y - slope * x
    if slope <= 0 or start < 0:
        return 0.0, higher / max(further, 1e-9)
    return start, slope
