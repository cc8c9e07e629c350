"""origin -> model, tokenizer and template, with every reason why they do not belong together told as an error."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from neuralchat.config.methods import METHODS, trained_file
from neuralchat.console import gib, inform, note
from neuralchat.data.templates.making import make_template
from neuralchat.data.templates.template import Template
from neuralchat.errors import ArgumentsError, ModelError, RunDirectoryError, TemplateError
from neuralchat.inference.generation.settings import asked_by_base, asked_text
from neuralchat.inference.origin import Origin
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.files import PICKLED, check_adapter_files, load_adapter, missing_weights
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.layers.quantized_linear import dequantize_linears, quantized_numbers
from neuralchat.models.loading.base_fingerprint import base_fingerprint
from neuralchat.models.loading.base_model import (
    grow_embeddings,
    load_config,
    load_model,
    load_tokenizer,
    resolve,
    rows_of,
    user_errors,
)
from neuralchat.models.loading.precision import Precision, has_bf16_units

TEMPLATES = ("alpaca", "chat")
# Of the memory that is free, what weights in few bits may take once they are written out.
WRITTEN_OUT_SHARE = 0.5


@dataclass(frozen=True)
class TextParts:
    """What is loaded of a chatbot before its weights. `adapter`: its adapter_config.json, if any."""

    tokenizer: Any
    template: Template
    config: Any
    adapter: dict[str, Any] | None


def load_text_parts(origin: Origin, *, template: str | None, trust_remote_code: bool) -> TextParts:
    """All but the weights. Whether code of the base model may run is the caller's word."""
    if template is not None and template not in TEMPLATES:
        raise ArgumentsError(f"--template is '{template}'; allowed are {', '.join(TEMPLATES)}")
    adapter = checked_weights(origin)
    source = replace(origin.source, trust_remote_code=trust_remote_code)
    # First, since it looks at the base model's files before anything else reads them.
    config = config_of(origin, trust_remote_code=trust_remote_code)
    if origin.check_base or (knows_base(origin) and Path(resolve(source.name)).is_dir()):
        check_fingerprint(origin, base_fingerprint(source))
    own_tokenizer = origin.directory is not None and (origin.directory / "tokenizer_config.json").is_file()
    own = replace(source, tokenizer_name=str(origin.directory)) if own_tokenizer else source
    tokenizer = load_tokenizer(own, rows_of(config))
    return TextParts(tokenizer, template_of(origin, tokenizer, config, asked=template), config, adapter)


def load(
    origin: Origin,
    *,
    template: str | None,
    trust_remote_code: bool,
    bf16: bool | None = None,
    keep_bits: bool = False,
) -> tuple[Any, Any, Template]:
    """(model in evaluation mode, tokenizer, template). Raises as `load_text_parts` does. `bf16`: see chat_precision.

    `keep_bits`: weights in few bits stay so, for those who want their exact numbers and no answers.
    """
    parts = load_text_parts(origin, template=template, trust_remote_code=trust_remote_code)
    source = replace(origin.source, trust_remote_code=trust_remote_code)
    tokenizer, config, adapter = parts.tokenizer, parts.config, parts.adapter
    model = load_model(source, config, chat_precision(origin, config, bf16))
    if asked := asked_by_base(model):
        note(
            f"the generation_config.json of {source.name} asks for {asked_text(asked)}; that is not used, answers are "
            "as the flags say (the likeliest words unless --temperature is given)"
        )
    if adapter is not None and origin.directory is not None:
        check_new_tokens(model, origin.directory, adapter, len(tokenizer))
        model = with_adapter(model, origin.directory, len(tokenizer))
    if origin.bits is not None and not keep_bits:
        write_out_for_answers(model, origin.bits)
    if adapter is None:
        check_finite(model, f"model '{source.name}'", "its weights or config.json are damaged")
    else:
        # The base model's own weights were looked at when they were read.
        blamed = "the training of the adapter has diverged, or its files are damaged"
        check_finite(model, f"model '{source.name}' with the adapter of {origin.directory}", blamed)
    return model.eval(), tokenizer, parts.template


def checked_weights(origin: Origin) -> dict[str, Any] | None:
    """What adapter_config.json says; None where there is no adapter. Raises where the directory is not whole."""
    if origin.directory is None or origin.method is None:
        return None
    directory, whole = origin.directory, origin.is_whole_model
    trained = trained_file(origin.method)
    if not (directory / trained).is_file():
        pickled = (directory / PICKLED).exists() and not whole
        reason = missing_weights(directory) if pickled else f"{directory} has no {trained}"
        raise RunDirectoryError(f"{reason}; the {origin.kind} is not whole")
    if whole:
        return None
    adapter = check_adapter_files(directory)
    if origin.method in METHODS and METHODS[origin.method].peft_type != adapter.get("peft_type"):
        raise RunDirectoryError(
            f"{directory} is a {origin.kind} of {origin.method}, but its adapter_config.json is of "
            f"{adapter['peft_type']}; copy the {origin.kind} again from where it came from"
        )
    return adapter


