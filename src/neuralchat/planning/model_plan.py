"""`neuralchat plan MODEL`: does it fit this machine, and how long do so many records take? Told before it is here.

Only the configuration is needed. The model is built with two and with three of its layers, of random weights, and what
training keeps and takes is measured on both; what a layer adds is added for the others.
"""

from __future__ import annotations

import argparse
import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neuralchat.config.arguments import TuningArguments
from neuralchat.console import gib, inform, show_page
from neuralchat.console.tables import Page
from neuralchat.console.units import speed
from neuralchat.data.tokenization import Example
from neuralchat.distributed.hardware import read_machine
from neuralchat.errors import ArgumentsError, ModelError
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.adapters.rehearsal import skeleton_of
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.families.packed_layout import take_packed_rows
from neuralchat.models.fast_paths import take_fast_paths
from neuralchat.models.layers.quantized_linear import quantize_linear
from neuralchat.models.loading.base_model import ModelSource, load_config, parameter_counts
from neuralchat.models.loading.precision import Precision, choose_precision, widen_small_weights
from neuralchat.models.losses.loss_sum import packed_loss_sum, padded_loss_sum
from neuralchat.models.quantization.choosing import nothing_to_quantize, quantizable_layers
from neuralchat.models.quantization.formats import BIT_FORMATS
from neuralchat.models.quiet import quiet_libraries
from neuralchat.planning.forecast import TimeForecast
from neuralchat.planning.memory import MemoryForecast, cost_per_token, resident_bytes

# A number of parameters as people write it, and what its letter stands for.
PARAMETERS = re.compile(r"(\d+(?:\.\d+)?)\s*([kmbt]?)", re.IGNORECASE)
LETTERS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
# What counts layers in a configuration; those of an encoder-decoder model have two numbers.
LAYER_COUNTS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
# The first layers of some families differ from the others.
MEASURED_LAYERS = (2, 3)
MEASURED_TOKENS = 256
# Of the shape of LLaMA: vocabulary, and the width for each of its layers.
VOCABULARY, WIDTH_PER_LAYER = 32_000, 128
# Flags that make weights smaller, and what they mean.
SMALLER_WEIGHTS = {
    "--bf16": Precision(storage=torch.bfloat16, compute=torch.bfloat16),
    "--bf16 --bits 8": Precision(storage=torch.bfloat16, compute=torch.bfloat16, bits=8),
    "--bf16 --bits 4": Precision(storage=torch.bfloat16, compute=torch.bfloat16, bits=4),
}
# Gradient and two moments, in fp32.
STATE_BYTES_PER_PARAMETER = 12


def plan_model(options: argparse.Namespace) -> int:
    """The verb `plan` where it is given a model. Raises ArgumentsError and ModelError."""
    name, config = named_config(options.model or options.model_name_or_path, options.model_parameters)
    for flag, value in (("records", options.records), ("tokens_per_record", options.tokens_per_record)):
        if value < 1:
            raise ArgumentsError(f"--{flag} is {value}; give a number from 1")
    if options.epochs <= 0:
        raise ArgumentsError(f"--epochs is {options.epochs:g}; give a number above 0")
    with quiet_libraries():
        show_page(Page(lines_of(name, config, options)))
    return 0


def named_config(name: str | None, parameters: str | None) -> tuple[str, Any]:
    """(what to call the model, its configuration). Raises ModelError, saying what is enough, where it cannot be had."""
    # `plan 7B` is about any model of that size.
    if name and parameters is None and PARAMETERS.fullmatch(name) and not name.isdigit():
        name, parameters = None, name
    if name:
        try:
            return name, load_config(ModelSource(name=name), needs_weights=False)
        except ModelError as error:
            if parameters is None:
                raise ModelError(
                    f"{error}\nIts number of parameters is enough for a plan: neuralchat plan --model_parameters 7B"
                ) from error
    if parameters is None:
        raise ArgumentsError("neuralchat plan: name a model, or give --model_parameters")
    return f"a model of {parameters} parameters, of the shape of LLaMA", llama_of(parameters)


def llama_of(text: str) -> Any:
    """The configuration of a LLaMA with about as many parameters as `text` says. Raises ArgumentsError."""
    from transformers import LlamaConfig

    match = PARAMETERS.fullmatch(text.strip())
    wanted = float(match[1]) * LETTERS[match[2].lower()] if match else 0.0
    if not 1e6 <= wanted <= 1e13:
        raise ArgumentsError(f"--model_parameters is '{text}'; give a number such as 7B or 350M")
    # About 12 x width² in a layer, and two matrices for the vocabulary.
    layers = min(
        range(1, 400),
        key=lambda n: abs(12 * n * (n * WIDTH_PER_LAYER) ** 2 + 2 * VOCABULARY * n * WIDTH_PER_LAYER - wanted),
    )
    width = layers * WIDTH_PER_LAYER
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=int(width * 8 / 3) // 256 * 256,
        num_hidden_layers=layers,
        num_attention_heads=layers,
        num_key_value_heads=layers,
    )


