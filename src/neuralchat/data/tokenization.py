"""pieces -> Example: token ids and which of them are supervised, right by construction.

Plain runs of text between special tokens are encoded whole, as the tokenizer itself would; prompt and answer
are always encoded apart, so no token ever crosses the boundary at which chat begins to generate.

Shapes: T tokens of one example.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from neuralchat.data.records import TEXT, Record, Turn
from neuralchat.data.templates.making import begin_tokens_of
from neuralchat.data.templates.template import Piece, Rendering, Template, Tools
from neuralchat.data.vocabulary import KEPT_ROWS, Vocabulary
from neuralchat.errors import DataError, TemplateError

# A batch ends at either: memory follows the text that is encoded at once.
BATCH_RECORDS = 1000
BATCH_CHARACTERS = 4_000_000
KEPT_UNUSABLE = 100


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation as the model sees it.

    input_ids: int32 [T]. supervised: bool [T], True where the token is a target (predicted from the tokens
    before it); the first token never is. `cut_tokens` counts prompt tokens lost to the length limit. `first_known`: of
    a general prompt, whose targets are not learned but compared with what the base model says; the number of the first
    of them among all that it was asked.
    """

    input_ids: np.ndarray
    supervised: np.ndarray
    source: str
    cut_tokens: int = 0
    first_known: int | None = None


