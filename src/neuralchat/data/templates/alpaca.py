"""The prompt of Stanford Alpaca, for causal models and for encoder-decoder models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuralchat.data.records import Turn
from neuralchat.data.templates.template import Piece, Template, Tools
from neuralchat.errors import TemplateError

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
    turn replaces the preamble. It has no words for tools, and none for reasoning, which is left out.
    """

    name = "alpaca"

    def __init__(self, begin_tokens: Sequence[str], end_token: str) -> None:
        self.begin_tokens = tuple(begin_tokens)
        self.end_token = end_token
        self.end_tokens = (end_token,)

    def render(self, turns: Sequence[Turn], tools: Tools = ()) -> list[Piece]:
        refuse_tools(turns, tools)
        pieces = [Piece(token, special=True) for token in self.begin_tokens]
        system = turns[0].content if turns[0].role == "system" else None
        spoken = turns[1:] if system is not None else turns
        preamble = system or (ALPACA_PREAMBLE_WITH_INPUT if spoken[0].context else ALPACA_PREAMBLE)
        pieces.append(Piece(preamble + "\n\n"))
        for index, turn in enumerate(spoken):
            if turn.role == "assistant":
                pieces += self.answer_pieces(turn)
                continue
            blank = "\n\n" if index else ""
            context = f"### Input:\n{turn.context}\n\n" if turn.context else ""
            pieces.append(Piece(f"{blank}### Instruction:\n{turn.content}\n\n{context}### Response:"))
        return pieces

    def answer_pieces(self, turn: Turn) -> list[Piece]:
        return [
            Piece(turn.content, supervised=turn.trained),
            Piece(self.end_token, special=True, supervised=turn.trained),
        ]

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

    def render(self, turns: Sequence[Turn], tools: Tools = ()) -> list[Piece]:
        answered = turns[-1].role == "assistant"
        asked = turns[:-1] if answered else turns
        # What was said before belongs to the source.
        source = "".join(piece.text for piece in super().render(asked, tools) if not piece.special)
        pieces = [Piece(source), Piece(self.end_token, special=True)]
        return pieces + self.answer_pieces(turns[-1]) if answered else pieces


def refuse_tools(turns: Sequence[Turn], tools: Tools) -> None:
    if tools or any(turn.role == "tool" or turn.tool_calls for turn in turns):
        raise TemplateError("the Alpaca template has no words for tools; use --template chat with a model that does")
