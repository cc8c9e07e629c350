"""pieces -> Example: token ids and which of them are supervised, right by construction.

Plain runs of text between special tokens are encoded whole, as the tokenizer itself would; prompt and answer
are always encoded apart, so no token ever crosses the boundary at which chat begins to generate.

Shapes: T tokens of one example.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from neuralchat.data.records import Record, Turn
from neuralchat.data.templates.template import Piece, Rendering, Template, Tools
from neuralchat.errors import DataError, TemplateError

# A batch ends at either: memory follows the text that is encoded at once.
BATCH_RECORDS = 1000
BATCH_CHARACTERS = 4_000_000
KEPT_UNUSABLE = 100


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation as the model sees it.

    input_ids: int32 [T]. supervised: bool [T], True where the token is a target (predicted from the tokens
    before it); the first token never is. `cut_tokens` counts prompt tokens lost to the length limit.
    """

    input_ids: np.ndarray
    supervised: np.ndarray
    source: str
    cut_tokens: int = 0


@dataclass(slots=True)
class TokenizationCounts:
    """What became of the records of one source.

    `unusable` are the first records that cannot be trained on, `unlisted` counts those after them.
    """

    examples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    longest: int = 0
    cut_examples: int = 0
    cut_tokens: int = 0
    lost_reasoning: int = 0
    split_records: int = 0
    unusable: list[str] = field(default_factory=list)
    unlisted: int = 0

    def leave_out(self, reason: str) -> None:
        if len(self.unusable) < KEPT_UNUSABLE:
            self.unusable.append(reason)
        else:
            self.unlisted += 1

    def notices(self, limit: str) -> list[str]:
        """Sentences a user should read: what was cut and what could not be used."""
        found = []
        if self.cut_examples:
            found.append(
                f"{self.cut_examples} of {self.examples} examples were longer than {limit}: "
                f"{self.cut_tokens} tokens of prompt text were cut, answers are whole"
            )
        if self.lost_reasoning:
            found.append(f"the template leaves out the reasoning of {self.lost_reasoning} answer(s)")
        if self.split_records:
            found.append(
                f"{self.split_records} record(s) became several examples, one for each answer: the template writes an "
                "answer otherwise once more is said"
            )
        if self.unusable:
            count = len(self.unusable) + self.unlisted
            shown = "; ".join(self.unusable[:5])
            more = f"; and {count - 5} more" if count > 5 else ""
            found.append(f"{count} record(s) cannot be trained on and are left out: {shown}{more}")
        return found

    def as_dict(self) -> dict[str, Any]:
        # Most data has no more than can be listed, and a template that writes all of it in one way.
        rare = ("lost_reasoning", "split_records", "unlisted")
        return {key: value for key, value in asdict(self).items() if value or key not in rare}


