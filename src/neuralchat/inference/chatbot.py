"""run directory -> a chatbot: the run's own base model, adapter, tokenizer and template."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from neuralchat.console import note
from neuralchat.data.records import Turn
from neuralchat.data.templates import Template, make_template
from neuralchat.data.tokenization import Encoder
from neuralchat.errors import ModelError, RunDirectoryError, TemplateError
from neuralchat.inference.generation import Answer, TextStream, end_token_ids, generate
from neuralchat.inference.sampling_flags import Sampling
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.files import PICKLED, check_adapter_files, load_adapter, missing_weights
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.loading.base_model import (
    ModelSource,
    grow_embeddings,
    load_config,
    load_model,
    load_tokenizer,
    user_errors,
)
from neuralchat.models.loading.precision import Precision, has_bf16_units
from neuralchat.runs.directory import MANIFEST, METRICS, read_manifest, trained_file

# The method of a run -> the peft_type of its adapter.
PEFT_TYPES = {
    "lora": "LORA", "ia3": "IA3", "ptun": "P_TUNING", "prefix": "PREFIX_TUNING", "prompt": "PROMPT_TUNING",
    "llama_adapter": "ADAPTION_PROMPT",
}  # fmt: skip


class Chatbot:
    """Answers conversations. `model` may be a base model or a PeftModel."""

    def __init__(self, model: Any, tokenizer: Any, template: Template) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.template = template
        self.end_ids = end_token_ids(tokenizer, template)
        # The limit is the model's, not training's: a long history is cut by the caller.
        self.encoder = Encoder(tokenizer, template, max_seq_length=1 << 30, train_on_inputs=False)

    @classmethod
    def load(cls, run: Path, *, trust_remote_code: bool = False, template: str | None = None) -> Chatbot:
        """The chatbot of a finished run, or of a PEFT adapter from elsewhere.

        Whether code of the base model may run is the caller's word, never that of the run directory. `template` names
        the prompt format of an adapter from elsewhere; a run has its own. Raises RunDirectoryError, ModelError or
        TemplateError.
        """
        manifest = read_adapter_as_manifest(run) if is_foreign_adapter(run) else read_manifest(run)
        method = manifest["adapter"]["method"]
        whole = method == "none"
        source = source_of(manifest) if not whole else ModelSource(name=str(run))
        source = replace(source, trust_remote_code=trust_remote_code)
        trained = trained_file(method)
        if not (run / trained).is_file():
            reason = missing_weights(run) if (run / PICKLED).exists() and not whole else f"{run} has no {trained}"
            raise RunDirectoryError(f"{reason}; the run is not whole")
        adapter = {} if whole else check_adapter_files(run)
        if PEFT_TYPES.get(method, adapter.get("peft_type")) != adapter.get("peft_type"):
            raise RunDirectoryError(
                f"{run} is a run of {method}, but its adapter_config.json is of {adapter['peft_type']}; "
                "copy the run again from where it came from"
            )
        # First, since it looks at the base model's files before anything else reads them.
        config = load_config(source)
        own_tokenizer = str(run) if (run / "tokenizer_config.json").is_file() else None
        tokenizer = load_tokenizer(replace(source, tokenizer_name=own_tokenizer))
        chosen = template_of(run, manifest, tokenizer, config, asked=template)
        model = load_model(source, config, chat_precision(manifest))
        if not whole:
            check_new_tokens(model, run, adapter, len(tokenizer))
            model = with_adapter(model, run, len(tokenizer))
        check_finite(model, source.name)
        return cls(model.eval(), tokenizer, chosen)

    def answer(self, turns: Sequence[Turn], sampling: Sampling, on_text: Callable[[str], None] | None = None) -> Answer:
        """The reply to a conversation that ends with the user's turn; `on_text` gets it piece by piece."""
        stream = TextStream(self.tokenizer, self.end_ids, on_text) if on_text else None
        return generate(
            self.model, self.tokenizer, [self.encoder.encode_prompt(turns)], self.end_ids, sampling, stream
        )[0]

    def answers(self, conversations: Sequence[Sequence[Turn]], sampling: Sampling, *, batch: int = 16) -> list[Answer]:
        """Replies to many conversations, several at a time."""
        prompts = [self.encoder.encode_prompt(turns) for turns in conversations]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: dict[int, Answer] = {}
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            replies = generate(self.model, self.tokenizer, [prompts[i] for i in chosen], self.end_ids, sampling)
            found.update(zip(chosen, replies, strict=True))
        return [found[i] for i in range(len(prompts))]


