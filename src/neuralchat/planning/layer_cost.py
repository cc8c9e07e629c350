"""What training costs with a model that is not here: two and three of its layers, of random weights, are measured.

What the third layer adds is added for all that are missing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from neuralchat.config.arguments import TuningArguments
from neuralchat.console import gib, inform
from neuralchat.data.tokenization import Example
from neuralchat.distributed.hardware import read_machine
from neuralchat.errors import ArgumentsError
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.adapters.rehearsal import skeleton_of
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.families.packed_layout import take_packed_rows
from neuralchat.models.fast_paths import take_fast_paths
from neuralchat.models.layers.quantized_linear import quantize_linear
from neuralchat.models.loading.base_model import parameter_counts
from neuralchat.models.loading.precision import Precision, widen_small_weights
from neuralchat.models.losses.loss_sum import packed_loss_sum, padded_loss_sum
from neuralchat.models.quantization.choosing import bits_of_layers
from neuralchat.planning.pass_cost import PassCost, measure_pass, size_rule

# What counts layers in a configuration; those of an encoder-decoder model have two numbers.
LAYER_COUNTS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
# The first layers of some families differ from the others.
MEASURED_LAYERS = (2, 3)
MEASURED_TOKENS, FEWEST_EXAMPLES = 512, 2


@dataclass(frozen=True)
class TokenCost:
    """Per token of a micro-batch: `kept_bytes` by autograd, `passing_bytes` besides at the peak, `seconds` of a forward
    and backward pass. `fixed_bytes`: at the peak, however few tokens there are.
    """

    kept_bytes: float
    passing_bytes: float
    seconds: float
    fixed_bytes: int

    @property
    def peak_bytes(self) -> float:
        return self.kept_bytes + self.passing_bytes


NO_COST = TokenCost(kept_bytes=0.0, passing_bytes=0.0, seconds=0.0, fixed_bytes=0)


def extrapolated_cost(config: Any, tuning: TuningArguments, precision: Precision, tokens_per_record: int) -> TokenCost:
    """Of the whole model, from models of a few layers. Raises ArgumentsError where not even these fit."""
    layers = layer_count(config)
    if (needed := weights_of_measured_layers(config, precision)) > measurable_bytes():
        raise ArgumentsError(
            f"{MEASURED_LAYERS[1]} of its layers alone take {gib(needed)}, too much to measure them on this machine; "
            "plan on the machine that is to train, or for a smaller model"
        )
    inform(f"measuring {MEASURED_LAYERS[0]} and {MEASURED_LAYERS[1]} layers of its kind, of random weights")
    examples = made_up_examples(config, tokens_per_record)
    few, more = (measured_cost(shortened(config, count), tuning, precision, examples) for count in MEASURED_LAYERS)
    left = layers - MEASURED_LAYERS[1]
    # Noise must not make a layer cost less than nothing.
    return TokenCost(
        kept_bytes=max(more.kept_bytes + max(more.kept_bytes - few.kept_bytes, 0.0) * left, few.kept_bytes),
        # Alive in one layer at a time.
        passing_bytes=more.passing_bytes,
        seconds=max(more.seconds + max(more.seconds - few.seconds, 0.0) * left, few.seconds),
        fixed_bytes=max(few.fixed_bytes, more.fixed_bytes),
    )


def measured_cost(config: Any, tuning: TuningArguments, precision: Precision, examples: Sequence[Example]) -> TokenCost:
    """Of a model of this configuration, of random weights."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind: Any = AutoModelForSeq2SeqLM if is_encoder_decoder(config) else AutoModelForCausalLM
    model = kind.from_config(config, dtype=precision.storage).requires_grad_(False)
    if precision.bits is not None:
        for path, bits in bits_of_layers(model, precision.bits).items():
            layer = model.get_submodule(path)
            quantize_linear(layer, bits, layer.weight, precision.compute)
    if precision.widens:
        widen_small_weights(model, precision.compute)
    model = add_adapter(model, tuning, tell=lambda _text: None)
    take_fast_paths(model, compile_kernels=tuning.compile_kernels)
    layout = take_packed_rows(model)

    def loss_of(chosen: Sequence[Example]) -> torch.Tensor:
        if layout is not None:
            return packed_loss_sum(model, layout.pack(chosen))
        return padded_loss_sum(model, chosen, pad_id=0)

    rule = size_rule(model)
    size = rule.of_examples(examples, layout)
    cost: PassCost = measure_pass(model, loss_of, examples, lambda chosen: rule.of_examples(chosen, layout))
    kept = cost.kept_bytes_per_token
    return TokenCost(
        kept_bytes=kept,
        passing_bytes=max(0.0, (cost.bytes_per_token or 1.15 * kept) - kept),
        seconds=cost.seconds(1, size.work) / size.tokens,
        fixed_bytes=cost.fixed_bytes or 0,
    )


# Numbers of the hidden size's width that a layer keeps of a token for backward; of LLaMA's kind, with kernels compiled.
KEPT_WIDTHS_PER_LAYER, PASSING_WIDTHS = 18, 40


def estimated_cost(config: Any, precision: Precision) -> TokenCost:
    """A rough one, where not even a few layers can be measured."""
    width = hidden_bytes(config, precision)
    return TokenCost(
        kept_bytes=KEPT_WIDTHS_PER_LAYER * layer_count(config) * width,
        passing_bytes=PASSING_WIDTHS * width,
        seconds=0.0,
        fixed_bytes=0,
    )


def hidden_bytes(config: Any, precision: Precision) -> int:
    """Of one token's hidden state."""
    return int(config.get_text_config().hidden_size) * precision.compute.itemsize


def weights_of_measured_layers(config: Any, precision: Precision) -> int:
    """Bytes of the weights of the larger of the two models that are measured."""
    return parameter_counts(skeleton_of(shortened(config, MEASURED_LAYERS[1])))[1] * precision.storage.itemsize


def measurable_bytes() -> int:
    """How large these weights may be: half is left for what backward keeps."""
    return read_machine().available_memory // 2


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
        for _ in range(max(MEASURED_TOKENS // tokens, FEWEST_EXAMPLES))
    ]
