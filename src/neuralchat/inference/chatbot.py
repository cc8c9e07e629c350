"""run directory -> a chatbot: the run's own base model, adapter, tokenizer and template."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from neuralchat.data.records import Turn
from neuralchat.data.templates import Template, make_template
from neuralchat.data.tokenization import Encoder
from neuralchat.errors import ModelError, RunDirectoryError, TemplateError
from neuralchat.inference.generation import Answer, TextStream, end_token_ids, generate
from neuralchat.inference.sampling_flags import Sampling
from neuralchat.models.loading import ModelSource, grow_embeddings, load_config, load_model, load_tokenizer
from neuralchat.models.precision import Precision, has_bf16_units
from neuralchat.run_directory import MANIFEST, METRICS, read_manifest, trained_file


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
    def load(
        cls, run: Path, *, trust_remote_code: bool = False, template: str | None = None, say: Callable[[str], None]
    ) -> Chatbot:
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
            raise RunDirectoryError(f"{run} has no {trained}; the run is not whole")
        own_tokenizer = str(run) if (run / "tokenizer_config.json").is_file() else None
        tokenizer = load_tokenizer(replace(source, tokenizer_name=own_tokenizer), say)
        config = load_config(source, say)
        chosen = template_of(run, manifest, tokenizer, config, asked=template, say=say)
        model = load_model(source, config, chat_precision(manifest), say)
        return cls((model if whole else with_adapter(model, run, len(tokenizer))).eval(), tokenizer, chosen)

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


def template_of(
    run: Path, manifest: dict[str, Any], tokenizer: Any, config: Any, *, asked: str | None, say: Callable[[str], None]
) -> Template:
    """The template a run was trained with; for an adapter from elsewhere the one asked for, or a guess that is told."""
    pairs = config.is_encoder_decoder
    known = manifest.get("template")
    if known is None:
        template = make_template(asked or "auto", tokenizer, conversations=True, encoder_decoder=pairs)
        if asked is None:
            say(f"{run} says nothing of its prompt format; taking {template.name} (--template names another)")
        return template
    if asked not in (None, known["name"]):
        raise TemplateError(f"{run} was trained with the template {known['name']}, not {asked}; leave --template out")
    template = make_template(known["name"], tokenizer, encoder_decoder=pairs)
    if template.fingerprint() != known["sha256"]:
        raise TemplateError(
            f"the template of {run} has changed since training: its fingerprint is {template.fingerprint()[:12]}, "
            f"the run was trained with {known['sha256'][:12]}"
        )
    return template


def is_foreign_adapter(run: Path) -> bool:
    """A directory that PEFT saved and we did not; a run of ours that is not finished has its metrics already."""
    ours = [MANIFEST, METRICS]
    return (run / "adapter_config.json").is_file() and not any((run / name).exists() for name in ours)


def read_adapter_as_manifest(run: Path) -> dict[str, Any]:
    try:
        config = json.loads((run / "adapter_config.json").read_text(encoding="utf-8"))
        base, method = config["base_model_name_or_path"], config["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{run / 'adapter_config.json'} is damaged: {error!r}") from error
    if not isinstance(base, str) or not base:
        raise RunDirectoryError(f"{run / 'adapter_config.json'} names no base model")
    return {"base_model": {"name": base}, "adapter": {"method": str(method).lower()}}


def with_adapter(model: Any, run: Path, tokens: int) -> Any:
    """`model` with the adapter of `run`, and with embeddings for all `tokens` of the run's tokenizer."""
    from peft import PeftModel

    grow_embeddings(model, tokens)
    try:
        return PeftModel.from_pretrained(model, str(run))
    except (RuntimeError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"the adapter of {run} does not fit its base model {model.name_or_path}: {first}") from error


def source_of(manifest: dict[str, Any]) -> ModelSource:
    base = manifest["base_model"]
    # A relative path is written down whole, so that a run can be used from any directory.
    directory = base.get("path")
    return ModelSource(
        name=directory if directory and Path(directory).is_dir() else base["name"],
        config_name=base.get("config_name"),
        revision=base.get("revision", "main"),
        cache_dir=base.get("cache_dir"),
    )


def chat_precision(manifest: dict[str, Any]) -> Precision:
    """The run's storage; where that is bf16 and the machine multiplies bf16 slowly, it is widened once."""
    bf16 = manifest.get("precision", {}).get("storage") == "bfloat16" and has_bf16_units()
    dtype = torch.bfloat16 if bf16 else torch.float32
    return Precision(storage=dtype, compute=dtype)
