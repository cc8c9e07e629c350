"""inference/window.py: what of a conversation a model has positions for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_models import make_tokenizer, small_config, small_model
from transformers import AutoModelForCausalLM

from neuralchat.data.records import Turn
from neuralchat.data.templates.making import make_template
from neuralchat.errors import ArgumentsError
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.window import Window

POSITIONS = 96


def encode(turns: Sequence[Turn]) -> list[int]:
    """A token for each word, and one for each turn."""
    return [0 for turn in turns for _ in [turn.role, *turn.content.split()]]


def conversation(*texts: str, system: str = "") -> list[Turn]:
    turns = [Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    return [Turn("system", system), *turns] if system else turns


def test_what_fits_stays_whole() -> None:
    prompt = Window(12, 12).prompt(conversation("a", "b", "c"), encode, 6)
    assert (len(prompt.ids), prompt.max_new_tokens, prompt.dropped) == (6, 6, 0)


def test_the_oldest_questions_go_with_their_answers_and_the_system_stays() -> None:
    turns = conversation("a", "b", "c", "d", "e", system="s")
    prompt = Window(12, None).prompt(turns, encode, 6)
    # system 2, question 2, and the pair before it 4.
    assert (len(prompt.ids), prompt.max_new_tokens, prompt.dropped) == (4, 6, 4)
    prompt = Window(14, None).prompt(turns, encode, 6)
    assert (len(prompt.ids), prompt.dropped) == (8, 2)


def one_by_one(window: Window, turns: list[Turn], max_new_tokens: int) -> tuple[list[int], int]:
    """(ids, turns left out) by leaving out a question with its answer at a time, the oldest first."""
    system, kept = (turns[:1], turns[1:]) if turns[0].role == "system" else ([], turns)
    dropped = 0
    while not window.has_room(encode([*system, *kept]), max_new_tokens) and len(kept) > 1:
        count = 1
        while count < len(kept) - 1 and kept[count].role != "user":
            count += 1
        kept, dropped = kept[count:], dropped + count
    return encode([*system, *kept]), dropped


roles = st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), st.integers(0, 9)), max_size=40)


@given(roles, st.booleans(), st.integers(2, 80), st.integers(1, 40), st.booleans())
def test_what_is_left_out_is_found_by_halves(
    said: list[tuple[str, int]], system: bool, size: int, max_new_tokens: int, apart: bool
) -> None:
    turns = [Turn(role, "a " * words) for role, words in [*([("system", 1)] if system else []), *said, ("user", 0)]]
    window = Window(None, size, apart=apart)
    expected = one_by_one(window, turns, max_new_tokens)
    prompt = window.prompt(turns, encode, max_new_tokens)
    assert (prompt.ids, prompt.dropped) == expected


def test_a_long_conversation_is_not_encoded_once_for_each_of_its_turns() -> None:
    asked: list[int] = []

    def counted(turns: Sequence[Turn]) -> list[int]:
        asked.append(len(turns))
        return encode(turns)

    prompt = Window(50, None).prompt(conversation(*["a"] * 2001), counted, 6)
    assert (len(prompt.ids), prompt.dropped) == (42, 1980)
    assert len(asked) <= 13


def test_an_answer_gets_what_is_left() -> None:
    prompt = Window(12, None).prompt(conversation("a b c d e f g h"), encode, 6)
    assert (len(prompt.ids), prompt.max_new_tokens) == (9, 3)


def test_a_question_that_is_too_long_is_refused_with_numbers() -> None:
    with pytest.raises(ArgumentsError, match=r"it has 12 tokens, and the model has positions for 12 tokens"):
        Window(12, None).prompt(conversation("a b c d e f g h i j k"), encode, 6)
    with pytest.raises(ArgumentsError, match=r"without what was said before, it has 13 tokens"):
        Window(12, None).prompt(conversation("a", "b", "a b c d e f g h i j k l"), encode, 6)


def test_beyond_what_a_model_was_made_for_is_told(said: list[str]) -> None:
    window = Window(None, 8)
    prompt = window.prompt(conversation("a", "b", "a b c d e f g h"), encode, 6)
    assert (prompt.dropped, prompt.max_new_tokens) == (2, 6)
    window.tell(prompt)
    assert "its first 2 turn(s) are left out of this answer" in said[0]
    assert "the question has 9 tokens with its template, the model was made for 8" in said[1]


def test_source_and_answer_of_an_encoder_decoder_model_have_their_own_positions() -> None:
    prompt = Window(8, 8, apart=True).prompt(conversation("a b c d e f g"), encode, 20)
    assert (len(prompt.ids), prompt.max_new_tokens) == (8, 7)
    with pytest.raises(ArgumentsError, match="has positions for 8 tokens"):
        Window(8, 8, apart=True).prompt(conversation("a b c d e f g h"), encode, 20)


@pytest.fixture(params=["gpt2", "mpt"])
def short_bot(request: pytest.FixtureRequest) -> Chatbot:
    tokenizer = make_tokenizer()
    config = small_config(request.param, len(tokenizer))
    if request.param == "mpt":
        config.max_seq_len = POSITIONS
    else:
        config.n_positions = POSITIONS
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    return Chatbot(model, tokenizer, make_template("chat", tokenizer))


def test_a_long_conversation_goes_on(short_bot: Chatbot, said: list[str]) -> None:
    for _ in range(6):
        short_bot.chat("Name a colour of the sky.", max_new_tokens=40)
    assert any("turn(s) are left out of this answer" in text for text in said)
    # All is remembered; what is left out is left out of the prompt only.
    assert len(short_bot.history) == 12


def test_too_long_alone(short_bot: Chatbot) -> None:
    with pytest.raises(ArgumentsError, match=rf"the question is too long.* positions for {POSITIONS} tokens"):
        short_bot.predict("Name a colour of the sky. " * 30)
    with pytest.raises(ArgumentsError, match="the question is too long"):
        short_bot.answers([[Turn("user", "Name a colour of the sky. " * 30)]], Sampling())


def test_answers_together_are_the_answers_alone(short_bot: Chatbot) -> None:
    """Also where some have less room than others."""
    texts = ["Name it. " * count for count in (1, 2, 9, 10, 11, 3)]
    turns = [[Turn("user", text.strip())] for text in texts]
    together = short_bot.answers(turns, Sampling(max_new_tokens=60))
    alone = [short_bot.answer(turn, Sampling(max_new_tokens=60)) for turn in turns]
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert len({len(answer.token_ids) for answer in together}) > 1


def test_virtual_tokens_stand_in_positions_too(tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    tokenizer = make_tokenizer()
    config = small_config("gpt2", len(tokenizer))
    config.n_positions = POSITIONS
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    adapted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=10))
    bot = Chatbot(adapted.eval(), tokenizer, make_template("chat", tokenizer))
    assert bot.window.limit == POSITIONS - 10
    bot.predict("Name it. " * 10, max_new_tokens=100)


def test_rotary_positions_are_no_limit() -> None:
    tokenizer = make_tokenizer()
    bot = Chatbot(small_model("llama"), tokenizer, make_template("chat", tokenizer))
    assert (bot.window.limit, bot.window.trained) == (None, 1024)


def test_chat_in_the_terminal_refuses_and_a_report_goes_on(
    run_cli: Callable[..., Any], write_records: Callable[..., Path], tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    config = small_config("gpt2", len(tokenizer))
    config.n_positions = POSITIONS
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    long = "Name a colour of the sky. " * 30
    result = run_cli("chat", "short", "-p", long)
    assert result.returncode == 2
    assert f"positions for {POSITIONS} tokens" in result.stderr
    assert "Traceback" not in result.stderr
    rows = [{"instruction": long, "output": "Blue."}, {"instruction": "Name it.", "output": "Blue."}]
    result = run_cli(
        "finetune", "--model_name_or_path", "short", "--train_file", write_records(rows), "--output_dir", "run",
        "--max_seq_length", 64, "--template", "chat", "--max_steps", 1, "--save_strategy", "no", check=True,
    )  # fmt: skip
    assert "(not asked: the question is too long" in result.stdout
