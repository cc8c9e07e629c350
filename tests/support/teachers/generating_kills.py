"""SIGKILL `neuralchat data generate` again and again: nothing lost, doubled, or paid twice.

python tests/support/teachers/generating_kills.py --kills 20
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from support.teachers.scripted_teacher import ScriptedTeacher, mixed_faults

COUNT = 60
LONGEST_S = 120.0


def command(teacher: ScriptedTeacher, output: Path, count: int) -> list[str]:
    words = ["--base_url", teacher.url, "--output", str(output), "--count", str(count), "--critic", "3"]
    return [sys.executable, "-m", "neuralchat.cli", "data", "generate", *words]


def killed_again_and_again(
    directory: Path, kills: int, *, seed: int = 0, count: int = COUNT, delay_s: float = 0.01
) -> dict[str, Any]:
    """What came of it. Each kill waits for a random number of further requests."""
    rng = random.Random(seed)
    with ScriptedTeacher(mixed_faults, delay_s=delay_s) as teacher:
        subprocess.run(command(teacher, directory / "whole.jsonl", count), check=True, capture_output=True)
        whole = (directory / "whole.jsonl").read_bytes()
        undisturbed = dict(teacher.billed)
    with ScriptedTeacher(mixed_faults, delay_s=delay_s) as teacher:
        output = directory / "killed.jsonl"
        per_kill = max(1, len(undisturbed) // (kills + 1))
        done = 0
        for _ in range(kills):
            process = subprocess.Popen(
                command(teacher, output, count), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            wanted = teacher.asked.total() + rng.randrange(1, per_kill + 1)
            started = time.monotonic()
            while process.poll() is None and teacher.asked.total() < wanted:
                time.sleep(0.001)
                if time.monotonic() - started > LONGEST_S:
                    break
            time.sleep(rng.random() * 0.02)
            done += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command(teacher, output, count), check=True, capture_output=True)
        journal = [json.loads(line) for line in (directory / "killed.jsonl.journal").read_text().splitlines()]
        replies = [line["reply"] for line in journal if "reply" in line]
        return {
            "kills": done,
            "same_records": output.read_bytes() == whole,
            "records": whole.count(b"\n"),
            "billed_as_undisturbed": teacher.billed == undisturbed,
            "replies_doubled": len(replies) - len(set(replies)),
            "computed_again_after_a_kill_or_fault": sum(teacher.computed.values()) - len(teacher.billed),
            "requests": teacher.asked.total(),
        }


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as directory:
        found = killed_again_and_again(Path(directory), options.kills, seed=options.seed)
    print(json.dumps(found, indent=1))
    good = found["same_records"] and found["billed_as_undisturbed"] and not found["replies_doubled"]
    return 0 if good and found["kills"] == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
