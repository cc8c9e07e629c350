"""turns -> the text that the tokenizer's chat template makes of them, with special tokens of users kept apart.

What looks like a special token in a content is swapped for a placeholder before the template sees it, so every
special token in the text is the template's own; `restored` puts the words back.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jinja2

from neuralchat.data.records import Turn
from neuralchat.data.templates.limits import RENDER_SECONDS, check_rendered_size, time_limit, tried_in_child
from neuralchat.data.templates.template import Tools
from neuralchat.errors import TemplateError

# Characters of Unicode's private use area; those of a user are swapped as special tokens are.
OPENING, CLOSING = "\ue000", "\ue001"
PLACEHOLDER = re.compile(f"{OPENING}(\\d+){CLOSING}")
# How messages of a template's cost begin, and the conversations that it is tried with.
WHAT = "the chat template of this tokenizer"
ASKED, ANSWERED, TOLD = Turn("user", "question"), Turn("assistant", "answer"), Turn("system", "rule")
TRIED = ((ASKED,), (TOLD, ASKED), (ASKED, ANSWERED, ASKED), (ASKED, ANSWERED), (TOLD, ASKED, ANSWERED))
# Templates, with all they are rendered with, that this process has tried.
KNOWN_TO_BE_CHEAP: set[str] = set()
# Some templates want nine letters or digits.
CALL_ID = "call{:05}"
DATE_CALL = re.compile(r"strftime_now\(\s*(?:'([^']*)'|\"([^\"]*)\")\s*\)")


def mark(name: str) -> str:
    """A text that no swapped content holds, to find in what a template writes. `name` begins with a letter."""
    return f"{OPENING}{name}{CLOSING}"


class ChatText:
    """`kwargs`: variables for the template, such as enable_thinking. `date`, YYYY-MM-DD, is its today."""

    def __init__(self, tokenizer: Any, kwargs: Mapping[str, Any] | None = None, date: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.kwargs = dict(kwargs or {})
        self.source = tokenizer.chat_template
        if not isinstance(self.source, str | dict) or not self.source:
            raise TemplateError("this tokenizer has no chat template; use --template alpaca")
        sources = [self.source] if isinstance(self.source, str) else list(self.source.values())
        mark_control_tokens(tokenizer, sources)
        self.date = (date or datetime.date.today().isoformat()) if any("strftime_now" in s for s in sources) else None
        self.sources = {source: dated(source, self.date) for source in sources}
        added = list(tokenizer.added_tokens_decoder.values())
        # White space that the tokenizer takes together with a token.
        self.strips_left = frozenset(token.content for token in added if token.lstrip)
        self.strips_right = frozenset(token.content for token in added if token.rstrip)
        names = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
        self.special_names = sorted(names, key=len, reverse=True)
        self.special = re.compile("|".join(map(re.escape, self.special_names)) or "(?!)")
        self.swapped = re.compile("|".join(map(re.escape, [*self.special_names, OPENING])))
        self.numbers = {name: number for number, name in enumerate([*self.special_names, OPENING])}
        self.as_parts = False
        self.try_out_once()
        self.as_parts = self.takes_parts_only()

    def unused_variables(self) -> list[str]:
        """Those of `kwargs` that no template names."""
        return [
            name for name in self.kwargs if not any(re.search(rf"\b{re.escape(name)}\b", text) for text in self.sources)
        ]

    def try_out_once(self) -> None:
        """What a template costs, in a process of its own: copying this one for it takes longer than all renderings."""
        tried = repr((self.sources, self.kwargs, self.tokenizer.special_tokens_map))
        if tried not in KNOWN_TO_BE_CHEAP:
            tried_in_child(self.try_out, WHAT)
            KNOWN_TO_BE_CHEAP.add(tried)

    def try_out(self) -> None:
        """Render conversations of several shapes. What is wrong with one is met again; only what they cost is not."""
        for turns in TRIED:
            try:
                self.rendered(turns, (), prompt=True, as_text=False)
            except MemoryError:
                raise
            except Exception:  # noqa: S112 - see above
                continue

    def takes_parts_only(self) -> bool:
        """Whether contents must be lists of parts, as templates of models for pictures want them."""
        turn = Turn("user", mark("m"))
        try:
            if turn.content in self.text([turn]):
                return False
        except TemplateError:
            pass
        self.as_parts = True
        try:
            return turn.content in self.text([turn])
        except TemplateError:
            return False

    def text(self, turns: Sequence[Turn], tools: Tools = (), *, prompt: bool = False) -> str:
        """What the template writes; with `prompt` up to where it has the assistant begin. Raises TemplateError."""
        try:
            return self.rendered(turns, tools, prompt=prompt, as_text=False)
        except TemplateError:
            raise
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template is not valid Jinja: line {error.lineno}: {error.message}"
            ) from error
        except Exception as error:  # a template may raise anything, by design of its language
            if any(turn.tool_calls for turn in turns):
                # Some templates want the arguments of a call as an object, some as the text of one.
                try:
                    return self.rendered(turns, tools, prompt=prompt, as_text=True)
                except Exception:  # noqa: S110 - the first error says more
                    pass
            roles = ", ".join(turn.role for turn in turns)
            raise TemplateError(f"the chat template refuses a conversation: {error}; found {roles}") from error

    def rendered(self, turns: Sequence[Turn], tools: Tools, *, prompt: bool, as_text: bool) -> str:
        source = self.source
        if not isinstance(source, str):
            source = self.tokenizer.get_chat_template(None, list(tools) or None)
        with time_limit(RENDER_SECONDS, WHAT):
            text = self.tokenizer.apply_chat_template(
                messages_of(turns, as_text=as_text, as_parts=self.as_parts),
                tools=list(tools) or None,
                chat_template=self.sources[source],
                tokenize=False,
                add_generation_prompt=prompt,
                **self.kwargs,
            )
        return check_rendered_size(text, WHAT)

    def swapped_turns(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns with placeholders in the place of special tokens that a content spells out."""
        return [
            replace(
                turn,
                content=self.swap(turn.content),
                context=self.swap(turn.context),
                reasoning=self.swap(turn.reasoning),
                tool_calls=tuple(self.swap(turn.tool_calls)),
                extra=self.swap(turn.extra),
            )
            for turn in turns
        ]

    def swap(self, value: Any) -> Any:
        """`value` with placeholders in its texts, however deep they lie."""
        if isinstance(value, str):
            return self.swapped.sub(lambda match: f"{OPENING}{self.numbers[match.group()]}{CLOSING}", value)
        if isinstance(value, Mapping):
            return {key: self.swap(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.swap(item) for item in value]
        return value

    def restored(self, text: str) -> str:
        if OPENING not in text:
            return text
        names = [*self.special_names, OPENING]
        return PLACEHOLDER.sub(lambda match: names[int(match.group(1))], text)

    def definition(self) -> dict[str, Any]:
        return {
            "source": self.source,
            **({"kwargs": self.kwargs} if self.kwargs else {}),
            **({"date": self.date} if self.date else {}),
        }


def mark_control_tokens(tokenizer: Any, sources: Sequence[str]) -> None:
    """Call special what a template uses as such, though its tokenizer does not; the run's tokenizer keeps it.

    Otherwise a user could write it. Tags in pairs (<think> and </think>) may stand in contents: they are no control
    tokens.
    """
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if not token.special}
    used = {name for name in added if not name.isspace() and any(name in source for source in sources)}
    tags = {name for name in used if {name.replace("<", "</", 1), name.replace("</", "<", 1)} - {name} & used}
    if control := sorted(used - tags):
        from transformers import AddedToken

        tokens = [AddedToken(name, normalized=False, special=True) for name in control]
        tokenizer.add_tokens(tokens, special_tokens=True)


