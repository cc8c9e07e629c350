"""`neuralchat data check`: cost against rows, with and without near duplicates, as time and as memory.

    python benchmarks/data_check.py --rows 10000 100000 1000000 --processes 2

Rows are made of the words of the package's own English records: some 800 bytes each, 2 % of them copies, 2 % nearly
copies and 2 % with debris; with --all_languages of those in other languages too, so that half of the texts have letters
beyond ASCII. Each size is checked by the real command, in a process of its own; memory is the largest sum over all
its processes, looked at four times per second: resident (RSS: a page that three of them share counts three times) and
proportional (PSS: it counts once), which is what the machine has to have for it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
DEBRIS = (
    "As an AI language model, I cannot say.",
    "<|endoftext|>",
    "[Your Name]",
    "https://a.test/b",
    "&amp;",
    "<noinput>",
)


def make_rows(path: Path, count: int, seed: int = 17, *, all_languages: bool = False) -> None:
    draw = random.Random(seed)
    general = (ROOT / "src/neuralchat/data/general/rehearse.jsonl").read_text().splitlines()
    general = [line for line in general if all_languages or '"language"' not in line]
    words = sorted({word for line in general for word in line.replace('"', " ").split() if word.isalpha()})
    before: dict[str, str] | None = None

    def text(few: float, many: float) -> str:
        length = max(3, int(draw.lognormvariate((few + many) / 2, (many - few) / 4)))
        said = [words[int(len(words) * draw.random() ** 2)] for _ in range(length)]
        for place in range(11, length, 12):
            said[place] += "." if place % 24 else ".\n"
        return " ".join(said) + "."

    with path.open("w") as file:
        for _ in range(count):
            row = {
                "instruction": text(2.0, 3.2),
                "input": text(2.5, 4.0) if draw.random() < 0.3 else "",
                "output": text(3.0, 5.5),
            }
            kind = draw.random()
            if before is not None and kind < 0.04:
                row = dict(before)
                row["output"] += " Indeed." if kind < 0.02 else ""
                row["instruction"] += " Why?" if kind < 0.02 else ""
            elif kind < 0.06:
                row["output"] += f" {draw.choice(DEBRIS)}"
            file.write(json.dumps(row) + "\n")
            before = row


def measure(path: Path, rows: int, words: list[str]) -> dict[str, Any]:
    """Seconds of the clock and of computing, over all processes, and the most memory."""
    command = [sys.executable, "-m", "neuralchat.cli", "data", "check", str(path), "--fail_on", "never", *words]
    begin, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    most_resident = most_proportional = 0
    while process.poll() is None:
        resident, proportional = memory_of(process)
        most_resident, most_proportional = max(most_resident, resident), max(most_proportional, proportional)
        time.sleep(0.25)
    seconds = time.monotonic() - begin
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return {
        "rows": rows,
        "words": words,
        "seconds": round(seconds, 2),
        "rows_per_s": round(rows / seconds),
        "cpu_seconds": round(cpu, 2),
        "rows_per_cpu_s": round(rows / cpu),
        "most_resident_mib": most_resident >> 20,
        "most_proportional_mib": most_proportional >> 20,
        "bytes_per_row": round(path.stat().st_size / rows),
    }


def memory_of(process: Any) -> tuple[int, int]:
    """(resident, proportional) bytes of a process and all below it, summed."""
    resident = proportional = 0
    try:
        for each in (process, *process.children(recursive=True)):
            # The kernel adds up all mappings of a process, which takes it a millisecond.
            rollup = Path(f"/proc/{each.pid}/smaps_rollup").read_text()
            sizes = {line.split()[0]: int(line.split()[1]) << 10 for line in rollup.splitlines()[1:]}
            resident += sizes["Rss:"]
            proportional += sizes["Pss:"]
    except (psutil.Error, OSError, KeyError):
        # One of them has just ended.
        return 0, 0
    return resident, proportional


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--all_languages", action="store_true")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks/results" / f"data-check-{time.strftime('%F-%H%M')}.json"
    )
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        for rows in options.rows:
            path = Path(directory) / "rows.jsonl"
            make_rows(path, rows, all_languages=options.all_languages)
            for processes in options.processes:
                for more in (["--no_near"], []):
                    found.append(measure(path, rows, ["--processes", str(processes), *more]))
                    print(json.dumps(found[-1]), flush=True)
    words = {"cores": os.cpu_count(), "all_languages": options.all_languages}
    options.output.write_text(json.dumps({**words, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
