"""Damaged runs through every way of `export`, damaged GGUF files through all that takes a base model.

Refused by name, without a traceback, and what is written is whole or not there. Reproducible by the number of the case;
NEURALCHAT_FUZZ_EXPORTS=300 sets how many of each are tried.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from support.forks import run_forked
from support.runs import ROWS
from support.strangers.runs import OBEYED, Stranger
from support.strangers.watching import Watch, captured

CASES = int(os.environ.get("NEURALCHAT_FUZZ_EXPORTS") or 12)
# One process tries so many: an import costs more than a case.
CASES_A_PROCESS = 50
# verb -> (words, where its files go, the file without which they are nothing).
OF_RUNS = {
    "merge": (["export", "run", "--merge", "out"], "config.json"),
    "adapter": (["export", "run", "--adapter", "out"], "adapter_config.json"),
    "gguf": (["export", "run", "--gguf", "f16", "--output", "out"], "run-f16.gguf"),
    "gguf_adapter": (["export", "run", "--gguf_adapter", "f16", "--output", "out"], "run-lora-f16.gguf"),
    "with": (["export", "whole", "--merge", "out", "--with", "run=0.5"], "config.json"),
}
BRIEF = ["--max_new_tokens", "2"]
TRAIN = ["--max_steps", "2", "--report_samples", "0", "--no_verify_packing", "--compile_kernels", "false"]
# The tokenizer that transformers makes of this small file has a token more than the model, so `finetune` and `gguf`
# refuse even the whole one; `chat` and `eval` take it.
OF_FILES = {
    "chat": (["chat", "base.gguf", "-p", "a", *BRIEF], ""),
    "eval": (["eval", "base.gguf", "--questions", "records.json", *BRIEF], ""),
    "finetune": (
        [
            "finetune",
            "--model_name_or_path",
            "base.gguf",
            "--train_file",
            "records.json",
            "--output_dir",
            "out",
            *TRAIN,
        ],
        "neuralchat.json",
    ),
    "gguf": (["export", "base.gguf", "--gguf", "q8_0", "--output", "out"], "base.gguf-q8_0.gguf"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, llama_checkpoint: Path) -> Path:
    """A directory with records, a model, a run, and the model as GGUF."""
    place = tmp_path_factory.mktemp("whole")
    (place / "records.json").write_text(json.dumps(ROWS))
    shutil.copytree(llama_checkpoint, place / "model")
    words = ["finetune", "--model_name_or_path", str(place / "model"), "--train_file", str(place / "records.json")]
    train = [*words, "--output_dir", "run", *TRAIN]
    for told in (train, ["export", str(place / "model"), "--gguf", "f16", "--output", "as_gguf"]):
        assert run_forked(told, place, place / "log") == 0, (place / "log").read_text()
    next((place / "as_gguf").glob("*.gguf")).rename(place / "base.gguf")
    return place


def damaged_file(content: bytes, number: int) -> tuple[bytes, str]:
    """A GGUF file with something wrong in it, most often where it says what it holds."""
    draw = random.Random(number)
    if draw.random() < 0.15:
        return content[: draw.randrange(len(content))], "cut"
    found, told = bytearray(content), []
    for _ in range(draw.randint(1, 3)):
        # Keys and values come first, tensors last.
        at = draw.randrange(24 if draw.random() < 0.2 else min(len(found), 24_000))
        kind = draw.choice(["flip", "fill", "large", "text"])
        told.append(f"{kind} at {at}")
        if kind == "flip":
            found[at] ^= 1 << draw.randrange(8)
        elif kind == "fill":
            found[at : at + 8] = bytes(8)
        elif kind == "large":
            found[at : at + 8] = draw.choice([1 << 62, 1 << 31, (1 << 64) - 1, 1 << 20]).to_bytes(8, "little")
        else:
            found[at : at + 8] = draw.choice(
                [b"\x1b]0;x\x07\x1b", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe", b"../../..", b"{{ 1/0 }"]
            )
    return bytes(found), ", ".join(told)


def prepared(saved: Path, place: Path, number: int, *, of_runs: bool) -> str:
    """What is wrong with the copy in `place`."""
    if not of_runs:
        content, told = damaged_file((saved / "base.gguf").read_bytes(), number)
        (place / "base.gguf").write_bytes(content)
        shutil.copy(saved / "records.json", place)
        return told
    for name in ("run", "whole"):
        shutil.copytree(saved / "run", place / name)
    (place.parent / "victim").write_text("mine")
    stranger = Stranger(place / "run", place.parent / "victim", number)
    stranger.damage()
    return str(stranger.done)


def attempt(saved: Path, numbers: range, report: Path, *, of_runs: bool) -> None:
    """Cases in this process; what went wrong is written to `report`."""
    from neuralchat import cli

    watch, wrong, met = Watch(), [], Counter[str]()
    commands = list((OF_RUNS if of_runs else OF_FILES).items())
    for number in numbers:
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory).resolve() / "inside"
            place.mkdir()
            damage = prepared(saved, place, number, of_runs=of_runs)
            verb, (words, needed) = commands[number % len(commands)]
            watch.allowed = [str(place), os.environ["NEURALCHAT_HOME"], tempfile.gettempdir() + "/neuralchat-"]
            os.chdir(place)
            output = place.parent / "said"
            status = captured(lambda words=words: cli.main(words), output, watch)
            os.chdir("/")
            said = output.read_bytes()
            met[f"{verb} {status}"] += 1
            there = sorted(path.name for path in (place / "out").iterdir()) if (place / "out").is_dir() else []
            problems = [
                *(["traceback"] if b"Traceback" in said or not isinstance(status, int) else []),
                *(["escape"] if any(byte in said for byte in OBEYED) else []),
                *(
                    [f"half: {there}"]
                    if needed and "finetune" not in words and (status == 0) != (needed in there)
                    else []
                ),
                *([f"left: {there}"] if status and there and "finetune" not in words else []),
                *(["says nothing"] if status and not said.strip() else []),
                # `eval` compiles its kernels, where that was not done before.
                *(what for what in watch.found if "'--version']" not in what and "/kernels/" not in what),
            ]
            watch.found.clear()
            if problems:
                text = said.decode("utf-8", "replace")[-3000:]
                wrong.append(f"case {number} {verb} {damage}: {problems}\n{text}")
    report.write_text(json.dumps({"wrong": wrong, "met": met}))


@pytest.mark.parametrize("of_runs", [True, False], ids=["runs", "files"])
def test_what_is_damaged_is_refused_and_nothing_half_written(of_runs: bool, saved: Path, tmp_path: Path) -> None:
    met: Counter[str] = Counter()
    wrong: list[str] = []
    for first in range(0, CASES, CASES_A_PROCESS):
        numbers, report = range(first, min(first + CASES_A_PROCESS, CASES)), tmp_path / f"report-{first}"

        def prepare(numbers: range = numbers, report: Path = report) -> None:
            attempt(saved, numbers, report, of_runs=of_runs)

        status = run_forked(["show", "nothing"], tmp_path, tmp_path / "log", prepare)
        assert status == 2, (tmp_path / "log").read_text()[-3000:]
        found = json.loads(report.read_text())
        met.update(found["met"])
        wrong += found["wrong"]
    print(met)
    assert not wrong, "\n\n".join([str(len(wrong)), *wrong[:8]])
    # Neither was all refused, nor all taken.
    for status in ("0", "2"):
        assert sum(count for what, count in met.items() if what.endswith(f" {status}")), met
