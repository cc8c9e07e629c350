"""Runs, models, records and names of strangers: their code does not run, their names harm nobody."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.runs import ROWS, Desk

from neuralchat import cli
from neuralchat.data import prepared_data
from neuralchat.inference.chatbot import Chatbot
from neuralchat.runs.directory import read_manifest

FLAGS = ["--max_steps", "2", "--save_strategy", "no", "--sample_tokens", "4", "--report_samples", "1"]
TOKEN = "s3cr3t-0f-m1ne"
ESCAPE = "\x1b]0;pwned\x07\x9b2J\u202e"
# Bytes that a terminal obeys; \xc2\x9b is C1 in UTF-8.
OBEYED = (b"\x1b", b"\x07", b"\xc2\x9b", b"\xe2\x80\xae")


class TrainingDesk(Desk):
    def run(self, *words: str, prepare: Callable[[], None] = lambda: None) -> tuple[int, str]:
        status, _ = super().run(*words, prepare=prepare)
        written = self.log.read_bytes()
        assert not [byte for byte in OBEYED if byte in written]
        return status, written.decode()

    def train(self, *words: str, records: str = "records.json", **options: Any) -> tuple[int, str]:
        model = () if "--model_name_or_path" in words else ("--model_name_or_path", str(self.model))
        return self.run("finetune", *model, "--train_file", records, "--output_dir", "run", *FLAGS, *words, **options)


@pytest.fixture
def desk(tmp_path: Path, llama_checkpoint: Path) -> TrainingDesk:
    return TrainingDesk(tmp_path, llama_checkpoint)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def with_code(desk: TrainingDesk) -> tuple[Path, Path]:
    """(a model directory that has code of its own, the mark that the code leaves)."""
    model, mark = desk.directory / "model", desk.directory / "mark"
    shutil.copytree(desk.model, model)
    change(
        model / "config.json",
        model_type="stranger",
        auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"},
    )
    (model / "code.py").write_text(f"open({str(mark)!r}, 'w')\nraise SystemExit('ran')\n")
    return model, mark


def test_from_run_does_not_repeat_what_runs_code_or_reaches_out(desk: TrainingDesk) -> None:
    assert desk.train()[0] == 0
    model, mark = with_code(desk)
    manifest = json.loads((desk.directory / "run" / "neuralchat.json").read_text())
    manifest["arguments"] |= {
        "model_name_or_path": str(model),
        "trust_remote_code": True,
        "push_to_hub": True,
        "hub_model_id": "evil/evil",
        "report_to": ["tensorboard"],
        "hub_token": TOKEN,
        "cache_dir": str(desk.directory / "evil"),
        "dataset_cache_directory": str(desk.directory / "evil"),
    }
    (desk.directory / "run" / "neuralchat.json").write_text(json.dumps(manifest))
    status, said = desk.run("finetune", "--from_run", "run", "--output_dir", "again")
    assert status == 2
    assert not mark.exists()
    assert not (desk.directory / "again").exists()
    assert not (desk.directory / "evil").exists()
    assert "stranger" in said or "trust_remote_code" in said
    # Without the foreign model: trained, and nothing of the rest is done; it is told.
    manifest["arguments"]["model_name_or_path"] = str(desk.model)
    (desk.directory / "run" / "neuralchat.json").write_text(json.dumps(manifest))
    status, said = desk.run("finetune", "--from_run", "run", "--output_dir", "again")
    assert status == 0, said
    for name in ("trust_remote_code", "push_to_hub", "report_to"):
        assert f"was made with --{name}, which is not repeated" in said
    arguments = read_manifest(desk.directory / "again")["arguments"]
    assert not arguments["trust_remote_code"]
    assert "push_to_hub" not in arguments
    assert not (desk.directory / "evil").exists()
    assert not list((desk.directory / "again").rglob("events.out*"))


def test_a_record_file_that_changes_while_it_is_read(desk: TrainingDesk) -> None:
    """Neither the old file nor the new one is trained on, and no later run finds the mixture."""

    def prepare() -> None:
        true_tokenize = prepared_data.tokenize

        def changing(*words: Any) -> Any:
            for number, example in enumerate(true_tokenize(*words)):
                if number == 1:
                    rows = [{**row, "output": "Other."} for row in ROWS]
                    (desk.directory / "records.json").write_text(json.dumps(rows))
                yield example

        prepared_data.tokenize = changing

    status, said = desk.train(prepare=prepare)
    assert status == 2
    assert "the records changed while they were read: records.json" in said
    assert not (desk.directory / "run").exists()
    (desk.directory / "records.json").write_text(json.dumps(ROWS))
    assert desk.train()[0] == 0
    fresh = desk.run(
        "finetune",
        "--model_name_or_path",
        str(desk.model),
        "--train_file",
        "records.json",
        "--output_dir",
        "fresh",
        "--dataset_cache_directory",
        "fresh cache",
        *FLAGS,
    )
    assert fresh[0] == 0
    one, two = (read_manifest(desk.directory / name)["identity"]["data"] for name in ("run", "fresh"))
    assert one == two


@pytest.mark.parametrize("number", [13, 28, 30, 122, 5])
def test_a_cache_that_cannot_be_written_is_told(desk: TrainingDesk, number: int) -> None:
    """Permission, full disk, read-only file system, quota, input or output error."""

    def prepare() -> None:
        from neuralchat.data import example_store

        def refused(*_words: object) -> None:
            raise OSError(number, os.strerror(number), "/cache")

        example_store.write_examples = refused
        prepared_data.write_examples = refused

    status, said = desk.train(prepare=prepare)
    assert status == 2
    assert f"the cache of tokenized records cannot be written: /cache: {os.strerror(number)}" in said
    assert "--dataset_cache_directory" in said


@pytest.mark.parametrize("where", ["records", "output", "model"])
def test_names_that_are_not_utf8_are_refused_before_training(desk: TrainingDesk, where: str) -> None:
    name = os.fsdecode(b"caf\xe9")
    shutil.copy(desk.directory / "records.json", desk.directory / f"{name}.json")
    shutil.copytree(desk.model, desk.directory / name)
    words = {"records": ["--train_file", f"{name}.json"], "output": ["--output_dir", f"{name} run"]}
    words["model"] = ["--model_name_or_path", name]
    status, said = desk.train(*words[where])
    assert status == 2
    assert "the name caf\\udce9" in said
    assert "is not UTF-8" in said
    assert not (desk.directory / "run").exists()


def test_a_record_file_by_a_link(desk: TrainingDesk) -> None:
    """The advice of that message."""
    name = os.fsdecode(b"caf\xe9.json")
    shutil.move(desk.directory / "records.json", desk.directory / name)
    (desk.directory / "records.json").symlink_to(desk.directory / name)
    assert desk.train()[0] == 0


@pytest.mark.parametrize("verb", ["show", "chat", "eval", "merge"])
def test_a_run_whose_name_is_not_utf8(desk: TrainingDesk, verb: str) -> None:
    name = os.fsdecode(b"caf\xe9")
    words = {
        "chat": ["-p", "a", "--max_new_tokens", "2"],
        "eval": ["--questions", "questions.json", "--max_new_tokens", "2"],
        "merge": ["--output", "m"],
    }
    (desk.directory / "questions.json").write_text(json.dumps([{**ROWS[0], "facts": ["Paris"]}]))
    assert desk.train()[0] == 0
    shutil.move(desk.directory / "run", desk.directory / name)
    status, said = desk.run(verb, name, *words.get(verb, []))
    assert status in (0, 2)
    assert "caf\\udce9" in said or status == 0


BLOWN_UP = {"type": "Split", "pattern": {"Regex": "(?=(a+)+$)b"}, "behavior": "Isolated", "invert": False}


def test_a_tokenizer_whose_regular_expression_blows_up(desk: TrainingDesk) -> None:
    model = shutil.copytree(desk.model, desk.directory / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [BLOWN_UP, tokenizer["pre_tokenizer"]]}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    (desk.directory / "records.json").write_text(json.dumps([{"instruction": "a" * 40 + "!", "output": "b"}]))
    status, said = desk.train("--model_name_or_path", str(model))
    assert status == 2
    assert f"the tokenizer of '{model}' gave up" in said
    assert "retry-limit" in said
    status, said = desk.run("chat", str(model), "-p", "a" * 40 + "!")
    assert status == 2
    assert "gave up" in said


def test_names_with_escapes_are_shown_spelled_out(desk: TrainingDesk) -> None:
    name = f"model\n{ESCAPE}\nlicense: evil"
    shutil.copytree(desk.model, desk.directory / name)
    records = f"records{ESCAPE}.json"
    rows = [{"instruction": f"Say {ESCAPE}", "output": f"{ESCAPE} it is."}] * 4
    (desk.directory / records).write_text(json.dumps(rows))
    status, said = desk.train("--model_name_or_path", name, records=records)
    assert status == 0, said
    run = desk.directory / "run"
    assert read_manifest(run)["base_model"]["name"] == name
    for file in ("README.md", "report.html", "neuralchat.json", "metrics.jsonl"):
        content = (run / file).read_bytes()
        assert not [byte for byte in OBEYED if byte in content], file
    facts = yaml.safe_load((run / "README.md").read_text().split("---\n")[1])
    # A directory is no name that the hub knows.
    assert set(facts) == {"library_name", "tags"}
    assert desk.run("show", "run")[0] == 0
    status, said = desk.run("show", f"nothing{ESCAPE}")
    assert status == 2
    status, said = desk.train("--model_name_or_path", f"./nothing{ESCAPE}", "--overwrite_output_dir")
    assert status == 2
    status, said = desk.train(f"--fl{ESCAPE}ag", "x")
    assert status == 2


def test_an_answer_with_escapes_is_shown_spelled_out(
    desk: TrainingDesk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stream(self: Chatbot, *_words: Any, **_options: Any) -> Any:
        from neuralchat.inference.generation.answering import Answer

        self.last = Answer(ESCAPE, (), finished=True)
        yield from ["before ", *ESCAPE, " after"]

    monkeypatch.setattr(Chatbot, "stream", stream)
    assert cli.main(["chat", str(desk.model), "--template", "alpaca", "-p", "a"]) == 0
    found = capsys.readouterr().out
    assert found == "before \\x1b]0;pwned\\x07\\x9b2J\\u202e after\n"


SPELLINGS = [
    ["--hub_token", TOKEN],
    [f"hub_token={TOKEN}"],
    [f"--use-auth-token={TOKEN}"],
    ["config.yaml"],
    ["environment"],
]


@pytest.mark.parametrize(
    "words", SPELLINGS, ids=["flag value", "name=value", "flag=value", "config file", "environment"]
)
def test_a_token_is_in_no_file_and_no_message(desk: TrainingDesk, words: list[str]) -> None:
    """Neither of a run that ends well, nor of one that is refused, nor of the second that meets the lock."""
    (desk.directory / "config.yaml").write_text(f"hub_token: {TOKEN}\n")

    def prepare() -> None:
        if words == ["environment"]:
            os.environ["HF_TOKEN"] = TOKEN

    before = {desk.directory / "config.yaml"}
    extra = [] if words == ["environment"] else words
    command = ["--model_name_or_path", str(desk.model), "--train_file", "records.json", "--output_dir", "run", *FLAGS]
    command = [*extra, *command] if words == ["config.yaml"] else [*command, *extra]
    said = ""
    for more in ([], ["--lora_rank", "x"], ["--overwrite_output_dir", "--report_to", "tensorboard"]):
        status, text = desk.run("finetune", *command, *more, prepare=prepare)
        assert status == (2 if more[:1] == ["--lora_rank"] else 0), text
        said += text
    assert TOKEN not in said
    places = [desk.directory, Path(os.environ["NEURALCHAT_HOME"])]
    files = {path for place in places for path in place.rglob("*") if path.is_file()} - before
    assert any(path.name == ".neuralchat.lock" for path in files)
    assert any("events.out" in path.name for path in files)
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_a_link_in_a_directory_that_is_gone_on_with_is_not_written_through(desk: TrainingDesk) -> None:
    """Whatever a run writes at its end, and in whatever way: libraries write some of it."""
    assert desk.train("--save_strategy", "steps", "--save_steps", "1")[0] == 0
    run, victim = desk.directory / "run", desk.directory / "victim"
    names = sorted(path.name for path in run.iterdir() if path.is_file())
    for name in names:
        victim.write_text("mine")
        (run / name).unlink()
        (run / name).symlink_to(victim)
        status, said = desk.train("--resume_from_checkpoint", "auto", "--max_steps", "3", "--allow_changed", "all")
        assert status in (0, 2), said
        assert victim.read_text() == "mine", name
        if status:
            (run / name).unlink()
    assert {"generation_config.json", "adapter_config.json", "neuralchat.json", "tokenizer.json"} <= set(names)


@pytest.mark.parametrize("name", ["checkpoint", "merged"])
def test_what_libraries_write_has_the_mode_of_the_umask_too(desk: TrainingDesk, name: str) -> None:
    assert desk.train("--save_strategy", "steps", "--save_steps", "1", prepare=lambda: os.umask(0o027))[0] == 0
    if name == "merged":
        assert desk.run("merge", "run", "--output", "merged", prepare=lambda: os.umask(0o027))[0] == 0
    files = [path for path in desk.directory.rglob("*.safetensors") if desk.model not in path.parents]
    assert len(files) == (6 if name == "merged" else 5)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}