def config_of(origin: Origin, *, trust_remote_code: bool) -> Any:
    """The configuration of the base model. A name that a hub does not know may also be a run's, written wrongly."""
    try:
        return load_config(replace(origin.source, trust_remote_code=trust_remote_code))
    except ModelError as error:
        if origin.kind == "base model" and "/" not in origin.name and not Path(origin.name).exists():
            raise RunDirectoryError(f"run directory {origin.name} does not exist; as a model: {error}") from error
        if origin.method is not None and not origin.is_whole_model:
            raise ModelError(
                f"the base model of {origin.name} cannot be loaded. If it lies elsewhere now, say where: "
                f"--base_model PATH\n{error}"
            ) from error
        raise


def knows_base(origin: Origin) -> bool:
    """Whether the files of the base model are known, so that what lies in its place now can be compared."""
    return not origin.is_whole_model and origin.base_sha256 is not None and is_sha256(origin.base_sha256)


def check_fingerprint(origin: Origin, found: str) -> None:
    """Raise ModelError where the base model, at its place or a new one, is another than that of training."""
    expected, name = origin.base_sha256, origin.source.name
    if expected is None or not (is_sha256(expected) and is_sha256(found)):
        if expected != found:
            note(f"whether {name} is the base model that {origin.name} was trained on cannot be compared")
    elif found != expected:
        raise ModelError(
            f"{name} is not the base model that {origin.name} was trained on: its files differ. If that one lies "
            "elsewhere, say where: --base_model PATH"
        )


def is_sha256(text: str) -> bool:
    """False for what tells a model of a hub apart: its name and commit."""
    return re.fullmatch("[0-9a-f]{64}", text) is not None


def template_of(origin: Origin, tokenizer: Any, config: Any, *, asked: str | None) -> Template:
    """The template of training; where that is not known the one asked for, or a guess that is told."""
    encoder_decoder = is_encoder_decoder(config)
    if origin.template_sha256 is not None:
        return template_of_training(origin, tokenizer, encoder_decoder=encoder_decoder, asked=asked)
    template = make_template(
        asked or "auto", tokenizer, conversations=True, encoder_decoder=encoder_decoder, own_prompt=True
    )
    # A model's own chat template is no guess.
    if asked is None and (origin.kind == "adapter" or template.name != "chat"):
        note(f"{origin.name} says nothing of its prompt format; taking {template.name} (--template names another)")
    return template


def template_of_training(origin: Origin, tokenizer: Any, *, encoder_decoder: bool, asked: str | None) -> Template:
    name = origin.template_name
    if name is None:
        # A checkpoint knows the fingerprint alone.
        candidates = ("alpaca", "chat") if tokenizer.chat_template and not encoder_decoder else ("alpaca",)
        name = next(
            (n for n in candidates if make_template(n, tokenizer).fingerprint() == origin.template_sha256),
            "alpaca_pairs" if encoder_decoder else "alpaca",
        )
    if asked not in (None, name):
        raise TemplateError(f"{origin.name} was trained with the template {name}, not {asked}; leave --template out")
    template = make_template(
        name,
        tokenizer,
        encoder_decoder=encoder_decoder,
        kwargs=origin.template_variables,
        date=origin.template_date,
    )
    if template.fingerprint() != origin.template_sha256:
        raise TemplateError(
            f"the template of {origin.name} has changed since training: its fingerprint is "
            f"{template.fingerprint()[:12]}, the {origin.kind} was trained with {str(origin.template_sha256)[:12]}"
        )
    return template


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
def check_finite(model: Any, name: str, cause: str) -> None:
    """Raise ModelError where one token gives scores that are not finite: then every answer would be chance."""
    base = base_model_of(model)
    ids = torch.zeros(1, 1, dtype=torch.long, device=base.device)
    decoder = {"decoder_input_ids": ids} if is_encoder_decoder(base.config) else {}
    with user_errors(name):
        scores = base.eval()(input_ids=ids, **decoder).logits
    if not bool(torch.isfinite(scores).all()):
        raise ModelError(f"{name} gives scores that are not finite; {cause}")


def write_out_for_answers(model: Any, bits: int) -> None:
    """Give layers in few bits a matrix of the numbers that they compute with, if memory has room for all of them.

    A layer writes its matrix for each product: cheap beside a long row of training, not beside a single token.
    """
    dtype = base_model_of(model).dtype
    size = sum(quantized_numbers(model).values()) * dtype.itemsize
    told = f"its weights in {bits} bits, {gib(size)} in {str(dtype).removeprefix('torch.')},"
    if size > WRITTEN_OUT_SHARE * psutil.virtual_memory().available:
        inform(f"{told} are more than half of the free memory: they are written out for each token, which takes longer")
        return
    dequantize_linears(model, dtype)
    inform(f"{told} are written out once, so that answers take less time; the numbers stay the same")


def chat_precision(origin: Origin, config: Any, bf16: bool | None = None) -> Precision:
    """What `bf16` says, or else the run's storage, or a base model's own; never bf16 where this machine multiplies bf16
    slowly. Bits are those of the run.
    """
    if bf16 and not has_bf16_units():
        note("--bf16: this CPU has no bf16 units, without which it is many times slower; the weights are held in fp32")
    if bf16 is not None:
        dtype = torch.bfloat16 if bf16 and has_bf16_units() else torch.float32
        return Precision(storage=dtype, compute=dtype, bits=origin.bits)
    stored = origin.storage
    if origin.kind == "base model":
        stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
    dtype = torch.bfloat16 if stored == "bfloat16" and has_bf16_units() else torch.float32
    return Precision(storage=dtype, compute=dtype, bits=origin.bits)
