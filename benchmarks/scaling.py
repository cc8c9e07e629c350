"""How the cost of a training step grows (row length, examples, vocabulary, depth), and what a shared prefix gains.

  python benchmarks/scaling.py MODEL_DIR

Models have the shapes of MODEL_DIR with random weights. A line is a forward and backward pass of one packed row; two
sizes of a comparison run in turn, `--repeats` times, and the ratio is that of medians. `growth` is the exponent e of
cost ~ size^e between neighbouring sizes: 1 is proportional. Writes benchmarks/results/scaling-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


def make_model(directory: str, **changes: int) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from neuralchat.config.arguments import TuningArguments
    from neuralchat.models.adapters.build import add_adapter
    from neuralchat.models.families.packed_layout import take_packed_rows
    from neuralchat.models.fast_paths import take_fast_paths

    config = AutoConfig.from_pretrained(directory)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = add_adapter(
        AutoModelForCausalLM.from_config(config, dtype=torch.float32), TuningArguments(lora_dropout=0.0)
    )
    take_fast_paths(model, compile_kernels=True)
    take_packed_rows(model)
    return model.train()


def make_examples(
    lengths: Sequence[int], *, shared: int = 0, answer: int | None = None, vocabulary: int = 1000
) -> list:
    """Random examples, the first `shared` tokens alike, the last `answer` (by default half) supervised."""
    from neuralchat.data.tokenization import Example

    rng = np.random.default_rng(0)
    beginning = rng.integers(0, vocabulary, shared, dtype=np.int32)
    examples = []
    for length in lengths:
        ids = np.concatenate([beginning, rng.integers(0, vocabulary, length - shared, dtype=np.int32)])
        supervised = np.zeros(length, dtype=bool)
        supervised[-(answer or length // 2) :] = True
        examples.append(Example(ids, supervised, "random"))
    return examples


def step(model: Any, examples: list, *, share: bool = True) -> Callable[[], None]:
    from neuralchat.data.packing import pack
    from neuralchat.models.losses.loss_sum import packed_loss_sum

    batch = pack(examples, share_prefix=share)
    return lambda: packed_loss_sum(model, batch).backward()


def seconds_in_turn(steps: Sequence[Callable[[], None]], repeats: int) -> list[float]:
    """Median seconds of each, all measured in turn after a warm-up."""
    found: list[list[float]] = [[] for _ in steps]
    for number in range(repeats + 1):
        for run, times in zip(steps, found, strict=True):
            start = time.perf_counter()
            run()
            if number:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in found]


def growth(sizes: Sequence[int], seconds: Sequence[float]) -> list[float]:
    return [
        round(math.log(seconds[i + 1] / seconds[i]) / math.log(sizes[i + 1] / sizes[i]), 2)
        for i in range(len(sizes) - 1)
    ]


def series(name: str, sizes: Sequence[int], steps: Sequence[Callable[[], None]], repeats: int) -> dict[str, Any]:
    seconds = seconds_in_turn(steps, repeats)
    found = {"sizes": list(sizes), "seconds": [round(s, 4) for s in seconds], "growth": growth(sizes, seconds)}
    print(f"{name:34} {found}", flush=True)
    return found


def prefix_gain(model: Any, repeats: int) -> dict[str, Any]:
    """Share of the saved tokens that is gained in time, for beginnings of several lengths."""
    found = {}
    for shared in (24, 64, 128, 256):
        examples = make_examples([shared + 60 + 10 * i for i in range(6)], shared=shared, answer=40)
        alone, together = seconds_in_turn([step(model, examples, share=False), step(model, examples)], repeats)
        tokens = sum(len(example.input_ids) for example in examples)
        saved = shared * 5 / tokens
        gained = 1 - together / alone
        found[shared] = {"saved": round(saved, 3), "gained": round(gained, 3), "share": round(gained / saved, 2)}
        print(f"prefix of {shared:<24} {found[shared]}", flush=True)
    return found


def peak_memory(model: str, rows: Sequence[int]) -> dict[str, int]:
    """Peak MiB of a process that trains one row, less that of a row of 64 tokens."""
    peaks = {}
    for tokens in (64, *rows):
        command = [sys.executable, __file__, model, "--only_row", str(tokens)]
        peaks[tokens] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    found = {str(tokens): peaks[tokens] - peaks[64] for tokens in rows}
    print(f"{'memory of a row, MiB over 64 tokens':34} {found}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only_row", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_row:
        step(make_model(options.model), make_examples([64] * (options.only_row // 64)))()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    repeats, measured = options.repeats, {}
    model = make_model(options.model, num_hidden_layers=10)
    rows = (256, 512, 1024, 2048)
    measured["row of examples of 128 tokens"] = series(
        "row of examples of 128 tokens", rows, [step(model, make_examples([128] * (n // 128))) for n in rows], repeats
    )
    measured["one example, half answer"] = series(
        "one example, half answer", rows, [step(model, make_examples([n])) for n in rows], repeats
    )
    counts = (2, 8, 32)
    measured["1024 tokens in so many examples"] = series(
        "1024 tokens in so many examples", counts,
        [step(model, make_examples([1024 // n] * n, answer=512 // n)) for n in counts], repeats,
    )  # fmt: skip
    measured["prefix, whole depth"] = prefix_gain(make_model(options.model), repeats)
    depths = (5, 10, 20)
    examples = make_examples([128] * 4)
    measured["layers"] = series(
        "layers", depths, [step(make_model(options.model, num_hidden_layers=n), examples) for n in depths], repeats
    )
    words = (8192, 32768, 131072)
    measured["vocabulary, 5 layers"] = series(
        "vocabulary, 5 layers", words,
        [step(make_model(options.model, num_hidden_layers=5, vocab_size=n), examples) for n in words], repeats,
    )  # fmt: skip
    measured["memory"] = peak_memory(options.model, (512, 1024, 2048))
    target = Path(__file__).parent / "results" / f"scaling-{time.strftime('%Y-%m-%d-%H%M')}.json"
    content = {
        "model": Path(options.model).name,
        "command": " ".join(["python", "benchmarks/scaling.py", Path(options.model).name, *sys.argv[2:]]),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "measured": measured,
    }
    target.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
