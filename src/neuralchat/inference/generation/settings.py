"""What decides how transformers generates: the caller's sampling and the tokens that end an answer, nothing else.

A base model brings a generation_config.json, and transformers takes from there whatever a call leaves unsaid: beams, a
penalty, tokens that are suppressed or forced. Here it says nothing by itself; what it asks for is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

from neuralchat.data.templates.template import Template
from neuralchat.inference.sampling import Sampling

# Which tokens there are is the tokenizer's and the template's to say; the others say nothing of the answer's words.
NOT_TOLD = {
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version", "use_cache",
    "cache_implementation", "cache_config", "max_length", "max_new_tokens", "return_dict_in_generate",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits",
}  # fmt: skip

# Values that ask for nothing, where a file states them all the same.
NEUTRAL = {
    "do_sample": False, "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "temperature": 1.0,
    "top_p": 1.0, "repetition_penalty": 1.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0,
    "diversity_penalty": 0.0, "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0,
    "early_stopping": False, "remove_invalid_values": False, "_from_model_config": True,
}  # fmt: skip


@contextmanager
def generation_settings(
    base: Any, sampling: Sampling, *, end_ids: Sequence[int], pad_id: int
) -> Iterator[GenerationConfig]:
    """The whole configuration of one answer, which stands in the place of the base model's own meanwhile.

    transformers fills what a configuration leaves unsaid from the model's own, so that has to be away.
    """
    own = base.generation_config
    config = GenerationConfig(
        **sampling.options(),
        # Without any, an answer ends at its length only.
        eos_token_id=list(end_ids) or None,
        pad_token_id=pad_id,
        bos_token_id=own.bos_token_id if own is not None else None,
        decoder_start_token_id=decoder_start(base),
        # MPT's configurations turn the cache off, as others do after training; answers need it.
        use_cache=True,
    )
    base.generation_config = config
    try:
        yield config
    finally:
        base.generation_config = own


def end_token_ids(tokenizer: Any, template: Template) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(token) for token in template.end_tokens]


def padding_id(tokenizer: Any, end_ids: Sequence[int]) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_ids[0]


def decoder_start(base: Any) -> int | None:
    """The token that an encoder-decoder model's answers begin after."""
    stated = getattr(base.generation_config, "decoder_start_token_id", None)
    return getattr(base.config, "decoder_start_token_id", None) if stated is None else stated


def asked_by_base(base: Any) -> dict[str, Any]:
    """What a base model's generation_config.json asks for beyond transformers' defaults, by name."""
    own = base.generation_config
    stated = {} if own is None else own.to_diff_dict()
    return {name: value for name, value in stated.items() if name not in NOT_TOLD and value != NEUTRAL.get(name)}


def asked_text(asked: dict[str, Any]) -> str:
    """A few of them, for a message.

    >>> asked_text({"num_beams": 4, "do_sample": True})
    'num_beams 4, do_sample true'
    """
    told = [f"{name} {str(value).lower() if isinstance(value, bool) else value}" for name, value in asked.items()]
    return ", ".join(text if len(text) <= 60 else f"{text[:57]}..." for text in told)


def with_end_tokens(own: GenerationConfig | None, end_ids: Sequence[int]) -> GenerationConfig:
    """A configuration for other programs: the base model's, ending answers at `end_ids` too.

    Settings that transformers would refuse to write, such as a temperature without sampling, are left out.
    """
    config = GenerationConfig() if own is None else GenerationConfig.from_dict(own.to_dict())
    stated = config.eos_token_id
    before = stated if isinstance(stated, list) else [] if stated is None else [stated]
    ids = list(dict.fromkeys([*end_ids, *before]))
    config.eos_token_id = ids[0] if len(ids) == 1 else ids
    try:
        config.validate(strict=True)
    except ValueError:
        kept = ("bos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
        config = GenerationConfig(**{name: getattr(config, name) for name in kept}, eos_token_id=config.eos_token_id)
    return config
