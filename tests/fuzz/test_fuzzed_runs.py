"""Damaged run directories through every verb that takes one: no traceback, nothing written outside, no code, no escape.

Reproducible by the number of the case. NEURALCHAT_FUZZ_RUNS=5000 sets how many are tried; NEURALCHAT_LONG=1 means that.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from support.forks import run_forked
from support.runs import ROWS
from support.strangers.runs import OBEYED, Stranger
from support.strangers.victims import VICTIM
from support.strangers.watching import Watch, captured

LONG = os.environ.get("NEURALCHAT_LONG") == "1"
CASES = int(os.environ.get("NEURALCHAT_FUZZ_RUNS") or (5000 if LONG else 96))
# One process tries so many: an import costs more than a case.
CASES_A_PROCESS = 48
FLAGS = [
    "--max_steps",
    "2",
    "--save_steps",
    "1",
    "--sample_tokens",
    "2",
    "--report_samples",
    "1",
    "--no_verify_packing",
    "--per_device_train_batch_size",
    "2",
    "--compile_kernels",
    "false",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, llama_checkpoint: Path) -> Path:
    """A directory with records, a model and a run."""
    place = tmp_path_factory.mktemp("whole")
    (place / "records.json").write_text(json.dumps(ROWS))
    shutil.copytree(llama_checkpoint, place / "model")
    words = ["finetune", "--model_name_or_path", str(place / "model"), "--train_file", str(place / "records.json")]
    assert run_forked([*words, "--output_dir", "run", *FLAGS], place, place / "log") == 0, (place / "log").read_text()
    return place


def commands(place: Path) -> dict[str, list[str]]:
    train = [
        "finetune",
        "--model_name_or_path",
        str(place / "model"),
        "--train_file",
        str(place / "records.json"),
        *FLAGS,
    ]
    return {
        "show": ["show", "run"],
        "chat": ["chat", "run", "-p", "a", "--max_new_tokens", "2"],
        "merge": ["merge", "run", "--output", "merged"],
        "from_run": ["finetune", "--from_run", "run", "--output_dir", "again"],
        "resume": [*train, "--output_dir", "run", "--resume_from_checkpoint", "auto"],
        "overwrite": [*train, "--output_dir", "run", "--overwrite_output_dir"],
    }


def attempt(whole: Path, numbers: range, report: Path) -> None:
    """Cases in this process; what went wrong is written to `report`."""
    from neuralchat import cli

    watch, wrong, met = Watch(), [], Counter[str]()
    for number in numbers:
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory).resolve()
            (place / "outside").mkdir()
            (place / "inside").mkdir()
            victim = place / "outside" / "victim"
            victim.write_text(VICTIM)
            shutil.copytree(whole / "run", place / "inside" / "run")
            stranger = Stranger(place / "inside" / "run", victim, number)
            stranger.damage()
            names_of_victim = victim.stat().st_nlink
            verb, words = list(commands(whole).items())[number % 6]
            watch.allowed = [
                str(place / "inside"),
                os.environ["NEURALCHAT_HOME"],
                tempfile.gettempdir() + "/neuralchat-",
            ]
            os.chdir(place / "inside")
            output = place / "output"
            status = captured(lambda words=words: cli.main(words), output, watch)
            os.chdir("/")
            said = output.read_bytes()
            met[f"{verb} {status}"] += 1
            problems = [
                *(["traceback"] if b"Traceback" in said or not isinstance(status, int) else []),
                *(["escape"] if any(byte in said for byte in OBEYED) else []),
                *(["victim"] if victim.read_text() != VICTIM or victim.stat().st_nlink > names_of_victim else []),
                *(["outside"] if [path.name for path in (place / "outside").iterdir()] != ["victim"] else []),
                *watch.found,
            ]
            watch.found.clear()
            if problems:
                text = said.decode("utf-8", "replace")[-3000:]
                wrong.append(f"case {number} {verb} {stranger.done}: {problems}\n{text}")
    report.write_text(json.dumps({"wrong": wrong, "met": met}))


def test_damaged_run_directories(whole: Path, tmp_path: Path) -> None:
    met: Counter[str] = Counter()
    wrong: list[str] = []
    for first in range(0, CASES, CASES_A_PROCESS):
        numbers, report = range(first, min(first + CASES_A_PROCESS, CASES)), tmp_path / f"report-{first}"

        def prepare(numbers: range = numbers, report: Path = report) -> None:
            attempt(whole, numbers, report)

        status = run_forked(["show", "nothing"], tmp_path, tmp_path / "log", prepare)
        assert status == 2, (tmp_path / "log").read_text()[-3000:]
        found = json.loads(report.read_text())
        met.update(found["met"])
        wrong += found["wrong"]
    assert not wrong, "\n\n".join([str(len(wrong)), *wrong[:5]])
    # Neither was all refused, nor all taken.
    for verb in ("show", "chat", "merge", "from_run", "overwrite"):
        assert met[f"{verb} 0"], met
        assert met[f"{verb} 2"], met
