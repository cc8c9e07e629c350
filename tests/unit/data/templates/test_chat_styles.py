"""data/templates/chat.py against transformers' own rendering, for templates in the manner of today's models.

The rule: what is learned and what chat sends are the template's own rendering of the same conversation, chat goes on
exactly where training did, and an answer stops at every token that ended one in training.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from support.templates.styles import STYLES, Style, ids_by_the_library, tokenizer_of

from neuralchat.data.records import Record, Turn
from neuralchat.data.templates.chat import ChatTemplate
from neuralchat.data.templates.chat_text import messages_of
from neuralchat.data.tokenization import Encoder
from neuralchat.data.tokens.counts import TokenizationCounts
from neuralchat.errors import TemplateError
from neuralchat.inference.answer_text import frame_of
from neuralchat.inference.generation.settings import end_token_ids

QUESTION, ANSWER = Turn("user", "Name a colour of the sky."), Turn("assistant", "The sky is blue.")
THOUGHT = replace(ANSWER, reasoning="Water and air scatter it.")
IN_TEXT = replace(ANSWER, content="<think>\nWater and air scatter it.\n</think>\n\nThe sky is blue.")
CALL = {"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Its name."}}},
    },
}
AGAIN = (Turn("user", "And the grass?"), Turn("assistant", "It is green."))
CONVERSATIONS: dict[str, tuple[tuple[Turn, ...], tuple[dict[str, Any], ...]]] = {
    "one turn": ((QUESTION, ANSWER), ()),
    "several turns": ((QUESTION, ANSWER, *AGAIN, QUESTION, ANSWER), ()),
    "system": ((Turn("system", "Answer in one sentence."), QUESTION, ANSWER, *AGAIN), ()),
    "reasoning": ((QUESTION, THOUGHT, *AGAIN, QUESTION, THOUGHT), ()),
    "reasoning in the text": ((QUESTION, IN_TEXT, *AGAIN), ()),
    "tools": ((QUESTION, Turn("assistant", "", tool_calls=(CALL,)), Turn("tool", "Rain."), ANSWER, *AGAIN), (TOOL,)),
    "calls": ((QUESTION, Turn("assistant", "", tool_calls=(CALL,)), Turn("tool", "Rain."), ANSWER, *AGAIN), ()),
    "white space": ((Turn("user", "  Name a colour. \n"), Turn("assistant", "\n Blue. \n"), *AGAIN), ()),
    "special tokens in the text": (
        (Turn("user", "Say <|im_end|><|eot_id|></s>[INST]."), Turn("assistant", "<|end|><|user|></s> said."), *AGAIN),
        (),
    ),
}
DAY = "2026-11-25"


@cache
def encoder_of(style: Style) -> Encoder:
    tokenizer = tokenizer_of(style)
    template = ChatTemplate(tokenizer, date=DAY)
    return Encoder(tokenizer, template, max_seq_length=10_000, train_on_inputs=False)


def takes(style: Style, kind: str) -> bool:
    if kind == "calls":
        return bool(style.knows & {"calls", "tools"})
    return kind not in ("system", "tools") or kind in style.knows


def quick_or_slow(name: str, kind: str) -> tuple[pytest.MarkDecorator, ...]:
    """`make quick` meets by turns a third of the cells: each style and each kind of conversation, not each pair."""
    turn = list(STYLES).index(name) + list(CONVERSATIONS).index(kind)
    return (pytest.mark.slow,) if turn % 3 else ()


CELLS = [
    pytest.param(name, kind, id=f"{name}, {kind}", marks=quick_or_slow(name, kind))
    for name, style in STYLES.items()
    for kind in CONVERSATIONS
    if takes(style, kind)
]
cells = pytest.mark.parametrize(("name", "kind"), CELLS)


def test_the_quick_cells_meet_each_style_and_each_conversation() -> None:
    met = [cell.values for cell in CELLS if not cell.marks]
    assert {name for name, _ in met} == set(STYLES)
    assert {kind for _, kind in met} == set(CONVERSATIONS)


def learned_spans(supervised: list[bool]) -> list[tuple[int, int]]:
    edges = [i for i in range(len(supervised) + 1) if (i and supervised[i - 1]) != (supervised[i : i + 1] == [True])]
    return list(zip(edges[::2], edges[1::2], strict=True))


def without_added_ends(ids: list[int], supervised: list[bool], added: set[int]) -> list[int]:
    """Without the end token that stands where the template ends an answer with none."""
    ends = {end - 1 for _, end in learned_spans(supervised)}
    return [token for i, token in enumerate(ids) if i not in ends or token not in added]


@cells
def test_examples_are_the_templates_own_rendering(name: str, kind: str) -> None:
    encoder, (turns, tools) = encoder_of(STYLES[name]), CONVERSATIONS[kind]
    if (name, kind) == ("mistral v3", "system"):
        # Its own rendering leaves the system turn out where an answer is last; see the test of prompts.
        assert turns[0].content in encoder.tokenizer.decode(encoder.encode_prompt(turns[:-1]))
        return
    record = Record(turns, "row 1", "messages", tools=tools)
    tokenizer = encoder.tokenizer
    tokenizer_source = tokenizer.chat_template
    renderings = encoder.template.renderings(turns, tools)
    examples = encoder.encode([record], TokenizationCounts())
    assert len(renderings) == len(examples)
    try:
        tokenizer.chat_template = tokenizer_source.replace("strftime_now('%Y-%m-%d')", f"'{DAY}'")
        for form in ("%d %B %Y", "%d %b %Y"):
            day = {"%d %B %Y": "25 November 2026", "%d %b %Y": "25 Nov 2026"}[form]
            tokenizer.chat_template = tokenizer.chat_template.replace(f"strftime_now('{form}')", f"'{day}'")
        for rendering, example in zip(renderings, examples, strict=True):
            shown = plain_last(rendering.turns) if rendering.lost_reasoning else rendering.turns
            messages = messages_of(shown, as_parts="parts" in name)
            # What a user spells like a special token is text for us; for the library where it is asked to.
            as_text = kind == "special tokens in the text"
            expected = ids_by_the_library(
                tokenizer, messages, tools=list(tools) or None, sanitize_control_tokens=as_text
            )
            ids, supervised = example.input_ids.tolist(), example.supervised.tolist()
            eos = {tokenizer.eos_token_id}
            if name == "ernie 4.5":
                # The space that ends its prompt would be one token with what follows, were both said at once: what the
                # library sends as a prompt would be no beginning of what it trains on.
                ids, expected = tokenizer.decode(ids), tokenizer.decode(expected)
            assert expected in (ids, without_added_ends(ids, supervised, eos))
    finally:
        tokenizer.chat_template = tokenizer_source


def plain_last(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Reasoning that a template leaves out may as well not be there."""
    return tuple(replace(turn, reasoning="") for turn in turns)


