"""What begins with a slash: each command with its words and its work, a row each."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralchat.console import put, show_page
from neuralchat.console.answers import show_beside
from neuralchat.console.tables import Figures, Page
from neuralchat.console.waiting import waiting
from neuralchat.errors import ArgumentsError
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.terminal.interrupts import interrupts_kept
from neuralchat.inference.terminal.saved import load_turns, save_turns
from neuralchat.paths import expanded_path
from neuralchat.runs.output_files import why_not_within

if TYPE_CHECKING:
    from neuralchat.inference.terminal.conversation import Conversation

LEAVE = ("/exit", "/quit", "/bye", "/q")
KEYS_HELP = """\
Ctrl-C stops an answer. The arrow keys bring earlier questions back, Tab completes commands, Alt-Enter begins a new
line; lines that are pasted together are one question."""
NO_VALUE = "none"


@dataclasses.dataclass(frozen=True)
class ChatCommand:
    """`argument`: what may follow the word, as the help shows it; empty: nothing may."""

    what: str
    work: Callable[[Conversation, str], None]
    argument: str = ""


def begin_anew(talk: Conversation, _argument: str) -> None:
    talk.bot.reset()


def set_system(talk: Conversation, argument: str) -> None:
    if argument:
        talk.bot.system = None if argument.lower() == NO_VALUE else argument
    put(f"system message: {talk.bot.system}" if talk.bot.system else "there is no system message")


def undo_turn(talk: Conversation, _argument: str) -> None:
    before, question = talk.last_turn()
    talk.bot.history = before
    put(f"forgotten: {beginning_of_text(question)}")


def answer_again(talk: Conversation, _argument: str) -> None:
    said = talk.bot.history
    before, question = talk.last_turn()
    if talk.sampling.temperature == 0:
        put("(temperature is 0, so the answer is the likeliest one again; /set temperature 0.7 draws others)")
    talk.bot.history = before
    try:
        talk.reply(question)
    except BaseException:
        talk.bot.history = said
        raise


def save_talk(talk: Conversation, argument: str) -> None:
    if not argument:
        raise ArgumentsError("name a file: /save talk.json")
    path = expanded_path(argument)
    if path.exists() and path.absolute() not in talk.saved:
        raise ArgumentsError(f"{path} is there already; name another file")
    if reason := why_not_within(path, []):
        raise ArgumentsError(f"{path} {reason}; name a place outside of it")
    count = save_turns(path, talk.bot.system, talk.bot.history)
    talk.saved.add(path.absolute())
    put(f"{count} turn(s) written to {path}, as a record that can be loaded again and trained on")


def load_talk(talk: Conversation, argument: str) -> None:
    if not argument:
        raise ArgumentsError("name a file that /save has written, or one of records with a single conversation")
    system, turns = load_turns(Path(expanded_path(argument)))
    talk.bot.reset()
    talk.bot.system, talk.bot.history = system, turns
    put(f"{len(turns)} turn(s) loaded; the conversation goes on after: {beginning_of_text(turns[-1].content)}")


def set_option(talk: Conversation, argument: str) -> None:
    """Without words, all options; else a name and its new value."""
    known = {field.name: field for field in dataclasses.fields(Sampling)}
    name, _, text = argument.replace("=", " ", 1).partition(" ")
    name, text = name.removeprefix("--"), text.strip()
    if name and name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ArgumentsError(f"unknown option {name}{meant} (there are: {', '.join(known)})")
    if text:
        changed: dict[str, Any] = {name: option_value(name, text, known[name].default)}
        talk.sampling = dataclasses.replace(talk.sampling, **changed)
    shown = [name] if name else list(known)
    show_page(Page([Figures([(key, shown_value(getattr(talk.sampling, key))) for key in shown])]))


def option_value(name: str, text: str, default: object) -> float | int | None:
    if default is None and text.lower() == NO_VALUE:
        return None
    kind = float if isinstance(default, float) else int
    try:
        return kind(text)
    except ValueError:
        whole = "a number" if kind is float else "a whole number"
        raise ArgumentsError(f"{name} must be {whole}, found '{text[:40]}'") from None


def shown_value(value: object) -> str:
    return NO_VALUE if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def ask_base(talk: Conversation, _argument: str) -> None:
    """The same question after the same turns; the conversation goes on with the answer that it has."""
    before, question = talk.last_turn()
    answer = talk.bot.history[-1].content
    with talk.bot.untuned() as base:
        base.system, base.history = talk.bot.system, list(before)
        with waiting("the base model answers"):
            with interrupts_kept() as stop_if_asked:
                pieces = []
                for piece in base.stream(question, **talk.options):
                    pieces.append(piece)
                    stop_if_asked()
            words = "".join(pieces)
        show_beside({talk.bot.name or "tuned": answer, base.name or "base": words})


def show_stats(talk: Conversation, _argument: str) -> None:
    tokens, most = talk.bot.said_tokens()
    rows = [
        ("model", talk.bot.name),
        ("turns", str(len(talk.bot.history))),
        ("conversation", f"{tokens} tokens" + (f" of the {most} that the model can follow" if most else "")),
    ]
    if (timing := talk.timing) is not None:
        speed = timing.tokens_per_s
        rate = f", {speed:.1f} tokens/s after the first" if speed else ""
        rows.append(("last answer", f"{timing.tokens} tokens in {timing.whole_s:.1f} s{rate}"))
        rows.append(("first words", f"after {timing.first_s:.2f} s"))
    show_page(Page([Figures(rows)]))


def show_help(_talk: Conversation, _argument: str) -> None:
    put(HELP)


COMMANDS: Mapping[str, ChatCommand] = {
    "/new": ChatCommand("begin a new conversation: what was said before is forgotten", begin_anew),
    "/system": ChatCommand("show the system message, set it, or leave it out with 'none'", set_system, "[TEXT]"),
    "/undo": ChatCommand("forget the latest question and its answer", undo_turn),
    "/again": ChatCommand("answer the latest question again", answer_again),
    "/base": ChatCommand("show what the untuned model answers to it, beside the answer", ask_base),
    "/set": ChatCommand("show how answers are drawn, or change it: /set temperature 0.7", set_option, "[NAME VALUE]"),
    "/stats": ChatCommand("show how long the conversation is and how fast the answer came", show_stats),
    "/save": ChatCommand("write the conversation to a file of records", save_talk, "FILE"),
    "/load": ChatCommand("go on with a conversation from such a file", load_talk, "FILE"),
    "/help": ChatCommand("this", show_help),
    "/?": ChatCommand("", show_help),
}
LEAVING = "leave, as Ctrl-D does"


def help_lines() -> list[str]:
    rows = [(f"{word} {command.argument}".strip(), command.what) for word, command in COMMANDS.items() if command.what]
    rows.append(("/exit", LEAVING))
    width = max(len(usage) for usage, _ in rows)
    return [f"{usage:{width}}  {what}" for usage, what in rows]


HELP = "\n".join((*help_lines(), KEYS_HELP))


def command_words() -> dict[str, str]:
    """What can be completed -> what it does."""
    return {**{word: command.what for word, command in COMMANDS.items() if command.what}, "/exit": LEAVING}


def is_nearly_a_command(word: str) -> bool:
    return bool(difflib.get_close_matches(word, command_words(), n=1, cutoff=0.7))


def beginning_of_text(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
