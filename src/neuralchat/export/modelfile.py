"""A template -> what Ollama needs of it: a Modelfile, whose template is in a language of its own (Go's).

The words around each turn are found by rendering conversations, and believed only where they make every prompt that is
tried; a template that cannot be said so gets no TEMPLATE, and that is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuralchat.data.records import Turn
from neuralchat.data.templates.portable import TRIED_CONVERSATIONS
from neuralchat.data.templates.template import Template
from neuralchat.errors import TemplateError

# Words that no template has, for the place of a content.
MARKS = {"system": "SYSTEMWORDS", "user": "USERWORDS", "assistant": "ANSWERWORDS", "later": "LATERWORDS"}


@dataclass(frozen=True)
class Frames:
    """`opening`: before all, with a system turn `system` around its words, without one `default`. `first` and `later`:
    around the user's words; `answer`: behind the assistant's. What stands before an answer ends the user's frame.
    """

    system: tuple[str, str]
    default: str
    first: tuple[str, str]
    later: tuple[str, str]
    answer: str

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The prompt that the Modelfile's template makes of a conversation."""
        spoken = turns[1:] if turns[0].role == "system" else turns
        text = turns[0].content.join(self.system) if turns[0].role == "system" else self.default
        for number, turn in enumerate(spoken):
            if turn.role == "assistant":
                text += turn.content + self.answer
            else:
                text += turn.content.join(self.later if number else self.first)
        return text

    def go_template(self) -> str:
        lines = [
            "{{- range $i, $m := .Messages }}",
            f'{{{{- if eq $m.Role "system" }}}}{go(self.system[0])}{{{{ $m.Content }}}}{go(self.system[1])}',
            f'{{{{- else if eq $m.Role "assistant" }}}}{{{{ $m.Content }}}}{go(self.answer)}',
            "{{- else }}",
        ]
        first = go(self.default) + go(self.first[0])
        # After a system turn its words stand for the default ones.
        if self.first == self.later and not self.default:
            lines.append(f"{go(self.first[0])}{{{{ $m.Content }}}}{go(self.first[1])}")
        else:
            lines += [
                f"{{{{- if eq $i 0 }}}}{first}{{{{ $m.Content }}}}{go(self.first[1])}",
                f"{{{{- else if and (eq $i 1) $.System }}}}{go(self.first[0])}{{{{ $m.Content }}}}{go(self.first[1])}",
                f"{{{{- else }}}}{go(self.later[0])}{{{{ $m.Content }}}}{go(self.later[1])}{{{{- end }}}}",
            ]
        return "".join([*lines, "{{- end }}", "{{- end }}"])


def go(text: str) -> str:
    """A constant text in Go's template language; as a string of its own, so that no white space around it is lost."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'{{{{ "{escaped}" }}}}' if text else ""


def frames_of(template: Template, begin: str) -> Frames | None:
    """`begin`: what Ollama writes before every prompt by itself (the bos token). None where no frames fit."""
    user, later = Turn("user", MARKS["user"]), Turn("user", MARKS["later"])
    answer, system = Turn("assistant", MARKS["assistant"]), Turn("system", MARKS["system"])

    def text(*turns: Turn) -> str:
        return "".join(piece.text for piece in template.render(turns)).removeprefix(begin)

    try:
        alone, longer = text(user), text(user, answer, later)
        before, after = alone.split(user.content)
        told = text(system, user) if takes_system(template) else None
        between, ending = longer.split(answer.content)[1].split(later.content)
        if told is None:
            around, first = ("", ""), (before, after)
            default = ""
        else:
            opened, rest = told.split(system.content)
            gap = rest.split(user.content)[0]
            own = common_end(before, gap)
            around, default, first = (opened, gap.removesuffix(own)), before.removesuffix(own), (own, after)
        # Where the words before a later question begin, the answer's end ends.
        closing = between.removesuffix(common_end(between, first[0])) if first[0] else between
        frames = Frames(around, default, first, (between.removeprefix(closing), ending), closing)
    except (TemplateError, ValueError):
        return None
    return frames if makes_every_prompt(frames, template, begin) else None


def takes_system(template: Template) -> bool:
    try:
        template.render([Turn("system", "rule"), Turn("user", "question")])
    except TemplateError:
        return False
    return True


def common_end(one: str, other: str) -> str:
    size = 0
    while size < min(len(one), len(other)) and one[-size - 1] == other[-size - 1]:
        size += 1
    return one[len(one) - size :]


def makes_every_prompt(frames: Frames, template: Template, begin: str) -> bool:
    for turns in TRIED_CONVERSATIONS:
        try:
            expected = "".join(piece.text for piece in template.render(turns)).removeprefix(begin)
        except TemplateError:
            continue
        if frames.prompt(turns) != expected:
            return False
    return True


def modelfile(gguf_name: str, template: Template, begin: str) -> tuple[str, bool]:
    """(the text of a Modelfile, whether its template is there)."""
    frames = frames_of(template, begin)
    lines = [f"FROM ./{gguf_name}"]
    if frames is not None:
        lines.append(f'TEMPLATE """{frames.go_template()}"""')
    lines += [f"PARAMETER stop {quoted(token)}" for token in template.end_tokens]
    # The likeliest words, as `neuralchat chat` says them; by itself Ollama makes words that were said less likely.
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    return "\n".join(lines) + "\n", frames is not None


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
