"""The memory of a run whose weights are not here, by its parts; where it is too much, the flags that make it fit.

A flag that helps is a row of REMEDIES: what to write, what it costs, and what it makes of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from neuralchat.config.arguments import TuningArguments
from neuralchat.console import gib
from neuralchat.models.adapters.rehearsal import skeleton_of
from neuralchat.models.loading.precision import Precision, has_bf16_units
from neuralchat.models.quantization.choosing import QuantizableWeights, quantizable_weights
from neuralchat.models.quantization.formats import BIT_FORMATS
from neuralchat.planning.layer_cost import TokenCost, hidden_bytes, layer_count
from neuralchat.planning.memory import SMALLEST_MICRO_BATCH_TOKENS

# Gradient and two moments, in fp32.
STATE_BYTES_PER_PARAMETER = 12
# Blocks that do not fit into each other's gaps.
PLANNED_SLACK = 1.05


@dataclass(frozen=True, kw_only=True)
class PlannedMemory:
    """`frozen`, `trained`: numbers of parameters; `quantizable`: those frozen ones that --bits is for. `kept_bytes`,
    `passing_bytes`: for each token that is computed at once. `layers` are those whose activations are recomputed one by
    one where `recomputes`. `hidden_bytes`: what such a layer keeps of a token.
    """

    frozen: int
    trained: int
    bytes_per_weight: int
    kept_bytes: float
    passing_bytes: float
    fixed_bytes: int
    micro_batch_tokens: int
    longest_example_tokens: int
    layers: int
    hidden_bytes: int
    # What a process takes that has neither weights nor tokens yet.
    program_bytes: int
    quantizable: QuantizableWeights = QuantizableWeights()
    bits: int | None = None
    recomputes: bool = False
    trains_base: bool = False

    @property
    def weight_bytes(self) -> int:
        return frozen_bytes(self.frozen, self.quantizable, self.bytes_per_weight, self.bits)

    @property
    def tokens(self) -> int:
        return max(self.micro_batch_tokens, self.longest_example_tokens)

    def parts(self) -> dict[str, int]:
        """Bytes by what takes them at the peak, of one process."""
        kept = self.kept_bytes
        if self.recomputes:
            kept = kept / self.layers + self.layers * self.hidden_bytes
        per_token = PLANNED_SLACK * (kept + self.passing_bytes)
        return {
            "weights": self.weight_bytes,
            "what is trained": self.trained * (STATE_BYTES_PER_PARAMETER + (4 if self.trains_base else 0)),
            "tokens at once": int(per_token * self.tokens) + self.fixed_bytes,
            "program": self.program_bytes,
        }

    @property
    def peak_bytes(self) -> int:
        return sum(self.parts().values())


def frozen_bytes(frozen: int, quantizable: QuantizableWeights, bytes_per_weight: int, bits: int | None) -> int:
    """
    >>> frozen_bytes(100, QuantizableWeights(80), 2, None), frozen_bytes(100, QuantizableWeights(80), 2, 8)
    (200, 120)
    """
    if bits is None:
        return frozen * bytes_per_weight
    return quantizable.bytes_in(bits) + (frozen - quantizable.count) * bytes_per_weight


def quantizable_of(config: Any) -> QuantizableWeights:
    """Which weights of a model of this configuration --bits is for."""
    return quantizable_weights(skeleton_of(config))


def planned_memory(
    config: Any,
    tuning: TuningArguments,
    precision: Precision,
    cost: TokenCost,
    *,
    parameters: tuple[int, int],
    quantizable: QuantizableWeights,
    longest_example_tokens: int,
    program_bytes: int,
    recomputes: bool,
) -> PlannedMemory:
    """`parameters`: (trained, all). `quantizable`: of `quantizable_of`, which need not be asked without --bits."""
    trained, total = parameters
    whole = tuning.method.trains_base
    return PlannedMemory(
        frozen=0 if whole else total - trained,
        trained=trained,
        bytes_per_weight=precision.storage.itemsize,
        kept_bytes=cost.kept_bytes,
        passing_bytes=cost.passing_bytes,
        fixed_bytes=cost.fixed_bytes,
        micro_batch_tokens=tuning.most_tokens_at_once,
        longest_example_tokens=longest_example_tokens,
        layers=layer_count(config),
        program_bytes=program_bytes,
        quantizable=QuantizableWeights() if whole else quantizable,
        bits=precision.bits,
        hidden_bytes=hidden_bytes(config, precision),
        recomputes=recomputes,
        trains_base=whole,
    )


@dataclass(frozen=True)
class Remedy:
    """`change`: (what is planned, the bytes that one process may have) -> (flag, what is planned then); None where it
    changes nothing.
    """

    cost: str
    change: Callable[[PlannedMemory, int], tuple[str, PlannedMemory] | None]


def half_weights(planned: PlannedMemory, _limit: int) -> tuple[str, PlannedMemory] | None:
    if planned.trains_base or planned.bytes_per_weight <= 2:
        return None
    # What is kept for backward is as narrow only where the arithmetic is.
    kept = planned.kept_bytes / 2 if has_bf16_units() else planned.kept_bytes
    return "--bf16 True", replace(planned, bytes_per_weight=2, kept_bytes=kept)


def weights_in_few_bits(planned: PlannedMemory, limit: int) -> tuple[str, PlannedMemory] | None:
    """Eight where they are enough, else four."""
    found = None
    for bits in BIT_FORMATS if planned.quantizable.count and planned.bits is None else ():
        found = f"--bits {bits}", replace(planned, bits=bits)
        if found[1].peak_bytes <= limit:
            break
    return found


def smaller_micro_batch(planned: PlannedMemory, limit: int) -> tuple[str, PlannedMemory] | None:
    tokens = planned.micro_batch_tokens
    least = max(SMALLEST_MICRO_BATCH_TOKENS, planned.longest_example_tokens // 2)
    found = None
    while tokens // 2 >= least:
        tokens //= 2
        found = replace(planned, micro_batch_tokens=tokens)
        if found.peak_bytes <= limit:
            break
    return None if found is None else (f"--micro_batch_tokens {found.micro_batch_tokens}", found)


def recomputed(planned: PlannedMemory, _limit: int) -> tuple[str, PlannedMemory] | None:
    return None if planned.recomputes else ("--gradient_checkpointing True", replace(planned, recomputes=True))


def adapter_only(planned: PlannedMemory, _limit: int) -> tuple[str, PlannedMemory] | None:
    if not planned.trains_base:
        return None
    few = planned.trained // 100
    return "--peft lora", replace(planned, trains_base=False, frozen=planned.trained, trained=few)


def shorter_examples(planned: PlannedMemory, _limit: int) -> tuple[str, PlannedMemory] | None:
    length = planned.longest_example_tokens // 2
    if length < SMALLEST_MICRO_BATCH_TOKENS or planned.longest_example_tokens <= planned.micro_batch_tokens // 4:
        return None
    tokens = min(planned.micro_batch_tokens, length)
    return f"--max_seq_length {length}", replace(planned, longest_example_tokens=length, micro_batch_tokens=tokens)


# What changes no result comes first.
REMEDIES = (
    Remedy("no other result; smaller matrix products, which are somewhat slower", smaller_micro_batch),
    Remedy("no other result; each layer is computed once more, so a step takes about a third longer", recomputed),
    Remedy("weights are rounded to 8 significant bits", half_weights),
    Remedy("weights of linear layers are kept in few bits: a coarser base, and somewhat slower", weights_in_few_bits),
    Remedy("an adapter is trained instead of all weights", adapter_only),
    Remedy("longer examples lose prompt text", shorter_examples),
)


def remedies(planned: PlannedMemory, limit_bytes: int) -> Iterator[str]:
    """What to write so that it fits, each with its peak and cost; one flag where one does, else several together."""
    alone = [(remedy, found) for remedy in REMEDIES if (found := remedy.change(planned, limit_bytes)) is not None]
    fitting = [(remedy, flag, then) for remedy, (flag, then) in alone if then.peak_bytes <= limit_bytes]
    if fitting:
        for remedy, flag, then in fitting:
            yield f"{flag}: about {gib(then.peak_bytes)}; {remedy.cost}"
        return
    flags, costs, then = [], [], planned
    # Where one does not do, those that save most without another result, then the others, until it fits.
    for remedy in (*REMEDIES[1:], REMEDIES[0]):
        changed = remedy.change(then, limit_bytes)
        if changed is None:
            continue
        flag, then = changed
        flags.append(flag)
        costs.append(remedy.cost)
        if then.peak_bytes <= limit_bytes:
            yield f"{' '.join(flags)}: about {gib(then.peak_bytes)}; {'; '.join(costs)}"
            return
    yield (
        f"with all of {' '.join(flags)} it would still take about {gib(then.peak_bytes)}: a smaller model, or a "
        "machine with more memory"
    )


def parts_text(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {gib(size)}" for name, size in parts.items())
