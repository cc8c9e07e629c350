"""Every chat template of docs/templates.md as a GGUF file carries it: llama.cpp makes the prompt ids of training."""

from __future__ import annotations

from typing import Any

import pytest
from support.engines.llama_cpp import needs_llama_cpp, prompts_by_llama_cpp
from support.small_models import small_model
from support.templates.styles import STYLES, tokenizer_of

from neuralchat.data.records import Turn
from neuralchat.data.templates.chat import ChatTemplate
from neuralchat.data.templates.chat_text import messages_of
from neuralchat.inference.gguf_text import gguf_text
from neuralchat.inference.voice import Voice
from neuralchat.inference.window import window_for
from neuralchat.models.gguf.tensor_types import TENSOR_TYPES
from neuralchat.models.gguf.writing import write_gguf

RULE, QUESTION, ANSWER = Turn("system", "Be brief."), Turn("user", "Name a town."), Turn("assistant", "Paris.")
LATER = Turn("user", "  Another  one?\nWith  spaces ")
CONVERSATIONS: dict[str, tuple[Turn, ...]] = {
    "one turn": (QUESTION,),
    "several turns": (QUESTION, ANSWER, LATER),
    "system, one turn": (RULE, QUESTION),
    "system, several turns": (RULE, QUESTION, ANSWER, QUESTION, ANSWER, LATER),
}
SEVERAL = {"several turns", "system, several turns"}
# What no program can say that renders a template to a text and makes ids of that, and why.
NOT_THE_SAME: dict[str, tuple[set[str], str]] = {
    "falcon": (SEVERAL, "its template ends answers with no token; training put one there, and earlier answers have it"),
    "ernie 4.5": (
        SEVERAL,
        "the space that ends its prompt and the first letters of an earlier answer are one token, said at once",
    ),
}
ROWS = 440


@pytest.fixture(scope="module")
def voices() -> dict[str, Voice]:
    found = {}
    for name, style in STYLES.items():
        tokenizer = tokenizer_of(style)
        template = ChatTemplate(tokenizer, date="2026-11-25")
        found[name] = Voice(tokenizer, template, window_for(small_model().config, 0))
    return found


@pytest.fixture(scope="module")
def prompts(voices: dict[str, Voice], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By the template and the conversation."""
    needs_llama_cpp()
    place, model = tmp_path_factory.mktemp("files"), small_model("llama", ROWS)
    files = {name: place / f"{number}.gguf" for number, name in enumerate(STYLES)}
    for name, file in files.items():
        write_gguf(file, model, gguf_text(voices[name], model, "small"), TENSOR_TYPES["f16"])
    asked = [messages_of(turns) for turns in CONVERSATIONS.values()]
    told = prompts_by_llama_cpp(list(files.values()), asked)
    return {name: dict(zip(CONVERSATIONS, told[file], strict=True)) for name, file in files.items()}


CELLS = [
    (name, kind)
    for name, style in STYLES.items()
    for kind, turns in CONVERSATIONS.items()
    if turns[0].role != "system" or "system" in style.knows
]


@pytest.mark.parametrize(("name", "kind"), CELLS, ids=lambda text: text)
def test_llama_cpp_makes_the_prompt_of_training(
    name: str, kind: str, voices: dict[str, Voice], prompts: dict[str, dict[str, Any]]
) -> None:
    expected = voices[name].whole_prompt(CONVERSATIONS[kind])
    found = prompts[name][kind]
    if kind in NOT_THE_SAME.get(name, (set(), ""))[0]:
        assert isinstance(found, list)
        assert found != expected
        return
    assert found == expected, voices[name].spelled(found) if isinstance(found, list) else found
