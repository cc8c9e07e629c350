"""data/templates/portable.py: the template that leaves writes the prompts of training, and teaches what that did."""

from __future__ import annotations

from typing import Any

import pytest
from support.small_models import CHAT_TEMPLATE, make_tokenizer
from support.templates.styles import STYLES, tokenizer_of

from neuralchat.data.records import Turn
from neuralchat.data.templates.chat import ChatTemplate
from neuralchat.data.templates.portable import fitted_template, for_llama_cpp, portable_template, written_otherwise

DAY = "2026-11-25"
TURNS = (Turn("user", "A  b?"), Turn("assistant", "C d."), Turn("user", "E?"), Turn("assistant", "F"))
# Of their conversations some cannot be said by a template: tests/parity/test_gguf_prompts.py.
LEFT = {"falcon": 2}


def pieces(template: ChatTemplate, turns: tuple[Turn, ...] = TURNS) -> list[list[tuple[Any, ...]]]:
    return [[tuple(piece) for piece in rendering.pieces] for rendering in template.renderings(turns)]


@pytest.mark.parametrize("name", list(STYLES))
def test_prompts_are_those_of_training(name: str) -> None:
    tokenizer = tokenizer_of(STYLES[name])
    template = ChatTemplate(tokenizer, date=DAY)
    source, left = fitted_template(template, tokenizer)
    assert source is not None
    assert len(left) == LEFT.get(name, 0)
    if source == portable_template(template):
        return
    # A merged model has it as its own, and is asked and trained on as the run was.
    own = written_otherwise(portable_template(template) or "", template, tokenizer)
    assert len(own) > len(left)
    expected = pieces(template)
    tokenizer.chat_template = source
    again = ChatTemplate(tokenizer, date=DAY)
    assert again.render(TURNS[:1]) == template.render(TURNS[:1])
    assert pieces(again) == expected


def test_a_template_that_writes_what_training_did_stays_as_it_is() -> None:
    tokenizer = make_tokenizer()
    assert fitted_template(ChatTemplate(tokenizer), tokenizer) == (CHAT_TEMPLATE, [])


def test_the_end_of_a_file_is_no_part_of_the_prompt() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.split("{% if add")[0] + "\n"
    template = ChatTemplate(tokenizer)
    source, left = fitted_template(template, tokenizer)
    assert left == []
    assert source is not None
    assert source.startswith("{%- set asks_for_answer")


@pytest.mark.parametrize(
    ("begin", "given", "fixed"),
    [
        ("{{ date_string }}", {}, "date_string"),
        ("{{ date_string }}", {"date_string": "today"}, ""),
        ("{{ mood }}", {}, ""),
        # Only the prompt's end changes: whoever asks may choose.
        ("", {}, ""),
    ],
)
def test_what_llama_cpp_adds_by_itself_is_left_out(begin: str, given: dict[str, Any], fixed: str) -> None:
    tokenizer = make_tokenizer()
    end = "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}<no>{% endif %}"
    tokenizer.chat_template = begin + CHAT_TEMPLATE + end
    template = ChatTemplate(tokenizer, given)
    source = portable_template(template)
    assert source is not None
    found = for_llama_cpp(source, template, tokenizer)
    assert found == (f"{{%- set {fixed} = not_given_in_training -%}}\n{source}" if fixed else source)
