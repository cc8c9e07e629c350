"""The template of training as a Jinja chat template, so that every other program writes the prompts of training.

Alpaca's is written here; a tokenizer's own is what it is, with the variables and the date of training fixed in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from neuralchat.data.records import Turn
from neuralchat.data.templates.alpaca import ALPACA_PREAMBLE, AlpacaSeq2SeqTemplate, AlpacaTemplate
from neuralchat.data.templates.chat import ChatTemplate
from neuralchat.data.templates.chat_text import dated, messages_of
from neuralchat.data.templates.template import Template
from neuralchat.errors import TemplateError

ALPACA = """\
{%%- if messages[0]['role'] == 'system' -%%}
    {%%- set preamble = messages[0]['content'] or %(preamble)s -%%}
    {%%- set spoken = messages[1:] -%%}
{%%- else -%%}
    {%%- set preamble = %(preamble)s -%%}
    {%%- set spoken = messages -%%}
{%%- endif -%%}
{{- %(begin)s + preamble + '\\n\\n' -}}
{%%- for message in spoken -%%}
    {%%- if message['role'] == 'assistant' -%%}
        {{- message['content'] + %(end)s -}}
    {%%- else -%%}
        {{- ('' if loop.first else '\\n\\n') + '### Instruction:\\n' + message['content'] + '\\n\\n### Response:' -}}
    {%%- endif -%%}
{%%- endfor -%%}
"""
QUESTION, ANSWER, RULE = Turn("user", "question"), Turn("assistant", "answer"), Turn("system", "rule")
# Conversations whose prompts must come out alike.
TRIED_CONVERSATIONS: tuple[tuple[Turn, ...], ...] = (
    (QUESTION,),
    (RULE, QUESTION),
    (QUESTION, ANSWER, QUESTION),
    (RULE, QUESTION, ANSWER, QUESTION, ANSWER, QUESTION),
)


def portable_template(template: Template, *, fix_date: bool = True) -> str | None:
    """`fix_date`: with the day of training in it, which a run of ours reads from its manifest instead.

    None for encoder-decoder models, for which no program reads one, and for a template with several texts."""
    if isinstance(template, AlpacaSeq2SeqTemplate):
        return None
    if isinstance(template, AlpacaTemplate):
        parts = {
            "preamble": ALPACA_PREAMBLE, "begin": "".join(template.begin_tokens), "end": template.end_token
        }  # fmt: skip
        return ALPACA % {name: literal(text) for name, text in parts.items()}
    if not isinstance(template, ChatTemplate):
        raise TypeError(type(template).__name__)
    text = template.chat_text
    if not isinstance(text.source, str):
        return None
    fixed = [f"{{%- set {name} = {literal(value)} -%}}" for name, value in text.kwargs.items()]
    return "".join(f"{line}\n" for line in fixed) + (dated(text.source, text.date) if fix_date else text.source)


def literal(value: Any) -> str:
    """A value of JSON in Jinja's spelling, which is Python's in ASCII."""
    if isinstance(value, str):
        # JSON's escapes are Jinja's too.
        return json.dumps(value)
    return repr(value)


def written_otherwise(source: str, template: Template, tokenizer: Any) -> list[Sequence[Turn]]:
    """The conversations of which `source`, a chat template, makes another prompt than training wrote."""
    found: list[Sequence[Turn]] = []
    for turns in TRIED_CONVERSATIONS:
        try:
            expected = "".join(piece.text for piece in template.render(turns))
        except TemplateError:
            # Nor was anything trained on such a one.
            continue
        text = tokenizer.apply_chat_template(
            messages_of(turns), chat_template=source, tokenize=False, add_generation_prompt=True
        )
        if text != expected:
            found.append(turns)
    return found
