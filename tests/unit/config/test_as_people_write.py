"""What people write: paths with ~, names with commas, words that YAML takes for booleans, names of other tools."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from neuralchat.config.command.legacy_flags import LEGACY_FLAGS
from neuralchat.config.command.parser import parse
from neuralchat.config.command.suggestions import FLAGS_OF_OTHER_TOOLS, VERBS_OF_OTHER_TOOLS, WITHOUT_A_FLAG
from neuralchat.config.config import FinetuneConfig
from neuralchat.config.schema import SCHEMA
from neuralchat.errors import ArgumentsError

MINIMAL = ("--model_name_or_path", "m", "--train_file", "a.json", "--output_dir", "out")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def parsed(*words: str) -> FinetuneConfig:
    return parse([*words], prog="neuralchat finetune", implied=("--do_train",))


def refusal(*words: str) -> list[str]:
    with pytest.raises(ArgumentsError) as caught:
        parsed(*words)
    return [line.removeprefix("  - ") for line in str(caught.value).splitlines()[1:]]


# Paths


def test_every_path_is_expanded_from_flag_file_and_call(home: Path, tmp_path: Path) -> None:
    # --mix has a test of its own.
    other = {"from_run", "mix"}
    names = [name for name, argument in SCHEMA.arguments.items() if argument.facts.path and name not in other]
    assert len(names) > 9
    # Either of them is a source of records.
    given = {name: f"~/{name}" for name in names if name != "dataset_name"}
    (home / "c.yaml").write_text("".join(f"{name}: {value}\n" for name, value in given.items()))
    sources = {
        "flags": parsed(*(word for name, value in given.items() for word in (f"--{name}", value))),
        "joined": parsed(*(f"--{name}={value}" for name, value in given.items())),
        "pairs": parsed(*(f"{name}={value}" for name, value in given.items())),
        "file": parsed("~/c.yaml"),
        "call": FinetuneConfig.from_values({**{n: Path(v) for n, v in given.items()}, "do_train": True}),
    }
    for source, config in sources.items():
        for name in given:
            found = config.value(SCHEMA.arguments[name])
            expected = str(home / name)
            assert (source, found) == (source, [expected] if isinstance(found, list) else expected)


def test_paths_of_a_mixture_are_expanded(home: Path) -> None:
    expected = [f"{home}/a.json=0.7", "b.json=0.3"]
    common = ("--model_name_or_path", "m", "--output_dir", "out")
    assert parsed("--mix", "~/a.json=0.7", "b.json=0.3", *common).data.mix == expected


def test_what_is_no_path_and_names_without_a_tilde_stay(home: Path) -> None:
    config = parsed("--model_name_or_path", "org/~model", "--train_file", "a~b.json", "$HOME/c.json", "--output_dir",
                    "out", "--run_name", "~/x")  # fmt: skip
    assert config.model.model_name_or_path == "org/~model"
    assert config.data.train_file == ["a~b.json", "$HOME/c.json"]
    assert config.training.run_name == "~/x"


# Words that YAML takes for something else


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ("save_strategy: no", "save_strategy", "no"),
        ("eval_strategy: No", "eval_strategy", "no"),
        ("logging_strategy: off", "logging_strategy", "no"),
        ("save_strategy: false", "save_strategy", "no"),
        ("save_strategy: Epoch", "save_strategy", "epoch"),
        ("model_revision: 1.10", "model_revision", "1.10"),
        ("run_name: 2024-05-06", "run_name", "2024-05-06"),
        ("run_name: on", "run_name", "on"),
        ("run_name: 007", "run_name", "007"),
        ("lora_target_modules: [on, q_proj]", "lora_target_modules", ["on", "q_proj"]),
        ("bf16: on", "bf16", True),
        ("bf16: Off", "bf16", False),
        ("seed: 1_000", "seed", 1000),
        ("learning_rate: 1e-3", "learning_rate", 0.001),
        ("num_train_epochs: .5", "num_train_epochs", 0.5),
        ("lr_scheduler_kwargs: {power: 2, flag: yes}", "lr_scheduler_kwargs", '{"power": 2, "flag": true}'),
    ],
)
def test_a_word_of_a_file_is_read_as_its_argument_means_it(tmp_path: Path, line: str, name: str, expected: Any) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"model_name_or_path: m\ntrain_file: a.json\noutput_dir: out\n{line}\n")
    found = parsed(str(file)).value(SCHEMA.arguments[name])
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("words", [("--save_strategy", "False"), ("save_strategy=no",), ("--save_strategy", "NO")])
def test_the_same_words_on_the_command_line(words: tuple[str, ...]) -> None:
    assert parsed(*MINIMAL, *words).training.save_strategy == "no"


# Names with commas


@pytest.mark.parametrize(
    "words",
    [
        ("--lora_target_modules", "q_proj,v_proj"),
        ("--lora_target_modules", "q_proj, v_proj"),
        ("--lora_target_modules", "q_proj,", "v_proj"),
        ("--lora_target_modules", "q_proj", "v_proj"),
        ("lora_target_modules=q_proj,v_proj",),
        ("lora_target_modules=[q_proj,v_proj]",),
        ("--lora_target_modules=['q_proj', 'v_proj']",),
    ],
)
def test_names_with_commas_are_several(words: tuple[str, ...]) -> None:
    assert parsed(*MINIMAL, *words).tuning.lora_target_modules == ["q_proj", "v_proj"]


def test_names_with_commas_in_a_file_and_from_python(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("lora_target_modules: q_proj,v_proj\nreport_to: tensorboard,wandb\n")
    config = parsed(str(file), *MINIMAL)
    assert config.tuning.lora_target_modules == ["q_proj", "v_proj"]
    assert config.training.report_to == ["tensorboard", "wandb"]
    config = FinetuneConfig.from_values(
        {"model_name_or_path": "m", "train_file": "a,b.json", "output_dir": "o", "do_train": True,
         "allow_changed": "lora_rank,seed", "special_tokens": ["<a,b>"]}
    )  # fmt: skip
    assert config.tuning.allow_changed == ["lora_rank", "seed"]
    # Neither a file nor a token is a name.
    assert config.data.train_file == ["a,b.json"]
    assert config.data.special_tokens == ["<a,b>"]


def test_a_pattern_is_one_name() -> None:
    pattern = r".*\.(q|v)_proj{1,2}"
    assert parsed(*MINIMAL, "--optim_target_modules", pattern).training.optim_target_modules == pattern


# Names that are not ours


def test_names_of_other_tools_lead_to_flags_that_are_there_and_are_no_flags_themselves() -> None:
    ours = set(SCHEMA.arguments) | set(SCHEMA.negations)
    assert set(FLAGS_OF_OTHER_TOOLS.values()) - ours == set()
    assert set(FLAGS_OF_OTHER_TOOLS) & ours == set()
    assert set(WITHOUT_A_FLAG) & (ours | set(FLAGS_OF_OTHER_TOOLS) | set(LEGACY_FLAGS)) == set()
    mentioned = set(re.findall(r"--(\w+)", " ".join(WITHOUT_A_FLAG.values())))
    assert mentioned - ours == set()
    assert set(VERBS_OF_OTHER_TOOLS.values()) == {"finetune", "chat", "eval", "merge", "show", "fetch", "plan"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("lr", "learning_rate"), ("LR", "learning_rate"), ("epochs", "num_train_epochs"),
        ("batch-size", "per_device_train_batch_size"), ("learnin_rate", "learning_rate"),
        ("seeed", "seed"), ("r", "lora_rank"),
    ],
)  # fmt: skip
def test_a_flag_that_is_not_ours_is_told_with_ours(written: str, meant: str) -> None:
    assert refusal(*MINIMAL, f"--{written}", "1") == [f"unknown flag --{written}; did you mean --{meant}?"]


def test_a_mistake_in_writing_brings_no_others() -> None:
    words = ["--model", "m", "--train_fil", "a.json", "--out", "o", "--lerning_rate", "fast"]
    assert refusal(*words) == [
        "unknown flag --model; did you mean --model_name_or_path?",
        "unknown flag --train_fil; did you mean --train_file?",
        "unknown flag --out; did you mean --output_dir?",
        "unknown flag --lerning_rate; did you mean --learning_rate?",
    ]
    # What is wrong besides is told.
    assert refusal("--model", "m", "--seed", "x") == [
        "unknown flag --model; did you mean --model_name_or_path?",
        "--seed: invalid int value: 'x'",
        "--output_dir is missing: say where the run is to be saved",
        "no records to train on: give --train_file, --mix or --dataset_name",
    ]


@pytest.mark.parametrize(
    ("written", "value", "meant"),
    [
        ("use_peft", "True", "peft"), ("finetuning_type", "freeze", "peft"), ("torch_dtype", "bfloat16", "bf16"),
        ("dtype", "float16", "bf16"), ("lora_target_linear", "true", "lora_all_linear"), ("random_state", "x", "seed"),
        ("dataset_text_field", "text", "columns"), ("use-dora", "maybe", "lora_dora"),
    ],
)  # fmt: skip
def test_a_value_of_another_tool_is_no_second_problem(written: str, value: str, meant: str) -> None:
    expected = [f"unknown flag --{written}; did you mean --{meant}?"]
    assert refusal(*MINIMAL, f"--{written}", value) == expected
    assert refusal(*MINIMAL, f"--{written}")[:1] == expected


DESCRIPTIONS = {
    "datasets:\n  - path: a.json\n    type: alpaca\n  - path: b/chats.jsonl\n    ds_type: json": "a.json b/chats.jsonl",
    "datasets:\n  - path: json\n    data_files: [a.json, b.json]\n    field_messages: dialog": "a.json b.json",
    "datasets: [{path: tatsu-lab/alpaca, type: alpaca}, c.json]": "tatsu-lab/alpaca c.json",
    "dataset: {_component_: torchtune.datasets.alpaca_dataset, source: json, data_files: a.json}": "a.json",
    "train_file: {path: a.json}": "a.json",
    "dataset_name: [{name: 'my data', split: train}]": "'my data'",
    "data: [{type: sharegpt}]": "FILE ...",
}


@pytest.mark.parametrize("content", DESCRIPTIONS)
def test_described_data_sets_lead_to_the_flags_that_name_them(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    written = content.partition(":")[0]
    model = ("--model_name_or_path", "m", "--output_dir", "o")
    assert refusal(str(tmp_path / "a.yaml"), *model) == [
        f"--{written}: data sets are named here, not described: files with --train_file {DESCRIPTIONS[content]}, their "
        "shares with --mix FILE=0.7 FILE=0.3, a data set of the hub with --dataset_name, columns with --columns; what "
        "kind the records are is seen by their fields"
    ]


def test_described_data_sets_to_hold_out(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("eval_data: [{path: c.json}]")
    assert refusal(str(tmp_path / "a.yaml"), *MINIMAL) == [
        "--eval_data: data sets are named here, not described: files with --validation_file c.json, columns with "
        "--columns; what kind the records are is seen by their fields"
    ]


@pytest.mark.parametrize("words", [("--load_in_8bit",), ("--load_in_8bit", "True"), ("--load-in-4bit",)])
def test_quantized_weights_lead_to_what_there_is(words: tuple[str, ...]) -> None:
    (problem,) = refusal(*MINIMAL, *words)
    assert problem == (
        f"there is no flag {words[0]}: say --bits 8 (int8) or --bits 4 (NF4, with scales in 8 bits); they need no "
        "package"
    )


@pytest.mark.parametrize("name", sorted(WITHOUT_A_FLAG))
def test_what_has_no_flag_here_is_one_problem_with_what_to_do(name: str) -> None:
    assert refusal(*MINIMAL, f"--{name}", "x") == [f"there is no flag --{name}: {WITHOUT_A_FLAG[name]}"]


def test_a_configuration_of_another_tool(tmp_path: Path) -> None:
    file = tmp_path / "axolotl.yaml"
    file.write_text("load_in_8bit: true\nflash_attention: true\nstrict: false\nsequence_len: 512\n")
    with pytest.raises(ArgumentsError) as caught:
        parsed(str(file), *MINIMAL)
    found = [re.split("[;:]", line)[0] for line in str(caught.value).splitlines()[1:]]
    assert found == [
        "  - there is no flag --load_in_8bit",
        "  - there is no flag --flash_attention",
        "  - unknown flag --strict",
        "  - unknown flag --sequence_len",
    ]


# Spaces around the equals sign


@pytest.mark.parametrize(
    "words",
    [
        ("learning_rate", "=", "1e-3"), ("learning_rate", "=1e-3"), ("learning_rate=", "1e-3"),
        ("--learning_rate", "=", "1e-3"), ("--learning_rate", "=1e-3"), ("--learning_rate=", "1e-3"),
    ],
)  # fmt: skip
def test_spaces_around_the_equals_sign_are_one_error(words: tuple[str, ...]) -> None:
    told = ["'learning_rate = 1e-3' is to be written without spaces: learning_rate=1e-3"]
    assert refusal(*MINIMAL, *words) == told
    # Directly after a flag with several values too, and before others.
    assert refusal(*words, *MINIMAL) == told


def test_spaces_bring_no_other_errors() -> None:
    words = ["model_name_or_path", "=", "m", "train_file", "=", "a.json", "output_dir", "=", "o"]
    assert [line.partition(" is to be")[0] for line in refusal(*words)] == [
        "'model_name_or_path = m'", "'train_file = a.json'", "'output_dir = o'"
    ]  # fmt: skip


def test_a_name_without_its_dashes() -> None:
    told = ["'learning_rate 1e-3' lacks its dashes: --learning_rate 1e-3"]
    assert refusal(*MINIMAL, "--seed", "1", "learning_rate", "1e-3") == told


def test_an_empty_pair_before_others_takes_back() -> None:
    assert parsed(*MINIMAL, "seed=7", "seed=", "lora_rank=4").training.seed == 42
