"""What chat templates in the manner of published ones are made of: what a style is, and pieces that several share."""

from __future__ import annotations

from typing import NamedTuple


class Style(NamedTuple):
    """`special`: its special tokens. `plain`: added tokens that are not special. `eos`: the end token. `knows`: what
    conversations it takes besides those of user and assistant: system, tools, calls (without a list of tools).
    `thinks`: whether it writes reasoning.
    """

    source: str
    special: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    eos: str = "</s>"
    bos: str | None = None
    knows: frozenset[str] = frozenset({"system"})
    thinks: bool = False


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IM = ("<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")
TOOL_CALLS = (
    "{% for c in m.tool_calls or [] %}{{ '' if loop.first and not text else '\n' }}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
)
# What follows the last question is still the answer to it: calls of tools, and what comes after them.
LAST_QUESTION = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
)
SPLIT_THOUGHTS = (
    "{% set text = m.content %}{% set thoughts = m.reasoning_content or '' %}"
    "{% if not thoughts and '</think>' in text %}"
    "{% set thoughts = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
)
QWEN_SYSTEM = (
    "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}"
    "You may call:{% for t in tools %}\n{{ t | tojson }}{% endfor %}<|im_end|>\n"
    "{% elif messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
)
QWEN_TURNS = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
    "{% elif m.role == 'assistant' %}" + SPLIT_THOUGHTS + "<|im_start|>assistant\n%s{{ text }}" + TOOL_CALLS
    + "<|im_end|>\n{% endif %}{% endfor %}"
)  # fmt: skip
SYSTEM_AND_TOOLS = frozenset({"system", "tools"})
LLAMA_3_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAMA_3_TURN = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
LLAMA_3_PROMPT = "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
COHERE = "<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
HARMONY = "<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>"
