"""A run -> the Python code that asks it one question: with NeuralChat, and where that can be, without it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuralchat.config.methods import METHODS
from neuralchat.data.records import Turn
from neuralchat.data.templates.template import Template

# Stands where the question does, while the prompt is rendered.
PLACE = "{question}"
WITH_NEURALCHAT = """\
from neuralchat import Chatbot

bot = Chatbot.load(".")  # this directory{moved}
print(bot.predict("How do I reset my badge?"))
"""
# For a base model that was a directory: its place is in the manifest, and not in a text that is handed on.
PLACE_OF_BASE = 'json.loads(Path(run, "neuralchat.json").read_text(encoding="utf-8"))["base_model"]["path"]'
IN_FEW_BITS = "# In training it was kept in {bits} bits; as it is here, answers differ a little."
MOVED = '; base_model="..." says where the base model lies on this machine'


def with_neuralchat(*, whole: bool) -> str:
    return WITH_NEURALCHAT.format(moved="" if whole else MOVED)


def without_neuralchat(
    base: str | None,
    template: Template,
    end_ids: Sequence[int],
    pad_id: int,
    *,
    method: str,
    dtype: str,
    encoder_decoder: bool,
    revision: str = "main",
    tokens_added: bool = False,
    bits: int | None = None,
) -> str:
    """Code for plain transformers (and PEFT), which prints the answer of `neuralchat chat`.

    Empty for methods with virtual tokens: PEFT 0.21 does not give them to transformers 5's generate. `base`: the name
    of the base model; None where it is a directory, which the manifest beside the card names. `method`: "none" for a
    whole model.
    """
    row = METHODS.get(method)
    if row is None or row.virtual_tokens:
        return ""
    whole, kind = row.trains_base, f"AutoModelFor{'Seq2SeqLM' if encoder_decoder else 'CausalLM'}"
    where = f', revision="{revision}"' if revision != "main" and not whole else ""
    in_manifest = base is None and not whole
    lines = [
        *(["import json", "from pathlib import Path", ""] if in_manifest else []),
        "import torch",
        *([] if whole else ["from peft import PeftModel"]),
        f"from transformers import {kind}, AutoTokenizer, GenerationConfig",
        "",
        'run = "."  # this directory',
        *([] if whole else base_lines(base)),
        *([] if whole or bits is None else [IN_FEW_BITS.format(bits=bits)]),
        'question = "How do I reset my badge?"',
        "",
        "tokenizer = AutoTokenizer.from_pretrained(run)",
        f"model = {kind}.from_pretrained({'run' if whole else 'base'}, dtype=torch.{dtype}{where})",
        *(["model.resize_token_embeddings(len(tokenizer))"] if tokens_added and not whole else []),
        *settings(end_ids, pad_id, encoder_decoder=encoder_decoder),
        *([] if whole else ["model = PeftModel.from_pretrained(model, run)"]),
        "model.eval()",
        "",
        "# As in training; another prompt would be answered worse.",
        *prompt_lines(template),
        'inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")',
        "inputs = {name: inputs[name] for name in ('input_ids', 'attention_mask')}",
        "with torch.inference_mode():",
        "    output = model.generate(**inputs, max_new_tokens=256)[0]",
        *([] if encoder_decoder else ['output = output[inputs["input_ids"].shape[1] :]']),
        "print(tokenizer.decode(output, skip_special_tokens=True, clean_up_tokenization_spaces=False))",
    ]
    return "\n".join(lines) + "\n"


def base_lines(base: str | None) -> list[str]:
    if base is None:
        return ["# Where the base model lay in training; elsewhere write its place.", f"base = {PLACE_OF_BASE}"]
    return [f"base = {json.dumps(base)}  # the base model: its name on a hub, or the directory where it lies"]


def settings(end_ids: Sequence[int], pad_id: int, *, encoder_decoder: bool) -> list[str]:
    """Nothing but these, whatever the base model's own settings are."""
    start = ", decoder_start_token_id=model.config.decoder_start_token_id" if encoder_decoder else ""
    return [
        "# The likeliest words; an answer ends at any of these tokens.",
        f"model.generation_config = GenerationConfig(eos_token_id={list(end_ids)}, pad_token_id={pad_id}{start})",
    ]


def prompt_lines(template: Template) -> list[str]:
    text = "".join(piece.text for piece in template.render([Turn("user", PLACE)]))
    pieces = [json.dumps(line, ensure_ascii=False) for line in text.splitlines(keepends=True)]
    return ["prompt = (", *(f"    {piece}" for piece in pieces), f').replace("{PLACE}", question)']


def written_base(base: dict[str, Any]) -> str | None:
    """The name of a manifest's base model; None where it was a directory."""
    path = base.get("path")
    return None if isinstance(path, str) and Path(path).is_absolute() else str(base["name"])
