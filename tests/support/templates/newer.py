"""Chat templates in the manner of models that came later, and of those that write calls of tools in their own way."""

from __future__ import annotations

from support.templates.parts import (
    ALTERNATE,
    COHERE,
    IM,
    LAST_QUESTION,
    LLAMA_3_PROMPT,
    LLAMA_3_TOKENS,
    LLAMA_3_TURN,
    QWEN_SYSTEM,
    SPLIT_THOUGHTS,
    SYSTEM_AND_TOOLS,
    THINK,
    Style,
)

# The system turn apart from the others.
RULE = (
    "{% if messages[0].role == 'system' %}{% set rule = messages[0].content %}{% set messages = messages[1:] %}"
    "{% else %}{% set rule = '' %}{% endif %}"
)
LISTED_TOOLS = "{% for t in tools or [] %}{{ '\n' }}{{ t | tojson }}{% endfor %}"
LLAMA_CALL = '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}'

MISTRALS = {
    "mistral v2": Style(
        "{{ bos_token }}" + RULE + ALTERNATE + "{% for m in messages %}{% if m.role == 'user' %}"
        "[INST] {% if rule and loop.first %}{{ rule }}\n\n{% endif %}{{ m.content }} [/INST]"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        bos="<s>",
    ),
    "mistral v7": Style(
        "{{ bos_token }}" + RULE + "{% if rule %}[SYSTEM_PROMPT]{{ rule }}[/SYSTEM_PROMPT]{% endif %}"
        "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
        "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.tool_call_id }}[TOOL_CONTENT]{{ m.content }}[/TOOL_RESULTS]"
        "{% else %}{{ m.content }}{% for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.function.name }}"
        "[CALL_ID]{{ c.id }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}{{ eos_token }}{% endif %}"
        "{% endfor %}",
        (
            *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
            *("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "[TOOL_RESULTS]", "[TOOL_CONTENT]", "[/TOOL_RESULTS]"),
        ),
        bos="<s>",
        knows=SYSTEM_AND_TOOLS,
    ),
    "magistral": Style(
        "{{ bos_token }}" + RULE + "[SYSTEM_PROMPT]{{ rule or 'Think first.' }}[/SYSTEM_PROMPT]"
        "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}"
        "{% if m.reasoning_content %}[THINK]{{ m.reasoning_content }}[/THINK]{% endif %}{{ m.content }}{{ eos_token }}"
        "{% endif %}{% endfor %}",
        ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]"),
        bos="<s>",
        thinks=True,
    ),
}
LLAMAS = {
    # Tools stand in the first question, the day is one that does not change.
    "llama 3.1": Style(
        "{{ bos_token }}" + RULE + "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
        "<|start_header_id|>system<|end_header_id|>\n\n{% if tools %}Environment: ipython\n{% endif %}"
        "Today Date: {{ date_string }}\n\n{{ rule | trim }}<|eot_id|>"
        "{% if tools %}{% set asked = messages[0].content | trim %}{% set messages = messages[1:] %}"
        "<|start_header_id|>user<|end_header_id|>\n\nCall one of these:" + LISTED_TOOLS + "\n\n{{ asked }}<|eot_id|>"
        "{% endif %}{% for m in messages %}{% if m.tool_calls %}"
        "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}"
        "{% set c = m.tool_calls[0] %}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n" + LLAMA_CALL + "<|eot_id|>"
        "{% elif m.role == 'tool' %}<|start_header_id|>ipython<|end_header_id|>\n\n{{ m.content | tojson }}<|eot_id|>"
        "{% else %}" + LLAMA_3_TURN + "{% endif %}{% endfor %}" + LLAMA_3_PROMPT,
        LLAMA_3_TOKENS,
        eos="<|eot_id|>",
        bos="<|begin_of_text|>",
        knows=SYSTEM_AND_TOOLS,
    ),
    "llama 4": Style(
        "{{ bos_token }}"
        + RULE
        + "{% if tools or rule %}<|header_start|>system<|header_end|>\n\n{{ rule | trim }}"
        + LISTED_TOOLS
        + "<|eot|>{% endif %}{% for m in messages %}{% if m.role == 'tool' %}"
        "<|header_start|>ipython<|header_end|>\n\n{{ m.content | tojson }}<|eot|>{% else %}"
        "<|header_start|>{{ m.role }}<|header_end|>\n\n{{ m.content | trim }}"
        "{% for c in m.tool_calls or [] %}" + LLAMA_CALL + "{% endfor %}<|eot|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|header_start|>assistant<|header_end|>\n\n{% endif %}",
        ("<|header_start|>", "<|header_end|>"),
        eos="<|eot|>",
        bos="<|begin_of_text|>",
        knows=SYSTEM_AND_TOOLS,
    ),
    "nemotron super": Style(
        "{{ bos_token }}{% for m in messages %}{% set text = m.content %}"
        "{% if m.role == 'assistant' and '</think>' in text %}{% set text = text.split('</think>')[-1].lstrip() %}"
        "{% endif %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ text | trim }}<|eot_id|>{% endfor %}"
        + LLAMA_3_PROMPT,
        LLAMA_3_TOKENS,
        eos="<|eot_id|>",
        bos="<|begin_of_text|>",
    ),
}
THINKERS = {
    # Earlier answers keep an empty block of thoughts.
    "nemotron 3": Style(
        QWEN_SYSTEM
        + LAST_QUESTION
        + "{% for m in messages %}{% if m.role == 'assistant' %}"
        + SPLIT_THOUGHTS
        + "<|im_start|>assistant\n<think>{% if thoughts and loop.index0 > ns.last %}{{ '\n' + thoughts + '\n' }}"
        "{% endif %}</think>{{ text }}{% for c in m.tool_calls or [] %}"
        "<tool_call>\n<function={{ c.function.name }}>{% for k, v in c.function.arguments.items() %}"
        "{{ '\n' }}<parameter={{ k }}>\n{{ v }}\n</parameter>{% endfor %}{{ '\n' }}</function>\n</tool_call>"
        "{% endfor %}<|im_end|>\n"
        "{% elif m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
        "{% elif m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{{ '<think></think>' if enable_thinking is defined and not enable_thinking else '<think>\n' }}{% endif %}",
        IM,
        THINK,
        eos="<|im_end|>",
        knows=SYSTEM_AND_TOOLS,
        thinks=True,
    ),
    "minimax m2": Style(
        "{{ bos_token }}"
        + RULE
        + "]~b]system\n{{ rule or 'You are an assistant.' }}"
        + LISTED_TOOLS
        + "[e~[\n"
        + LAST_QUESTION
        + "{% for m in messages %}{% if m.role == 'assistant' %}"
        + SPLIT_THOUGHTS
        + "]~b]ai\n{% if thoughts and loop.index0 > ns.last %}<think>\n{{ thoughts }}\n</think>\n\n{% endif %}"
        "{{ text }}{% for c in m.tool_calls or [] %}{{ '\n' }}<invoke {{ c.function.name }}>"
        "{{ c.function.arguments | tojson }}</invoke>{% endfor %}[e~[\n"
        "{% else %}]~b]{{ m.role }}\n{{ m.content }}[e~[\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}]~b]ai\n<think>\n{% endif %}",
        ("]~b]",),
        THINK,
        eos="[e~[",
        bos="]~!b[",
        knows=SYSTEM_AND_TOOLS,
        thinks=True,
    ),
    # Thoughts in tags of its own.
    "seed-oss": Style(
        "{% for m in messages %}{{ bos_token }}{{ m.role }}{% if m.reasoning_content %}"
        "{{ '\n' }}<seed:think>{{ m.reasoning_content | trim }}</seed:think>{% endif %}"
        "{{ '\n' }}{{ m.content | trim }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ bos_token }}assistant\n{% endif %}",
        plain=("<seed:think>", "</seed:think>"),
        eos="<seed:eos>",
        bos="<seed:bos>",
        thinks=True,
    ),
    "command a": Style(
        "{{ bos_token }}"
        + RULE
        + "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ rule or 'Be helpful.' }}"
        + LISTED_TOOLS
        + "<|END_OF_TURN_TOKEN|>{% for m in messages %}<|START_OF_TURN_TOKEN|>{% if m.role == 'user' %}"
        "<|USER_TOKEN|>{{ m.content }}{% elif m.role == 'tool' %}"
        "<|SYSTEM_TOKEN|><|START_TOOL_RESULT|>{{ m.content | tojson }}<|END_TOOL_RESULT|>{% else %}<|CHATBOT_TOKEN|>"
        "{% if m.reasoning_content %}<|START_THINKING|>{{ m.reasoning_content }}<|END_THINKING|>{% endif %}"
        "{% if m.tool_calls %}<|START_ACTION|>[{% for c in m.tool_calls %}" + LLAMA_CALL + "{% endfor %}]<|END_ACTION|>"
        "{% else %}<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% endif %}{% endif %}<|END_OF_TURN_TOKEN|>"
        "{% endfor %}{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
        (
            *COHERE,
            *("<|START_THINKING|>", "<|END_THINKING|>", "<|START_ACTION|>", "<|END_ACTION|>", "<|START_RESPONSE|>"),
            *("<|END_RESPONSE|>", "<|START_TOOL_RESULT|>", "<|END_TOOL_RESULT|>"),
        ),
        eos="<|END_OF_TURN_TOKEN|>",
        bos="<BOS>",
        knows=SYSTEM_AND_TOOLS,
        thinks=True,
    ),
    # It writes calls, and knows no list of tools; what follows a result has no header.
    "deepseek r1, calls": Style(
        "{{ bos_token }}" + RULE + "{{ rule }}{% set ns = namespace(told=false) %}{% for m in messages %}"
        "{% if m.role == 'user' %}{% set ns.told = false %}<|User|>{{ m.content }}{% elif m.role == 'tool' %}"
        "{{ '' if ns.told else '<|tool_outputs_begin|>' }}<|tool_output_begin|>{{ m.content }}<|tool_output_end|>"
        "{% set ns.told = true %}{% else %}{{ '<|tool_outputs_end|>' if ns.told else '<|Assistant|>' }}"
        "{% set ns.told = false %}{{ m.content.split('</think>')[-1] }}{% if m.tool_calls %}<|tool_calls_begin|>"
        "{% for c in m.tool_calls %}<|tool_call_begin|>function<|tool_sep|>{{ c.function.name }}\n"
        "{{ c.function.arguments | tojson }}<|tool_call_end|>{% endfor %}<|tool_calls_end|>{% endif %}"
        "{{ eos_token }}{% endif %}{% endfor %}{% if ns.told %}<|tool_outputs_end|>"
        "{% elif add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
        (
            *("<|User|>", "<|Assistant|>", "<|tool_outputs_begin|>", "<|tool_output_begin|>", "<|tool_output_end|>"),
            *("<|tool_outputs_end|>", "<|tool_calls_begin|>", "<|tool_call_begin|>", "<|tool_sep|>"),
            *("<|tool_call_end|>", "<|tool_calls_end|>"),
        ),
        THINK,
        eos="<|end_of_sentence|>",
        bos="<|begin_of_sentence|>",
        knows=frozenset({"system", "calls"}),
    ),
}
OTHERS = {
    # The last answer of a conversation ends otherwise than those before it.
    "olmo 3": Style(
        RULE + "<|im_start|>system\n{{ rule or 'You are an assistant.' }}" + LISTED_TOOLS + "<|im_end|>\n"
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}<calls>{{ c.function.name }}({{ c.function.arguments | tojson }})</calls>"
        "{% endfor %}{{ eos_token if loop.last else '<|im_end|>\n' }}"
        "{% else %}<|im_start|>{{ 'environment' if m.role == 'tool' else m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        IM,
        eos="<|endoftext|>",
        knows=SYSTEM_AND_TOOLS,
    ),
    "qwen 3 coder": Style(
        QWEN_SYSTEM + "{% for m in messages %}{% if m.role == 'tool' %}"
        "{% if loop.previtem.role != 'tool' %}<|im_start|>user\n{% endif %}<tool_response>\n{{ m.content }}\n"
        "</tool_response>\n{% if loop.last or loop.nextitem.role != 'tool' %}<|im_end|>\n{% endif %}"
        "{% elif m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ '\n' }}<tool_call>\n<function={{ c.function.name }}>\n"
        "{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}"
        "</function>\n</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        IM,
        eos="<|im_end|>",
        knows=SYSTEM_AND_TOOLS,
    ),
    "granite 4": Style(
        RULE
        + "{% if rule or tools %}<|start_of_role|>system<|end_of_role|>{{ rule }}"
        + LISTED_TOOLS
        + "<|end_of_text|>\n{% endif %}{% for m in messages %}{% if m.role == 'tool' %}"
        "<|start_of_role|>user<|end_of_role|>\n<tool_response>\n{{ m.content }}\n</tool_response><|end_of_text|>\n"
        "{% else %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}{% for c in m.tool_calls or [] %}"
        '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n'
        "</tool_call>{% endfor %}<|end_of_text|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
        ("<|start_of_role|>", "<|end_of_role|>"),
        eos="<|end_of_text|>",
        knows=SYSTEM_AND_TOOLS,
    ),
    # It lists tools in a system turn only.
    "phi 4 mini": Style(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
        "{% if m.role == 'system' and tools %}<|tool|>{{ tools | tojson }}<|/tool|>{% endif %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% else %}{{ eos_token }}{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|tool|>", "<|/tool|>"),
        eos="<|endoftext|>",
    ),
    # Special tokens stand around calls, and what a tool says is a turn of the system's token.
    "kimi k2": Style(
        "{% if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|>{% endif %}"
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_system|>system<|im_middle|>You are an "
        "assistant.<|im_end|>{% endif %}<|im_{{ 'system' if m.role == 'tool' else m.role }}|>{{ m.role }}<|im_middle|>"
        "{% if m.tool_calls %}{{ m.content or '' }}<|tool_calls_section_begin|>{% for c in m.tool_calls %}"
        "<|tool_call_begin|>{{ 'functions.' + c.function.name + ':' + loop.index0 | string }}"
        "<|tool_call_argument_begin|>{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
        "{{ c.function.arguments | tojson }}{% endif %}<|tool_call_end|>{% endfor %}<|tool_calls_section_end|>"
        "{% elif m.role == 'tool' %}## Return of {{ m.tool_call_id }}\n{{ m.content }}{% else %}{{ m.content }}"
        "{% endif %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}",
        (
            "<|im_system|>",
            "<|im_user|>",
            "<|im_assistant|>",
            "<|im_middle|>",
            "<|tool_calls_section_begin|>",
            "<|tool_calls_section_end|>",
            "<|tool_call_begin|>",
            "<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
        ),
        eos="<|im_end|>",
        knows=SYSTEM_AND_TOOLS,
    ),
    # The next turn's token ends an answer.
    "nemotron mini": Style(
        "{% for m in messages %}<extra_id_{{ 0 if m.role == 'system' else 1 }}>{{ m.role | capitalize }}\n"
        "{{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}<extra_id_1>Assistant\n{% endif %}",
        ("<extra_id_0>", "<extra_id_1>"),
    ),
    "openchat": Style(
        "{{ bos_token }}{% for m in messages %}{{ '' if m.role == 'system' else 'GPT4 Correct ' }}"
        "{{ '' if m.role == 'system' else m.role | capitalize + ': ' }}{{ m.content }}<|end_of_turn|>{% endfor %}"
        "{% if add_generation_prompt %}GPT4 Correct Assistant:{% endif %}",
        eos="<|end_of_turn|>",
        bos="<s>",
    ),
    # The prompt ends with a space.
    "ernie 4.5": Style(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n"
        "{% elif m.role == 'user' %}User: {{ m.content }}\n{% else %}Assistant: {{ m.content }}{{ eos_token }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}",
        eos="<|end_of_sentence|>",
        bos="<|begin_of_sentence|>",
    ),
}
NEWER: dict[str, Style] = {**MISTRALS, **LLAMAS, **THINKERS, **OTHERS}
