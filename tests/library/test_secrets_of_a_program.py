"""A token that a Python program gives, in every way: it is in no file, output or message, nor among words of children.

tests/training/test_secrets_of_a_run.py does the same for the command.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.forks import Streams, end_of, start
from support.runs import ROWS
from transformers import TrainerCallback

import neuralchat
from neuralchat.inference import loading
from neuralchat.preparation import session

TOKEN = "s3cr3t-0f-m1ne-0123456789"
ADDRESS = f"https://me:{TOKEN}@hub.example/model"
OPTIONS: dict[str, Any] = {
    "train_records": ROWS, "output_dir": "run", "max_steps": 2, "save_steps": 1, "sample_tokens": 2,
    "report_samples": 1, "verbose": True, "keep_general": False,
}  # fmt: skip


class Looks(TrainerCallback):
    """What everybody sees of the words of this process's children."""

    def on_step_end(self, *_words: Any, **_named: Any) -> None:
        children = psutil.Process().children(recursive=True)
        print("children:", len(children), [child.cmdline() for child in children])


def finetune(**options: Any) -> Any:
    return neuralchat.finetune(**{"model": "model", **OPTIONS, **options})


def in_environment(name: str) -> Callable[[], Any]:
    def program() -> Any:
        os.environ[name] = TOKEN
        # As a program that logs all it knows, in a run whose name is the secret.
        return finetune(report_to="tensorboard", run_name=TOKEN)

    return program


def one_configuration() -> Any:
    config = neuralchat.FinetuneConfig.from_values(
        {
            "model_name_or_path": "model", "train_file": "records.json", "output_dir": "run", "max_steps": 1,
            "use_auth_token": TOKEN, "hub_token": TOKEN, "do_train": True, "report_samples": 0,
        }
    )  # fmt: skip
    print(config, repr(config), config.every_value(), config.command_to_resume())
    return neuralchat.finetune_model(config)


def answers_of_a_library(kind: type[BaseException], *words: Any) -> Callable[[], Any]:
    """What a hub says of a token that it does not know, in an error of any kind."""

    def program() -> Any:
        def broken(*_words: Any, **_named: Any) -> None:
            try:
                raise kind(*words, f"401 for {ADDRESS}, Authorization: Bearer {TOKEN}")
            except kind as error:
                raise neuralchat.NeuralChatError(f"refused: {error}") from error

        session.load_model = broken
        return finetune(hub_token=TOKEN)

    return program


def unforeseen() -> Any:
    def broken(*_words: Any, **_named: Any) -> None:
        raise RuntimeError(f"cannot use {TOKEN}")

    session.load_model = broken
    return finetune(use_auth_token=TOKEN)


def chatting() -> Any:
    def broken(*_words: Any, **_named: Any) -> None:
        raise RuntimeError(f"cannot use {TOKEN} at {ADDRESS}")

    os.environ["HF_TOKEN"] = TOKEN
    loading.load_model = broken
    return neuralchat.Chatbot.load("model", template="alpaca")


class OfItsOwn(Exception):  # noqa: N818
    """An error that makes its text of what it was given by name."""

    def __init__(self, *words: Any) -> None:
        super().__init__()
        self.words = words

    def __str__(self) -> str:
        return f"own: {self.words}"


# (program, whether it ends well)
WAYS: dict[str, tuple[Callable[[], Any], bool]] = {
    "hub_token": (lambda: finetune(hub_token=TOKEN), True),
    "use_auth_token": (lambda: finetune(use_auth_token=TOKEN), True),
    "with workers": (lambda: finetune(hub_token=TOKEN, dataloader_num_workers=1, callbacks=[Looks()]), True),
    "finetune_model": (
        lambda: neuralchat.finetune_model({"model": "model", **OPTIONS, "hub_token": TOKEN}), True
    ),
    "a configuration": (one_configuration, True),
    "HF_TOKEN": (in_environment("HF_TOKEN"), True),
    "WANDB_API_KEY": (in_environment("WANDB_API_KEY"), True),
    "COMET_API_KEY": (in_environment("COMET_API_KEY"), True),
    "MLFLOW_TRACKING_PASSWORD": (in_environment("MLFLOW_TRACKING_PASSWORD"), True),
    "NEPTUNE_API_TOKEN": (in_environment("NEPTUNE_API_TOKEN"), True),
    "AWS_SECRET_ACCESS_KEY": (in_environment("AWS_SECRET_ACCESS_KEY"), True),
    "a name written wrongly": (lambda: finetune(hub_tokn=TOKEN), False),
    "a wrong value beside it": (lambda: finetune(hub_token=TOKEN, learning_rate=TOKEN), False),
    "an address": (lambda: finetune(model=ADDRESS), False),
    "an address to chat with": (lambda: neuralchat.Chatbot.load(ADDRESS), False),
    "push_to_hub": (lambda: finetune(hub_token=TOKEN, push_to_hub=True, hub_model_id="me/model"), False),
    "a library's error": (answers_of_a_library(ConnectionError), False),
    "a library's error with a number": (answers_of_a_library(OSError, 13), False),
    "a library's error of its own": (answers_of_a_library(OfItsOwn), False),
    "an unforeseen error": (unforeseen, False),
    "an unforeseen error of a chat": (chatting, False),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, llama_checkpoint: Path) -> Path:
    (tmp_path / "model").symlink_to(llama_checkpoint)
    (tmp_path / "records.json").write_text(json.dumps(ROWS))
    return tmp_path


def everything(run: Any) -> Iterator[object]:
    yield run
    if hasattr(run, "arguments"):
        yield from (run.arguments, run.results, run.metrics, run.manifest, run.page(), run.summary())


def told(program: Callable[[], Any]) -> int:
    """What a program may tell of a run, or of an error: all of it."""
    try:
        for value in everything(program()):
            print(str(value), repr(value))
        return 0
    except Exception as error:
        print(str(error), repr(error))
        traceback.print_exc()
        return 1


@pytest.mark.parametrize("way", WAYS)
def test_no_byte_that_is_written_or_shown_holds_it(place: Path, way: str) -> None:
    program, well = WAYS[way]
    log = place / "log"
    status = end_of(start(lambda: told(program), place, Streams(log, log)), timeout=120)
    assert (status == 0) == well, log.read_text()
    if way == "with workers":
        assert "children: " in log.read_text()
        assert "children: 0" not in log.read_text()
    files = [path for top in (place, Path(os.environ["NEURALCHAT_HOME"])) for path in top.rglob("*") if path.is_file()]
    assert log in files
    assert [str(path) for path in files if TOKEN.encode() in path.read_bytes()] == []
