"""A conversation in the terminal: questions and commands as they are typed, answers as they come."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping
from pathlib import Path

from neuralchat.console import put, report
from neuralchat.console.answers import answer_display
from neuralchat.console.questions import Questions
from neuralchat.data.records import Turn
from neuralchat.errors import ArgumentsError, NeuralChatError, system_error_line
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.terminal.commands import COMMANDS, HELP, LEAVE, command_words, is_nearly_a_command
from neuralchat.inference.terminal.interrupts import interrupts_kept
from neuralchat.inference.terminal.partner import Partner

NO_ANSWER = "(empty answer)"
# What is typed as a command; "/etc/passwd" is none.
COMMAND_WORD = re.compile(r"/[a-z?]*")


@dataclasses.dataclass(frozen=True)
class Timing:
    """Of an answer: seconds until its first words, and until its end; and its tokens."""

    first_s: float
    whole_s: float
    tokens: int

    @property
    def tokens_per_s(self) -> float | None:
        """None where it was over with its first token."""
        seconds = self.whole_s - self.first_s
        return (self.tokens - 1) / seconds if self.tokens > 1 and seconds > 0 else None


class Conversation:
    """What commands change. `bot` has the history; `saved`: files of this session, which may be written again."""

    def __init__(self, bot: Partner, sampling: Sampling) -> None:
        self.bot = bot
        self.sampling = sampling
        self.timing: Timing | None = None
        self.saved: set[Path] = set()

    @property
    def options(self) -> Mapping[str, object]:
        return dataclasses.asdict(self.sampling)

    def reply(self, question: str) -> None:
        """Show the answer as it comes. On Ctrl-C or an error what was shown of it stays on the screen."""
        began, first, words = time.monotonic(), None, False
        display, end = answer_display(), ""
        try:
            with interrupts_kept() as stop_if_asked:
                for piece in self.bot.stream(question, **self.options):
                    first = first or time.monotonic()
                    words = words or bool(piece.strip())
                    display.add(piece)
                    stop_if_asked()
            end = self.ending(words)
        except KeyboardInterrupt:
            # The space parts it from the words before it.
            end = " [stopped]"
            raise
        finally:
            display.end(end)
        assert self.bot.last is not None
        now = time.monotonic()
        self.timing = Timing((first or now) - began, now - began, len(self.bot.last.token_ids))

    def ending(self, words: bool) -> str:
        """What is to be said behind an answer."""
        last = self.bot.last
        assert last is not None
        if last.finished:
            return "" if words else NO_ANSWER
        # Where the model has positions for fewer tokens than were allowed, those ended it.
        whole = len(last.token_ids) >= self.sampling.max_new_tokens
        return " [cut at --max_new_tokens]" if whole else " [cut: the model has no positions for more]"

    def ask(self, question: str, *, goes_on: bool) -> None:
        """`goes_on`: a question that cannot be asked, such as one that is too long, does not end the conversation."""
        said_before = self.bot.history
        try:
            self.reply(question)
        except KeyboardInterrupt:
            # The unanswered question is forgotten, so that the history stays question and answer in turn.
            self.bot.history = said_before
        except NeuralChatError as error:
            if not goes_on:
                raise
            report(error)

    def last_turn(self) -> tuple[list[Turn], str]:
        """(the turns before the latest question, that question). Raises ArgumentsError where nothing was asked."""
        history = self.bot.history
        at = next((n for n in range(len(history) - 1, -1, -1) if history[n].role == "user"), None)
        if at is None:
            raise ArgumentsError("nothing has been asked yet")
        return history[:at], history[at].content


def converse(bot: Partner, sampling: Sampling) -> int:
    questions = Questions(command_words())
    if questions.on_terminal:
        put("Ask away; /help says what else can be typed here, /exit or Ctrl-D leaves.")
    conversation = Conversation(bot, sampling)
    for line in questions:
        if line in LEAVE:
            return 0
        word, _, argument = line.partition(" ")
        if not is_command(line):
            conversation.ask(line, goes_on=questions.on_terminal)
        elif word in COMMANDS:
            obey(conversation, word, argument.strip(), goes_on=questions.on_terminal)
        else:
            put(f"unknown command {word}\n{HELP}")
    put("")
    return 0


def is_command(line: str) -> bool:
    """A known word, one alone, or one that is nearly a known one; anything else is a question."""
    word, _, argument = line.partition(" ")
    if "\n" in line or not line.startswith("/"):
        return False
    if word in COMMANDS or not argument:
        return True
    return COMMAND_WORD.fullmatch(word) is not None and is_nearly_a_command(word)


def obey(conversation: Conversation, word: str, argument: str, *, goes_on: bool) -> None:
    command = COMMANDS[word]
    try:
        if argument and not command.argument:
            raise ArgumentsError(f"{word} takes nothing after it, found '{argument[:40]}'")
        command.work(conversation, argument)
    except KeyboardInterrupt:
        put(" [stopped]")
    except (NeuralChatError, OSError) as error:
        told = ArgumentsError(system_error_line(error)) if isinstance(error, OSError) else error
        if not goes_on:
            raise told from error
        report(told)
