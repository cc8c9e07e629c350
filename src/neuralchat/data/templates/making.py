"""name and tokenizer -> Template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuralchat.console import note
from neuralchat.data.templates.alpaca import AlpacaSeq2SeqTemplate, AlpacaTemplate
from neuralchat.data.templates.chat import ChatTemplate
from neuralchat.data.templates.template import Template
from neuralchat.errors import TemplateError

USUAL_END_TOKENS = ("</s>", "<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<eos>", "<|end|>", "[EOS]")

# Values of --template that leave the choice to the tokenizer and the records.
LEFT_OPEN = ("own", "auto")


def make_template(
    name: str,
    tokenizer: Any,
    *,
    conversations: bool = False,
    encoder_decoder: bool = False,
    kwargs: Mapping[str, Any] | None = None,
    date: str | None = None,
    own_prompt: bool = False,
) -> Template:
    """`name` is "alpaca", "chat", "own" (chat when the tokenizer can, else alpaca) or "auto" (own for conversations,
    else alpaca).

    `kwargs`, `date` and `own_prompt` are those of ChatTemplate. Raises TemplateError where the tokenizer has no end
    token or no chat template, and where `kwargs` are given to a template that takes none.
    """
    if tokenizer.eos_token is None:
        raise TemplateError(
            f"this tokenizer has no end token, so a chatbot trained with it would never stop; {end_of(tokenizer)}"
        )
    if encoder_decoder and name == "chat":
        raise TemplateError("--template chat is for causal models; encoder-decoder models take --template alpaca")
    left_open = name in LEFT_OPEN
    if left_open:
        chat = tokenizer.chat_template and not encoder_decoder and (name == "own" or conversations)
        name = "chat" if chat else "alpaca"
    if name == "chat":
        try:
            return ChatTemplate(tokenizer, kwargs, date, own_prompt=own_prompt)
        except TemplateError as error:
            if conversations or not left_open:
                raise
            note(f"the tokenizer's chat template is left aside, and the records take Alpaca's: {error}")
    if kwargs:
        raise TemplateError(
            f"--chat_template_kwargs {', '.join(kwargs)}: only a chat template takes them; use --template chat"
        )
    if encoder_decoder:
        return AlpacaSeq2SeqTemplate(tokenizer.eos_token)
    return AlpacaTemplate(begin_tokens_of(tokenizer), tokenizer.eos_token)


def end_of(tokenizer: Any) -> str:
    """What to do for an end token: which of the usual ones the vocabulary has."""
    known = [token for token in USUAL_END_TOKENS if token in tokenizer.get_vocab()]
    such = f", which may be {' or '.join(known)}" if known else ", a token of its vocabulary"
    return (
        f"set eos_token in its tokenizer_config.json to the one that the model was trained with{such}, or name another "
        "tokenizer with --tokenizer_name"
    )


def read_template(path: Path) -> str:
    """The chat template in a file. Raises TemplateError where it cannot be read or is empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise TemplateError(f"--chat_template {path} cannot be read: {reason}") from error
    if not text.strip():
        raise TemplateError(f"--chat_template {path} is empty")
    return text


def begin_tokens_of(tokenizer: Any) -> list[str]:
    """The special tokens that the tokenizer itself puts before a text (LLaMA's <s>; none for GPT-2 kinds)."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return tokenizer.convert_ids_to_tokens(framed[:start])
    raise TemplateError("this tokenizer changes a text when it adds its special tokens; it cannot be used")