def dated(source: str, date: str | None) -> str:
    """The template with a day of its own in the place of today's.

    >>> dated("{{ strftime_now('%Y') }}", "2026-11-25")
    "{% macro strftime_now(format) %}{{ {'%Y': '2026'}[format] }}{% endmacro %}\\n{{ strftime_now('%Y') }}"
    """
    if date is None or "strftime_now" not in source:
        return source
    day = datetime.datetime.fromisoformat(date)
    formats = dict.fromkeys(single or double for single, double in DATE_CALL.findall(source))
    if len(DATE_CALL.findall(source)) != source.count("strftime_now("):
        raise TemplateError("the chat template asks for today's date in a way that cannot be held fixed for a run")
    # Braces that close would end the expression.
    table = ", ".join(f"{name!r}: {day.strftime(name)!r}" for name in formats)
    return f"{{% macro strftime_now(format) %}}{{{{ {{{table}}}[format] }}}}{{% endmacro %}}\n{source}"


def messages_of(turns: Sequence[Turn], *, as_text: bool = False, as_parts: bool = False) -> list[dict[str, Any]]:
    """Turns as chat templates take them. Calls without an id get one, and the tool's answer the id of its call.

    `as_text`: arguments of calls as JSON text, not as an object. `as_parts`: contents as lists of one part.
    """
    messages: list[dict[str, Any]] = []
    open_calls: list[dict[str, Any]] = []
    for turn in turns:
        content = content_of(turn)
        parts = [{"type": "text", "text": content}]
        message: dict[str, Any] = {"role": turn.role, "content": parts if as_parts else content}
        if turn.reasoning:
            message["reasoning_content"] = turn.reasoning
        if turn.tool_calls:
            calls = [call_of(call, len(open_calls) + number, as_text) for number, call in enumerate(turn.tool_calls)]
            message["tool_calls"] = calls
            open_calls += calls
        if turn.role == "tool":
            asked = turn.extra.get("tool_call_id")
            call = next((c for c in open_calls if c["id"] == asked), None) if asked else None
            call = call or next(iter(open_calls), None)
            if call is not None:
                open_calls.remove(call)
                message |= {"tool_call_id": call["id"], "name": call["function"]["name"]}
        messages.append({**message, **turn.extra})
    return messages


def content_of(turn: Turn) -> str:
    return f"{turn.content}\n\n{turn.context}" if turn.context else turn.content


def call_of(call: Mapping[str, Any], number: int, as_text: bool) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str) and not as_text:
        # What is no JSON is rendered as it is.
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    elif not isinstance(arguments, str) and as_text:
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {
        "id": call.get("id") or CALL_ID.format(number),
        "type": "function",
        "function": {**function, "arguments": arguments},
    }
