"""neuralchat export: what is written is whole, says the prompts of training, and what cannot be is refused by name."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from support.engines.llama_cpp import llama_cpp, needs_llama_cpp
from support.small_models import CHAT_TEMPLATE, make_pieces_tokenizer, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuralchat.cli import make_parser
from neuralchat.config.arguments import DataArguments
from neuralchat.data.records import Turn
from neuralchat.data.templates.alpaca import AlpacaTemplate
from neuralchat.data.templates.chat import ChatTemplate
from neuralchat.data.templates.portable import portable_template, written_otherwise
from neuralchat.errors import AdapterError, ArgumentsError, DataError, ModelError, RunDirectoryError
from neuralchat.evaluation.held_out import data_arguments, held_out_items
from neuralchat.export import gguf as exporting
from neuralchat.export.card import CARD_FILE
from neuralchat.export.command import export
from neuralchat.export.modelfile import frames_of, modelfile
from neuralchat.inference.chatbot import Chatbot
from neuralchat.models.adapters import merging
from neuralchat.models.compat.llama_cpp import quantized, quantizer
from neuralchat.models.gguf.tensor_types import TENSOR_TYPES, stored_as, stored_bytes, stored_weight
from neuralchat.models.gguf.vocabulary import vocabulary_of
from neuralchat.runs.summary import summary_of_run

FIXTURE = Path(__file__).parents[2] / "fixtures" / "run_of_0_1"
RUN, MODEL = FIXTURE / "run", FIXTURE / "model"
QUESTION = "Name an animal."


def options(*words: object) -> argparse.Namespace:
    return make_parser().parse_args(["export", str(RUN), "--base_model", str(MODEL), *map(str, words)])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, cache_of_the_session: None) -> Path:
    output = tmp_path_factory.mktemp("gguf") / "out"
    assert export(options("--gguf", "f32", "--output", output)) == 0
    return output


def test_a_gguf_holds_the_merged_weights_and_the_template(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == ["Modelfile", "README.md", "run-f32.gguf"]
    reader = gguf.GGUFReader(written / "run-f32.gguf")
    bot = Chatbot.load(RUN, base_model=MODEL)
    whole = bot.model.merge_and_unload()
    found = {tensor.name: tensor for tensor in reader.tensors}
    expected = whole.get_output_embeddings().weight.detach().numpy()
    name = "output.weight" if "output.weight" in found else "token_embd.weight"
    np.testing.assert_allclose(found[name].data, expected, atol=1e-6)
    layer = whole.model.layers[0].mlp.down_proj.weight.detach().numpy()
    np.testing.assert_allclose(found["blk.0.ffn_down.weight"].data, layer, atol=1e-6)
    assert reader.get_field("tokenizer.chat_template").contents() == portable_template(bot.template)
    assert reader.get_field("tokenizer.ggml.eos_token_id").contents() == bot.voice.end_ids[0]


def test_llama_cpp_answers_as_the_run_does(written: Path) -> None:
    """From a question in words: its own template, its own tokens, its own answer."""
    needs_llama_cpp()
    bot = Chatbot.load(RUN, base_model=MODEL)
    conversations = [
        [{"role": "user", "content": QUESTION}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "Another  one?"},
        ],
    ]
    turns = [[Turn(message["role"], message["content"]) for message in messages] for messages in conversations]
    prompts = [bot.voice.whole_prompt(each) for each in turns]
    rendered = llama_cpp(written / "run-f32.gguf", messages=conversations)["rendered"]
    told = llama_cpp(written / "run-f32.gguf", texts=rendered, prompts=prompts, new=20)
    assert told["ids"] == prompts
    for answer, prompt in zip(told["answers"], prompts, strict=True):
        with torch.inference_mode():
            expected = bot.model.generate(
                input_ids=torch.tensor([prompt]), do_sample=False, max_new_tokens=20, eos_token_id=bot.voice.end_ids
            )
        assert answer["tokens"] == expected[0, len(prompt) :].tolist()


def test_a_killed_or_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(exporting, "write_gguf_of", full)
    with pytest.raises(RunDirectoryError, match=r"cannot be written: .*No space left on device; there is no GGUF file"):
        export(options("--gguf", "f16", "--output", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", TENSOR_TYPES)
def test_every_type_is_near_what_it_stores(kind: str, tmp_path: Path) -> None:
    if TENSOR_TYPES[kind].native:
        needs_llama_cpp()
    assert export(options("--gguf", kind, "--output", tmp_path / "out")) == 0
    bot = Chatbot.load(RUN, base_model=MODEL)
    expected = bot.model.merge_and_unload().model.layers[0].mlp.down_proj.weight.detach().numpy()
    reader = gguf.GGUFReader(next((tmp_path / "out").glob("*.gguf")))
    found = next(tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_down.weight")
    # Rows that no block of 256 fits have smaller ones.
    layers = bot.model.config.num_hidden_layers
    assert found.tensor_type == stored_as(TENSOR_TYPES[kind], found.name, expected.shape, layers)
    values = gguf.quants.dequantize(found.data, found.tensor_type)
    error = np.linalg.norm(values - expected) / np.linalg.norm(expected)
    assert error < {"f32": 1e-6, "f16": 1e-3, "bf16": 5e-3, "q8_0": 1e-2}.get(kind, 0.1)


def test_rows_that_are_no_multiple_of_a_block_are_told_apart() -> None:
    assert stored_as(TENSOR_TYPES["q8_0"], "blk.0.ffn_up.weight", (8, 33)).name == "F16"
    assert stored_as(TENSOR_TYPES["q4_0"], "token_embd.weight", (8, 64)).name == "Q8_0"
    assert stored_as(TENSOR_TYPES["q4_0"], "output_norm.weight", (64,)).name == "F32"
    # Blocks of 256 numbers, of 32, and none.
    for row, name in ((512, "Q4_K"), (576, "Q5_0"), (33, "F16")):
        assert stored_as(TENSOR_TYPES["q4_k_m"], "blk.5.ffn_up.weight", (8, row), 30).name == name


def test_some_matrices_of_a_mixture_have_more_bits() -> None:
    """The first two, the last two, and every third between (worked out by hand from use_more_bits)."""
    layers = range(16)
    down = [stored_as(TENSOR_TYPES["q4_k_m"], f"blk.{i}.ffn_down.weight", (8, 512), 16).name for i in layers]
    assert [i for i in layers if down[i] == "Q6_K"] == [0, 1, 4, 7, 10, 13, 14, 15]
    small = [stored_as(TENSOR_TYPES["q4_k_s"], f"blk.{i}.attn_v.weight", (8, 512), 16).name for i in layers]
    assert [i for i in layers if small[i] == "Q5_K"] == [0, 1, 2, 3]
    assert stored_as(TENSOR_TYPES["q5_k_m"], "token_embd.weight", (8, 512), 16).name == "Q6_K"


@pytest.mark.parametrize("kind", [row.name for row in TENSOR_TYPES.values() if row.native])
def test_k_quants_are_those_of_llama_cpp(kind: str) -> None:
    """Computed by its function, read back by the gguf package, which was written by others."""
    needs_llama_cpp()
    stored = TENSOR_TYPES[kind].stored
    weight = torch.randn(6, 512, generator=torch.Generator().manual_seed(1))
    found = stored_weight(weight, stored)
    assert found.nbytes == stored_bytes(stored, (6, 512))
    error = np.linalg.norm(gguf.quants.dequantize(found, stored) - weight.numpy()) / np.linalg.norm(weight.numpy())
    assert error < {"q6_k": 0.02, "q5_k_m": 0.04, "q5_k_s": 0.04}.get(kind, 0.08)


def test_types_of_the_gguf_package_are_those_of_llama_cpp_byte_for_byte() -> None:
    needs_llama_cpp()
    weight = torch.randn(6, 512, generator=torch.Generator().manual_seed(1))
    for kind in ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0"):
        stored = TENSOR_TYPES[kind].stored
        np.testing.assert_array_equal(stored_weight(weight, stored), quantized(weight.numpy(), stored))


def test_without_the_package_k_quants_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    quantizer.cache_clear()
    with pytest.raises(ModelError, match=r"llama\.cpp's own quantizer: pip install 'neuralchat\[llamacpp\]'"):
        export(options("--gguf", "q4_k_m", "--output", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# The adapter alone, for llama.cpp (its numbers: tests/parity/test_gguf_adapters.py)


def test_the_adapter_as_gguf_answers_beside_its_base_model(written: Path, tmp_path: Path) -> None:
    needs_llama_cpp()
    assert export(options("--gguf_adapter", "f32", "--output", tmp_path / "lora")) == 0
    written_files = ["README.md", "chat_template.jinja", "run-lora-f32.gguf"]
    assert sorted(path.name for path in (tmp_path / "lora").iterdir()) == written_files
    base = make_parser().parse_args(["export", str(MODEL), "--gguf", "f32", "--output", str(tmp_path / "base")])
    assert export(base) == 0
    bot = Chatbot.load(RUN, base_model=MODEL)
    prompts = [bot.voice.whole_prompt([Turn("user", QUESTION)])]
    lora = tmp_path / "lora" / "run-lora-f32.gguf"
    both = llama_cpp(next((tmp_path / "base").glob("*.gguf")), prompts=prompts, new=20, lora=lora)
    whole = llama_cpp(written / "run-f32.gguf", prompts=prompts, new=20)
    assert both["answers"][0]["tokens"] == whole["answers"][0]["tokens"]
    assert (tmp_path / "lora" / "chat_template.jinja").read_text() == portable_template(bot.template)


def test_an_adapter_is_shared_without_paths_of_this_machine(tmp_path: Path) -> None:
    output = tmp_path / "shared"
    assert export(options("--adapter", output)) == 0
    texts = [path.read_text() for path in output.iterdir() if path.suffix in (".json", ".md")]
    made_in = json.loads((RUN / "neuralchat.json").read_text())["working_directory"]
    assert not any(str(MODEL) in text or made_in in text for text in texts)
    assert (output / "README.md").read_text().endswith("; `chat_template.jinja` holds the template.\n")
    bot = Chatbot.load(RUN, base_model=MODEL)
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(output)
    adapted = PeftModel.from_pretrained(base, output).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    assert prompt[0].tolist() == bot.voice.whole_prompt([Turn("user", QUESTION)])
    with torch.inference_mode():
        torch.testing.assert_close(adapted(prompt).logits, bot.model(prompt).logits)


def test_a_merged_model_says_the_template_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(options("--merge", tmp_path / "whole")) == 0
    said = capsys.readouterr().out
    assert "merging moves no logit by more than" in said
    assert re.search(r"next token at 0 of \d+ positions of general prompts\n", said)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], add_generation_prompt=True)[
        "input_ids"
    ]
    assert ids == Chatbot.load(tmp_path / "whole").voice.whole_prompt([Turn("user", QUESTION)])
    check_what_it_says_of_itself(tmp_path / "whole")


@pytest.mark.parametrize("way", [("--merge", "{}"), ("--gguf", "f32", "--output", "{}")])
def test_a_merge_that_is_another_model_is_refused_unless_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: tuple[str, ...]
) -> None:
    """Here every rounding counts as such."""
    monkeypatch.setattr(merging, "MERGE_TOLERANCE", {torch.float32: 0.0, torch.bfloat16: 0.0})
    words = [word.format(tmp_path / "whole") for word in way]
    with pytest.raises(AdapterError, match=r"the merged model is another one .* Nothing was written; .*--allow_lossy"):
        export(options(*words))
    assert list(tmp_path.iterdir()) == []
    assert export(options(*words, "--allow_lossy")) == 0
    assert list((tmp_path / "whole").iterdir())


def check_what_it_says_of_itself(whole: Path) -> None:
    """No place of the machine that trained, no record; all that the card, `show` and an evaluation need."""
    own, said = (json.loads((place / "neuralchat.json").read_text()) for place in (RUN, whole))
    told = [path.read_text() for path in whole.iterdir() if path.name in ("neuralchat.json", "config.json", CARD_FILE)]
    secret = [str(MODEL), own["working_directory"], *own["arguments"]["train_file"]]
    secret += [text for sample in own["results"]["samples"] for text in (sample["question"], sample["after"])]
    assert len(secret) > 3
    assert [text for text in secret if any(text in file for file in told)] == []
    assert said["arguments"]["max_seq_length"] == own["arguments"]["max_seq_length"]
    assert said["data"]["train_fingerprint"] == own["data"]["train_fingerprint"]
    summary_of_run(whole, said)
    assert data_arguments(whole).max_seq_length == own["arguments"]["max_seq_length"]
    # The merged model of a checkpoint knows no arguments.
    (whole / "neuralchat.json").write_text(json.dumps({name: said[name] for name in said if name != "arguments"}))
    assert data_arguments(whole) == DataArguments()
    with pytest.raises(DataError, match="is a merged model, which does not say where records are; name questions"):
        held_out_items(whole, Chatbot.load(whole), None, None)


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        ([], ArgumentsError, "export takes one of .*; found none"),
        (["--gguf", "f16", "--merge", "x"], ArgumentsError, "found --merge, --gguf"),
        (["--merge", RUN], RunDirectoryError, "^--merge .*run is not empty; name a directory that is new"),
        (["--merge", "x", "--output", "y"], ArgumentsError, "--output belongs to --gguf and --gguf_adapter"),
        (["--gguf", "q9"], ArgumentsError, "--gguf is 'q9'; allowed are f32, f16, bf16, q8_0, q6_k, q5_k_m"),
        (["--gguf", "q2_k"], ArgumentsError, "fewer need measurements of"),
        (
            ["--openvino", "x"],
            ArgumentsError,
            "^--openvino is not written here: .*--gguf f16, .*openvino-genai.* --merge DIR, .*optimum-cli",
        ),
        (["--gguf_adapter", "q8_0"], ArgumentsError, "--gguf_adapter is 'q8_0'; allowed are f32, f16, bf16$"),
    ],
)
def test_what_does_not_go_together(words: list[str], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        export(options(*words))


def test_a_base_model_that_is_named_anew_leaves_no_path_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    config = json.loads((run / "adapter_config.json").read_text())
    (run / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/home/secret/model"}))
    # Its name is what others may call it, as that of a fetched model is.
    monkeypatch.chdir(MODEL.parent)
    words = ["export", str(run), "--base_model", MODEL.name, "--adapter", str(tmp_path / "shared")]
    assert export(make_parser().parse_args(words)) == 0
    for path in (tmp_path / "shared").glob("*[nd]"):
        assert "/home/secret" not in path.read_text()
    assert (
        json.loads((tmp_path / "shared" / "adapter_config.json").read_text())["base_model_name_or_path"] == MODEL.name
    )


def test_a_base_model_has_no_adapter_to_export(tmp_path: Path) -> None:
    asked = make_parser().parse_args(["export", str(MODEL), "--adapter", str(tmp_path / "x")])
    with pytest.raises(AdapterError, match="has no adapter of its own"):
        export(asked)


# Templates


def test_alpaca_as_a_chat_template_writes_the_prompts_of_training() -> None:
    tokenizer = make_tokenizer(chat=False)
    for template in (AlpacaTemplate((), "<|end|>"), AlpacaTemplate(("<|start|>",), "<|end|>")):
        source = portable_template(template)
        assert source is not None
        assert written_otherwise(source, template, tokenizer) == []


def test_a_prompt_that_differs_is_found() -> None:
    tokenizer = make_tokenizer()
    source = CHAT_TEMPLATE.replace("assistant\n{% endif", "assistant \n{% endif")
    assert len(written_otherwise(source, ChatTemplate(tokenizer), tokenizer)) == 4


def test_variables_of_training_are_fixed_in_the_template() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% if mood is defined %}{{ mood }}{% endif %}" + CHAT_TEMPLATE
    template = ChatTemplate(tokenizer, {"mood": 'gl"ad'})
    source = portable_template(template)
    assert source is not None
    assert written_otherwise(source, template, tokenizer) == []
    assert len(written_otherwise(tokenizer.chat_template, template, tokenizer)) == 4


def test_a_modelfile_for_ollama() -> None:
    text, has_template = modelfile("a.gguf", ChatTemplate(make_tokenizer()), "")
    assert has_template
    assert text.splitlines()[0] == "FROM ./a.gguf"
    assert 'PARAMETER stop "<|end|>"' in text
    assert text.endswith("PARAMETER temperature 0\nPARAMETER repeat_penalty 1\n")
    assert '{{ "<|start|>user\\n" }}{{ $m.Content }}{{ "<|end|>\\n<|start|>assistant\\n" }}' in text


def test_a_template_that_counts_turns_gets_no_modelfile_template() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "{{ message['role'] }}", "{{ message['role'] }}{{ messages|length }}"
    )
    template = ChatTemplate(tokenizer)
    assert frames_of(template, "") is None
    assert "TEMPLATE" not in modelfile("a.gguf", template, "")[0]


# Tokenizers


def test_pieces_with_spaces_are_a_llama_vocabulary() -> None:
    tokenizer = make_pieces_tokenizer()
    found = vocabulary_of(tokenizer, 300, [1], [])
    assert (found.model, found.settings) == ("llama", {"add_space_prefix": True})
    assert (found.tokens[2], found.types[2]) == ("<0x00>", 6)
    assert (found.tokens[-1], found.types[-1]) == ("[PAD299]", 5)
    assert found.special["eos"] == 1


def test_a_tokenizer_that_splits_otherwise_is_refused() -> None:
    from tokenizers import pre_tokenizers

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(ModelError, match=r"splits texts in a way that llama\.cpp has no name for"):
        vocabulary_of(tokenizer, 400, [2], [])
