"""Chat templates in the manner of today's models, written for these tests: their order, tokens and logic, in few words.

Each is a family of published templates that renders conversations alike: what stands before an answer, what ends it,
and what is left out of earlier answers.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from support.small_models import make_tokenizer
from support.templates.newer import NEWER
from support.templates.parts import (
    ALTERNATE,
    CHATML,
    COHERE,
    HARMONY,
    IM,
    LAST_QUESTION,
    LLAMA_3_PROMPT,
    LLAMA_3_TOKENS,
    LLAMA_3_TURN,
    QWEN_SYSTEM,
    QWEN_TURNS,
    SPLIT_THOUGHTS,
    SYSTEM_AND_TOOLS,
    THINK,
    Style,
)

STYLES: dict[str, Style] = {
    "chatml": Style(CHATML, IM, eos="<|im_end|>"),
    "chatml, no generation prompt": Style(CHATML.split("{% if add")[0], IM, eos="<|im_end|>"),
    "chatml, other end token": Style(CHATML, IM, eos="<|endoftext|>"),
    "chatml, tokens not called special": Style(CHATML, (), IM, eos="<|endoftext|>"),
    "qwen 2.5": Style(
        QWEN_SYSTEM + QWEN_TURNS.replace("%s", "") + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        IM, eos="<|im_end|>", knows=SYSTEM_AND_TOOLS,
    ),
    "qwen 3": Style(
        QWEN_SYSTEM + LAST_QUESTION + QWEN_TURNS.replace("%s", (
            "{% if loop.index0 > ns.last and (loop.last or thoughts) %}<think>\n{{ thoughts }}\n</think>\n\n{% endif %}"
        )) + "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
        IM, THINK, eos="<|im_end|>", knows=SYSTEM_AND_TOOLS, thinks=True,
    ),
    "qwen 3, prompt opens the thoughts": Style(
        QWEN_SYSTEM + LAST_QUESTION + QWEN_TURNS.replace("%s", (
            "{% if loop.index0 > ns.last %}<think>\n{{ thoughts }}\n</think>\n\n{% endif %}"
        )) + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        IM, THINK, eos="<|im_end|>", knows=SYSTEM_AND_TOOLS, thinks=True,
    ),
    "qwq": Style(
        QWEN_SYSTEM + QWEN_TURNS.replace("%s", "")
        + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        IM, THINK, eos="<|im_end|>", knows=SYSTEM_AND_TOOLS,
    ),
    "deepseek r1": Style(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.role == 'user' %}<|User|>{{ m.content }}"
        "{% else %}<|Assistant|>{{ m.content.split('</think>')[-1] }}<|end_of_sentence|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
        ("<|User|>", "<|Assistant|>"), THINK, eos="<|end_of_sentence|>", bos="<|begin_of_sentence|>",
    ),
    "deepseek v3.1": Style(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.role == 'user' %}<|User|>{{ m.content }}"
        "{% else %}<|Assistant|></think>{{ m.content.split('</think>')[-1] }}<|end_of_sentence|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|>{{ '<think>' if thinking else '</think>' }}{% endif %}",
        ("<|User|>", "<|Assistant|>"), THINK, eos="<|end_of_sentence|>", bos="<|begin_of_sentence|>",
    ),
    "glm 4": Style(
        "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"), eos="<|endoftext|>",
    ),
    "glm 4.5": Style(
        "[gMASK]<sop>{% if tools %}<|system|>\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
        + LAST_QUESTION + "{% for m in messages %}{% if m.role == 'tool' %}<|observation|>\n{{ m.content }}"
        "{% elif m.role == 'assistant' %}" + SPLIT_THOUGHTS + "<|assistant|>\n"
        "<think>{{ thoughts if loop.index0 > ns.last }}</think>{% if text.strip() %}\n{{ text.strip() }}{% endif %}"
        "{% for c in m.tool_calls or [] %}\n<tool_call>{{ c.function.name }}"
        "{% for k, v in c.function.arguments.items() %}"
        "\n<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>{% endfor %}\n</tool_call>{% endfor %}"
        "{% else %}<|{{ m.role }}|>\n{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        THINK, eos="<|endoftext|>", knows=SYSTEM_AND_TOOLS, thinks=True,
    ),
    "gpt-oss": Style(
        "<|start|>system<|message|>Today is {{ strftime_now('%Y-%m-%d') }}.<|end|>"
        "{% if tools %}<|start|>developer<|message|>{% for t in tools %}{{ t | tojson }}{% endfor %}<|end|>{% endif %}"
        "{% for m in messages %}{% if m.role == 'system' %}<|start|>developer<|message|>{{ m.content }}<|end|>"
        "{% elif m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>"
        "{% elif m.role == 'tool' %}<|start|>functions.{{ m.name }}<|message|>{{ m.content | tojson }}<|end|>"
        "{% elif m.tool_calls %}<|start|>assistant to=functions.{{ m.tool_calls[0].function.name }}"
        "<|channel|>commentary json<|message|>{{ m.tool_calls[0].function.arguments | tojson }}<|call|>"
        "{% else %}{% if loop.last and m.thinking %}<|start|>assistant<|channel|>analysis<|message|>"
        "{{ m.thinking }}<|end|>"
        "{% endif %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
        "{{ '<|return|>' if loop.last else '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        HARMONY, eos="<|return|>", knows=SYSTEM_AND_TOOLS, thinks=True,
    ),
    "nemotron nano": Style(
        "<SPECIAL_10>System\n{{ messages[0].content if messages[0].role == 'system' }}\n"
        "{% for m in messages %}{% if m.role == 'user' %}<SPECIAL_11>User\n{{ m.content | trim }}\n"
        "{% elif m.role == 'assistant' %}<SPECIAL_11>Assistant\n{% if loop.last %}<think></think>{% endif %}"
        "{{ m.content.split('</think>')[-1] | trim }}\n<SPECIAL_12>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<SPECIAL_11>Assistant\n<think></think>{% endif %}",
        ("<SPECIAL_10>", "<SPECIAL_11>", "<SPECIAL_12>"), THINK, eos="<SPECIAL_12>",
    ),
    "smollm 3": Style(
        "<|im_start|>system\nToday Date: {{ strftime_now('%d %B %Y') }}\n"
        "{{ messages[0].content if messages[0].role == 'system' }}<|im_end|>\n"
        "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
        "{% elif m.role == 'assistant' %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}"
        "{{ m.content.lstrip('\n') }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}{% endif %}",
        IM, THINK, eos="<|im_end|>",
    ),
    "llama 2": Style(
        "{% if messages[0].role == 'system' %}{% set rule = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set rule = '' %}{% endif %}" + ALTERNATE
        + "{% for m in messages %}{% if m.role == 'user' %}"
        "{{ bos_token }}[INST] {{ rule if loop.first }}{{ m.content.strip() }} [/INST]"
        "{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}",
        bos="<s>",
    ),
    "llama 3": Style(
        "{{ bos_token }}{% for m in messages %}" + LLAMA_3_TURN + "{% endfor %}" + LLAMA_3_PROMPT,
        LLAMA_3_TOKENS, eos="<|eot_id|>", bos="<|begin_of_text|>",
    ),
    "llama 3.2": Style(
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n"
        "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}"
        "{% set messages = messages[1:] %}{% endif %}"
        "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}<|eot_id|>"
        "{% for m in messages %}{% if m.tool_calls %}<|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": '
        '{{ m.tool_calls[0].function.arguments | tojson }}}'
        "<|eot_id|>{% elif m.role == 'tool' %}<|start_header_id|>ipython<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"
        "{% else %}" + LLAMA_3_TURN + "{% endif %}{% endfor %}" + LLAMA_3_PROMPT,
        LLAMA_3_TOKENS, eos="<|eot_id|>", bos="<|begin_of_text|>", knows=SYSTEM_AND_TOOLS,
    ),
    "mistral v1": Style(
        "{{ bos_token }}" + ALTERNATE + "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        bos="<s>", knows=frozenset(),
    ),
    "mistral v3": Style(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set rule = messages[0].content %}"
        "{% set messages = messages[1:] %}{% endif %}"
        "{% for m in messages %}{% if m.role == 'user' %}"
        "{% if tools and loop.index0 == 0 %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        "[INST] {% if loop.last and rule is defined %}{{ rule }}\n\n{% endif %}{{ m.content }}[/INST]"
        "{% elif m.role == 'tool' %}"
        '[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
        "{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}"
        "{% if c.id | length != 9 %}{{ raise_exception('call ids have nine characters') }}{% endif %}"
        '{{ c.function | tojson }}, "id": "{{ c.id }}"{% endfor %}]{{ eos_token }}'
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
         "[/TOOL_RESULTS]"),
        bos="<s>", knows=SYSTEM_AND_TOOLS,
    ),
    "mistral small": Style(
        "{{ bos_token }}[SYSTEM_PROMPT]{{ messages[0].content if messages[0].role == 'system' else "
        "'Today is ' + strftime_now('%Y-%m-%d') }}[/SYSTEM_PROMPT]"
        "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
        "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), bos="<s>",
    ),
    "gemma 1, gemma 2": Style(
        "{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        + ALTERNATE + "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<start_of_turn>", "<end_of_turn>"), eos="<eos>", bos="<bos>", knows=frozenset(),
    ),
    "gemma 3": Style(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set rule = messages[0].content + '\n\n' %}"
        "{% set messages = messages[1:] %}{% endif %}"
        "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ rule if loop.first and rule }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<start_of_turn>", "<end_of_turn>"), eos="<eos>", bos="<bos>",
    ),
    "phi 3": Style(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), eos="<|endoftext|>",
    ),
    "phi 4": Style(
        "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
        (*IM, "<|im_sep|>"), eos="<|endoftext|>",
    ),
    "command r": Style(
        "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|>"
        "{{ {'system': '<|SYSTEM_TOKEN|>', 'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>'}[m.role] }}"
        "{{ m.content | trim }}<|END_OF_TURN_TOKEN|>{% endfor %}"
        "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
        COHERE, eos="<|END_OF_TURN_TOKEN|>", bos="<BOS>",
    ),
    "command r7b": Style(
        "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|>{% if m.role == 'assistant' %}<|CHATBOT_TOKEN|>"
        "<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% else %}"
        "{{ '<|SYSTEM_TOKEN|>' if m.role == 'system' else '<|USER_TOKEN|>' }}{{ m.content }}{% endif %}"
        "<|END_OF_TURN_TOKEN|>\n{% endfor %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        (*COHERE, "<|START_RESPONSE|>", "<|END_RESPONSE|>"), eos="<|END_OF_TURN_TOKEN|>", bos="<BOS>",
    ),
    "granite 3": Style(
        "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>"
        "{{ m.content }}<|end_of_text|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
        ("<|start_of_role|>", "<|end_of_role|>"), eos="<|end_of_text|>",
    ),
    "falcon": Style(
        "{% for m in messages %}{{ '\n\n' if not loop.first }}"
        "{{ {'user': 'User: ', 'assistant': 'Falcon: ', 'system': ''}[m.role] }}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}\n\nFalcon:{% endif %}",
        eos="<|endoftext|>",
    ),
    "falcon 3": Style(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>"), eos="<|endoftext|>",
    ),
    "olmo 2": Style(
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{{ '\n' if not loop.last }}{% else %}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        eos="<|endoftext|>", bos="<|endoftext|>",
    ),
    "stablelm 2": Style(CHATML, IM, eos="<|endoftext|>"),
    "stablelm zephyr": Style(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        eos="<|endoftext|>",
    ),
    "zephyr": Style(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n"
        "{% if loop.last and add_generation_prompt %}<|assistant|>\n{% endif %}{% endfor %}",
    ),
    "vicuna": Style(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} "
        "{% elif m.role == 'user' %}USER: {{ m.content }} "
        "{% else %}ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
        bos="<s>",
    ),
    "idefics, contents in parts": Style(
        "{% for m in messages %}{{ m.role | capitalize }}:{% for part in m.content %}{{ part.text }}{% endfor %}"
        "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}",
        ("<end_of_utterance>",),
    ),
    **NEWER,
}  # fmt: skip


def tokenizer_of(style: Style) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer(chat=False)
    tokens = dict.fromkeys([*style.special, style.eos, *([style.bos] if style.bos else [])])
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in style.plain])
    tokenizer.eos_token, tokenizer.bos_token = style.eos, style.bos
    tokenizer.chat_template = style.source
    return tokenizer


def ids_by_the_library(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> list[int]:
    """What transformers itself makes of the conversation."""
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
