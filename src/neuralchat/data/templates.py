"""Record -> pieces of text: the one renderer that training, chat and evaluation share.

A piece is either one special token, named, or plain text; text of a user is always plain text, whatever it
looks like. Supervised pieces are what the model learns to say: the assistant's words and the token that ends
them. The text before a supervised piece is, by construction, the prompt that chat sends.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from neuralchat.data.records import Turn
from neuralchat.errors import TemplateError


class Piece(NamedTuple):
    """`special`: the text is one special token by name. `supervised`: the model learns to say it."""

    text: str
    special: bool = False
    supervised: bool = False


class Template(ABC):
    """How a conversation becomes pieces. `end_tokens` are the special tokens at which an answer stops."""

    name: str
    end_tokens: tuple[str, ...]

    @abstractmethod
    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        """All turns. If the last one is the user's, the pieces end where the answer begins."""

    @abstractmethod
    def definition(self) -> dict[str, Any]:
        """Everything that decides the rendering, as JSON."""

    def fingerprint(self) -> str:
        """SHA-256 of the definition: equal fingerprints render every conversation alike."""
        return hashlib.sha256(json.dumps(self.definition(), sort_keys=True).encode()).hexdigest()


ALPACA_PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
ALPACA_PREAMBLE_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


class AlpacaTemplate(Template):
    """The prompt of Stanford Alpaca, both forms; further turns repeat the instruction and response blocks.

    Source of the wording: https://github.com/tatsu-lab/stanford_alpaca (PROMPT_DICT in train.py). A system
    turn replaces the preamble.
    """

    name = "alpaca"

    def __init__(self, begin_tokens: Sequence[str], end_token: str) -> None:
        self.begin_tokens = tuple(begin_tokens)
        self.end_token = end_token
        self.end_tokens = (end_token,)

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        pieces = [Piece(token, special=True) for token in self.begin_tokens]
        system = turns[0].content if turns[0].role == "system" else None
        spoken = turns[1:] if system is not None else turns
        preamble = system or (ALPACA_PREAMBLE_WITH_INPUT if spoken[0].context else ALPACA_PREAMBLE)
        pieces.append(Piece(preamble + "\n\n"))
        for index, turn in enumerate(spoken):
            if turn.role == "assistant":
                pieces += [Piece(turn.content, supervised=True), Piece(self.end_token, special=True, supervised=True)]
                continue
            blank = "\n\n" if index else ""
            context = f"### Input:\n{turn.context}\n\n" if turn.context else ""
            pieces.append(Piece(f"{blank}### Instruction:\n{turn.content}\n\n{context}### Response:"))
        return pieces

    def definition(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "begin_tokens": list(self.begin_tokens),
            "end_token": self.end_token,
            "preamble": ALPACA_PREAMBLE,
            "preamble_with_input": ALPACA_PREAMBLE_WITH_INPUT,
        }


class AlpacaSeq2SeqTemplate(AlpacaTemplate):
    """The same prompt for encoder-decoder models: the source closed by the end token, then the last answer."""

    # What runs have stored since 0.1.
    name = "alpaca_pairs"

    def __init__(self, end_token: str) -> None:
        super().__init__((), end_token)

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        answered = turns[-1].role == "assistant"
        asked = turns[:-1] if answered else turns
        # What was said before belongs to the source.
        source = "".join(piece.text for piece in super().render(asked) if not piece.special)
        pieces = [Piece(source), Piece(self.end_token, special=True)]
        if answered:
            pieces += [Piece(turns[-1].content, supervised=True), Piece(self.end_token, special=True, supervised=True)]
        return pieces