@cells
def test_chat_goes_on_where_training_did(name: str, kind: str) -> None:
    encoder, (turns, tools) = encoder_of(STYLES[name]), CONVERSATIONS[kind]
    learned = 0
    for rendering in encoder.template.renderings(turns, tools):
        [example] = encoder.encode([Record(rendering.turns, "row 1", "messages", tools=tools)], TokenizationCounts())
        ids, spans = example.input_ids.tolist(), learned_spans(example.supervised.tolist())
        answers = [i for i, turn in enumerate(rendering.turns) if turn.role == "assistant" and turn.trained]
        assert len(spans) == len(answers)
        for i, (start, _) in zip(answers, spans, strict=True):
            assert encoder.encode_prompt(rendering.turns[:i], tools) == ids[:start]
        learned += len(spans)
    assert learned == sum(turn.role == "assistant" for turn in turns), "each answer is learned, and once"


@cells
def test_a_prompt_is_the_same_when_its_beginning_was_met_before(name: str, kind: str) -> None:
    met, (turns, tools) = encoder_of(STYLES[name]), CONVERSATIONS[kind]
    prompts = [turns[:end] for end in range(1, len(turns) + 1) if turns[end - 1].role in ("user", "tool")]
    fresh = [ChatTemplate(met.tokenizer, date=DAY).render(prompt, tools) for prompt in prompts]
    for _ in range(2):
        assert [met.template.render(prompt, tools) for prompt in prompts] == fresh
    changed = [turn if turn.tool_calls else replace(turn, content=f"{turn.content}!") for turn in prompts[-1]]
    template = ChatTemplate(met.tokenizer, date=DAY)
    assert met.template.render(changed, tools) == template.render(changed, tools)


@cells
def test_an_answer_stops_at_every_token_that_ended_one(name: str, kind: str) -> None:
    encoder, (turns, tools) = encoder_of(STYLES[name]), CONVERSATIONS[kind]
    end_ids = end_token_ids(encoder.tokenizer, encoder.template)
    for example in encoder.encode([Record(turns, "row 1", "messages", tools=tools)], TokenizationCounts()):
        ids = example.input_ids.tolist()
        for start, end in learned_spans(example.supervised.tolist()):
            assert ids[end - 1] in end_ids
            assert not set(ids[start : end - 1]) & set(end_ids)


@pytest.mark.parametrize("name", STYLES)
def test_the_words_of_an_answer_come_back(name: str) -> None:
    encoder = encoder_of(STYLES[name])
    frame = frame_of(encoder.tokenizer, encoder.template)
    [example] = encoder.encode([Record((QUESTION, ANSWER), "row 1", "messages")], TokenizationCounts())
    ids = example.input_ids[example.supervised].tolist()
    assert frame.words(encoder.tokenizer, ids[:-1], finished=True) == ANSWER.content
    # As they come, nothing is handed out that is not part of them.
    shown = [frame.certain_words(encoder.tokenizer, ids[:end]) for end in range(len(ids))]
    assert all(ANSWER.content.startswith(text.rstrip("\ufffd")) for text in shown)
    assert shown[-1] == ANSWER.content


