"""What a model's tokenizer and --max_seq_length make of records: what is cut, left out, or cannot be said."""

from __future__ import annotations

import argparse
from typing import Any

from neuralchat.config.arguments import DataArguments
from neuralchat.data.prepared_data import make_encoder
from neuralchat.data.record_source import RecordSource, chats
from neuralchat.data.records import Record, RecordReport
from neuralchat.data.templates.making import make_template
from neuralchat.data.tokenization import Encoder
from neuralchat.data.tokens.counts import TokenizationCounts
from neuralchat.data_tools.checking.findings import CheckHelp, RowFindings, place_of_source

# No more than TokenizationCounts keeps the reasons of.
BATCH_OF_CHECK = 100

CUT = CheckHelp("cut_prompt", "warning", "training cuts the end of the prompt; raise --max_seq_length or shorten it")
LEFT_OUT = CheckHelp("left_out", "error", "training leaves the row out; raise --max_seq_length or shorten the answer")
REFUSED = CheckHelp("refused_by_template", "error", "the template does not write it; another may: --template")
UNKNOWN = CheckHelp("unknown_token", "warning", "the vocabulary has no token for a character of the answer")


class TokenChecks:
    """Encodes records as training does, a batch at a time."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.batch: list[Record] = []

    def look_at(self, record: Record, findings: RowFindings) -> None:
        self.batch.append(record)
        if len(self.batch) == BATCH_OF_CHECK:
            self.finish(findings)

    def finish(self, findings: RowFindings) -> None:
        """Looks at the records that wait."""
        batch, self.batch = self.batch, []
        # Those that are refused or left out are told by row.
        refused, counts = RefusedRows(findings), TokenizationCounts()
        examples = self.encoder.encode(batch, counts, refused)
        for source in counts.unusable:
            place, _, why = source.partition(": ")
            findings.add(LEFT_OUT, place_of_source(place), why)
        for example in examples:
            if example.cut_tokens:
                findings.add(CUT, place_of_source(example.source), f"{example.cut_tokens} tokens of the prompt")
            unknown = int(((example.input_ids == self.encoder.vocabulary.unknown_id) & example.supervised).sum())
            if unknown:
                findings.add(UNKNOWN, place_of_source(example.source), f"{unknown} tokens")


class RefusedRows(RecordReport):
    """Keeps what a template refuses as findings."""

    __slots__ = ("findings",)

    def __init__(self, findings: RowFindings) -> None:
        super().__init__()
        self.findings = findings

    def refuse(self, source: str, what: str) -> None:
        self.findings.add(REFUSED, place_of_source(source), what)


def token_checks(options: argparse.Namespace) -> TokenChecks:
    """For the tokenizer of --model_name_or_path, with the template that training would take."""
    from neuralchat.models.families.architecture import is_encoder_decoder
    from neuralchat.models.loading.base_model import ModelSource, load_config, load_tokenizer, rows_of

    source = ModelSource(name=options.model_name_or_path)
    config = load_config(source)
    tokenizer: Any = load_tokenizer(source, rows_of(config))
    seq2seq = is_encoder_decoder(config)
    data = DataArguments(max_seq_length=options.max_seq_length, template=options.template)
    firsts = RecordSource(files=tuple(options.files), columns=tuple(options.columns)).first_records()
    template = make_template(data.template, tokenizer, conversations=chats(firsts), encoder_decoder=seq2seq)
    return TokenChecks(make_encoder(data, tokenizer, template, encoder_decoder=seq2seq))