class Encoder:
    """Encodes pieces with one tokenizer and template. `train_on_inputs` supervises the prompt too."""

    def __init__(self, tokenizer: Any, template: Template, *, max_seq_length: int, train_on_inputs: bool) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_seq_length = max_seq_length
        self.train_on_inputs = train_on_inputs
        # The limit that cuts prompts, as a user sets it.
        self.limit = f"--max_seq_length {max_seq_length}"

    def excess(self, supervised: np.ndarray) -> int:
        """How many tokens of the prompt must be cut."""
        return len(supervised) - self.max_seq_length

    def too_long(self, supervised: np.ndarray) -> str:
        """The message for an example that does not fit however much of its prompt is cut."""
        return f"the answer alone ({int(supervised.sum())} tokens) does not fit into {self.limit}"

    def encode_prompt(self, turns: Sequence[Turn], tools: Tools = ()) -> list[int]:
        """Ids of a conversation that ends with the user's turn or a tool's: what chat sends to the model.

        Raises DataError for what is not text: bytes of a terminal in another encoding arrive as halves of surrogates.
        """
        for text in (text for turn in turns for text in (turn.content, turn.context)):
            if any("\ud800" <= character < "\ue000" for character in text):
                raise DataError(f"the {turns[-1].role}'s text is not UTF-8: {ascii(text)[:100]}; type it as UTF-8")
        return self.encode_pieces([self.template.render(turns, tools)])[0][0].tolist()

    def encode_pieces(self, conversations: Iterable[Iterable[Piece]]) -> list[tuple[np.ndarray, np.ndarray]]:
        merged = [merge_runs(pieces) for pieces in conversations]
        return encode_runs(self.tokenizer, merged, joins_answers=self.template.joins_answers)

    def renderings(self, record: Record, counts: TokenizationCounts) -> list[Rendering]:
        """The examples that a record becomes. Raises TemplateError, which names the record."""
        try:
            renderings = self.template.renderings(record.turns, record.tools)
        except TemplateError as error:
            raise TemplateError(f"{record.source}: {error}") from error
        counts.lost_reasoning += sum(rendering.lost_reasoning for rendering in renderings)
        counts.split_records += len(renderings) > 1
        return renderings

    def encode(self, records: Sequence[Record], counts: TokenizationCounts) -> list[Example]:
        """Examples of `records`, in order; those with nothing to train on are counted and left out."""
        renderings = [(record, rendering) for record in records for rendering in self.renderings(record, counts)]
        encoded = self.encode_pieces(rendering.pieces for _, rendering in renderings)
        examples = []
        for (record, rendering), (ids, supervised) in zip(renderings, encoded, strict=True):
            cut = 0
            if self.excess(supervised) > 0:
                shorter = self.shorten(rendering.turns, record.tools, supervised)
                if shorter is None:
                    counts.leave_out(f"{record.source}: {self.too_long(supervised)}")
                    continue
                cut = len(ids) - len(shorter[0])
                ids, supervised = shorter
            if self.train_on_inputs:
                supervised = np.ones_like(supervised)
            supervised[:1] = False
            if not supervised.any():
                counts.leave_out(f"{record.source}: no token to learn")
                continue
            examples.append(Example(ids, supervised, record.source, cut))
            self.count(examples[-1], counts)
        return examples

    def shorten(
        self, whole: Sequence[Turn], tools: Tools, supervised: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Cut prompt text from the end of the longest prompt part until the example fits; None if it cannot."""
        turns = list(whole)
        # How many characters a token spans is known on average only, so the cut is approached in rounds.
        while (place := longest_prompt_part(turns)) is not None:
            index, name = place
            text = getattr(turns[index], name)
            spent = len(encode_texts(self.tokenizer, [text])[0])
            keep = max(0, int(len(text) * (1 - self.excess(supervised) / max(spent, 1))) - 1)
            turns[index] = shortened_turn(turns[index], name, text[:keep])
            ids, supervised = self.encode_pieces([self.template.render(turns, tools)])[0]
            if self.excess(supervised) <= 0:
                return ids, supervised
        return None

    @staticmethod
    def count(example: Example, counts: TokenizationCounts) -> None:
        counts.examples += 1
        counts.tokens += len(example.input_ids)
        counts.supervised_tokens += int(example.supervised.sum())
        counts.longest = max(counts.longest, len(example.input_ids))
        counts.cut_examples += example.cut_tokens > 0
        counts.cut_tokens += example.cut_tokens


class Seq2SeqEncoder(Encoder):
    """For encoder-decoder models: an example is its source, then its target, which alone is supervised."""

    def __init__(self, tokenizer: Any, template: Template, *, max_source_length: int, max_target_length: int) -> None:
        super().__init__(
            tokenizer, template, max_seq_length=max_source_length + max_target_length, train_on_inputs=False
        )
        self.max_source_length = max_source_length
        self.max_target_length = max_target_length
        self.limit = f"--max_source_length {max_source_length}"

    def excess(self, supervised: np.ndarray) -> int:
        # A target too long keeps its example from ever fitting.
        whole = int(supervised.sum()) <= self.max_target_length
        return int((~supervised).sum()) - self.max_source_length if whole else len(supervised)

    def too_long(self, supervised: np.ndarray) -> str:
        if (target := int(supervised.sum())) > self.max_target_length:
            return f"the answer ({target} tokens) does not fit into --max_target_length {self.max_target_length}"
        return f"the prompt does not fit into {self.limit}"


def shortened_turn(turn: Turn, name: str, text: str) -> Turn:
    return replace(turn, content=text) if name == "content" else replace(turn, context=text)


def longest_prompt_part(turns: Sequence[Turn]) -> tuple[int, str] | None:
    """(turn index, field) of the longest text that is not an answer, or None when all are used up.

    The system turn goes last: it tells the model who it is.
    """
    parts = [
        (turn.role != "system", len(getattr(turn, name)), index, name)
        for index, turn in enumerate(turns)
        for name in ("content", "context")
        if turn.role != "assistant" and getattr(turn, name)
    ]
    return max(parts)[2:] if parts else None


def merge_runs(pieces: Iterable[Piece]) -> list[Piece]:
    """Join neighbouring plain pieces of the same supervision, so that they are encoded as one text."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last and not last.special and not piece.special and last.supervised == piece.supervised:
            merged[-1] = last._replace(text=last.text + piece.text)
        elif piece.text:
            merged.append(piece)
    return merged


def encode_runs(
    tokenizer: Any, conversations: Sequence[Sequence[Piece]], *, joins_answers: bool = False
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids int32 [T], supervised bool [T]) of each conversation; all plain texts go to the tokenizer at once.

    With `joins_answers` neighbouring plain pieces are encoded as the one text that they are, where a token of it ends
    at each border: then the ids are the tokenizer's own of the whole, and those of the prompt are what chat sends.
    """
    texts = [text for pieces in conversations for text in texts_to_encode(pieces, joins_answers)]
    encoded = dict(zip(texts, encode_texts(tokenizer, texts), strict=True)) if joins_answers else {}
    in_order = iter(() if joins_answers else encode_texts(tokenizer, texts))
    results = []
    for pieces in conversations:
        ids: list[int] = []
        supervised: list[bool] = []
        before = ""
        ids_before: list[int] = []
        for piece in pieces:
            if piece.special:
                new, before, ids_before = [tokenizer.convert_tokens_to_ids(piece.text)], "", []
            elif joins_answers:
                whole = encoded[before + piece.text]
                joined = whole[: len(ids_before)] == ids_before
                new = whole[len(ids_before) :] if joined else encoded[piece.text]
                before, ids_before = before + piece.text, ids_before + new
            else:
                new = next(in_order)
            ids += new
            supervised += [piece.supervised] * len(new)
        results.append((np.array(ids, dtype=np.int32), np.array(supervised, dtype=bool)))
    return results


def texts_to_encode(pieces: Sequence[Piece], joins_answers: bool) -> list[str]:
    """The plain pieces, and where pieces are joined each with all plain text right before it."""
    texts, before = [], ""
    for piece in pieces:
        if piece.special:
            before = ""
            continue
        texts.append(piece.text)
        if joins_answers and before:
            texts.append(before + piece.text)
        before += piece.text
    return texts


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text; no special token is added, and none is recognised in the text."""
    if not texts:
        return []
    return tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
    )["input_ids"]


def tokenize(records: Iterator[Record], encoder: Encoder, counts: TokenizationCounts) -> Iterator[Example]:
    """Examples of all records, a batch at a time, so that memory does not grow with their number."""
    batch: list[Record] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += sum(len(turn.content) + len(turn.context) for turn in record.turns)
        if len(batch) == BATCH_RECORDS or characters > BATCH_CHARACTERS:
            yield from encoder.encode(batch, counts)
            batch, characters = [], 0
    yield from encoder.encode(batch, counts)