def test_reasoning_before_the_opening_is_no_part_of_the_words() -> None:
    encoder = encoder_of(STYLES["gpt-oss"])
    frame = frame_of(encoder.tokenizer, encoder.template)
    [example] = encoder.encode([Record((QUESTION, THOUGHT), "row 1", "messages")], TokenizationCounts())
    ids = example.input_ids[example.supervised].tolist()
    assert frame.words(encoder.tokenizer, ids[:-1], finished=True) == ANSWER.content


@pytest.mark.parametrize("name", [name for name, style in STYLES.items() if "tools" not in style.knows])
def test_tools_are_refused_by_name(name: str) -> None:
    turns, tools = CONVERSATIONS["tools"]
    with pytest.raises(
        TemplateError,
        match=r"row 7: the chat template (knows no tool|refuses a conversation: .*; found user, assistant, tool)",
    ):
        encoder_of(STYLES[name]).encode([Record(turns, "row 7", "messages", tools=tools)], TokenizationCounts())


@pytest.mark.parametrize("name", [name for name, style in STYLES.items() if "system" not in style.knows])
def test_a_system_turn_is_refused_by_name(name: str) -> None:
    with pytest.raises(
        TemplateError, match=r"row 7: the chat template refuses a conversation: .*; found system, user, assistant"
    ):
        encoder_of(STYLES[name]).encode([Record(CONVERSATIONS["system"][0], "row 7", "messages")], TokenizationCounts())


@pytest.mark.parametrize("name", STYLES)
def test_reasoning_is_learned_or_told_to_be_left_out(name: str) -> None:
    encoder, counts = encoder_of(STYLES[name]), TokenizationCounts()
    [example] = encoder.encode([Record((QUESTION, THOUGHT), "row 1", "messages")], counts)
    learned = encoder.tokenizer.decode(example.input_ids[example.supervised])
    assert (THOUGHT.reasoning in learned) == STYLES[name].thinks
    assert counts.lost_reasoning == (not STYLES[name].thinks)
    assert any("leaves out the reasoning of 1 answer" in text for text in counts.notices("")) != STYLES[name].thinks


def test_answers_written_in_two_ways_become_two_examples() -> None:
    encoder, counts = encoder_of(STYLES["qwen 3"]), TokenizationCounts()
    examples = encoder.encode([Record((QUESTION, THOUGHT, *AGAIN), "row 1", "messages")], counts)
    first, second = (encoder.tokenizer.decode(example.input_ids) for example in examples)
    assert THOUGHT.reasoning in first
    assert THOUGHT.reasoning not in second
    assert "1 record(s) became several examples" in counts.notices("")[0]


def test_variables_of_the_template_decide() -> None:
    tokenizer = tokenizer_of(STYLES["qwen 3"])
    plain, quiet = ChatTemplate(tokenizer), ChatTemplate(tokenizer, {"enable_thinking": False})
    assert "".join(piece.text for piece in plain.render([QUESTION])).endswith("assistant\n")
    assert "".join(piece.text for piece in quiet.render([QUESTION])).endswith("assistant\n<think>\n\n</think>\n\n")
    assert plain.fingerprint() != quiet.fingerprint()
    [rendering] = quiet.renderings((QUESTION, THOUGHT))
    assert rendering.lost_reasoning == 1
    assert "".join(piece.text for piece in rendering.pieces if piece.supervised) == ANSWER.content + "<|im_end|>"


def test_a_model_that_was_not_trained_here_is_asked_as_its_maker_does() -> None:
    tokenizer = tokenizer_of(STYLES["qwq"])
    trained, base = ChatTemplate(tokenizer), ChatTemplate(tokenizer, own_prompt=True)
    assert "".join(piece.text for piece in trained.render([QUESTION])).endswith("assistant\n")
    assert "".join(piece.text for piece in base.render([QUESTION])).endswith("assistant\n<think>\n")


def test_the_date_is_part_of_the_template() -> None:
    tokenizer = tokenizer_of(STYLES["llama 3.2"])
    early, late = (ChatTemplate(tokenizer, date=day) for day in ("2026-11-25", "2026-11-26"))
    assert "Today Date: 25 Nov 2026" in "".join(piece.text for piece in early.render([QUESTION]))
    assert early.fingerprint() != late.fingerprint()
    assert "for this run it is 2026-11-25" in early.notices[0]
    plain = tokenizer_of(STYLES["llama 3"])
    assert ChatTemplate(plain, date="2026-11-25").fingerprint() == ChatTemplate(plain).fingerprint()


def test_a_turn_of_weight_zero_is_not_learned() -> None:
    encoder = encoder_of(STYLES["chatml"])
    turns = (QUESTION, replace(ANSWER, trained=False), *AGAIN)
    [example] = encoder.encode([Record(turns, "row 1", "messages")], TokenizationCounts())
    assert encoder.tokenizer.decode(example.input_ids[example.supervised]) == "It is green.<|im_end|>"
    assert ANSWER.content in encoder.tokenizer.decode(example.input_ids)
