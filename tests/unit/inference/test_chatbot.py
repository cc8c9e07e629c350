"""inference/chatbot.py: the conversation that is remembered, streaming, and what may be loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import METHODS, save_run
from support.notes import kept_notes
from support.small_models import make_tokenizer, save_checkpoint, small_model

from neuralchat.config.config import FinetuneConfig
from neuralchat.data.records import Turn
from neuralchat.data.templates.making import make_template
from neuralchat.errors import ArgumentsError, NeuralChatError, RunDirectoryError, TemplateError
from neuralchat.inference import loading
from neuralchat.inference.chatbot import Chatbot, at_once, build_chatbot
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.window import Prompt

DRAWN: Any = {"max_new_tokens": 24, "temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model("llama", len(make_tokenizer()))


@pytest.fixture
def bot(model: Any) -> Chatbot:
    tokenizer = make_tokenizer()
    return Chatbot(model, tokenizer, make_template("chat", tokenizer))


def contents(bot: Chatbot) -> list[str]:
    return [turn.content for turn in bot.history]


def test_what_was_said_is_remembered_and_counts(bot: Chatbot) -> None:
    first = bot.chat("Name a colour.", max_new_tokens=6)
    second = bot.chat("And a town?", max_new_tokens=6)
    assert contents(bot) == ["Name a colour.", first, "And a town?", second]
    assert [turn.role for turn in bot.history] == ["user", "assistant"] * 2
    whole = [Turn("user", "Name a colour."), Turn("assistant", first), Turn("user", "And a town?")]
    assert second == bot.answer(whole, Sampling(max_new_tokens=6)).text
    bot.reset()
    assert bot.history == []
    assert bot.chat("And a town?", max_new_tokens=6) != second


def test_the_system_message_stands_before_all(bot: Chatbot) -> None:
    bot.system = "Be brief."
    answer = bot.chat("Name a fruit.", max_new_tokens=6)
    turns = [Turn("system", "Be brief."), Turn("user", "Name a fruit.")]
    assert answer == bot.answer(turns, Sampling(max_new_tokens=6)).text
    assert contents(bot) == ["Name a fruit.", answer]
    bot.reset()
    assert bot.system == "Be brief."


def test_predict_remembers_nothing(bot: Chatbot) -> None:
    bot.chat("Name a colour.", max_new_tokens=4)
    before = bot.history
    alone = Chatbot(bot.model, bot.tokenizer, bot.template).chat("Name a fruit.", max_new_tokens=6)
    assert bot.predict("Name a fruit.", max_new_tokens=6) == alone
    assert bot.history == before


@pytest.mark.parametrize("sampling", [{"max_new_tokens": 24}, DRAWN])
def test_pieces_are_the_answer_of_chat(bot: Chatbot, sampling: Any) -> None:
    pieces = list(bot.stream("Name a fruit.", **sampling))
    streamed, bot.history = bot.history, []
    assert "".join(pieces) == bot.chat("Name a fruit.", **sampling)
    assert bot.history == streamed
    assert len(pieces) > 3


def test_the_same_seed_is_the_same_answer_and_leaves_the_generator_alone(bot: Chatbot) -> None:
    before = torch.random.get_rng_state()
    answers = [bot.predict("Name a fruit.", **{**DRAWN, "seed": seed}) for seed in (3, 3, 4)]
    several = [bot.answers([[Turn("user", "Name a fruit.")]] * 2, Sampling(**DRAWN)) for _ in range(2)]
    list(bot.stream("Name a fruit.", **DRAWN))
    assert answers[0] == answers[1] != answers[2]
    assert several[0] == several[1]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_drawing_random_numbers_between_pieces_changes_no_answer(bot: Chatbot) -> None:
    expected = bot.predict("Name a fruit.", **DRAWN)
    assert "".join(piece for piece in bot.stream("Name a fruit.", **DRAWN) if torch.rand(5) is not None) == expected


def test_leaving_the_loop_keeps_what_was_handed_out(bot: Chatbot) -> None:
    whole = bot.predict("Name a fruit.", **DRAWN)
    seen = ""
    for count, piece in enumerate(bot.stream("Name a fruit.", **DRAWN), start=1):
        seen += piece
        if count == 3:
            break
    assert whole.startswith(seen)
    assert len(seen) < len(whole)
    assert contents(bot) == ["Name a fruit.", seen]
    assert bot.last is not None
    assert not bot.last.finished


def test_the_next_question_ends_an_answer_that_is_still_open(bot: Chatbot) -> None:
    open_answer = bot.stream("Name a fruit.", **DRAWN)
    piece = next(open_answer)
    answer = bot.chat("And a town?", max_new_tokens=4)
    assert contents(bot) == ["Name a fruit.", piece, "And a town?", answer]
    assert list(open_answer) == []
    next(bot.stream("Name a cat.", **DRAWN))
    bot.reset()
    assert bot.history == []


def test_an_answer_that_was_never_read_is_not_remembered(bot: Chatbot) -> None:
    bot.stream("Name a fruit.")
    assert bot.history == []


def test_an_error_forgets_the_question(bot: Chatbot, monkeypatch: pytest.MonkeyPatch) -> None:
    bot.chat("Name a colour.", max_new_tokens=2)
    before = bot.history

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("neuralchat.inference.chatbot.generate", fails)
    with pytest.raises(KeyboardInterrupt):
        bot.chat("Name a fruit.")
    with pytest.raises(KeyboardInterrupt):
        list(bot.stream("Name a fruit."))
    assert bot.history == before


ASK: list[Callable[[Chatbot, Any], Any]] = [Chatbot.chat, Chatbot.stream, Chatbot.predict]


@pytest.mark.parametrize("ask", ASK)
def test_questions_that_are_none(bot: Chatbot, ask: Callable[[Chatbot, Any], Any]) -> None:
    """stream() too refuses at once, not when it is first read."""
    with pytest.raises(ArgumentsError, match=r"^the question is empty$"):
        ask(bot, " \n")
    with pytest.raises(ArgumentsError, match=r"^the question must be text, found int$"):
        ask(bot, 3)


def test_options_are_checked_before_anything_is_computed(bot: Chatbot) -> None:
    with pytest.raises(ArgumentsError, match="--top_p must be above 0"):
        bot.stream("Name a fruit.", top_p=0.0)
    with pytest.raises(ArgumentsError, match="did you mean temperature"):
        bot.chat("Name a fruit.", temprature=1.0)  # type: ignore[call-arg]


def test_beams_cannot_be_streamed(bot: Chatbot) -> None:
    with pytest.raises(ArgumentsError, match="--num_beams is 2: beams know their answer only at its end"):
        bot.stream("Name a fruit.", num_beams=2)
    assert bot.chat("Name a fruit.", num_beams=2, max_new_tokens=4) == bot.last.text  # type: ignore[union-attr]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_streams_with_every_method(tmp_path: Path, llama_checkpoint: Path, method: str) -> None:
    bot = Chatbot.load(save_run(tmp_path / "run", llama_checkpoint, method))
    assert "".join(bot.stream("Name a fruit.", max_new_tokens=5)) == bot.predict("Name a fruit.", max_new_tokens=5)


@pytest.mark.parametrize("family", ["mpt", "flan_t5"])
def test_other_families_stream(tmp_path: Path, family: str) -> None:
    bot = Chatbot.load(save_checkpoint(tmp_path / family, family), template="alpaca")
    pieces = list(bot.stream("Name a fruit.", max_new_tokens=5))
    assert "".join(pieces) == bot.predict("Name a fruit.", max_new_tokens=5)


def test_a_base_model_takes_its_own_template(llama_checkpoint: Path, said: list[str]) -> None:
    assert Chatbot.load(llama_checkpoint).template.name == "chat"
    assert said == []
    assert Chatbot.load(llama_checkpoint, template="alpaca").template.name == "alpaca"


def test_a_base_model_without_a_template_says_what_it_takes(tmp_path: Path, said: list[str]) -> None:
    base = save_checkpoint(tmp_path / "plain", chat=False)
    assert Chatbot.load(base).template.name == "alpaca"
    assert said == [f"{base} says nothing of its prompt format; taking alpaca (--template names another)"]


def test_a_base_model_keeps_its_number_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama_checkpoint: Path
) -> None:
    model, tokenizer = small_model("llama", len(make_tokenizer())), make_tokenizer()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for units, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(loading, "has_bf16_units", lambda units=units: units)
        assert Chatbot.load(tmp_path).model.dtype == dtype
        assert Chatbot.load(llama_checkpoint).model.dtype == torch.float32


def test_templates_that_there_are_not(llama_checkpoint: Path) -> None:
    with pytest.raises(ArgumentsError, match="--template is 'vicuna'; allowed are alpaca, chat"):
        Chatbot.load(llama_checkpoint, template="vicuna")


def checkpoint_of(run: Path, template_sha256: str) -> Path:
    """The run as a checkpoint of version 0.1 beside it, which knows only the fingerprint of its template."""
    (run / "neuralchat.json").unlink()
    content = {"arguments": {"peft": "lora", "bf16": False}, "template": template_sha256, "base_model": "m@main"}
    (run / "checkpoint.json").write_text(json.dumps(content))
    return run


@pytest.mark.parametrize("name", ["alpaca", "chat"])
def test_a_checkpoint_finds_its_template_by_fingerprint(
    tmp_path: Path, llama_checkpoint: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "base_fingerprint", lambda *parts: "m@main")
    sha256 = make_template(name, make_tokenizer()).fingerprint()
    checkpoint = checkpoint_of(save_run(tmp_path / "run", llama_checkpoint, "lora"), sha256)
    assert Chatbot.load(checkpoint).template.name == name
    other = {"alpaca": "chat", "chat": "alpaca"}[name]
    with pytest.raises(TemplateError, match=f"was trained with the template {name}, not {other}"):
        Chatbot.load(checkpoint, template=other)


def test_a_checkpoint_whose_template_has_changed(
    tmp_path: Path, llama_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "base_fingerprint", lambda *parts: "m@main")
    checkpoint = checkpoint_of(save_run(tmp_path / "run", llama_checkpoint, "lora"), "0" * 64)
    with pytest.raises(TemplateError, match=r"has changed since training: .* the checkpoint was trained with 00000000"):
        Chatbot.load(checkpoint)


def test_a_checkpoint_without_weights(tmp_path: Path, llama_checkpoint: Path) -> None:
    checkpoint = checkpoint_of(save_run(tmp_path / "run", llama_checkpoint, "lora"), "0" * 64)
    (checkpoint / "adapter_model.safetensors").unlink()
    with pytest.raises(NeuralChatError, match=r"has no adapter_model\.safetensors"):
        Chatbot.load(checkpoint)


def test_how_a_chatbot_shows_itself(llama_checkpoint: Path) -> None:
    bot = Chatbot.load(llama_checkpoint)
    assert repr(bot) == f"Chatbot({str(llama_checkpoint)!r}, template chat)"
    bot.chat("Name a fruit.", max_new_tokens=1)
    assert repr(bot).endswith("template chat, 2 turns said)")


def test_the_original_name(tmp_path: Path, llama_checkpoint: Path) -> None:
    """A configuration stands for its run where that is finished, else for its base model."""
    assert build_chatbot(llama_checkpoint).predict("Name a fruit.", max_new_tokens=3)
    values = {"model_name_or_path": str(llama_checkpoint), "output_dir": str(tmp_path / "run")}
    config = FinetuneConfig.from_values({**values, "train_file": "r.json", "do_train": True})
    for source in (values, config):
        assert build_chatbot(source).name == str(llama_checkpoint)
    save_run(tmp_path / "run", llama_checkpoint, "lora")
    for source in (values, config):
        assert build_chatbot(source).name == str(tmp_path / "run")
    with pytest.raises(ArgumentsError, match="--model_name_or_path is missing"):
        build_chatbot({})


def test_a_name_of_a_run_that_is_not_there() -> None:
    with pytest.raises(RunDirectoryError, match="run directory /nowhere does not exist"):
        Chatbot.load("/nowhere")


@pytest.mark.parametrize("method", ["lora", "prefix", None])
def test_many_at_once_are_each_alone_and_leave_the_model_as_it_was(
    tmp_path: Path, llama_checkpoint: Path, method: str | None
) -> None:
    bot = Chatbot.load(llama_checkpoint if method is None else save_run(tmp_path / "run", llama_checkpoint, method))
    before = bot.predict("Name a colour.", max_new_tokens=12)
    attention = bot.model.get_base_model().config._attn_implementation if method else None
    bot.system = "Be brief."
    texts = ["Name a colour.", "And a town?", "Name a fruit that is red, and a cat."] * 4
    conversation = [Turn("user", "Name it."), Turn("assistant", "What?"), Turn("user", "A town.")]
    found = bot.chat_many([*texts, conversation], max_new_tokens=12)
    assert found[:-1] == [bot.predict(text, max_new_tokens=12) for text in texts]
    assert found[-1] == bot.answer(conversation, Sampling(max_new_tokens=12)).text
    assert bot.history == []
    bot.system = None
    assert bot.predict("Name a colour.", max_new_tokens=12) == before
    if method:
        assert bot.model.get_base_model().config._attn_implementation == attention
        with bot.untuned() as base:
            assert base.predict("Name a colour.", max_new_tokens=12) != before
    assert bot.chat_many([]) == []


def test_many_at_once_refuse_what_one_refuses(bot: Chatbot) -> None:
    with pytest.raises(ArgumentsError, match="the question is empty"):
        bot.chat_many(["Name it.", " "])
    with pytest.raises(ArgumentsError, match="beams"):
        bot.chat_many(["Name it."], num_beams=2)
    with pytest.raises(ArgumentsError, match="unknown option temprature"):
        bot.chat_many(["Name it."], temprature=2)  # type: ignore[call-arg]


def test_many_at_once_are_a_list_of_questions(bot: Chatbot) -> None:
    asked: Any
    for asked in ("Name it.", b"Name it.", Turn("user", "Name it."), {"a": "b"}, 5, None):
        with pytest.raises(ArgumentsError, match=r"chat_many takes a list of questions, found \w+: write"):
            bot.chat_many(asked)
    for asked in (5, None, [], ["Name it."], [{"role": "user", "content": "Name it."}], {"role": "user"}):
        with pytest.raises(ArgumentsError, match="item 1 of chat_many must be a text, or a list of Turn"):
            bot.chat_many(["Name it.", asked])


def test_turns_of_one_role_in_a_row_are_one_and_told(bot: Chatbot) -> None:
    twice, once = [Turn("user", "Name a colour."), Turn("user", "Now.")], [Turn("user", "Name a colour.\n\nNow.")]
    sampling = Sampling(max_new_tokens=4)
    with kept_notes() as notes:
        assert bot.answer(twice, sampling).text == bot.answer(once, sampling).text
        assert bot.chat_many([twice], max_new_tokens=4) == bot.chat_many([once], max_new_tokens=4)
    assert [line.split(" (")[0] for line in notes if "role" in line] == [
        "1 turn(s) follow one of the same role and are made one with it, as training has turns",
        "in 1 of 1 conversation(s) turns of one role in a row are made one",
    ]


def test_weights_are_held_as_asked(llama_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bf16, dtype in ((None, torch.float32), (False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(loading, "has_bf16_units", lambda: True)
        assert {weight.dtype for weight in Chatbot.load(llama_checkpoint, bf16=bf16).model.parameters()} == {dtype}
    monkeypatch.setattr(loading, "has_bf16_units", lambda: False)
    with kept_notes() as notes:
        assert Chatbot.load(llama_checkpoint, bf16=True).model.dtype == torch.float32
    assert "no bf16 units" in "\n".join(notes)


def prompts_of(*sizes: int) -> list[Prompt]:
    return [Prompt([1] * size, 20) for size in sizes]


@pytest.mark.parametrize(
    ("sizes", "more", "expected"),
    [
        ((10,) * 5, {}, 5),
        ((10,) * 100, {}, 64),
        # 32 texts of 256 tokens.
        ((236,) * 100, {}, 32),
        ((4000,) * 100, {}, 16),
        # The longest counts for all.
        ((10,) * 40 + (500,), {}, 40),
        ((10,) * 100, {"num_beams": 2}, 32),
        ((10,) * 100, {"temperature": 1.0}, 16),
    ],
)
def test_so_many_are_answered_together(sizes: tuple[int, ...], more: Any, expected: int) -> None:
    assert at_once(prompts_of(*sizes), Sampling(**more)) == expected