def lines_of(name: str, config: Any, options: argparse.Namespace) -> list[str]:
    tuning = TuningArguments()
    precision, notice = choose_precision(bf16=options.bf16, trains_base=False, bits=options.bits)
    skeleton = skeleton_of(config)
    in_few_bits = quantizable_weights(skeleton)
    with torch.device("meta"):
        trained, total = parameter_counts(add_adapter(skeleton, tuning, tell=lambda _text: None))
    layers = layer_count(config)
    what = f"{name}: {counted(total)} parameters in {layers} layers, of which {tuning.peft} trains {counted(trained)}"
    limit_bytes = read_machine().memory_limit()
    if options.bits is not None and not in_few_bits:
        raise ArgumentsError(nothing_to_quantize(f"a {config.model_type} model", options.bits))
    frozen = FrozenWeights(total - trained, in_few_bits)
    weights_bytes = frozen.bytes_in(precision)
    if weights_bytes > limit_bytes and weights_of_measured_layers(config, precision) > measurable_bytes():
        return [what, *lines_of_a_far_larger_model(frozen, trained, precision, limit_bytes)]
    bytes_per_token, seconds_per_token = extrapolated_cost(config, tuning, precision, options.tokens_per_record)
    state_bytes = trained * STATE_BYTES_PER_PARAMETER

    def peak(weights_bytes: int) -> int:
        return MemoryForecast(
            now_bytes=resident_bytes() + weights_bytes,
            state_bytes=state_bytes,
            bytes_per_token=bytes_per_token,
            micro_batch_tokens=tuning.micro_batch_tokens,
            longest_example_tokens=options.tokens_per_record,
        ).peak_bytes()

    needed = peak(weights_bytes)
    kept_tokens = max(tuning.micro_batch_tokens, options.tokens_per_record)
    lines = [
        what,
        f"memory: about {gib(needed)} at the peak, weights in {kinds_of_numbers(precision)}; this machine has "
        f"{gib(limit_bytes)}: " + ("it fits" if needed <= limit_bytes else "it does not fit"),
        f"  of which weights {gib(weights_bytes)}, what is trained with its optimizer {gib(state_bytes)}, what "
        f"backward keeps of {kept_tokens:,} tokens {gib(int(bytes_per_token * kept_tokens))}",
    ]
    if needed > limit_bytes:
        lines += [
            f"  with {flags}: about {gib(less)}, which {'fits' if less <= limit_bytes else 'does not fit either'}"
            for flags, less in ((flags, peak(frozen.bytes_in(other))) for flags, other in SMALLER_WEIGHTS.items())
            if less < needed
        ]
    tokens = round(options.records * options.tokens_per_record * options.epochs)
    forecast = TimeForecast(steps=1, tokens_per_step=tokens, seconds_per_token=seconds_per_token)
    lines += [
        f"speed: about {speed(1 / seconds_per_token)} tokens/s with {torch.get_num_threads()} thread(s), measured with "
        f"{MEASURED_LAYERS[0]} and {MEASURED_LAYERS[1]} layers of its kind",
        f"time: about {duration(forecast.training_seconds)} for {options.records:,} records of "
        f"{options.tokens_per_record} tokens, {options.epochs:g} times each (--records, --tokens_per_record, --epochs)",
    ]
    if notice:
        lines.append(f"  {notice}")
    return lines


@dataclass(frozen=True)
class FrozenWeights:
    """`count`: of all; `in_few_bits`: of those that --bits is for."""

    count: int
    in_few_bits: int

    def bytes_in(self, precision: Precision) -> int:
        if precision.bits is None:
            return self.count * precision.storage.itemsize
        few = int(self.in_few_bits * BIT_FORMATS[precision.bits].bytes_per_weight)
        return few + (self.count - self.in_few_bits) * precision.storage.itemsize


def quantizable_weights(model: Any) -> int:
    """How many weights of a model --bits is for."""
    return sum(model.get_submodule(path).weight.numel() for path in quantizable_layers(model))


def kinds_of_numbers(precision: Precision) -> str:
    """
    >>> kinds_of_numbers(Precision(storage=torch.bfloat16, compute=torch.bfloat16, bits=4))
    'nf4 and bfloat16'
    """
    dtype = str(precision.storage).removeprefix("torch.")
    return dtype if precision.bits is None else f"{BIT_FORMATS[precision.bits].name} and {dtype}"


