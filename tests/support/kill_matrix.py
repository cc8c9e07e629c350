"""The kill matrix: SIGKILL at points drawn over a run, resume each, compare with the undisturbed run.

python tests/support/kill_matrix.py --points 40 --report benchmarks/results/kill-matrix-DATE.json
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.forks import run_forked
from support.kill_at import PLACES, arm, count_all
from support.runs import digest, stable_metrics
from support.small_models import save_checkpoint

ROWS = [
    {"instruction": f"Say the word number {i}.", "output": "Word " * (1 + i % 5) + f"{i} it is."} for i in range(22)
]
FLAGS = [
    "--num_train_epochs", "3", "--per_device_train_batch_size", "4", "--learning_rate", "0.01", "--logging_steps", "3",
    "--save_steps", "4", "--save_total_limit", "2", "--eval_strategy", "steps", "--eval_steps", "6", "--lora_dropout",
    "0.2", "--report_samples", "0", "--validation_file", "held_out.json", "--per_device_eval_batch_size", "2",
]  # fmt: skip


def make_place(work: Path) -> None:
    save_checkpoint(work / "model")
    (work / "records.json").write_text(json.dumps(ROWS))
    (work / "held_out.json").write_text(json.dumps(ROWS[:5]))


def words(output: str, *extra: str) -> list[str]:
    return [
        "finetune", "--model_name_or_path", "model", "--train_file", "records.json", "--output_dir", output, *FLAGS,
        *extra,
    ]  # fmt: skip


def calls_of_each_place(work: Path) -> dict[str, int]:
    """How often an undisturbed run comes by each place."""
    assert run_forked(words("tallied"), work, work / "log", partial(count_all, work / "tally")) == 0
    return json.loads((work / "tally").read_text())


def killed_and_resumed(work: Path, place: str, call: int, expected: tuple[str, list[Any]]) -> dict[str, Any]:
    """One point of the matrix; what was found, with "same" telling whether all is as undisturbed."""
    shutil.rmtree(work / "run", ignore_errors=True)
    log = work / "log"
    log.unlink(missing_ok=True)
    status = run_forked(words("run"), work, log, partial(arm, place, call))
    assert status == -9, f"{place} {call}: not killed, status {status}\n{log.read_text()}"
    before = sorted(p.name for p in (work / "run").glob("checkpoint-*")) if (work / "run").exists() else []
    resumed = run_forked(words("run", "--resume_from_checkpoint", "auto"), work, log)
    same = resumed == 0 and (digest(work / "run"), stable_metrics(work / "run")) == expected
    leftovers = [p.name for p in (work / "run").glob(".*") if "checkpoint" in p.name]
    same = same and not leftovers
    point = {"place": place, "call": call, "checkpoints": before, "resume_status": resumed, "same": same}
    return point if same else {**point, "leftovers": leftovers, "log": log.read_text()}


def undisturbed(work: Path) -> tuple[str, list[Any]]:
    assert run_forked(words("whole"), work, work / "log") == 0, (work / "log").read_text()
    return digest(work / "whole"), stable_metrics(work / "whole")


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args(given)
    start, draw = time.time(), random.Random(options.seed)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        make_place(work)
        expected = undisturbed(work)
        calls = calls_of_each_place(work)
        print("calls of each place in a run:", calls)
        places = [place for place in PLACES if calls[place]]
        points = []
        for number in range(options.points):
            # Every place in turn, at a random call.
            place = places[number % len(places)]
            point = killed_and_resumed(work, place, draw.randint(1, calls[place]), expected)
            points.append(point)
            print(
                f"{number + 1:3} {place} at call {point['call']}: {'same' if point['same'] else 'DIFFERENT'}",
                flush=True,
            )
            if not point["same"]:
                print(point["log"])
    good = sum(point["same"] for point in points)
    seconds = round(time.time() - start)
    print(f"{good} of {len(points)} resumed runs equal the undisturbed one, adapter and metrics; {seconds} s")
    if options.report:
        options.report.write_text(
            json.dumps(
                {"seed": options.seed, "same": good, "calls": calls, "seconds": seconds, "points": points}, indent=1
            )
            + "\n"
        )
    return 0 if good == len(points) else 1


if __name__ == "__main__":
    sys.exit(main())
