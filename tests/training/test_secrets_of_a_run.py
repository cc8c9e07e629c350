"""A token, given in every way: it is in no file, in no output, and in no list of processes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.forks import end_of, fork, run_forked
from support.runs import ROWS

TOKEN = "s3cr3t-0f-m1ne-0123456789"
FLAGS = ["--max_steps", "2", "--save_steps", "1", "--sample_tokens", "2", "--report_samples", "1"]
ADDRESS = f"https://me:{TOKEN}@hub.example/model"


@pytest.fixture
def place(tmp_path: Path, llama_checkpoint: Path) -> Path:
    (tmp_path / "records.json").write_text(json.dumps(ROWS))
    (tmp_path / "model").symlink_to(llama_checkpoint)
    return tmp_path


def words(*more: str, model: str = "model") -> list[str]:
    return [
        "finetune",
        "--model_name_or_path",
        model,
        "--train_file",
        "records.json",
        "--output_dir",
        "run",
        *FLAGS,
        *more,
    ]


@contextmanager
def watched_processes(found: set[str]) -> Iterator[None]:
    """Meanwhile, add to `found` what everybody sees of processes that show the token, of whoever is below this one."""
    ended, me = threading.Event(), psutil.Process()

    def look() -> None:
        while not ended.is_set():
            for process in me.children(recursive=True):
                try:
                    shown = (
                        Path(f"/proc/{process.pid}/cmdline").read_bytes()
                        + Path(f"/proc/{process.pid}/comm").read_bytes()
                    )
                except OSError:
                    continue
                if TOKEN.encode() in shown:
                    found.add(shown.decode(errors="replace")[:500])
            time.sleep(0.02)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def holding_token(*places: Path) -> list[str]:
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert len(files) > 1
    return [str(path) for path in files if TOKEN.encode() in path.read_bytes()]


def environment(**values: str) -> Callable[[], None]:
    return lambda: os.environ.update(values)


# (words, environment, exit status): runs that end well, and messages that quote what they were given.
WAYS = {
    "--hub_token X": (words("--hub_token", TOKEN), {}, 0),
    "--hub_token=X": (words(f"--hub_token={TOKEN}"), {}, 0),
    "--hub-token X": (words("--hub-token", TOKEN), {}, 0),
    "hub_token=X": (words(f"hub_token={TOKEN}"), {}, 0),
    "--use_auth_token X": (words("--use_auth_token", TOKEN), {}, 0),
    "--push_to_hub_token X": (words("--push_to_hub_token", TOKEN), {}, 2),
    "a flag written wrongly": (words(f"--hub_tokn={TOKEN}"), {}, 2),
    "given twice": (words("--hub_token", TOKEN, TOKEN), {}, 2),
    "a configuration file": (["finetune", "secret.yaml", *words()[1:]], {}, 0),
    "a configuration file with a mistake": (["finetune", "wrong.yaml", *words()[1:]], {}, 2),
    "HF_TOKEN": (words(), {"HF_TOKEN": TOKEN}, 0),
    "HUGGING_FACE_HUB_TOKEN": (words(), {"HUGGING_FACE_HUB_TOKEN": TOKEN}, 0),
    "WANDB_API_KEY": (words("--run_name", TOKEN), {"WANDB_API_KEY": TOKEN}, 0),
    "an address": (words(model=ADDRESS), {}, 2),
    "an address in report_to": (words("--report_to", ADDRESS), {}, 2),
    "a checkpoint's address": (words("--resume_from_checkpoint", ADDRESS), {}, 2),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_byte_that_is_written_or_shown_holds_it(place: Path, way: str) -> None:
    (place / "secret.yaml").write_text(f"hub_token: {TOKEN}\n")
    (place / "wrong.yaml").write_text(f"hub_token: {TOKEN}\nlora_rank: [{TOKEN}\n")
    command, environ, expected = WAYS[way]
    shown: set[str] = set()
    with watched_processes(shown):
        status = run_forked(command, place, place / "log", environment(**environ))
    assert status == expected, (place / "log").read_text()
    for name in ("secret.yaml", "wrong.yaml"):
        (place / name).unlink()
    assert holding_token(place, Path(os.environ["NEURALCHAT_HOME"])) == []
    assert shown == set()


def test_neither_do_the_ranks_of_a_run_nor_their_workers(place: Path) -> None:
    """Their words are those of the command without the token, from their first moment on."""
    shown: set[str] = set()
    command = words("--num_processes", "2", "--dataloader_num_workers", "1", "--hub_token", TOKEN)
    with watched_processes(shown):
        child = fork(command, place, place / "log")
        status = end_of(child, timeout=280)
    assert status == 0, (place / "log").read_text()
    assert shown == set()
    assert holding_token(place, Path(os.environ["NEURALCHAT_HOME"])) == []


def test_an_error_of_a_library_that_quotes_it(place: Path) -> None:
    """A traceback, which only a fault of ours shows, is no place for it either; the program's own argument is."""

    def prepare() -> None:
        from neuralchat.preparation import session

        def broken(*_words: object, **_named: object) -> None:
            raise ConnectionError(f"401 for {ADDRESS} with Authorization: Bearer {TOKEN}")

        session.load_model = broken

    status = run_forked(words("--hub_token", TOKEN), place, place / "log", prepare)
    assert status == 2, (place / "log").read_text()
    assert TOKEN not in (place / "log").read_text()