def lines_of_a_far_larger_model(
    frozen: FrozenWeights, trained: int, precision: Precision, limit_bytes: int
) -> list[str]:
    """What can be said of a model of which not even a few layers are measured here: its weights alone are too large."""
    state_bytes = trained * STATE_BYTES_PER_PARAMETER
    needed = frozen.bytes_in(precision) + state_bytes
    with_flags = ((flags, frozen.bytes_in(other) + state_bytes) for flags, other in SMALLER_WEIGHTS.items())
    smaller = ", ".join(f"{gib(less)} with {flags}" for flags, less in with_flags if less < needed)
    halved = f" ({smaller})" if smaller else ""
    return [
        f"memory: more than {gib(needed)}{halved} for the weights and what is trained alone; this machine has "
        f"{gib(limit_bytes)}: it does not fit",
        f"speed and time: not measured, since {MEASURED_LAYERS[1]} of its layers are too large for this machine; plan "
        "on the machine that is to train",
    ]


def weights_of_measured_layers(config: Any, precision: Precision) -> int:
    """Bytes of the weights of the larger of the two models that are measured."""
    return parameter_counts(skeleton_of(shortened(config, MEASURED_LAYERS[1])))[1] * precision.storage.itemsize


def measurable_bytes() -> int:
    """How large these weights may be: half is left for what backward keeps."""
    return read_machine().available_memory // 2


def extrapolated_cost(
    config: Any, tuning: TuningArguments, precision: Precision, tokens_per_record: int
) -> tuple[float, float]:
    """(bytes that backward keeps, seconds) per token of the whole model, from models of a few layers."""
    layers = layer_count(config)
    if (needed := weights_of_measured_layers(config, precision)) > measurable_bytes():
        raise ArgumentsError(
            f"{MEASURED_LAYERS[1]} of its layers alone take {gib(needed)}, too much to measure them on this machine; "
            "plan on the machine that is to train, or for a smaller model"
        )
    inform(f"measuring {MEASURED_LAYERS[0]} and {MEASURED_LAYERS[1]} layers of its kind, of random weights")
    examples = made_up_examples(config, tokens_per_record)
    few, more = (measured_cost(shortened(config, count), tuning, precision, examples) for count in MEASURED_LAYERS)
    # Noise must not make a layer cost less than nothing.
    kept, seconds = (
        max(b + max(b - a, 0.0) * (layers - MEASURED_LAYERS[1]), a) for a, b in zip(few, more, strict=True)
    )
    return kept, seconds


def measured_cost(
    config: Any, tuning: TuningArguments, precision: Precision, examples: Sequence[Example]
) -> tuple[float, float]:
    """The same of a model of this configuration, of random weights."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind: Any = AutoModelForSeq2SeqLM if is_encoder_decoder(config) else AutoModelForCausalLM
    model = kind.from_config(config, dtype=precision.storage).requires_grad_(False)
    if precision.bits is not None:
        for path in quantizable_layers(model):
            layer = model.get_submodule(path)
            quantize_linear(layer, precision.bits, layer.weight, precision.compute)
    if precision.widens:
        widen_small_weights(model, precision.compute)
    model = add_adapter(model, tuning, tell=lambda _text: None)
    take_fast_paths(model, compile_kernels=tuning.compile_kernels)
    layout = take_packed_rows(model)

    def loss_of(chosen: Sequence[Example]) -> torch.Tensor:
        if layout is not None:
            return packed_loss_sum(model, layout.pack(chosen))
        return padded_loss_sum(model, chosen, pad_id=0)

    return cost_per_token(model, loss_of, examples)


def shortened(config: Any, layers: int) -> Any:
    """A copy of the configuration with so many layers; lists that have an entry for each layer are cut."""
    short = copy.deepcopy(config)
    for part in {id(c): c for c in (short, short.get_text_config())}.values():
        count = layer_count(part)
        for key, value in list(vars(part).items()):
            if isinstance(value, list) and len(value) == count:
                setattr(part, key, value[:layers])
        for key in LAYER_COUNTS:
            if isinstance(getattr(part, key, None), int):
                setattr(part, key, min(layers, getattr(part, key)))
    return short


def layer_count(config: Any) -> int:
    return int(config.get_text_config().num_hidden_layers)


def made_up_examples(config: Any, tokens: int) -> list[Example]:
    """A few examples of so many tokens, half of which are an answer."""
    tokens = min(tokens, MEASURED_TOKENS, getattr(config, "max_position_embeddings", None) or MEASURED_TOKENS)
    rng = np.random.default_rng(0)
    supervised = np.arange(tokens) >= tokens // 2
    vocabulary = config.get_text_config().vocab_size
    return [
        Example(rng.integers(vocabulary, size=tokens, dtype=np.int32), supervised, "made up")
        for _ in range(max(MEASURED_TOKENS // tokens, 1))
    ]


def counted(number: int) -> str:
    """
    >>> counted(6_738_415_616), counted(4_194_304), counted(1792)
    ('6.7 billion', '4.2 million', '1,792')
    """
    if number >= 1e9:
        return f"{number / 1e9:.1f} billion"
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,}"


def duration(seconds: float) -> str:
    """
    >>> duration(40), duration(4000), duration(100_000), duration(1_000_000)
    ('40 seconds', '67 minutes', '28 hours', '12 days')
    """
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
