"""Plain transformers + PEFT on whole padded tensors: the independent reference for our training losses.

By hand, on any model and Alpaca file:
  python tests/support/plain_peft.py MODEL_DIR records.json --rows 96
runs `neuralchat finetune` and the reference for the same optimizer steps and prints both mean losses.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

NO_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:"
)
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
    "### Input:\n{input}\n\n### Response:"
)


def encoded(tokenizer: Any, rows: Sequence[dict[str, Any]], limit: int) -> list[tuple[list[int], list[int]]]:
    """(ids, labels) of the rows that fit."""
    samples = []
    for row in rows:
        prompt = tokenizer((WITH_INPUT if row.get("input") else NO_INPUT).format(**row))["input_ids"]
        answer = [*tokenizer(row["output"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        assert len(prompt) + len(answer) <= limit
        samples.append((prompt + answer, [-100] * len(prompt) + answer))
    return samples


def plain_losses(
    model_dir: Path, rows: Sequence[dict[str, Any]], *, batch: int, learning_rate: float, seed: int = 42
) -> list[float]:
    """Loss of each optimizer step of one epoch, rows in file order."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    samples = encoded(tokenizer, rows, 4096)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(model, config)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    steps = -(-len(samples) // batch)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)
    losses = []
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        width = max(len(ids) for ids, _ in part)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in part])
        labels = torch.tensor([row + [-100] * (width - len(row)) for _, row in part])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in part])
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def our_losses(model_dir: Path, records: Path, output: Path, *, batch: int, learning_rate: float, rows: int) -> list:
    """The same steps by the command line."""
    command = [
        sys.executable, "-m", "neuralchat.cli", "finetune", "--model_name_or_path", str(model_dir), "--train_file",
        str(records), "--output_dir", str(output), "--max_train_samples", str(rows), "--num_train_epochs", "1",
        "--learning_rate", str(learning_rate), "--per_device_train_batch_size", str(batch), "--lora_dropout", "0",
        "--train_sampling_strategy", "sequential", "--logging_steps", "1", "--save_strategy", "no",
        "--report_samples", "0", "--max_seq_length", "4096", "--template", "alpaca", "--keep_general", "False",
        "--lora_rank", "8", "--lora_alpha", "16", "--lora_all_linear", "False", "--lr_scheduler_type", "linear",
        "--warmup_steps", "0",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("records", type=Path)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    options = parser.parse_args()
    rows = json.loads(options.records.read_text())[: options.rows]
    settings = {"batch": options.batch, "learning_rate": options.learning_rate}
    with tempfile.TemporaryDirectory() as work:
        start = time.perf_counter()
        ours = our_losses(options.model, options.records, Path(work) / "run", rows=options.rows, **settings)
        middle = time.perf_counter()
    plain = plain_losses(options.model, rows, **settings)
    end = time.perf_counter()
    ours_mean, plain_mean = sum(ours) / len(ours), sum(plain) / len(plain)
    worst = max(abs(a - b) / b for a, b in zip(ours, plain, strict=True))
    print(f"neuralchat     mean loss {ours_mean:.6f}  {middle - start:.0f} s with start-up")
    print(f"plain PEFT     mean loss {plain_mean:.6f}  {end - middle:.0f} s with start-up")
    print(f"difference     mean {abs(ours_mean - plain_mean) / plain_mean:.2e}, worst step {worst:.2e}")


if __name__ == "__main__":
    main()
