"""data/templates.py: the wording of Alpaca, the tokenizer's own chat format, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pytest
from support.small_models import CHAT_TEMPLATE, make_tokenizer

from neuralchat.data.records import Turn
from neuralchat.data.templates.alpaca import AlpacaTemplate
from neuralchat.data.templates.chat import ChatTemplate
from neuralchat.data.templates.making import begin_tokens_of, make_template
from neuralchat.data.templates.template import Piece, Template
from neuralchat.data.tokens.encoding import encode_runs, merge_runs
from neuralchat.errors import TemplateError

QUESTION = Turn("user", "Name a colour of the sky.")
ANSWER = Turn("assistant", "The sky is blue.")
SYSTEM = Turn("system", "Answer in one sentence.")
CONVERSATIONS = [
    (QUESTION, ANSWER),
    (SYSTEM, QUESTION, ANSWER),
    (QUESTION, ANSWER, Turn("user", "And the grass?"), Turn("assistant", "The grass is green.")),
]
# From PROMPT_DICT of https://github.com/tatsu-lab/stanford_alpaca, written out a second time on purpose.
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)


def text_of(pieces: Sequence[Piece], *, supervised: bool | None = None) -> str:
    return "".join(piece.text for piece in pieces if supervised in (None, piece.supervised))


def ids_of(tokenizer: Any, template: Template, turns: Sequence[Turn]) -> tuple[list[int], list[bool]]:
    ids, supervised = encode_runs(tokenizer, [merge_runs(template.render(turns))])[0]
    return ids.tolist(), supervised.tolist()


def with_chat_template(source: str) -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = source
    return tokenizer


def test_alpaca_without_input() -> None:
    pieces = AlpacaTemplate([], "</s>").render([QUESTION, ANSWER])
    assert text_of(pieces) == ALPACA_WITHOUT_INPUT.format(instruction=QUESTION.content) + "The sky is blue.</s>"
    assert text_of(pieces, supervised=True) == "The sky is blue.</s>"


def test_alpaca_with_input() -> None:
    pieces = AlpacaTemplate([], "</s>").render([Turn("user", "Add.", "1 and 2"), Turn("assistant", "3")])
    assert text_of(pieces) == ALPACA_WITH_INPUT.format(instruction="Add.", input="1 and 2") + "3</s>"


def test_alpaca_begin_and_end_tokens_are_special() -> None:
    pieces = AlpacaTemplate(["<s>"], "</s>").render([QUESTION, ANSWER])
    assert pieces[0] == Piece("<s>", special=True)
    assert pieces[-1] == Piece("</s>", special=True, supervised=True)
    assert [piece.text for piece in pieces if piece.special] == ["<s>", "</s>"]


def test_alpaca_system_turn_replaces_the_preamble() -> None:
    pieces = AlpacaTemplate([], "</s>").render([SYSTEM, QUESTION])
    assert text_of(pieces) == (
        "Answer in one sentence.\n\n### Instruction:\nName a colour of the sky.\n\n### Response:"
    )


def test_alpaca_second_turn_repeats_the_blocks() -> None:
    pieces = AlpacaTemplate([], "</s>").render([*CONVERSATIONS[2][:3]])
    assert text_of(pieces).endswith("The sky is blue.</s>\n\n### Instruction:\nAnd the grass?\n\n### Response:")


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_chat_ids_equal_those_of_the_tokenizer(tokenizer: Any, turns: tuple[Turn, ...]) -> None:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    expected = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert ids_of(tokenizer, ChatTemplate(tokenizer), turns)[0] == expected


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_chat_prompt_ids_equal_those_of_the_tokenizer(tokenizer: Any, turns: tuple[Turn, ...]) -> None:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns[:-1]]
    expected = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert ids_of(tokenizer, ChatTemplate(tokenizer), turns[:-1])[0] == expected


@pytest.mark.parametrize("kind", ["alpaca", "chat"])
@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_every_prompt_is_an_exact_prefix_of_training(tokenizer: Any, kind: str, turns: tuple[Turn, ...]) -> None:
    template = make_template(kind, tokenizer)
    ids, supervised = ids_of(tokenizer, template, turns)
    for index in (index for index, turn in enumerate(turns) if turn.role == "assistant"):
        prompt, learned = ids_of(tokenizer, template, turns[:index])
        assert ids[: len(prompt)] == prompt
        assert learned == supervised[: len(prompt)]
        assert supervised[len(prompt)]
        assert not supervised[len(prompt) - 1]


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_chat_learns_each_answer_and_its_end(tokenizer: Any, turns: tuple[Turn, ...]) -> None:
    answers = "".join(turn.content + "<|end|>" for turn in turns if turn.role == "assistant")
    assert text_of(ChatTemplate(tokenizer).render(turns), supervised=True) == answers


@pytest.mark.parametrize("kind", ["alpaca", "chat"])
@pytest.mark.parametrize("text", ["a <|end|> b <|start|>system\n<|pad|>", "{{ 1 + 1 }}{% raw %}", "\ue0000\ue001"])
def test_text_that_looks_special_stays_text(tokenizer: Any, kind: str, text: str) -> None:
    template = make_template(kind, tokenizer)
    ids = ids_of(tokenizer, template, [Turn("user", text), Turn("assistant", text)])[0]
    plain = ids_of(tokenizer, template, [Turn("user", "x"), Turn("assistant", "x")])[0]
    special = set(tokenizer.all_special_ids)
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    assert tokenizer.decode(ids, skip_special_tokens=True).count(text) == 2


def test_chat_puts_context_after_the_content(tokenizer: Any) -> None:
    pieces = ChatTemplate(tokenizer).render([Turn("user", "Add.", "1 and 2")])
    assert text_of(pieces) == "<|start|>user\nAdd.\n\n1 and 2<|end|>\n<|start|>assistant\n"


def test_chat_text_before_the_first_special_token_ends_the_answer() -> None:
    source = CHAT_TEMPLATE.replace("<|end|>", "\n<|end|>")
    pieces = ChatTemplate(with_chat_template(source)).render([QUESTION, ANSWER])
    assert text_of(pieces, supervised=True) == "The sky is blue.\n<|end|>"


def test_chat_adds_the_end_token_where_the_template_has_none() -> None:
    source = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    template = ChatTemplate(with_chat_template(source))
    pieces = template.render([QUESTION, ANSWER])
    assert text_of(pieces, supervised=True) == "The sky is blue.<|end|>"
    assert template.end_tokens == ("<|end|>",)


def test_chat_stops_at_the_end_of_turn_and_at_the_end_token() -> None:
    source = CHAT_TEMPLATE.replace("<|end|>", "<|pad|>")
    assert ChatTemplate(with_chat_template(source)).end_tokens == ("<|pad|>", "<|end|>")


def test_fingerprint_is_the_hash_of_the_definition() -> None:
    template = AlpacaTemplate(["<s>"], "</s>")
    definition = {
        "begin_tokens": ["<s>"],
        "end_token": "</s>",
        "name": "alpaca",
        "preamble": ALPACA_WITHOUT_INPUT.split("\n\n")[0],
        "preamble_with_input": ALPACA_WITH_INPUT.split("\n\n")[0],
    }
    assert template.fingerprint() == hashlib.sha256(json.dumps(definition).encode()).hexdigest()


def test_fingerprint_changes_with_the_template() -> None:
    templates = [
        AlpacaTemplate([], "</s>"),
        AlpacaTemplate(["<s>"], "</s>"),
        AlpacaTemplate([], "<|end|>"),
        ChatTemplate(make_tokenizer()),
        ChatTemplate(with_chat_template(CHAT_TEMPLATE.replace("<|end|>\n", "<|end|>"))),
    ]
    assert len({template.fingerprint() for template in templates}) == len(templates)
    assert ChatTemplate(make_tokenizer()).fingerprint() == templates[3].fingerprint()


@pytest.mark.parametrize(
    ("name", "chat", "conversations", "expected"),
    [
        ("auto", True, True, "chat"),
        ("auto", True, False, "alpaca"),
        ("auto", False, True, "alpaca"),
        ("own", True, False, "chat"),
        ("own", True, True, "chat"),
        ("own", False, True, "alpaca"),
        ("alpaca", True, True, "alpaca"),
        ("chat", True, False, "chat"),
    ],
)
def test_make_template(name: str, chat: bool, conversations: bool, expected: str) -> None:
    assert make_template(name, make_tokenizer(chat=chat), conversations=conversations).name == expected


def test_a_chat_template_that_cannot_be_trained_with_is_left_aside(said: list[str]) -> None:
    """Where nobody asked for it, and no record needs it."""
    tokenizer = with_chat_template("{{ 'the same whatever was said' }}")
    assert make_template("own", tokenizer).name == "alpaca"
    assert any("chat template is left aside" in text for text in said)
    for name, conversations in (("own", True), ("auto", True), ("chat", False)):
        with pytest.raises(TemplateError):
            make_template(name, tokenizer, conversations=conversations)


def test_an_encoder_decoder_takes_no_chat_template() -> None:
    assert make_template("own", make_tokenizer(chat=True), encoder_decoder=True).name == "alpaca_pairs"


def test_tokenizer_without_end_token() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(TemplateError) as caught:
        make_template("alpaca", tokenizer)
    assert str(caught.value) == (
        "this tokenizer has no end token, so a chatbot trained with it would never stop; set eos_token in its "
        "tokenizer_config.json to the one that the model was trained with, which may be <|end|>, or name another "
        "tokenizer with --tokenizer_name"
    )


def test_tokenizer_without_chat_template() -> None:
    with pytest.raises(TemplateError, match="no chat template; use --template alpaca"):
        make_template("chat", make_tokenizer(chat=False))


def test_chat_template_that_refuses_a_role() -> None:
    source = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
    template = ChatTemplate(with_chat_template(source))
    with pytest.raises(TemplateError, match=r"refuses a conversation: no system; found system, user$"):
        template.render([SYSTEM, QUESTION])


@pytest.mark.parametrize(
    "source",
    [
        CHAT_TEMPLATE.replace("in messages", "in messages[:1]"),
        CHAT_TEMPLATE.replace("{{ message['content'] }}", "{{ message['content'] }}{{ message['content'] }}"),
        CHAT_TEMPLATE.replace("in messages", "in messages | reverse"),
    ],
    ids=["drops", "repeats", "reorders"],
)
def test_chat_template_that_changes_turns(source: str) -> None:
    with pytest.raises(TemplateError, match=r"drops, repeats or reorders turns|leaves out the text of turn"):
        ChatTemplate(with_chat_template(source))


def test_chat_sends_what_training_wrote_where_the_generation_prompt_differs() -> None:
    source = CHAT_TEMPLATE.replace(
        "{% if add_generation_prompt %}<|start|>assistant\n", "{% if add_generation_prompt %}<|start|>assistant: "
    )
    template = ChatTemplate(with_chat_template(source))
    assert text_of(template.render([QUESTION])) == f"<|start|>user\n{QUESTION.content}<|end|>\n<|start|>assistant\n"
    assert "chat sends what training wrote" in template.notices[0]


def test_a_mistake_in_a_chat_template_is_told_with_its_line() -> None:
    with pytest.raises(
        TemplateError, match=r"^the chat template is not valid Jinja: line 3: No filter named 'nofilter'"
    ):
        ChatTemplate(with_chat_template("{# a #}\n\n{{ a | nofilter }}" + CHAT_TEMPLATE))


def test_variables_that_no_template_names_are_told() -> None:
    source = "{% if thinks %}{% endif %}" + CHAT_TEMPLATE
    told = ChatTemplate(with_chat_template(source), {"think": False, "thinks": True}).notices
    assert told == ["--chat_template_kwargs: the chat template does not use think"]


class FramingTokenizer:
    """Tokens are letters; `framed` is what it makes of "a" with its special tokens."""

    def __init__(self, framed: list[int]) -> None:
        self.framed = framed

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": self.framed if add_special_tokens else [5]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"<{i}>" for i in ids]


@pytest.mark.parametrize(("framed", "expected"), [([5], []), ([1, 5], ["<1>"]), ([1, 2, 5, 3], ["<1>", "<2>"])])
def test_begin_tokens(framed: list[int], expected: list[str]) -> None:
    assert begin_tokens_of(FramingTokenizer(framed)) == expected


def test_tokenizer_that_changes_a_framed_text() -> None:
    with pytest.raises(TemplateError, match="changes a text when it adds its special tokens"):
        begin_tokens_of(FramingTokenizer([1, 6]))
