"""Parts of transformers' model classes, each with the reason why no public one does.

transformers exports whole models; their layers may be renamed or merged in any release. What the modules of families/
read of these layers (Wqkv, block, SelfAttention, ...) is tested in tests/contract/test_upstream.py too.
"""

from __future__ import annotations

# MPT has no attention interface: its attention is taken over by class.
from transformers.models.mpt.modeling_mpt import MptAttention

# What T5 computes where a batch is not packed: an attention implementation replaces it for the whole model, and "eager"
# cannot be asked for by name, since each family has its own.
from transformers.models.t5.modeling_t5 import eager_attention_forward as t5_eager_attention

__all__ = ["MptAttention", "t5_eager_attention"]
