"""The tuning methods, one row each: what a method is, what suits it, and how PEFT is asked for it.

A new method is a new row. PEFT is imported when a row is used, torch never.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuralchat.runs.directory import ADAPTER, WHOLE_MODEL

if TYPE_CHECKING:
    from neuralchat.config.arguments import TuningArguments

# PEFT's value for each --lora_init; what is not one of its own begins as its own does, and is changed then.
LORA_INITS: dict[str, Any] = {"auto": True, "apart": True, "default": True, "gaussian": "gaussian", "pissa": "pissa"}


# That of a model of seven billion parameters.
LARGE_HIDDEN_SIZE = 4096
RATE_EXPONENT = 0.8
MOST_FITTED_RATE = 2e-3


@dataclass(frozen=True, kw_only=True)
class Method:
    """A value of --peft."""

    name: str
    # Used where no --learning_rate is given; what is fitted to the model's size is that of LARGE_HIDDEN_SIZE.
    learning_rate: float
    fits_rate_to_size: bool = False
    # PEFT's name of the kind of adapter; None: nothing is added, all weights of the model are trained.
    peft_type: str | None
    # (arguments, model, ids of added tokens, the row of the model in models/families/table.py) -> PEFT configuration.
    make_config: Callable[[TuningArguments, Any, Collection[int], Any], Any] | None
    # Why the result cannot be folded into the base weights; empty where it can.
    unmergeable: str = ""
    # Virtual tokens stand before the text.
    virtual_tokens: bool = False
    # Whether the embeddings of added tokens are trained too.
    trains_added_tokens: bool = False
    # model_type of the only architectures that PEFT has it for; None: not limited by a list.
    model_types: tuple[str, ...] | None = None
    # What may help besides another method, where the model does not take it.
    remedy: str = ""

    @property
    def trains_base(self) -> bool:
        return self.peft_type is None

    def learning_rate_for(self, hidden_size: int) -> float:
        """The learning rate for a model of this hidden size, where none is given.

        Smaller models take larger steps (https://thinkingmachines.ai/blog/lora finds exponents of about 0.8; the
        demo's own search agrees, see benchmarks/LOG.md).

        >>> METHODS["lora"].learning_rate_for(4096), METHODS["lora"].learning_rate_for(576)
        (0.0003, 0.0014)
        """
        if not self.fits_rate_to_size:
            return self.learning_rate
        rate = min(MOST_FITTED_RATE, self.learning_rate * (LARGE_HIDDEN_SIZE / hidden_size) ** RATE_EXPONENT)
        return float(f"{rate:.1e}")

    @property
    def mergeable(self) -> bool:
        return not self.unmergeable

    @property
    def trained_file(self) -> str:
        """What a run or checkpoint holds: an adapter, or after full fine-tuning the whole model."""
        return WHOLE_MODEL if self.trains_base else ADAPTER


def is_pattern(text: str) -> bool:
    """Whether a value of --lora_target_modules is a regular expression and no name.

    >>> is_pattern("q_proj"), is_pattern("layers.0.q_proj"), is_pattern(r".*\\.(q|v)_proj")
    (False, False, True)
    """
    return bool(set(text) & set("\\^$*+?()[]{}|"))


def lora_config(tuning: TuningArguments, model: Any, token_ids: Collection[int], family: Any) -> Any:
    from peft import LoraConfig

    targets: Any = list(tuning.lora_target_modules) or None
    if targets and is_pattern(targets[0]):
        # PEFT takes a text for a regular expression, and a list for names.
        (targets,) = targets
    return LoraConfig(
        r=tuning.lora_rank,
        lora_alpha=tuning.lora_alpha,
        lora_dropout=tuning.lora_dropout,
        target_modules=targets or ("all-linear" if tuning.lora_all_linear else None),
        use_dora=tuning.lora_dora,
        use_rslora=tuning.lora_rslora,
        init_lora_weights=LORA_INITS[tuning.lora_init],
        trainable_token_indices=list(token_ids) or None,
        bias="none",
        task_type=family.task_type(model.config),
    )


def ia3_config(_tuning: TuningArguments, model: Any, _token_ids: Collection[int], family: Any) -> Any:
    from peft import IA3Config

    return IA3Config(task_type=family.task_type(model.config), **(family.ia3_targets or {}))


def ptun_config(tuning: TuningArguments, model: Any, _token_ids: Collection[int], family: Any) -> Any:
    from peft import PromptEncoderConfig

    return PromptEncoderConfig(
        task_type=family.task_type(model.config),
        num_virtual_tokens=tuning.num_virtual_tokens,
        encoder_hidden_size=tuning.ptun_hidden_size,
        **family.prompt_sizes(model.config),
    )


def prefix_config(tuning: TuningArguments, model: Any, _token_ids: Collection[int], family: Any) -> Any:
    from peft import PrefixTuningConfig

    return PrefixTuningConfig(
        task_type=family.task_type(model.config),
        num_virtual_tokens=tuning.num_virtual_tokens,
        **family.prompt_sizes(model.config),
    )


def prompt_config(tuning: TuningArguments, model: Any, _token_ids: Collection[int], family: Any) -> Any:
    from peft import PromptTuningConfig

    return PromptTuningConfig(
        task_type=family.task_type(model.config),
        num_virtual_tokens=tuning.num_virtual_tokens,
        **family.prompt_sizes(model.config),
    )


def llama_adapter_config(tuning: TuningArguments, model: Any, _token_ids: Collection[int], family: Any) -> Any:
    from peft import AdaptionPromptConfig

    depth = getattr(model.config, "num_hidden_layers", tuning.adapter_layers)
    return AdaptionPromptConfig(
        task_type=family.task_type(model.config),
        adapter_len=tuning.adapter_len,
        adapter_layers=min(tuning.adapter_layers, depth),
    )


ROWS = (
    Method(
        name="lora",
        learning_rate=3e-4,
        fits_rate_to_size=True,
        peft_type="LORA",
        make_config=lora_config,
        trains_added_tokens=True,
        remedy="Name the layers with --lora_target_modules",
    ),
    Method(
        name="ptun",
        learning_rate=2e-3,
        peft_type="P_TUNING",
        make_config=ptun_config,
        virtual_tokens=True,
        unmergeable="its virtual tokens stand before the text, they are no part of any weight",
    ),
    Method(
        name="prefix",
        learning_rate=3e-2,
        peft_type="PREFIX_TUNING",
        make_config=prefix_config,
        virtual_tokens=True,
        unmergeable="its keys and values stand before the text, they are no part of any weight",
    ),
    Method(
        name="prompt",
        learning_rate=1e-1,
        peft_type="PROMPT_TUNING",
        make_config=prompt_config,
        virtual_tokens=True,
        unmergeable="its virtual tokens stand before the text, they are no part of any weight",
    ),
    Method(
        name="llama_adapter",
        learning_rate=2e-2,
        peft_type="ADAPTION_PROMPT",
        make_config=llama_adapter_config,
        unmergeable="its prompts enter attention beside the weights, through a gate",
        model_types=("gpt2", "llama", "mistral"),
    ),
    Method(name="ia3", learning_rate=2e-2, peft_type="IA3", make_config=ia3_config),
    Method(
        name="none",
        learning_rate=2e-5,
        peft_type=None,
        make_config=None,
        trains_added_tokens=True,
        unmergeable="all weights were trained, so the run is a whole model already",
    ),
)
METHODS: dict[str, Method] = {row.name: row for row in ROWS}


def trained_file(method: str) -> str:
    """What a run of a method holds. A method that is not ours is that of an adapter from elsewhere."""
    return METHODS[method].trained_file if method in METHODS else ADAPTER
