"""Runs that lie behind links, on other file systems, on other machines, and in what other users have closed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runs import Desk, digest, stable_metrics
from support.strangers.privileges import give_up_privileges

from neuralchat.distributed import rendezvous
from neuralchat.runs.directory import read_manifest

ROWS = [{"instruction": f"Say the word number {i}.", "output": f"Word {i} it is."} for i in range(16)]
FLAGS = [
    "--num_train_epochs", "2", "--per_device_train_batch_size", "4", "--learning_rate", "0.05", "--logging_steps", "1",
    "--save_steps", "2", "--report_samples", "0", "--keep_general", "false",
]  # fmt: skip
RESUME = ("--resume_from_checkpoint", "auto")
CHAT = ("-p", "Say the word number 1.", "--max_new_tokens", "4")


class TrainingDesk(Desk):
    """With `model` too; the words of commands are relative to it."""

    def __init__(self, directory: Path, model: Path) -> None:
        directory.mkdir(exist_ok=True)
        super().__init__(directory, Path(shutil.copytree(model, directory / "model")), ROWS)

    def train(self, output: str, *more: str, **options: Any) -> tuple[int, str]:
        words = ("finetune", "--model_name_or_path", "model", "--train_file", "records.json", "--output_dir", output)
        return self.run(*words, *FLAGS, *more, **options)


@pytest.fixture
def desk(tmp_path: Path, llama_checkpoint: Path) -> TrainingDesk:
    return TrainingDesk(tmp_path / "desk", llama_checkpoint)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other file system may be written to")
    with tempfile.TemporaryDirectory(dir=memory) as place:
        yield Path(place)


def test_everything_behind_links_on_another_file_system(
    desk: TrainingDesk, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output, cache, temporary files and the merged model; written, gone on with, replaced."""
    assert desk.train("plain")[0] == 0
    expected = digest(desk.directory / "plain"), stable_metrics(desk.directory / "plain")
    for name in ("run", "cache", "temporary", "merged"):
        (elsewhere / name).mkdir()
        (desk.directory / name).symlink_to(elsewhere / name)
    monkeypatch.setenv("NEURALCHAT_HOME", str(desk.directory / "cache"))
    monkeypatch.setenv("TMPDIR", str(desk.directory / "temporary"))
    run = desk.directory / "run"
    assert desk.train("run")[0] == 0
    assert (digest(run), stable_metrics(run)) == expected
    assert (elsewhere / "run" / "checkpoint-8" / "SHA256SUMS").is_file()
    shutil.rmtree(run / "checkpoint-8")
    status, said = desk.train("run", *RESUME)
    assert status == 0
    assert "going on from run/checkpoint-6" in said
    assert (digest(run), stable_metrics(run)) == expected
    assert desk.train("run", "--overwrite_output_dir")[0] == 0
    assert (digest(run), stable_metrics(run)) == expected
    answer = desk.run("chat", "run", *CHAT)
    assert answer[0] == 0
    assert desk.run("merge", "run", "--output", "merged")[0] == 0
    assert desk.run("chat", "merged", *CHAT)[0] == 0
    # The links are links still.
    assert all((desk.directory / name).is_symlink() for name in ("run", "cache", "temporary", "merged"))


@pytest.mark.parametrize("verb", ["finetune", "merge"])
def test_a_link_that_leads_nowhere_is_told_before_anything_is_done(desk: TrainingDesk, verb: str) -> None:
    assert desk.train("plain", "--max_steps", "1")[0] == 0
    (desk.directory / "run").symlink_to(desk.directory / "nothing")
    status, said = desk.train("run") if verb == "finetune" else desk.run("merge", "plain", "--output", "run")
    assert status == 2
    assert "run is a link that leads nowhere" in said
    assert "loading" not in said
    assert not (desk.directory / "nothing").exists()


def test_a_run_goes_on_on_another_machine(desk: TrainingDesk, tmp_path: Path, llama_checkpoint: Path) -> None:
    """Other paths, another number of threads, another host: the same steps, and it is told."""
    assert desk.train("run")[0] == 0
    expected = stable_metrics(desk.directory / "run")
    other = TrainingDesk(tmp_path / "other machine", llama_checkpoint)
    shutil.copytree(desk.directory / "run", other.directory / "moved")
    shutil.rmtree(desk.directory)
    moved = other.directory / "moved"
    for name in ("checkpoint-6", "checkpoint-8"):
        shutil.rmtree(moved / name)

    def prepare() -> None:
        import socket

        import torch

        true_plan = rendezvous.plan_cores

        def plan(*words: Any) -> str:
            line = true_plan(*words)
            torch.set_num_threads(3)
            return line

        rendezvous.plan_cores = plan
        socket.gethostname = lambda: "other"

    status, said = other.train("moved", *RESUME, prepare=prepare)
    assert status == 0, said
    assert "going on from moved/checkpoint-4" in said
    assert "the result may differ in rounding, and where there is dropout: threads was 1, is now 3" in said
    found = stable_metrics(moved)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for key in ("loss", "tokens", "learning_rate"):
        ours, theirs = ([line[key] for line in lines if key in line] for lines in (found, expected))
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert read_manifest(moved)["machine"]["threads"] == 3
    assert other.run("chat", "moved", *CHAT)[0] == 0


