"""models/layers/native_decoder.py: which models it takes, and that its numbers are theirs."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from support.engines.asking import VOCABULARY, adapted, ask_together, assert_same, plain_answer, request_of
from support.families import PACKED, family_model
from support.small_models import small_model

from neuralchat.inference.engine.packed.batched import PackedAnswers
from neuralchat.inference.engine.packed.packed_pass import Chunk
from neuralchat.inference.engine.shelf import Shelf
from neuralchat.inference.engine.torch_engine import TorchEngine
from neuralchat.models.families.table import family_of
from neuralchat.models.layers.row_lora import row_parts

PROMPT = [5, 17, 33, 8, 61, 17]
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no compiler")


def answers_of(model: Any, adapter: str | None = None, *, native: bool = True) -> PackedAnswers:
    shelf = Shelf(model, "base", adapter)
    assert family_of(shelf.base.config).take_pages(shelf.base)
    return PackedAnswers(shelf, 2048, native=native)


@needs_compiler
@pytest.mark.parametrize("family", ["llama", "llama_mha", "llama_bias", "mistral", "qwen2"])
def test_families_of_this_structure_are_taken(family: str) -> None:
    native = answers_of(small_model(family, VOCABULARY)).packed.native
    assert native is not None
    assert (native.longest == 24) is (family == "mistral")
    assert answers_of(small_model(family, VOCABULARY), native=False).packed.native is None


@needs_compiler
def test_queries_and_keys_may_have_norms() -> None:
    assert answers_of(family_model("qwen3")).packed.native is not None


@pytest.mark.parametrize("family", ["gemma2", "gemma", "cohere", "olmo2", "phi3", "gpt_oss", "mixtral"])
def test_others_are_not(family: str) -> None:
    """Their norms, activations, order, fused projections and experts are not those of the kernel."""
    assert family in PACKED
    batch = answers_of(family_model(family))
    assert batch.proven
    assert batch.packed.native is None


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(PACKED))
def test_every_family_with_the_interface_answers_as_transformers(family: str) -> None:
    model, request = family_model(family), request_of([*PROMPT] * 5, max_new_tokens=6)
    batch = answers_of(family_model(family))
    engine = TorchEngine(batch.shelf, batch)
    expected = plain_answer(model, request)[0]
    for tokens, _ in ask_together(engine, [request, request]):
        assert assert_same(tokens, expected)
    engine.close()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [1, 2])
def test_rows_have_the_logits_of_the_models_own_layers(dtype: torch.dtype, last: int) -> None:
    """Rows of every number up to more than a tile, with an adapter and none, at several lengths; `last` of a text."""
    model = adapted(small_model("llama_bias", VOCABULARY), lora_all_linear=True, lora_rank=3)
    batch = answers_of(model.to(dtype), "tuned")
    packed, generator = batch.packed, torch.Generator().manual_seed(0)
    for rows in (1, 2, 3, 5, 8, 11):
        names = [("default", None)[row % 2] for row in range(rows)]
        order = sorted(range(rows), key=lambda row: names[row] is None)
        chunks = []
        for row in order:
            ids = torch.randint(VOCABULARY, (2 + 3 * row,), generator=generator).tolist()
            blocks = list(range(4 * row, 4 * row + 4))
            done = len(ids) - last
            if done:
                with row_parts(batch.parts, [] if names[row] is None else [("default", 0, done)]):
                    packed.logits([Chunk(ids[:done], 0, blocks)])
            chunks.append(Chunk(ids[done:], done, blocks))
        tuned = last * sum(name is not None for name in names)
        with row_parts(batch.parts, [("default", 0, tuned)]):
            expected = packed.logits(chunks)
            found = packed.logits(chunks, [names[row] for row in order])
        assert packed.native is not None
        assert not torch.equal(found, expected)
        worst = ((found - expected).norm(dim=1) / expected.norm(dim=1)).max()
        assert worst < (1e-5 if dtype == torch.float32 else 3e-2), rows


def test_a_model_without_kernels_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuralchat.models.layers.native_decoder.decoder_library", lambda *_: None)
    monkeypatch.setattr("neuralchat.models.attention.pages.paged_kernel_for", lambda _: None)
    model = small_model("llama", VOCABULARY)
    batch = answers_of(model)
    assert batch.packed.native is None
    engine = TorchEngine(batch.shelf, batch)
    request = request_of(PROMPT)
    for tokens, _ in ask_together(engine, [request] * 2):
        assert assert_same(tokens, plain_answer(small_model("llama", VOCABULARY), request)[0])
    engine.close()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_have_the_same_bits_whatever_is_computed_beside_them(dtype: torch.dtype) -> None:
    """Alone and beside others, a prompt at once and in parts."""
    model = adapted(small_model("llama", VOCABULARY), lora_all_linear=True, lora_rank=3)
    packed = answers_of(model.to(dtype), "tuned").packed
    ids = torch.randint(VOCABULARY, (40,), generator=torch.Generator().manual_seed(0)).tolist()

    def logits(*chunks: Chunk) -> torch.Tensor:
        assert packed.native is not None
        return packed.logits(chunks, ["default", *[None] * (len(chunks) - 1)]).clone()

    whole = logits(Chunk(ids, 0, [0, 1, 2]))
    logits(Chunk(ids[:21], 0, [3, 4, 5], wanted=False))
    in_parts = logits(Chunk(ids[21:], 21, [3, 4, 5]))
    assert torch.equal(in_parts, whole)
    logits(Chunk(ids[:39], 0, [6, 7, 8], wanted=False))
    beside = [Chunk(ids[:n], 0, [9 + 2 * n, 10 + 2 * n]) for n in (1, 9, 3, 17, 2)]
    assert torch.equal(logits(Chunk(ids[39:], 39, [6, 7, 8]), *beside)[:1], whole)
