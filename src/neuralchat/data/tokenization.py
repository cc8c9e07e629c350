"""Record -> Example: token ids and which of them are supervised; what is too long is cut, or left out and told.

Shapes: T tokens of one example.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from neuralchat.data.records import TEXT, Record, RecordReport, Turn
from neuralchat.data.templates.making import begin_tokens_of
from neuralchat.data.templates.template import Piece, Rendering, Template, Tools
from neuralchat.data.tokens.counts import TokenizationCounts
from neuralchat.data.tokens.encoding import encode_runs, encode_texts, merge_runs
from neuralchat.data.tokens.vocabulary import Vocabulary
from neuralchat.errors import DataError, TemplateError, TemplateLimitError

# A batch ends at either: memory follows the text that is encoded at once.
BATCH_RECORDS = 1000
BATCH_CHARACTERS = 4_000_000


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

        Raises DataError for what is not text.
        """
        self.check_text(turns)
        return self.encode_pieces([self.template.render(turns, tools)])[0][0].tolist()

    @staticmethod
    def check_text(turns: Sequence[Turn]) -> None:
        """Bytes of a terminal in another encoding arrive as halves of surrogates."""
        for text in (text for turn in turns for text in (turn.content, turn.context)):
            if any("\ud800" <= character < "\ue000" for character in text):
                raise DataError(f"the {turns[-1].role}'s text is not UTF-8: {ascii(text)[:100]}; type it as UTF-8")

    def encode_pieces(self, conversations: Iterable[Iterable[Piece]]) -> list[tuple[np.ndarray, np.ndarray]]:
        merged = [merge_runs(pieces) for pieces in conversations]
        return encode_runs(self.tokenizer, merged, joins_answers=self.template.joins_answers)

    def turns(self, record: Record) -> tuple[Turn, ...]:
        """The turns of a record, of which those answers are `trained` that are to be learned."""
        if self.supervise == "all":
            return record.turns
        earlier = (replace(turn, trained=False) if is_learned(turn) else turn for turn in record.turns[:-1])
        return (*earlier, record.turns[-1])

    def renderings(
        self, record: Record, counts: TokenizationCounts, report: RecordReport | None = None
    ) -> list[Rendering]:
        """The examples that a record becomes; none of one that the template refuses, which is added to `report`.

        Without a report it raises TemplateError, which names the record; so does a template that takes too much.
        """
        if record.kind == TEXT:
            return [Rendering(record.turns, self.text_pieces(record.turns[0].content))]
        try:
            renderings = self.template.renderings(self.turns(record), record.tools)
        except TemplateError as error:
            if report is None or isinstance(error, TemplateLimitError):
                raise type(error)(f"{record.source}: {error}") from error
            report.refuse(record.source, str(error))
            return []
        counts.lost_reasoning += sum(rendering.lost_reasoning for rendering in renderings)
        counts.split_records += len(renderings) > 1
        return renderings

    def text_pieces(self, text: str) -> list[Piece]:
        """A text without a prompt, framed as the tokenizer frames texts; it takes no template."""
        begin = [Piece(token, special=True) for token in self.begin_tokens]
        return [*begin, Piece(text, supervised=True), Piece(self.tokenizer.eos_token, special=True, supervised=True)]

    def encode(
        self, records: Sequence[Record], counts: TokenizationCounts, report: RecordReport | None = None
    ) -> list[Example]:
        """Examples of `records`, in order; those with nothing to train on are counted and left out.

        `report` takes those that the template refuses, see `renderings`.
        """
        renderings = [
            (record, rendering) for record in records for rendering in self.renderings(record, counts, report)
        ]
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


def tokenize(
    records: Iterator[Record], encoder: Encoder, counts: TokenizationCounts, report: RecordReport
) -> Iterator[Example]:
    """Examples of all records, a batch at a time, so that memory does not grow with their number.

    `report` takes the records that the template refuses.
    """
    batch: list[Record] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += sum(len(turn.content) + len(turn.context) + len(turn.reasoning) for turn in record.turns)
        if len(batch) == BATCH_RECORDS or characters > BATCH_CHARACTERS:
            yield from encoder.encode(batch, counts, report)
            batch, characters = [], 0
    yield from encoder.encode(batch, counts, report)
