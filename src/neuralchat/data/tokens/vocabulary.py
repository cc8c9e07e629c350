"""What a tokenizer cannot say: answers with unknown characters, and those whose line breaks it drops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from neuralchat.data.records import Turn
from neuralchat.data.tokens.counts import KEPT_ROWS, TokenizationCounts
from neuralchat.data.tokens.encoding import encode_texts

if TYPE_CHECKING:
    from neuralchat.data.tokenization import Example

SHOWN_CHARACTERS = 8


class Vocabulary:
    """What is lost of answers on the way to tokens, counted like prompt text that is cut."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        unknown = getattr(tokenizer, "unk_token_id", None)
        # Where it is the end token too, as GPT-2 has it, every character has a token.
        self.unknown_id = None if unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id) else unknown

    @cached_property
    def flattened(self) -> str:
        """Those of the line break and the tab that do not come back from tokens."""
        kept = {c: self.tokenizer.decode(encode_texts(self.tokenizer, [f"a{c}b"])[0]) for c in "\n\t"}
        return "".join(c for c, text in kept.items() if c not in text)

    def count_losses(
        self, source: str, turns: Sequence[Turn], examples: Sequence[Example], counts: TokenizationCounts
    ) -> None:
        if self.unknown_id is not None:
            unknown = sum(
                int(np.count_nonzero((example.input_ids == self.unknown_id) & example.supervised))
                for example in examples
            )
            if unknown:
                counts.unknown_examples += 1
                counts.unknown_tokens += unknown
                if len(counts.unknown_rows) < KEPT_ROWS:
                    counts.unknown_rows.append(f"{source}: {self.unknown_characters(turns)}")
        answers = [turn.content for turn in turns if turn.role == "assistant" and turn.trained]
        if self.flattened and any(c in answer for answer in answers for c in self.flattened):
            counts.flattened_examples += 1
            if len(counts.flattened_rows) < KEPT_ROWS:
                counts.flattened_rows.append(source)

    def unknown_characters(self, turns: Sequence[Turn]) -> str:
        """The first characters of the answers that have no token, for a message."""
        answers = " ".join(turn.content for turn in turns if turn.role == "assistant")
        words = self.unknown(list(dict.fromkeys(answers[:10_000].split())))
        found = self.unknown(list(dict.fromkeys(c for word in words for c in word if c.isprintable())))
        return " ".join(found[:SHOWN_CHARACTERS]) + (" ..." if len(found) > SHOWN_CHARACTERS else "")

    def unknown(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts that hold what has no token."""
        return [
            text for text, ids in zip(texts, encode_texts(self.tokenizer, texts), strict=True) if self.unknown_id in ids
        ]
