"""examples -> packed micro-batches, in the layout that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuralchat.data.packing import NO_VIRTUAL_TOKENS, PackedBatch, VirtualTokens, pack, split_by_tokens
from neuralchat.data.seq2seq_packing import PackedSeq2Seq, pack_seq2seq
from neuralchat.data.tokenization import Example

Packed = PackedBatch | PackedSeq2Seq


@dataclass(frozen=True)
class Layout:
    """`decoder_start_id`: for encoder-decoder models, whose sources and targets lie in two rows; None for causal."""

    virtual: VirtualTokens = NO_VIRTUAL_TOKENS
    decoder_start_id: int | None = None

    def pack(self, examples: Sequence[Example]) -> Packed:
        if self.decoder_start_id is not None:
            return pack_seq2seq(examples, start_id=self.decoder_start_id, virtual=self.virtual)
        return pack(examples, virtual=self.virtual)

    def micro_batches(self, examples: Sequence[Example], micro_batch_tokens: int) -> list[Packed]:
        shares = self.decoder_start_id is None
        batches = split_by_tokens(examples, micro_batch_tokens, self.virtual, share_prefix=shares)
        return [self.pack(batch) for batch in batches]
