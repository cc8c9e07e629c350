"""prompt_toolkit, which edits a line: history, pastes, completion. Imported on a terminal only, and only here."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import History
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style

from neuralchat.console.output import Sturdy
from neuralchat.console.question_history import QuestionHistory

# Lines that come faster than this, in seconds, were not typed.
PASTE_S = 0.05
LINES_OF_THE_MENU = 6


class Editor:
    """Reads questions. `commands`: words that are completed at the beginning of a line -> what they do."""

    def __init__(self, commands: Mapping[str, str]) -> None:
        stream: Any = sys.stdout.stream if isinstance(sys.stdout, Sturdy) else sys.stdout
        completer = CommandCompleter(commands)
        self.session: PromptSession[str] = PromptSession(
            history=EarlierQuestions(QuestionHistory()),
            completer=completer,
            complete_while_typing=Condition(self.begins_a_command),
            reserve_space_for_menu=LINES_OF_THE_MENU,
            key_bindings=editor_keys(completer),
            style=Style.from_dict({"prompt": "ansicyan"}),
            prompt_continuation=". ",
            input=create_input(sys.stdin),
            # Terminals that do not say where their cursor is would be waited for, and complained of.
            output=Vt100_Output(
                stream, lambda: terminal_size_of(stream), term=os.environ.get("TERM"), enable_cpr=False
            ),
        )

    def begins_a_command(self) -> bool:
        return self.session.default_buffer.text.startswith("/")

    def read(self, prompt: str) -> str:
        """Raises EOFError after Ctrl-D, KeyboardInterrupt after Ctrl-C on an empty line."""
        return self.session.prompt([("class:prompt", prompt)])


class EarlierQuestions(History):
    """prompt_toolkit's view of the history."""

    def __init__(self, kept: QuestionHistory) -> None:
        super().__init__()
        self.kept = kept

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self.kept.questions)

    def store_string(self, string: str) -> None:
        self.kept.add(string)


class CommandCompleter(Completer):
    def __init__(self, commands: Mapping[str, str]) -> None:
        self.commands = commands

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
        typed = document.text_before_cursor
        if not typed.startswith("/") or "\n" in typed:
            return
        for command, what in self.commands.items():
            if command.startswith(typed) and command != typed:
                yield Completion(command, start_position=-len(typed), display_meta=what)


def editor_keys(completer: Completer) -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("tab")
    def _(event: KeyPressEvent) -> None:
        """Completes a command; in a question it is a tab."""
        buffer = event.current_buffer
        found = list(completer.get_completions(buffer.document, CompleteEvent(completion_requested=True)))
        if buffer.complete_state:
            buffer.complete_next()
        elif len(found) == 1:
            buffer.apply_completion(found[0])
        elif found:
            buffer.start_completion(insert_common_part=True)
        elif not buffer.text.startswith("/"):
            buffer.insert_text("\t")

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        """Ends the question, unless more lines came with it: a paste that the terminal does not mark."""
        buffer = event.current_buffer
        if event.key_processor.input_queue or has_input():
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @bindings.add("c-c")
    def _(event: KeyPressEvent) -> None:
        """Clears the line; leaves on an empty one."""
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return bindings


def terminal_size_of(stream: Any) -> Size:
    """That of the terminal at the moment; some say that they have none."""
    columns, rows = os.get_terminal_size(stream.fileno())
    return Size(rows=rows or 24, columns=columns or 80)


def has_input() -> bool:
    """Whether more waits to be read from the terminal."""
    return bool(select.select([sys.stdin], [], [], PASTE_S)[0])