# What another user, by a umask of 077, has closed -> the commands that come by it.
CLOSED: dict[str, tuple[str, ...]] = {
    "run": ("show", "chat", "eval", "merge", "repeat", "resume", "overwrite"),
    "run/neuralchat.json": ("show", "chat", "eval", "merge", "repeat"),
    "run/metrics.jsonl": ("show", "resume"),
    "run/adapter_model.safetensors": ("chat", "merge"),
    "run/adapter_config.json": ("chat", "merge"),
    "run/tokenizer.json": ("chat",),
    "run/tokenizer_config.json": ("chat",),
    "run/checkpoint-2": ("checkpoint", "resume", "overwrite"),
    "run/checkpoint-2/training_state.safetensors": ("checkpoint", "resume"),
    "run/checkpoint-2/SHA256SUMS": ("resume",),
    "run/checkpoint-2/checkpoint.json": ("checkpoint", "resume"),
    "model": ("chat", "train", "merge", "repeat"),
    "model/config.json": ("chat", "train"),
    "model/model.safetensors": ("chat", "train", "merge", "repeat"),
    "model/tokenizer.json": ("train",),
    "records.json": ("train", "repeat", "eval"),
    "config.yaml": ("file",),
}


def commands() -> dict[str, list[str]]:
    train = ["finetune", "--model_name_or_path", "model", "--train_file", "records.json", "--max_steps", "2"]
    flags = [*train, "--save_steps", "2", "--report_samples", "0", "--keep_general", "false", "--output_dir"]
    return {
        "show": ["show", "run"],
        "chat": ["chat", "run", *CHAT],
        "checkpoint": ["chat", "run/checkpoint-2", *CHAT],
        "eval": ["eval", "run", "--questions", "records.json", "--max_new_tokens", "2"],
        "merge": ["merge", "run", "--output", "merged"],
        "repeat": ["finetune", "--from_run", "run", "--output_dir", "again"],
        "resume": [*flags, "run", "--resume_from_checkpoint", "auto"],
        "overwrite": [*flags, "run", "--overwrite_output_dir"],
        "train": [*flags, "new"],
        "file": ["finetune", "config.yaml", "--output_dir", "new"],
        "first": [*flags, "run"],
    }


def test_what_another_user_has_closed_is_told_by_name(desk: TrainingDesk) -> None:
    """Or does not matter; never a traceback, and nothing is deleted."""
    rows = [{**row, "facts": ["word"]} for row in ROWS]
    (desk.directory / "records.json").write_text(json.dumps(rows))
    (desk.directory / "config.yaml").write_text("model_name_or_path: model\n")
    assert desk.run(*commands()["first"])[0] == 0

    def prepare() -> None:
        from neuralchat import cli

        give_up_privileges()
        for name, verbs in CLOSED.items():
            for verb in verbs:
                place = Path("attempt")
                shutil.copytree(desk.directory, place, ignore=shutil.ignore_patterns("attempt", "log"))
                os.chdir(place)
                # A run knows the first place of its base model.
                closed, mode = [Path(name), desk.directory / name], Path(name).stat().st_mode
                for path in closed:
                    path.chmod(0)
                status = cli.main(commands()[verb])
                for path in closed:
                    path.chmod(mode)
                print(f"{name} {verb}: {status} {closed[0].exists()}", flush=True)
                os.chdir("..")
                shutil.rmtree(place)

    status, said = desk.run("show", "nothing", prepare=prepare)
    assert status == 2
    ends = [line for line in said.splitlines() if line.endswith((" True", " False"))]
    assert len(ends) == sum(map(len, CLOSED.values()))
    blocks = said.split("\n")
    told: list[str] = []
    for line in blocks:
        if line not in ends:
            told.append(line)
            continue
        subject, _, end = line.rpartition(": ")
        name = subject.rpartition(" ")[0]
        text = "\n".join(told)
        # Metrics that cannot be read, and an adapter's tokenizer, may not be needed.
        assert end in ("2 True", "0 True") or subject.endswith("overwrite"), (line, text)
        if end.startswith("2"):
            assert Path(name).name in text, (line, text)
            assert any(why in text for why in ("Permission denied", "no permission", "cannot be read")), (line, text)
        told = []
    refused = [line for line in ends if ": 2 " in line]
    assert len(refused) >= 0.8 * len(ends), sorted(set(ends) - set(refused))
