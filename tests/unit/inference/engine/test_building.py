"""inference/engine/building.py: what is loaded, how much memory it takes, which engine it gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.engines.asking import adapted, assert_answers_as_plain, request_of, save_adapter
from support.notes import kept_notes
from support.small_models import save_checkpoint, small_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from neuralchat.errors import ArgumentsError
from neuralchat.inference.engine.building import EngineSettings, engine_around, load_engine, memory_tokens_for

PROMPT = [5, 17, 33, 8]


def test_a_base_model_is_answered_in_batches(llama_checkpoint: Path) -> None:
    engine = load_engine(llama_checkpoint, base_name="small", settings=EngineSettings(memory_tokens=100))
    assert engine.models() == ("small",)
    assert engine.batch is not None
    assert engine.status().memory_tokens == 112
    model = AutoModelForCausalLM.from_pretrained(llama_checkpoint)
    assert_answers_as_plain(engine, model, request_of(PROMPT, "small"))
    assert engine.status().generated_tokens_total == 8
    engine.close()


def test_an_adapter_is_loaded_with_its_base(llama_checkpoint: Path, tmp_path: Path) -> None:
    model = adapted(AutoModelForCausalLM.from_pretrained(llama_checkpoint))
    directory = save_adapter(tmp_path / "adapter", model)
    engine = load_engine(directory, base_name="b", adapter_name="a", base_model=llama_checkpoint)
    assert engine.models() == ("b", "a")
    assert_answers_as_plain(engine, model, request_of(PROMPT, "a"))
    engine.close()


def test_what_cannot_be_computed_together_is_answered_one_by_one(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "t5", "t5", chat=False)
    with kept_notes() as notes:
        engine = load_engine(checkpoint)
    assert engine.batch is None
    assert any("one by one" in note for note in notes)
    assert_answers_as_plain(engine, AutoModelForSeq2SeqLM.from_pretrained(checkpoint), request_of(PROMPT))
    assert engine.status().memory_tokens == 0
    engine.close()


def test_memory_is_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2 layers, 2 key heads of 8 numbers of 4 bytes, keys and values: 256 bytes a token.
    model = small_model("llama", 97)

    def with_free(size: int) -> int:
        free = type("Free", (), {"available": size})()
        monkeypatch.setattr("neuralchat.inference.engine.building.psutil.virtual_memory", lambda: free)
        return memory_tokens_for(model.config, bytes_per_number=model.get_input_embeddings().weight.element_size())

    assert with_free(10_000 * 4 * 256) == 10_000
    assert with_free(1 << 40) == 65_536
    assert with_free(1) == 2048


def test_what_is_kept_of_texts_that_are_over_is_bounded_unless_somebody_chose_a_room() -> None:
    chosen: Any = engine_around(small_model("llama", 97), "base", settings=EngineSettings(memory_tokens=32_768))
    assert chosen.batch.memory.most_kept == chosen.batch.memory.total == 2048
    by_itself: Any = engine_around(small_model("llama", 97), "base")
    assert by_itself.batch.memory.most_kept == 512
    for engine in (chosen, by_itself):
        engine.close()


@pytest.mark.parametrize("name", ["memory_tokens", "most_running", "most_waiting"])
def test_impossible_settings_are_refused(name: str) -> None:
    with pytest.raises(ArgumentsError, match=f"{name} must be at least 1, found 0"):
        EngineSettings(**{name: 0})  # type: ignore[arg-type]


def test_as_many_run_as_may() -> None:
    settings = EngineSettings(memory_tokens=1000, most_running=2)
    engine: Any = engine_around(small_model("llama", 97), "base", settings=settings)
    assert engine.batch.most_running == 2
    engine.close()
