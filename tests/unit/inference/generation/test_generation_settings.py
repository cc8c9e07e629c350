"""inference/generation/settings.py: a base model's generation_config.json never acts by itself; ours says where answers
end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import ROWS
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.generation.settings import with_end_tokens

# What published models ask for, and what would change the answer.
ASKED: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 4},
    "beam groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "several answers": {"num_beams": 3, "num_return_sequences": 3},
    "penalty": {"repetition_penalty": 5.0},
    "ngrams": {"no_repeat_ngram_size": 1},
    "sampling": {"do_sample": True, "temperature": 5.0, "top_k": 3, "top_p": 0.5},
    "temperature without sampling": {"do_sample": False, "temperature": 0.6, "top_p": 0.9},
    "suppressed": {"suppress_tokens": [5, 10, 17, 33, 64, 100, 200, 300]},
    "suppressed at the beginning": {"begin_suppress_tokens": list(range(100, 300))},
    "bad words": {"bad_words_ids": [[index] for index in range(3, 200)]},
    "shortest": {"min_length": 200},
    "shortest answer": {"min_new_tokens": 30},
    "forced end": {"forced_eos_token_id": 9},
    "forced begin": {"forced_bos_token_id": 9},
    "longest": {"max_length": 3},
    "decay": {"exponential_decay_length_penalty": [1, 5.0]},
    "dictionary": {"return_dict_in_generate": True, "output_scores": True},
    "other end": {"eos_token_id": list(range(50, 250))},
    "early stopping": {"num_beams": 2, "early_stopping": True, "length_penalty": 2.0},
    "stop strings": {"stop_strings": ["a", "e"]},
    "watermark": {"watermarking_config": {"greenlist_ratio": 0.25, "bias": 9.0}},
    "no cache": {"use_cache": False, "cache_implementation": "static"},
}


@pytest.fixture
def asking(llama_checkpoint: Path, tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """A base model whose generation_config.json asks for something."""

    def make(asked: dict[str, Any]) -> Path:
        path = tmp_path / "asking"
        shutil.copytree(llama_checkpoint, path)
        (path / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, **asked}))
        return path

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", ASKED)
def test_what_the_base_model_asks_for_does_not_act(
    asking: Callable[..., Path], llama_checkpoint: Path, said: list[str], name: str
) -> None:
    question = {"max_new_tokens": 12}
    plain = Chatbot.load(llama_checkpoint)
    expected = [plain.predict("Name a fruit.", **question), plain.predict("Name a fruit.", **question, num_beams=2)]
    assert not any("generation_config" in text for text in said)
    bot = Chatbot.load(asking(ASKED[name]))
    assert bot.predict("Name a fruit.", **question) == "".join(bot.stream("Name a fruit.", **question)) == expected[0]
    assert bot.predict("Name a fruit.", **question, num_beams=2) == expected[1]
    told = [text for text in said if "generation_config.json" in text]
    quiet = ("longest", "other end", "dictionary", "no cache")
    assert len(told) == (name not in quiet)
    if told:
        asked, value = next((k, v) for k, v in ASKED[name].items() if k not in ("do_sample",) or v)
        assert f" {asked} {value if isinstance(value, int | float) and value is not True else ''}" in told[0]


def test_the_model_keeps_its_own_settings(asking: Callable[..., Path]) -> None:
    bot = Chatbot.load(asking({"num_beams": 4}))
    bot.predict("Name a fruit.", max_new_tokens=2)
    assert bot.model.generation_config.num_beams == 4


def test_settings_in_config_json_do_not_act_either(llama_checkpoint: Path, tmp_path: Path) -> None:
    """Where models had them before generation_config.json came."""
    path = shutil.copytree(llama_checkpoint, tmp_path / "old")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "num_beams": 4, "repetition_penalty": 5.0}))
    (path / "generation_config.json").unlink()
    expected = Chatbot.load(llama_checkpoint).predict("Name a fruit.", max_new_tokens=12)
    assert Chatbot.load(path).predict("Name a fruit.", max_new_tokens=12) == expected


def test_end_tokens_are_added_and_nothing_else_is_lost() -> None:
    own = GenerationConfig(eos_token_id=[7, 2], num_beams=3, bos_token_id=1)
    found = with_end_tokens(own, [5, 2])
    assert (found.eos_token_id, found.num_beams, found.bos_token_id) == ([5, 2, 7], 3, 1)
    assert own.eos_token_id == [7, 2]
    assert with_end_tokens(GenerationConfig(eos_token_id=2), [2]).eos_token_id == 2
    assert with_end_tokens(None, [2]).eos_token_id == 2


def test_what_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    found = with_end_tokens(GenerationConfig(do_sample=False, temperature=0.6, bos_token_id=1), [3])
    found.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == 3


@pytest.fixture
def other_end(llama_checkpoint: Path, tmp_path: Path) -> Path:
    """A base model whose own end token is not the one that its chat template closes a turn with."""
    path = shutil.copytree(llama_checkpoint, tmp_path / "other_end")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.eos_token = "<|pad|>"
    tokenizer.save_pretrained(path)
    settings = {"eos_token_id": 0, "do_sample": False, "temperature": 0.6}
    (path / "generation_config.json").write_text(json.dumps(settings))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("peft", ["lora", "none"])
def test_other_programs_stop_where_an_answer_ends(
    run_cli: Callable[..., Any], write_records: Callable[..., Path], other_end: Path, tmp_path: Path, peft: str
) -> None:
    """Plain transformers, with the model's own generation_config.json, on the merged or whole model."""
    run_cli(
        "finetune", "--model_name_or_path", other_end, "--train_file", write_records(ROWS), "--output_dir", "run",
        "--template", "chat", "--num_train_epochs", 60, "--learning_rate", "0.02" if peft == "lora" else "0.003",
        "--lora_rank", 16, "--lora_all_linear", "--lora_dropout", 0, "--per_device_train_batch_size", 4,
        "--save_strategy", "no", "--report_samples", 0, "--peft", peft, check=True,
    )  # fmt: skip
    assert json.loads((tmp_path / "run" / "generation_config.json").read_text())["eos_token_id"] == [2, 0]
    whole = tmp_path / "run"
    if peft == "lora":
        run_cli("merge", "run", "--output", "merged", check=True)
        whole = tmp_path / "merged"
        assert json.loads((whole / "generation_config.json").read_text())["eos_token_id"] == [2, 0]
    tokenizer, model = AutoTokenizer.from_pretrained(whole), AutoModelForCausalLM.from_pretrained(whole)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": ROWS[0]["instruction"]}], add_generation_prompt=True, return_tensors="pt",
        return_dict=True,
    )  # fmt: skip
    with torch.inference_mode():
        output = model.generate(**prompt, max_new_tokens=40, do_sample=False)
    answer = output[0, prompt["input_ids"].shape[1] :]
    assert answer[-1] == 2
    assert tokenizer.decode(answer, skip_special_tokens=True) == ROWS[0]["output"]
