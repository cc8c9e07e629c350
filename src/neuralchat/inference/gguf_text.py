"""A voice -> what a GGUF file says of its tokenizer, its end tokens and its template, and the file itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuralchat.console import note
from neuralchat.data.templates.portable import fitted_template, for_llama_cpp
from neuralchat.inference.voice import Voice
from neuralchat.models.gguf.architectures import architecture_of
from neuralchat.models.gguf.tensor_types import TensorType
from neuralchat.models.gguf.vocabulary import vocabulary_of
from neuralchat.models.gguf.writing import GgufText, write_gguf


def gguf_text(voice: Voice, model: Any, name: str, licence: str | None = None) -> GgufText:
    """Raises ModelError for a model or tokenizer that llama.cpp does not know. Says where prompts will differ."""
    architecture_of(model.config)
    rows = model.get_input_embeddings().weight.shape[0]
    vocabulary = vocabulary_of(voice.tokenizer, rows, voice.end_ids, voice.begin_ids)
    template = checked_template(voice)
    if template is not None:
        template = for_llama_cpp(template, voice.template, voice.tokenizer)
    return GgufText(name=name, vocabulary=vocabulary, template=template, license=licence)


def checked_template(voice: Voice, *, fix_date: bool = True) -> str | None:
    """The chat template for other programs, as fitted_template has it; a note where their prompts will differ."""
    source, others = fitted_template(voice.template, voice.tokenizer, fix_date=fix_date)
    if others:
        roles = ", ".join(turn.role for turn in others[0])
        note(
            f"the chat template writes another prompt than training did (such as for turns {roles}); programs that "
            "apply it will be answered a little worse than this one"
        )
    return source


def write_gguf_of(
    path: Path,
    model: Any,
    voice: Voice,
    kind: TensorType,
    name: str,
    on_weight: Callable[[int, int], None] = lambda _, __: None,
    *,
    licence: str | None = None,
) -> None:
    """`licence`: of the base model, where it is known."""
    write_gguf(path, model, gguf_text(voice, model, name, licence), kind, on_weight)
