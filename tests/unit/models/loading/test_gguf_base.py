"""A GGUF file is a base model: it answers as the checkpoint that it was made from, and what is damaged is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from support.runs import Desk
from support.small_models import make_tokenizer, save_checkpoint, small_model
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from neuralchat.data.records import Turn
from neuralchat.errors import ModelError
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.gguf_text import gguf_text, write_gguf_of
from neuralchat.models.gguf.splits import SPLIT_NAMES, split_name, steps_of
from neuralchat.models.gguf.tensor_types import TENSOR_TYPES
from neuralchat.models.gguf.vocabulary import vocabulary_of
from neuralchat.models.gguf.writing import GgufText, write_gguf
from neuralchat.models.loading import cached_model, gguf_base
from neuralchat.models.loading.base_model import ModelSource, load_config, resolve
from neuralchat.models.loading.gguf_base import converted_gguf, fp32_bytes, is_gguf_file


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Chatbot:
    return Chatbot.load(save_checkpoint(tmp_path_factory.mktemp("base") / "model", "llama"))


@pytest.fixture(scope="module")
def file(original: Chatbot, tmp_path_factory: pytest.TempPathFactory, cache_of_the_session: None) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_gguf_of(path, original.model, original.voice, TENSOR_TYPES["f32"], "small")
    return path


def test_it_answers_as_what_it_was_made_from(original: Chatbot, file: Path) -> None:
    bot = Chatbot.load(file)
    turns = [Turn("user", "Name an animal, 1234 of them.")]
    assert bot.voice.whole_prompt(turns) == original.voice.whole_prompt(turns)
    ids = torch.arange(5, 40)[None]
    with torch.inference_mode():
        torch.testing.assert_close(bot.model(ids).logits, original.model(ids).logits, atol=1e-4, rtol=1e-4)
    assert bot.voice.end_ids == original.voice.end_ids


def test_it_has_the_tokens_of_the_file_and_no_others(original: Chatbot, file: Path) -> None:
    """transformers adds <|endoftext|> past a vocabulary that has none; the model has no row for it."""
    tokenizer = Chatbot.load(file).voice.tokenizer
    assert tokenizer.get_vocab() == original.voice.tokenizer.get_vocab()
    assert len(tokenizer) == original.model.get_input_embeddings().weight.shape[0]


def test_size_and_time_are_told_and_the_space_is_looked_at_before(
    original: Chatbot, file: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setenv("NEURALCHAT_HOME", str(file.parent / "home"))
    assert fp32_bytes(file) == 4 * sum(weight.numel() for weight in original.model.parameters())
    monkeypatch.setattr(cached_model, "TOLD_FROM_BYTES", 1)
    monkeypatch.setattr(gguf_base, "fp32_bytes", lambda path: 1 << 60)
    monkeypatch.setattr(gguf_base, "convert", lambda path, entry: pytest.fail("it was begun"))
    with pytest.raises(ModelError, match=r"^1073741824\.0 GiB are needed in .*gguf, [\d.]+ GiB are free; make room"):
        converted_gguf(file)
    monkeypatch.setattr(gguf_base, "fp32_bytes", lambda path: 500 << 20)
    monkeypatch.setattr(gguf_base, "convert", lambda path, entry: entry.mkdir())
    converted_gguf(file)
    assert said == [f"reading {file} (once, 0.5 GiB, about 20 seconds; it is kept as fp32 in {file.parent}/home/gguf)"]


@pytest.mark.slow
def test_it_is_trained_and_exported(file: Path, tmp_path: Path) -> None:
    train = f"finetune --model_name_or_path {file} --train_file records.json --output_dir run --max_steps 1"
    status, said = Desk(tmp_path, file).run(*train.split())
    assert status == 0, said
    bot = Chatbot.load(tmp_path / "run")
    write_gguf_of(tmp_path / "again.gguf", bot.model.merge_and_unload(), bot.voice, TENSOR_TYPES["f32"], "again")
    assert len(Chatbot.load(tmp_path / "again.gguf").voice.tokenizer) == 400


def test_a_special_token_keeps_the_id_of_the_file(original: Chatbot, tmp_path: Path) -> None:
    """transformers spells tokens of other characters anew, and adds those that have a use once more past the others."""
    text = gguf_text(original.voice, original.model, "small")
    end = text.vocabulary.special["eos"]
    text.vocabulary.tokens[end] = "<\uff5cend\uff5c>"
    write_gguf(tmp_path / "a.gguf", original.model, text, TENSOR_TYPES["f32"])
    tokenizer = AutoTokenizer.from_pretrained(converted_gguf(tmp_path / "a.gguf"))
    assert (tokenizer.eos_token, tokenizer.eos_token_id, len(tokenizer)) == ("<\uff5cend\uff5c>", end, 400)
    assert tokenizer("a<\uff5cend\uff5c>")["input_ids"][1:] == [end]
    assert tokenizer.decode([end], skip_special_tokens=True) == ""


def test_control_tokens_of_any_characters_are_found_in_texts(original: Chatbot, tmp_path: Path) -> None:
    """Also such as have no use that GGUF names, and those that a user defined."""
    tokenizer = make_tokenizer(chat=False)
    special = ["<\uff5cUser\uff5c>", "<\uff5cend\u2581of\uff5c>", "<bot \u00e9>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens([AddedToken("\u2192ok", normalized=False, special=False)])
    tokenizer.eos_token = special[1]
    vocabulary = vocabulary_of(tokenizer, len(tokenizer), [tokenizer.eos_token_id], [])
    model = small_model("llama", len(tokenizer))
    write_gguf(tmp_path / "a.gguf", model, GgufText(name="a", vocabulary=vocabulary), TENSOR_TYPES["f32"])
    again = AutoTokenizer.from_pretrained(converted_gguf(tmp_path / "a.gguf"))
    text = f"{special[0]}Hi th\u00e9re{special[2]}\u2192ok no{special[1]}"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.decode(again(text)["input_ids"], skip_special_tokens=True) == "Hi th\u00e9re\u2192ok no"


def test_it_is_read_once(file: Path) -> None:
    first = converted_gguf(file)
    weights = first / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert converted_gguf(file) == first == Path(resolve(str(file)))
    assert weights.stat().st_mtime_ns == before
    weights.write_bytes(b"damaged")
    assert converted_gguf(file) == first
    assert weights.stat().st_size > 1000


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text("<html>")
    assert is_gguf_file(tmp_path / "a.gguf")
    assert not is_gguf_file(tmp_path)
    with pytest.raises(ModelError, match=r"a\.gguf is no GGUF file: it begins with b'<htm'"):
        load_config(ModelSource(name=str(tmp_path / "a.gguf")))


def test_damaged_files_are_refused_or_read(file: Path, tmp_path: Path) -> None:
    """Each by name; nothing is left of it in the cache."""
    whole, draw = file.read_bytes(), random.Random(0)
    told: list[tuple[Path, str]] = []
    for number in range(12):
        damaged = bytearray(whole)
        if number % 2:
            damaged = damaged[: draw.randrange(8, len(whole) // 2)]
        else:
            for _ in range(20):
                damaged[draw.randrange(4, 4000)] = draw.randrange(256)
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(damaged)
        try:
            converted_gguf(path)
        except ModelError as error:
            told.append((path, str(error)))
    assert len(told) >= 6
    assert [said for path, said in told if str(path) not in said] == []


@pytest.mark.parametrize("name", sorted(set(SPLIT_NAMES.values()) - {"smaug-bpe"}))
def test_the_steps_of_a_name_have_that_name(name: str) -> None:
    steps = steps_of(name)
    assert steps is not None
    backend = Tokenizer(models.BPE(ignore_merges=name in ("llama-bpe", "tekken")))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    assert split_name(json.loads(backend.to_str())) == name
