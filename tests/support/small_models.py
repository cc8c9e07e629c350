"""Small checkpoints built from configs, laid out as published ones are. Nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    T5Config,
)

TEXT = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction: ### Input: ### Response: paired with an input that provides further context",
    "The capital of France is Paris. Two and three make five. The sky is blue and the grass is green.",
    "Name a colour of the sky, a town in the north, an animal with four legs, a fruit that is red.",
    "A question has one answer. Water boils at one hundred degrees. Cats sleep, dogs bark, birds sing.",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def make_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with <|start|>, <|end|> (its end token) and <|pad|>."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>"]})
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_pieces_tokenizer() -> PreTrainedTokenizerFast:
    """As LLaMA's: spaces are part of pieces, the first is left out, and other characters are bytes."""
    words = ["▁the", "▁town", "▁is", "▁blue", "▁a", "▁", "a", "b", "s", ".", ",", "\n"]
    vocabulary = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    merges: list[tuple[str, str]] = []
    backend = Tokenizer(
        models.BPE({word: i for i, word in enumerate(vocabulary)}, merges, byte_fallback=True, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 1024, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def small_config(family: str, vocabulary: int) -> Any:
    """Families by name: llama (grouped-query), llama_mha, llama_bias (biases, untied), mistral, qwen2, gpt_neox, gpt2,
    mpt, t5 (1.0: ReLU, tied), flan_t5 (1.1: gated GELU, untied).
    """
    sizes = {**SIZES, "vocab_size": vocabulary}
    if family == "llama":
        return LlamaConfig(**sizes, num_key_value_heads=2, tie_word_embeddings=True)
    if family == "llama_mha":
        return LlamaConfig(**sizes, num_key_value_heads=4, tie_word_embeddings=False)
    if family == "llama_bias":
        return LlamaConfig(
            **sizes, num_key_value_heads=2, tie_word_embeddings=False, attention_bias=True, mlp_bias=True
        )
    if family == "mistral":
        return MistralConfig(**sizes, num_key_value_heads=2, sliding_window=24)
    if family == "qwen2":
        return Qwen2Config(**sizes, num_key_value_heads=2)
    if family == "gpt_neox":
        return GPTNeoXConfig(**sizes, rotary_pct=0.5, hidden_dropout=0.0, attention_dropout=0.0)
    if family == "gpt2":
        return GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    if family == "mpt":
        return MptConfig(
            vocab_size=vocabulary, d_model=32, n_heads=4, n_layers=2, expansion_ratio=4, max_seq_len=1024,
            bos_token_id=None, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
    if family in ("t5", "flan_t5"):
        newer = family == "flan_t5"
        return T5Config(
            vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
            relative_attention_num_buckets=8, relative_attention_max_distance=20,
            feed_forward_proj="gated-gelu" if newer else "relu", tie_word_embeddings=not newer,
            eos_token_id=2, pad_token_id=0, decoder_start_token_id=0,
        )  # fmt: skip
    raise ValueError(family)


CAUSAL_FAMILIES = ("llama", "llama_mha", "llama_bias", "mistral", "qwen2")
ALL_FAMILIES = (*CAUSAL_FAMILIES, "gpt_neox", "gpt2", "mpt", "t5", "flan_t5")


def small_model(family: str = "llama", vocabulary: int = 400, seed: int = 0) -> Any:
    """An fp32 model with weights large enough that every part of it matters to the logits."""
    torch.manual_seed(seed)
    config = small_config(family, vocabulary)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            # T5 does not scale its scores: smaller weights keep its softmax from saturating.
            torch.nn.init.normal_(parameter, std=0.1 if config.is_encoder_decoder else 0.2)
    return model.eval()


def save_checkpoint(directory: Path, family: str = "llama", *, chat: bool = True) -> Path:
    """A checkpoint directory with weights and tokenizer."""
    tokenizer = make_tokenizer(chat=chat)
    small_model(family, len(tokenizer)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_early_llama_checkpoint(directory: Path) -> Path:
    """As decapoda-research/llama-7b-hf was: sentencepiece model, class names that never existed, empty tokens."""
    import sentencepiece

    directory.mkdir(parents=True)
    corpus = directory.parent / "corpus.txt"
    corpus.write_text("\n".join(TEXT * 4))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(directory / "tokenizer"), vocab_size=370, model_type="bpe",
        byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    (directory / "tokenizer.vocab").unlink()
    small_model("llama_mha", 370).save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    config |= {"architectures": ["LLaMAForCausalLM"], "pad_token_id": -1, "bos_token_id": 0, "eos_token_id": 1}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").unlink(missing_ok=True)
    names = {"bos_token": "", "eos_token": "", "unk_token": "", "model_max_length": 1e30}
    (directory / "tokenizer_config.json").write_text(json.dumps({**names, "tokenizer_class": "LLaMATokenizer"}))
    return directory


def save_published_mpt_checkpoint(directory: Path) -> Path:
    """As mosaicml/mpt-7b is: auto_map to code of its own, MPTForCausalLM, no lm_head, no tokenizer of its own."""
    small_model("mpt", len(make_tokenizer())).save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    config |= {
        "architectures": ["MPTForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_mpt.MPTConfig", "AutoModelForCausalLM": "modeling_mpt.MPTForCausalLM"
        },
        "init_device": "cpu", "init_config": {"name": "kaiming_normal_"}, "tokenizer_name": "EleutherAI/gpt-neox-20b",
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("configuration_mpt.py", "modeling_mpt.py"):
        (directory / name).write_text("raise SystemExit('code of the checkpoint was run')\n")
    return directory


def save_published_t5_checkpoint(directory: Path, rows: int = 512) -> Path:
    """As google/flan-t5 is: sentencepiece unigram with its own pad, more embedding rows than tokens."""
    import sentencepiece
    from transformers import T5Tokenizer

    directory.mkdir(parents=True)
    corpus = directory.parent / "t5_corpus.txt"
    corpus.write_text("\n".join(TEXT * 4))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(directory / "spiece"), vocab_size=130, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (directory / "spiece.vocab").unlink()
    T5Tokenizer.from_pretrained(directory, extra_ids=10).save_pretrained(directory)
    model = small_model("flan_t5", rows)
    model.config.eos_token_id = 1
    model.generation_config.eos_token_id = 1
    model.config.architectures = ["T5ForConditionalGeneration"]
    model.save_pretrained(directory)
    return directory