class ChatTemplate(Template):
    """The tokenizer's own chat template, rendered once for each sequence of roles with markers as contents.

    Contents are put in where the markers stand, so they are never read as special tokens nor as template code.
    """

    name = "chat"

    def __init__(self, tokenizer: Any) -> None:
        source = tokenizer.chat_template
        if not isinstance(source, str) or not source:
            raise TemplateError("this tokenizer has no chat template; use --template alpaca")
        self.source = source
        self.tokenizer = tokenizer
        names = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        self.special_names = sorted(names | set(tokenizer.all_special_tokens), key=len, reverse=True)
        self.special_pattern = re.compile("|".join(map(re.escape, self.special_names)) or "(?!)")
        self.end_token = tokenizer.eos_token
        self.skeletons: dict[tuple[str, ...], list[str]] = {}
        probe = self.render([Turn("user", "question"), Turn("assistant", "answer")])
        ends = [piece.text for piece in probe if piece.special and piece.supervised]
        self.end_tokens = tuple(dict.fromkeys([*ends, self.end_token]))

    def skeleton(self, roles: tuple[str, ...]) -> list[str]:
        """The literal texts around the contents of turns with these roles: len(roles) + 1 of them."""
        if roles not in self.skeletons:
            literals = self.render_literals(roles)
            for turn in (index for index, role in enumerate(roles) if role == "assistant"):
                if self.render_literals(roles[:turn]) != literals[: turn + 1]:
                    raise TemplateError(
                        f"the chat template does not write the prompt of turn {turn + 1} as training would: its "
                        "generation prompt differs from what stands before an answer. Use --template alpaca, or a "
                        "tokenizer whose template is a plain prefix of itself."
                    )
            self.skeletons[roles] = literals
        return self.skeletons[roles]

    def render_literals(self, roles: Sequence[str]) -> list[str]:
        marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=roles[-1] != "assistant"
            )
        except Exception as error:  # a template may raise anything, by design of its language
            raise TemplateError(f"the chat template refuses turns {', '.join(roles)}: {error}") from error
        literals = re.split("\ue000\\d+\ue001", text)
        if re.findall("\ue000\\d+\ue001", text) != marks:
            raise TemplateError("the chat template drops, repeats or reorders turns; use --template alpaca")
        return literals

    def render(self, turns: Sequence[Turn]) -> list[Piece]:
        literals = self.skeleton(tuple(turn.role for turn in turns))
        pieces = self.literal_pieces(literals[0], ends_answer=False)
        for turn, literal in zip(turns, literals[1:], strict=True):
            answer = turn.role == "assistant"
            content = f"{turn.content}\n\n{turn.context}" if turn.context else turn.content
            pieces.append(Piece(content, supervised=answer))
            pieces += self.literal_pieces(literal, ends_answer=answer)
        return pieces

    def literal_pieces(self, literal: str, *, ends_answer: bool) -> list[Piece]:
        """Split template text at special tokens; up to the first of them it still belongs to the answer."""
        pieces: list[Piece] = []
        position = 0
        for match in self.special_pattern.finditer(literal):
            if match.start() > position:
                pieces.append(Piece(literal[position : match.start()], supervised=ends_answer))
            pieces.append(Piece(match.group(), special=True, supervised=ends_answer))
            ends_answer = False
            position = match.end()
        if ends_answer:
            # The template closes this answer without a special token: the end token does it.
            pieces.append(Piece(self.end_token, special=True, supervised=True))
        if position < len(literal):
            pieces.append(Piece(literal[position:]))
        return pieces

    def definition(self) -> dict[str, Any]:
        return {"name": self.name, "source": self.source, "end_token": self.end_token}


def make_template(name: str, tokenizer: Any, *, conversations: bool = False, encoder_decoder: bool = False) -> Template:
    """`name` is "alpaca", "chat" or "auto" (chat for conversations when the tokenizer can, else alpaca).

    Raises TemplateError where the tokenizer has no end token or no chat template.
    """
    if tokenizer.eos_token is None:
        raise TemplateError("this tokenizer has no end token, so a chatbot trained with it would never stop")
    if encoder_decoder:
        if name == "chat":
            raise TemplateError("--template chat is for causal models; encoder-decoder models take --template alpaca")
        return AlpacaSeq2SeqTemplate(tokenizer.eos_token)
    if name == "auto":
        name = "chat" if conversations and tokenizer.chat_template else "alpaca"
    if name == "chat":
        return ChatTemplate(tokenizer)
    return AlpacaTemplate(begin_tokens_of(tokenizer), tokenizer.eos_token)


def begin_tokens_of(tokenizer: Any) -> list[str]:
    """The special tokens that the tokenizer itself puts before a text (LLaMA's <s>; none for GPT-2 kinds)."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return tokenizer.convert_ids_to_tokens(framed[:start])
    raise TemplateError("this tokenizer changes a text when it adds its special tokens; it cannot be used")
