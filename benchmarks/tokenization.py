"""Time and memory of reading, checking and tokenizing records, on files of growing size.

  python benchmarks/tokenization.py MODEL records.json --rows 52000 208000

Repeats the records of the file, each made distinct by a running number, so that nothing is cached; prints a line a
size. Memory is the growth of the process's peak over loading the tokenizer; each size runs in its own process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write_rows(source: Path, target: Path, rows: int) -> None:
    records = json.loads(source.read_text())
    with target.open("w") as stream:
        for number in range(rows):
            record = records[number % len(records)]
            stream.write(json.dumps({**record, "instruction": f"{record['instruction']} ({number})"}) + "\n")


def measure(model: str, records: Path) -> None:
    from neuralchat.config.arguments import DataArguments
    from neuralchat.data.batch_plan import BatchPlan
    from neuralchat.data.prepared_data import prepare
    from neuralchat.models.loading.base_model import ModelSource, load_tokenizer

    tokenizer = load_tokenizer(ModelSource(name=model))
    tokenizer("warm up")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    data = prepare(DataArguments(train_file=[str(records)], max_seq_length=1024), tokenizer)
    tokenized = time.perf_counter()
    assert data.train is not None
    plan = BatchPlan(data.train.fingerprint, tuple(data.train.lengths.tolist()), 42, 8, row_tokens=1024)
    steps = plan.steps
    planned = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{len(data.train)} rows, {data.counts['train']['tokens']} tokens: read, checked and tokenized in "
        f"{tokenized - start:.1f} s, packed into {steps} steps in {planned - tokenized:.1f} s, "
        f"peak memory +{peak - before:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("records", type=Path)
    parser.add_argument("--rows", type=int, nargs="*", default=[])
    options = parser.parse_args()
    if not options.rows:
        measure(options.model, options.records)
        return
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as work:
            target = Path(work) / "records.jsonl"
            write_rows(options.records, target, rows)
            # A fetched model's name is looked up in the cache, so only a directory may have a cache of its own.
            environment = {**os.environ, "XDG_CACHE_HOME": work} if Path(options.model).is_dir() else None
            subprocess.run([sys.executable, __file__, options.model, str(target)], check=True, env=environment)


if __name__ == "__main__":
    main()
