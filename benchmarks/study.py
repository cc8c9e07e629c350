"""What a run gains on its own data and what it keeps of its base model: data sets x methods x settings x seeds.

    python benchmarks/study.py RESULTS.jsonl --data demo --facts 15 --wordings 8 --methods lora dora full --bf16
    python benchmarks/study.py RESULTS.jsonl --data style --settings defaults earlier
    python benchmarks/study.py RESULTS.jsonl --data alpaca=alpaca_data.json --rows 300 --epochs 1
    python benchmarks/study.py RESULTS.jsonl --table

Each run is `neuralchat finetune` with its defaults and what is named here; what is in RESULTS.jsonl already is not run
again. Afterwards the held-out questions that have `facts` or `checks` are asked, and of the package's general questions
that only measure (`--general` of them, of all kinds alike) those that the base model answers right in the same prompt
format: "kept" is how many are right still, with Wilson's interval. The base model is asked once for a file of results.
Answers are greedy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from neuralchat.config.methods import METHODS
from neuralchat.evaluation.answers import answers_to
from neuralchat.evaluation.items import Item, general_item, items_of_file
from neuralchat.evaluation.sample_answers import spread_prompts
from neuralchat.evaluation.scoring.scorers import RIGHT
from neuralchat.evaluation.statistics import wilson
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling import Sampling

ROOT = Path(__file__).parent.parent
EXAMPLES = {name: ROOT / "examples" / name for name in ("demo", "style", "task", "language")}
# What names a method here -> the flags that ask for it.
METHOD_FLAGS = {name: ["--peft", name] for name in METHODS if name != "none"} | {
    "dora": ["--peft", "lora", "--lora_dora", "true"],
    "full": ["--peft", "none"],
}
# "earlier": what the first version did, and what finetune_clm.py does where its command is silent.
SETTINGS = {
    "defaults": [],
    "no_keep_general": ["--keep_general", "false"],
    "earlier": [
        "--lora_rank", "8", "--lora_alpha", "16", "--lora_dropout", "0.05", "--lora_all_linear", "false",
        "--learning_rate", "3e-4", "--lr_scheduler_type", "linear", "--warmup_steps", "0", "--keep_general", "false",
    ],
}  # fmt: skip
# Every so many rows of a file of records one is held out.
HELD_OUT_EVERY = 5
QUESTION_TOKENS, GENERAL_TOKENS = 48, 32
# What makes two runs the same.
KEY = ("model", "data", "rows", "sha256", "method", "setting", "seed", "epochs", "extra", "bf16")
Row = dict[str, Any]


def read_json(path: Path) -> list[Row]:
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def data_set(name: str, options: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """(records to train on, records held out) of a set of examples, or of NAME=PATH, an Alpaca file."""
    if "=" in name:
        rows = read_json(Path(name.partition("=")[2]))[: options.rows]
        held_out = rows[::HELD_OUT_EVERY]
        return [row for number, row in enumerate(rows) if number % HELD_OUT_EVERY], held_out
    train, held_out = (read_json(EXAMPLES[name] / f"{part}.json") for part in ("train", "heldout"))
    return fewer_facts(train, held_out, options.facts, options.wordings) if name == "demo" else (train, held_out)


def fewer_facts(
    train: Sequence[Row], held_out: Sequence[Row], facts: int | None, wordings: int | None
) -> tuple[list[Row], list[Row]]:
    """So many facts, taken evenly from all, and so many wordings of each; an answer is a fact."""
    answers = list(dict.fromkeys(row["output"] for row in train))
    chosen = answers if facts is None else [answers[place * len(answers) // facts] for place in range(facts)]
    of_fact = {answer: [row for row in train if row["output"] == answer][:wordings] for answer in chosen}
    return [row for rows in of_fact.values() for row in rows], [row for row in held_out if row["output"] in of_fact]


def cells(options: argparse.Namespace) -> Iterator[tuple[Row, list[Row], list[Row]]]:
    """(what a run is, its records, those held out) in the order in which they are run."""
    for data in options.data:
        train, held_out = data_set(data, options)
        sha256 = hashlib.sha256(json.dumps([train, held_out]).encode()).hexdigest()[:16]
        for setting in options.settings:
            for method in options.methods:
                for seed in options.seeds:
                    cell = {
                        "model": options.model, "data": data.partition("=")[0], "rows": len(train),
                        "sha256": sha256, "method": method, "setting": setting, "seed": seed,
                        "epochs": options.epochs, "extra": options.extra, "bf16": options.bf16,
                        "told": not options.quick,
                    }  # fmt: skip
                    yield cell, train, held_out


def command(cell: Row, work: Path) -> list[str]:
    epochs = [] if cell["epochs"] is None else ["--num_train_epochs", str(cell["epochs"])]
    asked = "1" if cell["told"] else "0"
    return [
        sys.executable, "-c", "import sys; from neuralchat.cli import main; sys.exit(main())", "finetune",
        "--model_name_or_path", cell["model"], "--train_file", str(work / "train.json"), "--validation_file",
        str(work / "heldout.json"), "--output_dir", str(work / "run"), "--seed", str(cell["seed"]),
        "--save_strategy", "no", "--report_samples", asked, *METHOD_FLAGS[cell["method"]], *SETTINGS[cell["setting"]],
        *epochs, *(["--bf16", "true"] if cell["bf16"] else []), *cell["extra"],
    ]  # fmt: skip


def right_answers(bot: Chatbot, items: Sequence[Item], tokens: int) -> list[bool]:
    """Whether each answer holds all that its item asks of a right one."""
    answers = answers_to(items, range(len(items)), bot, Sampling(max_new_tokens=tokens))
    return [bool(RIGHT.score(item, answers[place])) for place, item in enumerate(items)]


def known_to_base(results: Path, cell: Row, bot: Chatbot, count: int) -> list[Item]:
    """The general questions that the bot's base model answers right, in its prompt format."""
    items = [general_item(prompt, number) for number, prompt in enumerate(spread_prompts(count), start=1)]
    key = {"model": cell["model"], "template": bot.template.name, "asked": count, "bf16": cell["bf16"]}
    found = next((row for row in read_results(results, "base") if all(row[k] == v for k, v in key.items())), None)
    if found is None:
        start = time.monotonic()
        # Without an adapter, all weights were trained.
        with bot.untuned() if bot.has_base else nullcontext(base_model(cell, bot)) as base:
            right = right_answers(base, items, GENERAL_TOKENS)
        found = {"kind": "base", **key, "right": right, "seconds": round(time.monotonic() - start, 1)}
        append(results, found)
    return [item for item, is_right in zip(items, found["right"], strict=True) if is_right]


