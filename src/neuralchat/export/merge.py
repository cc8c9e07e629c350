"""`neuralchat merge`: fold a run's adapter into its base weights, for programs that know no adapters."""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from neuralchat.config.methods import METHODS
from neuralchat.console import put
from neuralchat.errors import AdapterError, RunDirectoryError, system_error_in, system_error_line
from neuralchat.export.python_code import with_neuralchat, without_neuralchat
from neuralchat.files import (
    WRITING,
    make_directory,
    place_files,
    settle_file,
    undo_abandoned,
    working_directory_in,
    write_file,
)
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.generation_settings import with_end_tokens
from neuralchat.inference.origin import MODEL_CONFIG, Origin, origin_of, origin_of_run
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.quiet import quiet_libraries
from neuralchat.runs.directory import MANIFEST, is_plain, json_text, read_manifest, why_unwritable
from neuralchat.runs.model_card import model_card

# How far, in norm, merged logits may be from unmerged ones: weights are rounded once more.
MERGE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
MERGING_PREFIX = f"{WRITING}-"
TRIED_TOKENS, TRIED_IDS = 16, 1000


def check_mergeable(method: str) -> None:
    """Raises AdapterError, with the reason, where the method cannot be merged."""
    if method in METHODS and METHODS[method].mergeable:
        return
    reason = METHODS[method].unmergeable if method in METHODS else "PEFT cannot merge it"
    mergeable = ", ".join(row.name for row in METHODS.values() if row.mergeable)
    raise AdapterError(f"--peft {method} cannot be merged: {reason}. Methods that can: {mergeable}")


def merged(model: Any, method: str) -> Any:
    """The base model with the adapter in its weights, which gives the logits that it gave with the adapter beside them.

    A head that is the embedding's matrix becomes one of its own where LoRA was put on either of them. Raises
    AdapterError where the method cannot be merged, or where the logits differ by more than rounding.
    """
    check_mergeable(method)
    model.eval()
    expected = tried_logits(base_model_of(model))
    untie_adapted_head(base_model_of(model))
    whole = model.merge_and_unload()
    difference = float((tried_logits(whole) - expected).norm() / expected.norm())
    if not difference <= MERGE_TOLERANCE.get(whole.dtype, MERGE_TOLERANCE[torch.bfloat16]):
        raise AdapterError(
            f"the merged model is another one than base model and adapter: its logits differ by {difference:.0e} of "
            "their size, more than rounding explains. Nothing was written; use the adapter as it is"
        )
    return whole


@torch.inference_mode()
def tried_logits(base: Any) -> torch.Tensor:
    """Logits [T, V] in double precision, of a few made-up tokens."""
    rows = base.get_input_embeddings().weight.shape[0]
    ids = torch.randint(min(rows, TRIED_IDS), (1, TRIED_TOKENS), generator=torch.Generator().manual_seed(0))
    ids = ids.to(base.device)
    decoder = {"decoder_input_ids": ids} if is_encoder_decoder(base.config) else {}
    return base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **decoder).logits[0].double()


def untie_adapted_head(base: Any) -> None:
    """Give head and embedding, if they share a matrix and LoRA is on one of them, a matrix each: two sums do not fit
    into one.
    """
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    plain_embedding, plain_head = (getattr(module, "base_layer", module) for module in (embedding, head))
    adapted = plain_embedding is not embedding or plain_head is not head
    if head is None or not adapted or plain_head.weight is not plain_embedding.weight:
        return
    plain_head.weight = torch.nn.Parameter(plain_embedding.weight.detach().clone(), requires_grad=False)
    base.config.tie_word_embeddings = False
    base.config.get_text_config().tie_word_embeddings = False


def merge(options: argparse.Namespace) -> int:
    run, output = Path(options.run), Path(options.output)
    if not is_plain(str(output)):
        raise RunDirectoryError(f"--output {output} is not UTF-8, or too long, and no library can write there")
    undo_abandoned(output, MERGING_PREFIX)
    if output.exists() and any(output.iterdir() if output.is_dir() else [output]):
        raise RunDirectoryError(f"--output {output} is not empty; name a directory that is new")
    if reason := why_unwritable(output):
        raise RunDirectoryError(f"--output {output} cannot be written: {reason}")
    origin = origin_of(run) if run.is_dir() else origin_of_run(run)
    # Without a manifest of ours the merged model could not say how it wants to be asked.
    if origin.kind == "adapter":
        raise RunDirectoryError(f"{run} is an adapter from elsewhere; merge it with PEFT's merge_and_unload")
    if origin.method is None:
        raise AdapterError(f"{run} is a base model: there is no adapter to merge")
    # Before anything is loaded.
    check_mergeable(origin.method)
    bot = Chatbot.load(run, trust_remote_code=options.trust_remote_code, base_model=options.base_model)
    manifest = read_manifest(run) if origin.kind == "run" else manifest_of_checkpoint(origin, bot)
    whole = merged(bot.model, origin.method)
    whole.generation_config = with_end_tokens(whole.generation_config, bot.voice.end_ids)
    manifest["adapter"] = {**manifest["adapter"], "method": "none", "merged": origin.method}
    write_merged(output, whole, bot, manifest)
    put(f"{output} is a whole model; talk to it with: neuralchat chat {quote(str(output))}")
    return 0


def write_merged(output: Path, whole: Any, bot: Chatbot, manifest: dict[str, Any]) -> None:
    """Model, tokenizer, README.md and manifest into `output`: all of it, or RunDirectoryError and nothing.

    Killed on the way, it leaves no model, and the next merge into `output` deletes what it left.
    """
    try:
        make_directory(output)
        with working_directory_in(output, MERGING_PREFIX) as work:
            with quiet_libraries():
                whole.save_pretrained(str(work))
                bot.tokenizer.save_pretrained(str(work))
            write_file(work / "README.md", card_of_merged(manifest, bot, whole))
            write_file(work / MANIFEST, json_text(manifest))
            for file in sorted(work.iterdir()):
                settle_file(file)
            if any(path != work for path in output.iterdir()):
                raise RunDirectoryError(f"--output {output} is not empty any more; name a directory that is new")
            # What makes a model of the directory comes last.
            place_files(
                work, output, sorted((file.name for file in work.iterdir()), key=lambda name: name == MODEL_CONFIG)
            )
    except Exception as error:
        if (refused := system_error_in(error)) is None:
            raise
        raise RunDirectoryError(
            f"--output {output} cannot be written: {system_error_line(refused)}; there is no merged model"
        ) from error


def card_of_merged(manifest: dict[str, Any], bot: Chatbot, whole: Any) -> str:
    code = without_neuralchat(
        ".",
        bot.template,
        bot.voice.end_ids,
        bot.voice.pad_id,
        method="none",
        dtype=str(whole.dtype).removeprefix("torch."),
        encoder_decoder=is_encoder_decoder(whole.config),
    )
    return model_card(manifest, with_neuralchat=with_neuralchat(whole=True), without_neuralchat=code)


def manifest_of_checkpoint(origin: Origin, bot: Chatbot) -> dict[str, Any]:
    """What the merged model must say of itself; a checkpoint has no results yet."""
    template = bot.template
    return {
        "base_model": {"name": origin.source.name, "revision": origin.source.revision},
        "template": {
            "name": template.name,
            "sha256": template.fingerprint(),
            "end_tokens": list(template.end_tokens),
            "definition": template.definition(),
        },
        "adapter": {"method": origin.method},
        "precision": {"storage": origin.storage},
        "results": {},
    }
