"""The fault matrix: faults of a long run drawn at random, each at a random moment of it.

Each run goes on, or it is saved, says why and is resumed when the fault is mended; its adapter and its metrics are
those of the undisturbed run, bit for bit.

python tests/support/bad_days/fault_matrix.py --faults 50 --report benchmarks/results/fault-matrix-DATE.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from neuralchat.checkpointing.store import damage
from support.bad_days.faults import (
    ENDS,
    FAULTS,
    GOES_ON,
    KILLED,
    SAVED,
    Fault,
    Place,
    arm,
    count_calls,
    mount_disk,
    unmount_disk,
)
from support.forks import run_forked
from support.kill_matrix import make_place, undisturbed, words
from support.runs import digest, stable_metrics

STOPS = {128 + number for number in (1, 2, 15)}


def can_mount(work: Path) -> bool:
    place = Place(work)
    place.disk.mkdir(exist_ok=True)
    try:
        mount_disk(place)
    except (OSError, subprocess.CalledProcessError):
        return False
    unmount_disk(place)
    return True


def calls_of_each_moment(work: Path) -> dict[str, int]:
    status = run_forked(words("tallied"), work, work / "log", partial(count_calls, work / "tally"))
    assert status == 0, (work / "log").read_text()
    return json.loads((work / "tally").read_text())


def how_it_ended(status: int) -> str:
    if status in STOPS:
        return SAVED
    return {0: GOES_ON, -9: KILLED}.get(status, ENDS)


def problems_of(fault: Fault, ended: str, said: str, work: Path) -> list[str]:
    """What is wrong with how a struck run ended."""
    problems = [] if ended in fault.ends else [f"it {ended}, which is not among {fault.ends}"]
    if "Traceback" in said:
        problems.append("a traceback")
    if ended in (SAVED, ENDS) and fault.says not in said:
        problems.append(f"it does not say '{fault.says}'")
    if ended == SAVED:
        named = re.search(r"after step \d+ of \d+; all is saved in (\S+)\. Go on", said)
        if named is None or damage(work / named[1]) is not None:
            problems.append("what it says is saved is not there")
    return problems


def struck_and_resumed(place: Place, fault: Fault, moment: str, call: int, expected: Any) -> dict[str, Any]:
    """One point of the matrix. "good": it ended as it may, and all is as undisturbed."""
    log, run = place.work / "log", str(place.run)
    shutil.rmtree(place.disk, ignore_errors=True)
    place.disk.mkdir()
    log.unlink(missing_ok=True)
    if fault.mounts:
        mount_disk(place)
    try:
        status = run_forked(words(run, *fault.flags), place.work, log, partial(arm, fault, place, moment, call))
        ended = how_it_ended(status)
        problems = problems_of(fault, ended, log.read_text(errors="replace"), place.work)
        fault.mend(place)
        if ended != GOES_ON:
            status = run_forked(words(run, *fault.flags, "--resume_from_checkpoint", "auto"), place.work, log)
            problems += [f"the resumed run ended with {status}"] if status else []
        if status == 0 and (digest(place.run), stable_metrics(place.run)) != expected:
            problems.append("adapter or metrics differ from the undisturbed run's")
        problems += [f"{path.name} is left" for path in place.run.glob(".*") if path.name != ".neuralchat.lock"]
    finally:
        if fault.mounts:
            unmount_disk(place)
    point = {"fault": fault.name, "moment": moment, "call": call, "ended": ended, "good": not problems}
    return point if not problems else {**point, "problems": problems, "log": log.read_text(errors="replace")[-4000:]}


def drawn(faults: list[Fault], calls: dict[str, int], number: int, seed: int) -> list[tuple[Fault, str, int, float]]:
    """`number` faults with moment and call. Each kind comes up before one comes up again."""
    draw, found = random.Random(seed), []
    while len(found) < number:
        for fault in draw.sample(faults, len(faults)):
            moment = draw.choice([moment for moment in fault.moments if calls[moment]])
            found.append((fault, moment, draw.randint(1, calls[moment]), draw.random()))
    return found[:number]


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="those whose name contains this")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args(given)
    start, points = time.time(), []
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory).resolve()
        # A cache of its own, which faults may wipe.
        os.environ["NEURALCHAT_HOME"] = str(work / "home")
        make_place(work)
        expected = undisturbed(work)
        calls = calls_of_each_moment(work)
        faults = [fault for fault in FAULTS if not fault.mounts or can_mount(work)]
        faults = [fault for fault in faults if (options.only or "") in fault.name]
        for number, (fault, moment, call, luck) in enumerate(drawn(faults, calls, options.faults, options.seed), 1):
            point = struck_and_resumed(Place(work, luck), fault, moment, call, expected)
            points.append(point)
            verdict = "good" if point["good"] else f"BAD: {'; '.join(point['problems'])}\n{point['log']}"
            print(f"{number:3} {fault.name} at {moment} {call}: {point['ended']}, {verdict}", flush=True)
    good, seconds = sum(point["good"] for point in points), round(time.time() - start)
    ended = dict(Counter(point["ended"] for point in points))
    print(f"{good} of {len(points)} faults were met, {ended}; adapter and metrics as undisturbed; {seconds} s")
    if options.report:
        report = {
            "seed": options.seed,
            "good": good,
            "ended": ended,
            "calls": calls,
            "seconds": seconds,
            "points": points,
        }
        options.report.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if good == len(points) else 1


if __name__ == "__main__":
    sys.exit(main())
