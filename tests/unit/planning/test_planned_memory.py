"""planning/planned_memory.py: which flags make a run fit, and what is said of each."""

from __future__ import annotations

from dataclasses import replace

from neuralchat.models.quantization.choosing import QuantizableWeights
from neuralchat.planning.planned_memory import PlannedMemory, remedies

GIB = 1 << 30
# 4 GiB of weights in fp32, 4 GiB of activations; nothing else counts.
PLANNED = PlannedMemory(
    frozen=GIB, trained=0, bytes_per_weight=4, kept_bytes=GIB / 256, passing_bytes=0, fixed_bytes=0,
    micro_batch_tokens=1024, longest_example_tokens=100, layers=20, hidden_bytes=1000,
    program_bytes=GIB // 2,
)  # fmt: skip


def told(planned: PlannedMemory, limit_gib: float) -> list[str]:
    return [text.partition(":")[0] for text in remedies(planned, int(limit_gib * GIB))]


def test_each_flag_that_is_enough_is_told() -> None:
    """Of about 8.6 GiB (with the program), halved activations take 2, recomputed ones 0.2, halved weights 2."""
    assert told(PLANNED, 7.5) == ["--micro_batch_tokens 512", "--gradient_checkpointing True", "--bf16 True"]
    texts = list(remedies(PLANNED, int(7.5 * GIB)))
    assert texts[0].endswith("; no other result; smaller matrix products, which are somewhat slower")
    assert "so a step takes about a third longer" in texts[1]


def test_a_micro_batch_is_as_large_as_fits_and_never_smaller_than_an_example() -> None:
    assert "--micro_batch_tokens 128" in told(PLANNED, 5.3)
    assert told(replace(PLANNED, longest_example_tokens=1024), 5.3)[0] == "--gradient_checkpointing True"


def test_flags_are_put_together_where_one_is_not_enough() -> None:
    assert told(PLANNED, 3.0) == ["--gradient_checkpointing True --bf16 True"]


def test_what_never_fits() -> None:
    (text,) = remedies(PLANNED, GIB // 2)
    assert text.startswith("with all of --gradient_checkpointing True --bf16 True --micro_batch_tokens ")
    assert text.endswith("a smaller model, or a machine with more memory")


def test_all_weights_or_an_adapter() -> None:
    whole = replace(PLANNED, frozen=0, trained=GIB, trains_base=True)
    assert whole.parts()["what is trained"] == 16 * GIB
    assert told(whole, 10) == ["--peft lora"]


def test_few_bits_are_told_where_linear_layers_can_have_them() -> None:
    """8 bits where they are enough, else 4: of 4 GiB of weights 3/4 are linear layers."""
    partly = replace(PLANNED, quantizable=QuantizableWeights(count=GIB * 3 // 4))
    assert told(partly, 7.5)[-2:] == ["--bf16 True", "--bits 8"]
    assert told(partly, 6.2)[-1] == "--bits 4"
    assert replace(partly, bits=8).parts()["weights"] == GIB * 3 // 4 + GIB
    # What is in few bits already is not told again.
    assert not any("--bits" in text for text in told(replace(partly, bits=8), 4.0))
    # Together they are one flag.
    assert told(partly, 1.7) == ["--gradient_checkpointing True --bf16 True --bits 4"]