def base_model(cell: Row, bot: Chatbot) -> Chatbot:
    return Chatbot.load(cell["model"], template=bot.template.name)


def measure(cell: Row, train: Sequence[Row], held_out: Sequence[Row], results: Path, general: int) -> Row:
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        for name, rows in (("train", train), ("heldout", held_out)):
            (work / f"{name}.json").write_text(json.dumps(list(rows), ensure_ascii=False), encoding="utf-8")
        start = time.monotonic()
        done = subprocess.run(command(cell, work), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{cell}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        seconds = round(time.monotonic() - start, 1)
        found = json.loads((work / "run" / "neuralchat.json").read_text(encoding="utf-8"))["results"]
        bot = Chatbot.load(work / "run")
        known = known_to_base(results, cell, bot, general)
        questions = [item for item in items_of_file(str(work / "heldout.json")) if RIGHT.applies(item)]
        right = right_answers(bot, questions, QUESTION_TOKENS)
        kept = right_answers(bot, known, GENERAL_TOKENS)
    in_run = [sample for sample in found["general_samples"] if sample.get("right_before")]
    return {
        "kind": "run", **cell, "template": bot.template.name, "asked": general,
        "held_out_loss_before": found["held_out_loss_before"], "held_out_loss_after": found["held_out_loss_after"],
        "questions": len(questions), "right": sum(right), "known": len(known), "kept": sum(kept),
        "interval": [round(end, 3) for end in wilson(sum(kept), len(known))],
        "lost": [item.question for item, is_kept in zip(known, kept, strict=True) if not is_kept],
        "in_run_known": len(in_run), "in_run_kept": sum(sample["right_after"] for sample in in_run),
        "advice": list(found["advice"]), "advice_in_last_lines": "forgotten:" in done.stdout + done.stderr,
        "steps": found["steps"], "seconds": seconds, "training_seconds": round(found["training_seconds"], 1),
        "tokens_per_s": found["tokens_per_s"], "trained_parameters": found["trained_parameters"],
        "peak_memory_mb": found["peak_memory_mb"],
    }  # fmt: skip


def read_results(path: Path, kind: str) -> list[Row]:
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["kind"] == kind]


def append(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def forgetting_told(row: Row) -> str:
    """Whether the run itself said so, and what it had seen of it; empty where it asked nothing."""
    if not row["in_run_known"]:
        return ""
    return f"{'yes' if row['advice_in_last_lines'] else 'no'} ({row['in_run_kept']} of {row['in_run_known']})"


def table(rows: Sequence[Row]) -> str:
    """Markdown, a line for each run, those of the same data together."""
    lines = [
        "| data | method | settings | seed | held-out loss | right answers | kept (95 %) | forgetting told | run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["data"], row["rows"])):
        right = f"{row['right']} of {row['questions']}" if row["questions"] else ""
        low, high = row["interval"]
        kept = f"{row['kept']} of {row['known']} ({low:.0%} to {high:.0%})"
        settings = " ".join([row["setting"], *row["extra"]])
        epochs = "" if row["epochs"] is None else f", --num_train_epochs {row['epochs']:g}"
        lines.append(
            f"| {row['data']}, {row['rows']} records{epochs} | {row['method']} | {settings} | {row['seed']} | "
            f"{row['held_out_loss_before']:.2f} -> {row['held_out_loss_after']:.3f} | {right} | {kept} | "
            f"{forgetting_told(row)} | "
            f"{row['seconds']:.0f} s |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON lines; what is there is not run again")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--data", nargs="+", default=["demo"], help=f"{', '.join(EXAMPLES)}, or NAME=FILE")
    parser.add_argument("--methods", nargs="+", default=["lora"], choices=METHOD_FLAGS)
    parser.add_argument("--settings", nargs="+", default=["defaults"], choices=SETTINGS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--facts", type=int, help="of the demo, by default all 45")
    parser.add_argument("--wordings", type=int, help="of each of the demo's facts, by default all 24")
    parser.add_argument("--rows", type=int, default=300, help="first rows of a file, every fifth held out")
    parser.add_argument("--epochs", type=float, help="by default those of finetune")
    parser.add_argument("--general", type=int, default=112, help="general questions that the base model is asked")
    parser.add_argument("--quick", action="store_true", help="the run itself asks no questions before and after")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="further flags of finetune, at the end")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, run nothing")
    options = parser.parse_args()
    if options.table:
        print(table(read_results(options.results, "run")))
        return 0
    for cell, train, held_out in cells(options):
        done = read_results(options.results, "run")
        if any(all(row[name] == cell[name] for name in KEY) for row in done):
            continue
        row = measure(cell, train, held_out, options.results, options.general)
        append(options.results, row)
        print(json.dumps(row, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