@dataclass(slots=True)
class TokenizationCounts:
    """What became of the records of one source.

    `unusable` are the first records that cannot be trained on, `unlisted` counts those after them. Of the others that
    a user should look at, the first rows are kept.
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
    # Texts without a prompt that were longer than an example may be, and what they became.
    split_texts: int = 0
    split_examples: int = 0
    # Answers with characters that the vocabulary does not have, and how many tokens stand for them.
    unknown_examples: int = 0
    unknown_tokens: int = 0
    unknown_rows: list[str] = field(default_factory=list)
    # Answers with line breaks or tabs that the tokenizer turns into spaces.
    flattened_examples: int = 0
    flattened_rows: list[str] = field(default_factory=list)

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
        if self.split_texts:
            found.append(
                f"{self.split_texts} texts were longer than {limit}: they became {self.split_examples} examples"
            )
        if self.unknown_examples:
            found.append(
                f"{self.unknown_examples} answers have characters that the vocabulary does not have: "
                f"{self.unknown_tokens} unknown tokens are trained on, and will be said; "
                f"{first_rows(self.unknown_rows, self.unknown_examples)}"
            )
        if self.flattened_examples:
            found.append(
                f"{self.flattened_examples} answers have line breaks or tabs, which this tokenizer turns into spaces: "
                f"{first_rows(self.flattened_rows, self.flattened_examples)}"
            )
        if self.unusable:
            count = len(self.unusable) + self.unlisted
            found.append(f"{count} record(s) cannot be trained on and are left out: {first_rows(self.unusable, count)}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """What most data has none of is left out."""
        rare = ("lost_", "split_", "unlisted", "unknown_", "flattened_")
        return {key: value for key, value in asdict(self).items() if value or not key.startswith(rare)}


def first_rows(rows: Sequence[str], count: int) -> str:
    """The first of `count` rows, and how many more there are."""
    more = f"; and {count - KEPT_ROWS} more" if count > KEPT_ROWS else ""
    return "; ".join(rows[:KEPT_ROWS]) + more


class Encoder:
    """Encodes pieces with one tokenizer and template.

    `train_on_inputs` supervises the prompt too. `supervise`: "all" answers, or the "last" one only.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: Template,
        *,
        max_seq_length: int,
        train_on_inputs: bool,
        supervise: str = "all",
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_seq_length = max_seq_length
        self.train_on_inputs = train_on_inputs
        self.supervise = supervise
        # The limit that cuts prompts, as a user sets it.
        self.limit = f"--max_seq_length {max_seq_length}"
        self.vocabulary = Vocabulary(tokenizer)

    @cached_property
    def begin_tokens(self) -> list[str]:
        return begin_tokens_of(self.tokenizer)

    def excess(self, supervised: np.ndarray) -> int:
        """How many tokens of the prompt must be cut."""
        return len(supervised) - self.max_seq_length

    def too_long(self, answers: int, supervised: np.ndarray) -> str:
        """The message for an example that does not fit, although all was cut of its prompt that can be.

        `answers`: how many of them are learned.
        """
        learned, needed = int(supervised.sum()), len(supervised)
        said = "the answer" if answers == 1 else f"the {answers} answers"
        return (
            f"{said} ({learned} tokens) and the fixed part of the prompt ({needed - learned}) take {needed} tokens, "
            f"more than {self.limit}"
        )

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

    def turns(self, record: Record) -> tuple[Turn, ...]:
        """The turns of a record, of which those answers are `trained` that are to be learned."""
        if self.supervise == "all":
            return record.turns
        earlier = (replace(turn, trained=False) if is_learned(turn) else turn for turn in record.turns[:-1])
        return (*earlier, record.turns[-1])

    def renderings(self, record: Record, counts: TokenizationCounts) -> list[Rendering]:
        """The examples that a record becomes. Raises TemplateError, which names the record."""
        if record.kind == TEXT:
            return [Rendering(record.turns, self.text_pieces(record.turns[0].content))]
        try:
            renderings = self.template.renderings(self.turns(record), record.tools)
        except TemplateError as error:
            raise TemplateError(f"{record.source}: {error}") from error
        counts.lost_reasoning += sum(rendering.lost_reasoning for rendering in renderings)
        counts.split_records += len(renderings) > 1
        return renderings

    def text_pieces(self, text: str) -> list[Piece]:
        """A text without a prompt, framed as the tokenizer frames texts; it takes no template."""
        begin = [Piece(token, special=True) for token in self.begin_tokens]
        return [*begin, Piece(text, supervised=True), Piece(self.tokenizer.eos_token, special=True, supervised=True)]

    def encode(self, records: Sequence[Record], counts: TokenizationCounts) -> list[Example]:
        """Examples of `records`, in order; those with nothing to train on are counted and left out."""
        renderings = [(record, rendering) for record in records for rendering in self.renderings(record, counts)]
        encoded = self.encode_pieces(rendering.pieces for _, rendering in renderings)
        examples = []
        for (record, rendering), (ids, supervised) in zip(renderings, encoded, strict=True):
            made = self.examples_of(record, rendering, ids, supervised)
            if isinstance(made, str):
                counts.leave_out(f"{record.source}: {made}")
                continue
            for example in made:
                self.count(example, counts)
            if len(made) > 1:
                counts.split_texts += 1
                counts.split_examples += len(made)
            self.vocabulary.count_losses(record.source, rendering.turns, made, counts)
            examples += made
        return examples

    def examples_of(
        self, record: Record, rendering: Rendering, ids: np.ndarray, supervised: np.ndarray
    ) -> list[Example] | str:
        """What is trained on, or why nothing is. Only a text without a prompt makes several examples."""
        if record.kind == TEXT:
            return self.examples_of_text(record.source, ids, supervised)
        cut, answers = 0, sum(map(is_learned, rendering.turns))
        if self.excess(supervised) > 0:
            whole = len(ids)
            ids, supervised = self.shorten(rendering.turns, record.tools, ids, supervised)
            if self.excess(supervised) > 0:
                return self.too_long(answers, supervised)
            cut = whole - len(ids)
        if self.train_on_inputs:
            supervised = np.ones_like(supervised)
        supervised[:1] = False
        if not supervised.any():
            return "no token to learn" if answers else "no answer of it is to be learned"
        return [Example(ids, supervised, record.source, cut)]

    def examples_of_text(self, source: str, ids: np.ndarray, supervised: np.ndarray) -> list[Example] | str:
        """A text, in as many examples as it needs: each begins with the begin tokens, and no token is lost."""
        begin = len(ids) - int(supervised.sum())
        room = self.max_seq_length - begin
        # Without a begin token the first token of a part is only read, so it is the last of the part before it.
        overlap = int(begin == 0)
        if room <= overlap:
            return f"no token of a text fits into {self.limit}"
        examples = []
        for start in range(begin, max(len(ids) - overlap, begin + 1), room - overlap):
            part = slice(start, start + room)
            some = np.concatenate([supervised[:begin], supervised[part]])
            some[:1] = False
            examples.append(Example(np.concatenate([ids[:begin], ids[part]]), some, source))
        return examples

    def shorten(
        self, whole: Sequence[Turn], tools: Tools, ids: np.ndarray, supervised: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut prompt text from the end of the longest prompt part until the example fits, or there is no more."""
        turns = list(whole)
        # How many characters a token spans is known on average only, so the cut is approached in rounds.
        while self.excess(supervised) > 0 and (place := longest_prompt_part(turns)) is not None:
            index, name = place
            text = getattr(turns[index], name)
            spent = len(encode_texts(self.tokenizer, [text])[0])
            keep = max(0, int(len(text) * (1 - self.excess(supervised) / max(spent, 1))) - 1)
            turns[index] = shortened_turn(turns[index], name, text[:keep])
            ids, supervised = self.encode_pieces([self.template.render(turns, tools)])[0]
        return ids, supervised

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

    def too_long(self, _answers: int, supervised: np.ndarray) -> str:
        if (target := int(supervised.sum())) > self.max_target_length:
            return f"the answer ({target} tokens) does not fit into --max_target_length {self.max_target_length}"
        return f"the fixed part of the prompt ({len(supervised) - target} tokens) does not fit into {self.limit}"

    def examples_of(
        self, record: Record, rendering: Rendering, ids: np.ndarray, supervised: np.ndarray
    ) -> list[Example] | str:
        if record.kind == TEXT:
            return "a text without a prompt is nothing that an encoder-decoder model can answer"
        return super().examples_of(record, rendering, ids, supervised)


def is_learned(turn: Turn) -> bool:
    return turn.role == "assistant" and turn.trained


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
        characters += sum(len(turn.content) + len(turn.context) + len(turn.reasoning) for turn in record.turns)
        if len(batch) == BATCH_RECORDS or characters > BATCH_CHARACTERS:
            yield from encoder.encode(batch, counts)
            batch, characters = [], 0
    yield from encoder.encode(batch, counts)
