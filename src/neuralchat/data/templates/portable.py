"""The template of training as a Jinja chat template, so that every other program writes the prompts of training.

Alpaca's is written here; a tokenizer's own is what it is, with the variables and the date of training fixed in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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


def fitted_template(
    template: Template, tokenizer: Any, *, fix_date: bool = True
) -> tuple[str | None, list[Sequence[Turn]]]:
    """(the portable template, the conversations of which it makes another prompt than training wrote).

    Where the generation prompt of the tokenizer's own is not what stood before an answer in training, such as one that
    opens thoughts, what stood there takes its place, as chat does it here.
    """
    source = portable_template(template, fix_date=fix_date)
    if source is None:
        return None, []
    wrong = written_otherwise(source, template, tokenizer)
    for candidate in with_openings_of_training(source, template, tokenizer) if wrong else ():
        left = written_otherwise(candidate, template, tokenizer)
        if len(left) < len(wrong):
            source, wrong = candidate, left
    return source, wrong


def with_openings_of_training(source: str, template: Template, tokenizer: Any) -> Iterator[str]:
    """The template with another end of its prompts, as one question shows it."""
    expected = text_of(template, (QUESTION,))
    # What the template itself writes behind the last line of its file, no program has.
    body = source.removesuffix("\n")
    without = applied(source, (QUESTION,), template, tokenizer, generation=False)
    if expected.startswith(without):
        yield (
            "{%- set asks_for_answer = add_generation_prompt -%}\n{%- set add_generation_prompt = false -%}\n"
            + body
            + f"{{% if asks_for_answer %}}{{{{ {literal(expected.removeprefix(without))} }}}}{{% endif %}}"
        )
    begun = applied(source, (QUESTION,), template, tokenizer)
    if expected.startswith(begun):
        yield body + f"{{% if add_generation_prompt %}}{{{{ {literal(expected.removeprefix(begun))} }}}}{{% endif %}}"


def text_of(template: Template, turns: Sequence[Turn]) -> str:
    return "".join(piece.text for piece in template.render(turns))


def applied(
    source: str, turns: Sequence[Turn], template: Template, tokenizer: Any, *, generation: bool = True, **variables: Any
) -> str:
    """What transformers makes of `source`, given contents as the template of training takes them."""
    messages = messages_of(turns, as_parts=isinstance(template, ChatTemplate) and template.chat_text.as_parts)
    return tokenizer.apply_chat_template(
        messages, chat_template=source, tokenize=False, add_generation_prompt=generation, **variables
    )


# Variables that llama.cpp gives templates by itself, whether training gave them or not.
DATES_OF_LLAMA_CPP = ("date_string", "datetime")
THINKING = "enable_thinking"


def for_llama_cpp(source: str, template: Template, tokenizer: Any) -> str:
    """Without the variables that llama.cpp adds by itself: the day of asking, and thinking where that changes more than
    the end of a prompt.
    """
    given = template.chat_text.kwargs if isinstance(template, ChatTemplate) else {}
    names = [name for name in DATES_OF_LLAMA_CPP if name in source and name not in given]
    if THINKING in source and THINKING not in given and changes_answers(source, template, tokenizer):
        names.append(THINKING)
    # A name that nobody defines.
    return "".join(f"{{%- set {name} = not_given_in_training -%}}\n" for name in names) + source


def changes_answers(source: str, template: Template, tokenizer: Any) -> bool:
    turns = (QUESTION, ANSWER, QUESTION)
    without, no = (applied(source, turns, template, tokenizer, generation=False, **v) for v in ({}, {THINKING: False}))
    return without != no


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
            expected = text_of(template, turns)
        except TemplateError:
            # Nor was anything trained on such a one.
            continue
        if applied(source, turns, template, tokenizer) != expected:
            found.append(turns)
    return found