def template_of(run: Path, manifest: dict[str, Any], tokenizer: Any, config: Any, *, asked: str | None) -> Template:
    """The template a run was trained with; for an adapter from elsewhere the one asked for, or a guess that is told."""
    encoder_decoder = is_encoder_decoder(config)
    known = manifest.get("template")
    if known is None:
        template = make_template(asked or "auto", tokenizer, conversations=True, encoder_decoder=encoder_decoder)
        if asked is None:
            note(f"{run} says nothing of its prompt format; taking {template.name} (--template names another)")
        return template
    if asked not in (None, known["name"]):
        raise TemplateError(f"{run} was trained with the template {known['name']}, not {asked}; leave --template out")
    template = make_template(known["name"], tokenizer, encoder_decoder=encoder_decoder)
    trained_with = str(known.get("sha256"))
    if template.fingerprint() != trained_with:
        raise TemplateError(
            f"the template of {run} has changed since training: its fingerprint is {template.fingerprint()[:12]}, "
            f"the run was trained with {trained_with[:12]}"
        )
    return template


def is_foreign_adapter(run: Path) -> bool:
    """A directory that PEFT saved and we did not; a run of ours that is not finished has its metrics already."""
    ours = [MANIFEST, METRICS]
    return (run / "adapter_config.json").is_file() and not any((run / name).exists() for name in ours)


def read_adapter_as_manifest(run: Path) -> dict[str, Any]:
    config = check_adapter_files(run)
    base = config.get("base_model_name_or_path")
    if not base:
        raise RunDirectoryError(f"{run / 'adapter_config.json'} names no base model")
    return {"base_model": {"name": base}, "adapter": {"method": config["peft_type"].lower()}}


def check_new_tokens(model: Any, run: Path, adapter: dict[str, Any], tokens: int) -> None:
    """Raise ModelError where the run's tokenizer has tokens that neither base model nor adapter has a row for."""
    rows = model.get_input_embeddings().weight.shape[0]
    trained = adapter.get("trainable_token_indices") or []
    ids = trained if isinstance(trained, list) else [token for part in trained.values() for token in part]
    if tokens > rows and not set(range(rows, tokens)) <= set(ids):
        raise ModelError(
            f"the tokenizer of {run} has {tokens} tokens, its base model {model.name_or_path} has {rows} embeddings, "
            "and the adapter does not hold the others. Is it the base model that the adapter was trained on?"
        )


def with_adapter(model: Any, run: Path, tokens: int) -> Any:
    """`model` with the adapter of `run`, and with embeddings for all `tokens` of the run's tokenizer."""
    grow_embeddings(model, tokens)
    return load_adapter(model, run)


@torch.inference_mode()
def check_finite(model: Any, name: str) -> None:
    """Raise ModelError where one token gives scores that are not finite: then every answer would be chance."""
    base = base_model_of(model)
    ids = torch.zeros(1, 1, dtype=torch.long, device=base.device)
    decoder = {"decoder_input_ids": ids} if is_encoder_decoder(base.config) else {}
    with user_errors(f"model '{name}'"):
        scores = base.eval()(input_ids=ids, **decoder).logits
    if not bool(torch.isfinite(scores).all()):
        raise ModelError(f"model '{name}' gives scores that are not finite; its weights or config.json are damaged")


def source_of(manifest: dict[str, Any]) -> ModelSource:
    base = manifest["base_model"]
    # A relative path is written down whole, so that a run can be used from any directory.
    directory = base.get("path")
    return ModelSource(
        name=directory if directory and os.path.isdir(directory) else base["name"],
        config_name=base.get("config_name"),
        revision=base.get("revision") or "main",
        cache_dir=base.get("cache_dir"),
    )


def chat_precision(manifest: dict[str, Any]) -> Precision:
    """The run's storage; where that is bf16 and the machine multiplies bf16 slowly, it is widened once."""
    bf16 = manifest.get("precision", {}).get("storage") == "bfloat16" and has_bf16_units()
    dtype = torch.bfloat16 if bf16 else torch.float32
    return Precision(storage=dtype, compute=dtype)
