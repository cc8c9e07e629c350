"""What speaks for one model without the model: turns -> prompt ids, ids -> words.

The only place where a conversation becomes ids, for the terminal, the server, the page and programs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from neuralchat.data.records import Turn
from neuralchat.data.templates.calls import CallFormat, call_format_of
from neuralchat.data.templates.making import begin_tokens_of
from neuralchat.data.templates.template import Piece, Template, Tools
from neuralchat.data.tokenization import Encoder
from neuralchat.data.tokens.encoding import encode_texts
from neuralchat.errors import TemplateError, panics_told
from neuralchat.inference.answer_text import AnswerText, Frame, frame_of
from neuralchat.inference.generation.settings import end_token_ids, padding_id
from neuralchat.inference.joined_turns import joined_turns
from neuralchat.inference.loading import load_text_parts
from neuralchat.inference.origin import Origin, origin_of
from neuralchat.inference.window import Prompt, Window, window_for
from neuralchat.models.quiet import quiet_libraries
from neuralchat.secrets import secrets_hidden_in_errors

CANNOT_CONTINUE = "this model's template cannot go on with an answer that was begun"


def begin_ids_of(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer itself puts before a text; none where it changes the text as well."""
    try:
        return tokenizer.convert_tokens_to_ids(begin_tokens_of(tokenizer))
    except TemplateError:
        return []


class Voice:
    """Tokenizer, template and window of one model. May be used from several threads.

    `end_ids`: the tokens that end an answer. `window`: the tokens that prompt and answer may have together.
    """

    def __init__(self, tokenizer: Any, template: Template, window: Window, *, name: str = "") -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.window = window
        self.name = name
        self.end_ids = end_token_ids(tokenizer, template)
        self.frame = frame_of(tokenizer, template)
        # The limit is the model's, not training's, see window.py.
        self.encoder = Encoder(tokenizer, template, max_seq_length=1 << 30, train_on_inputs=False)
        self.begin_ids = begin_ids_of(tokenizer)
        # A tokenizer is changed when it is asked in another way than before, which threads must not do to each other.
        encode_texts(tokenizer, ["a"])

    @classmethod
    def load(
        cls,
        path_or_name: str | os.PathLike[str],
        *,
        template: str | None = None,
        trust_remote_code: bool = False,
        base_model: str | os.PathLike[str] | None = None,
    ) -> Voice:
        """That of whatever `Chatbot.load` loads, with its arguments and its errors."""
        with secrets_hidden_in_errors(os.environ, path_or_name, base_model):
            origin = origin_of(path_or_name, base_model)
            return cls.of(origin, template=template, trust_remote_code=trust_remote_code)

    @classmethod
    def of(cls, origin: Origin, *, template: str | None = None, trust_remote_code: bool = False) -> Voice:
        with quiet_libraries():
            parts = load_text_parts(origin, template=template, trust_remote_code=trust_remote_code)
        virtual = (parts.adapter or {}).get("num_virtual_tokens") or 0
        return cls(parts.tokenizer, parts.template, window_for(parts.config, virtual), name=origin.name)

    @property
    def pad_id(self) -> int:
        return padding_id(self.tokenizer, self.end_ids)

    # To the model

    def prompt(self, turns: Sequence[Turn], max_new_tokens: int) -> Prompt:
        """What the model is given of a conversation that ends with the user's turn: of its latest turns as many as fit.

        Turns of one role in a row are one, see joined_turns.py. Raises ArgumentsError for a question that is longer
        than the model has positions for.
        """
        whole = joined_turns(turns)
        with panics_told(self.whose_tokenizer):
            prompt = self.window.prompt(whole.turns, self.encoder.encode_prompt, max_new_tokens)
        return replace(prompt, joined=len(turns) - len(whole.turns))

    def whole_prompt(self, turns: Sequence[Turn], tools: Tools = ()) -> list[int]:
        """The ids of the whole conversation, whatever its length. If it ends with an assistant's turn, the model is to
        go on with that one.

        Turns of one role in a row are one, see joined_turns.py. Raises TemplateError for turns or tools that the
        template does not write.
        """
        turns = joined_turns(turns).turns
        with panics_told(self.whose_tokenizer):
            if turns[-1].role != "assistant":
                return self.encoder.encode_prompt(turns, tools)
            self.encoder.check_text(turns)
            return self.encoder.encode_pieces([self.begun_pieces(turns, tools)])[0][0].tolist()

    def begun_pieces(self, turns: Sequence[Turn], tools: Tools) -> list[Piece]:
        """What training would have of a conversation, up to the last word of its last answer."""
        if self.window.apart or turns[-1].tool_calls:
            raise TemplateError(CANNOT_CONTINUE)
        pieces = self.template.renderings(turns, tools)[-1].pieces
        # The token that ends the turn, and what the template writes behind it.
        while pieces and (pieces[-1].special or not pieces[-1].supervised):
            pieces.pop()
        said = turns[-1].content
        last = pieces.pop() if pieces else Piece("")
        words = last.text.removesuffix(self.frame.closing)
        if not words.endswith(said):
            raise TemplateError(f"{CANNOT_CONTINUE}: it writes '{said[-40:]}' otherwise; leave out spaces at its end")
        return [*pieces, last._replace(text=words)]

    def text_ids(self, text: str) -> list[int]:
        """A text without a template, begun as the tokenizer begins texts; no word of it becomes a special token."""
        with panics_told(self.whose_tokenizer):
            self.encoder.check_text([Turn("user", text)])
            return [*self.begin_ids, *encode_texts(self.tokenizer, [text])[0]]

    @cached_property
    def call_format(self) -> CallFormat | None:
        """How the model writes calls of tools; None where that is not JSON, or it knows none."""
        return call_format_of(self.template, self.frame.opening, self.frame.closing)

    @property
    def whose_tokenizer(self) -> str:
        return f"the tokenizer of {self.name or 'the model'}"

    # From the model

    def answer_text(self, stop: Sequence[str] = (), *, begun: bool = False) -> AnswerText:
        """What makes text of an answer's tokens as they come. `begun`: the answer goes on with a begun turn."""
        frame = Frame(closing=self.frame.closing) if begun else self.frame
        return AnswerText(self.tokenizer, frame, stop)

    def words(self, ids: Sequence[int], *, finished: bool) -> str:
        """The whole answer; `finished`: an end token came, which is none of `ids`."""
        return self.frame.words(self.tokenizer, ids, finished=finished)

    def spelled(self, ids: Sequence[int]) -> str:
        """Ids as text with its special tokens, to be looked at."""
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
