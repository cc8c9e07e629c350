"""Very long lines and very many files: read within bounds or refused, and messages stay messages."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.forks import run_captured
from support.runs import Desk

from neuralchat.runs.directory import read_manifest

FLAGS = ["--max_steps", "2", "--save_steps", "1", "--report_samples", "0", "--keep_general", "false"]
MANY = 10_000
# Bytes that a person may be shown at once.
MESSAGE = 16 << 10
LONG = 20 << 20


class TrainingDesk(Desk):
    def run(self, *words: str, prepare: Callable[[], None] = lambda: None) -> tuple[int, str]:
        status, said = super().run(*words, prepare=prepare)
        assert self.log.stat().st_size < MESSAGE, said[:2000]
        return status, said

    def train(self, output: str, *more: str, records: list[str] | None = None, **options: Any) -> tuple[int, str]:
        words = ["finetune", "--model_name_or_path", str(self.model), "--output_dir", output, *FLAGS, *more]
        return self.run(*words, "--train_file", *(records or ["records.json"]), **options)


@pytest.fixture
def desk(tmp_path: Path, llama_checkpoint: Path) -> TrainingDesk:
    return TrainingDesk(tmp_path, llama_checkpoint)


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))


def test_ten_thousand_record_files(desk: TrainingDesk) -> None:
    (desk.directory / "many").mkdir()
    names = [f"many/{number}.jsonl" for number in range(MANY)]
    for number, name in enumerate(names):
        (desk.directory / name).write_text(json.dumps({"instruction": f"Say {number}.", "output": str(number)}) + "\n")
    status, said = desk.train("run", records=names, prepare=few_descriptors)
    assert status == 0, said
    assert read_manifest(desk.directory / "run")["data"]["counts"]["train"]["examples"] == MANY
    assert desk.run("show", "run")[0] == 0
    # What is wrong with one of them, with all of them, and that they change meanwhile.
    (desk.directory / names[700]).write_text('{"instruction": 7, "output": "x"}\n')
    status, said = desk.train("one", records=names[:1000], prepare=few_descriptors)
    assert status == 2
    assert "many/700.jsonl row 1: field 'instruction' must be text, found int 7" in said
    status, said = desk.train("none", records=[f"{name}.gone" for name in names])
    assert status == 2
    assert "many/0.jsonl.gone" in said
    assert f"and {MANY - 20} more" in said
    assert not (desk.directory / "none").exists()
    (desk.directory / names[700]).write_text('{"instruction": "7", "output": "x"}\n')

    def changes() -> None:
        from neuralchat.data import prepared_data

        true_tokenize = prepared_data.tokenize

        def changing(*words: Any) -> Any:
            yield from true_tokenize(*words)
            (desk.directory / names[5]).write_text('{"instruction": "8", "output": "x"}\n')

        prepared_data.tokenize = changing

    status, said = desk.train("changed", records=names[:1000], prepare=changes)
    assert status == 2
    assert "the records changed while they were read: many/0.jsonl, many/1.jsonl" in said
    assert "and 992 more" in said


def make_directory(place: Path) -> str:
    for number in range(MANY):
        (place / f"data-{number:05}-of-{MANY}.arrow").touch()
    return "name the files in it"


def make_parts(place: Path) -> str:
    (place / "train").mkdir()
    (place / "dataset_dict.json").write_text('{"splits": ["train"]}')
    make_directory(place / "train")
    (place / "train" / "state.json").touch()
    return "many cannot be read as a data set: state.json: it is not JSON"


@pytest.mark.parametrize("make", [make_directory, make_parts])
def test_a_directory_of_ten_thousand_files_in_the_place_of_one(desk: TrainingDesk, make: Callable[[Path], str]) -> None:
    (desk.directory / "many").mkdir()
    expected = make(desk.directory / "many")
    status, said = desk.train("run", records=["many"])
    assert status == 2
    assert expected in said


def test_a_run_among_ten_thousand_files_and_checkpoints(desk: TrainingDesk) -> None:
    assert desk.train("run")[0] == 0
    run = desk.directory / "run"
    for number in range(10, MANY + 10):
        (run / f"checkpoint-{number}").mkdir()
        (run / f"notes-{number}.txt").touch()
    assert desk.run("show", "run")[0] == 0
    assert desk.run("chat", "run", "-p", "a", "--max_new_tokens", "2")[0] == 0
    status, said = desk.train("other", "--resume_from_checkpoint", "run")
    assert status == 2
    assert f"run/checkpoint-{MANY + 9}" in said
    status, said = desk.train("run", "--resume_from_checkpoint", "auto", "--max_steps", "3", "--allow_changed", "all")
    assert status == 0
    assert "going on from run/checkpoint-2" in said
    assert f"run/checkpoint-{MANY + 9} is passed over: it lacks" in said
    assert len(list(run.glob("notes-*"))) == MANY
    status, said = desk.train("run", "--overwrite_output_dir")
    assert status == 0
    assert len(list(run.glob("notes-*"))) == MANY
    assert len(list(run.glob("checkpoint-*"))) == 2


def long_line(path: Path) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb") as stream:
        stream.write(b'{"a": "')
        for _ in range(LONG >> 20):
            stream.write(b"x" * (1 << 20))
        stream.write(b'"}\n')


# The file that is one very long line -> the commands that come by it.
LINES: dict[str, tuple[str, ...]] = {
    "run/neuralchat.json": ("show", "chat", "repeat"),
    "run/metrics.jsonl": ("show", "resume"),
    "run/.neuralchat.lock": ("resume",),
    "run/adapter_config.json": ("chat",),
    "run/tokenizer_config.json": ("chat",),
    "run/chat_template.jinja": ("chat",),
    "run/checkpoint-2/SHA256SUMS": ("resume",),
    "run/checkpoint-2/checkpoint.json": ("chat checkpoint",),
    "records.json": ("train", "eval"),
    "records.csv": ("csv",),
    "config.yaml": ("file",),
}


def commands(model: Path) -> dict[str, list[str]]:
    train = ["finetune", "--model_name_or_path", str(model), *FLAGS, "--output_dir"]
    return {
        "show": ["show", "run"],
        "chat": ["chat", "run", "-p", "a", "--max_new_tokens", "2"],
        "chat checkpoint": ["chat", "run/checkpoint-2", "-p", "a", "--max_new_tokens", "2"],
        "repeat": ["finetune", "--from_run", "run", "--output_dir", "again"],
        "resume": [*train, "run", "--train_file", "records.json", "--resume_from_checkpoint", "auto"],
        "train": [*train, "new", "--train_file", "records.json"],
        "csv": [*train, "new", "--train_file", "records.csv"],
        "eval": ["eval", "run", "--questions", "records.json", "--max_new_tokens", "2"],
        "file": ["finetune", "config.yaml", "--output_dir", "new"],
    }


def test_files_that_are_one_very_long_line(desk: TrainingDesk) -> None:
    assert desk.train("run")[0] == 0

    def prepare() -> None:
        from neuralchat import cli

        for name, verbs in LINES.items():
            for verb in verbs:
                place = Path("attempt")
                place.mkdir()
                shutil.copytree("run", place / "run")
                shutil.copy("records.json", place)
                long_line(place / name)
                with pytest.MonkeyPatch.context() as patch:
                    patch.chdir(place)
                    print(f"{name} {verb}: {cli.main(commands(desk.model)[verb])}", flush=True)
                shutil.rmtree(place)

    status, said = desk.run("show", "nothing", prepare=prepare)
    assert status == 2
    ends = [line for line in said.splitlines() if line.endswith((": 0", ": 2"))]
    assert len(ends) == sum(map(len, LINES.values())), said
    # The lock is anybody's, a line of metrics or a template that is not used may be long, and there is another
    # checkpoint.
    may_be_taken = ("run/.neuralchat.lock", "run/metrics.jsonl", "run/chat_template.jinja", "run/checkpoint-2/SHA256")
    assert [line for line in ends if line.endswith(": 0") and not line.startswith(may_be_taken)] == []


QUESTIONS = [
    (4 << 20, "4,194,304 characters; at most 1,048,576 are tokenized"),
    (30 << 10, "the model was made for 1024"),
]


@pytest.mark.parametrize(("size", "expected"), QUESTIONS)
def test_a_very_long_question(desk: TrainingDesk, size: int, expected: str) -> None:
    """By standard input, and as a word where a command takes one so long."""
    words = ["chat", str(desk.model), "--template", "alpaca", "--max_new_tokens", "2"]
    text = "x." * (size // 2)
    asked = [run_captured(words, desk.directory, stdin=f"{text}\nName a fruit.\n")]
    asked.append(run_captured([*words, "-p", text], desk.directory))
    for result in asked:
        assert expected in result.stderr
        assert "Traceback" not in result.stderr
        assert len(result.stderr) + len(result.stdout) < MESSAGE
        assert result.returncode == 2
