"""The launch commands of the specification, paths and sizes aside, with the real launchers; restarts by torchrun."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.ranks import free_port
from support.runs import digest, stable_metrics
from support.small_models import (
    make_tokenizer,
    save_checkpoint,
    save_early_llama_checkpoint,
    save_published_mpt_checkpoint,
    save_published_t5_checkpoint,
)

ROOT = Path(__file__).parent.parent.parent
ROWS = [{"instruction": f"Say the word number {i}.", "output": f"Word {i} it is."} for i in range(12)]
MPIRUN = Path(sys.executable).parent / "mpirun"
SMALL = ["--report_samples", "0", "--preflight_timeout", "60"]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "alpaca_data.json").write_text(json.dumps(ROWS))
    (tmp_path / "nodefile").write_text("localhost\n")
    for script in ("finetune_clm.py", "finetune_seq2seq.py"):
        shutil.copy(ROOT / script, tmp_path / script)
    return tmp_path


def launched(command: list[object], work: Path, **environ: str) -> str:
    found = subprocess.run(
        list(map(str, command)), cwd=work, env={**os.environ, **environ}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout + found.stderr


def run_of_two(run: Path) -> dict[str, object]:
    manifest = json.loads((run / "neuralchat.json").read_text())
    assert manifest["identity"]["world_size"] == 2
    assert (run / "adapter_model.safetensors").is_file()
    return manifest


LLAMA_FLAGS = [
    "--num_train_epochs", 3, "--per_device_train_batch_size", 4, "--per_device_eval_batch_size", 4,
    "--gradient_accumulation_steps", 1, "--evaluation_strategy", "no", "--save_strategy", "steps", "--save_steps", 2000,
    "--save_total_limit", 1, "--learning_rate", "1e-4", "--logging_steps", 1, "--group_by_length", "True",
    "--dataset_concatenation", "--do_train",
]  # fmt: skip


@pytest.mark.skipif(not MPIRUN.exists(), reason="the mpich wheel is not installed")
def test_mpirun_with_p_tuning_for_llama(work: Path) -> None:
    save_early_llama_checkpoint(work / "llama-7b-hf")
    said = launched(
        [
            MPIRUN, "-f", "nodefile", "-n", 2, "-ppn", 2, "-genv", "OMP_NUM_THREADS=1", sys.executable,
            "finetune_clm.py", "--model_name_or_path", "llama-7b-hf", "--train_file", "./alpaca_data.json", "--bf16",
            "True", "--output_dir", "./llama_peft_finetuned_model", *LLAMA_FLAGS, "--peft", "ptun",
            "--use_fast_tokenizer", "false", *SMALL,
        ],
        work, CCL_WORKER_COUNT="1", MASTER_ADDR="127.0.0.1",
    )  # fmt: skip
    manifest = run_of_two(work / "llama_peft_finetuned_model")
    assert manifest["identity"]["global_batch"] == 8  # type: ignore[index]
    assert said.count("preflight: 2 ranks on") == 1
    assert said.count("--evaluation_strategy is now --eval_strategy") == 1


@pytest.mark.skipif(not MPIRUN.exists(), reason="the mpich wheel is not installed")
def test_mpirun_with_lora_for_mpt(work: Path) -> None:
    save_published_mpt_checkpoint(work / "mpt-7b")
    make_tokenizer().save_pretrained(work / "gpt-neox-20b")
    launched(
        [
            MPIRUN, "-f", "nodefile", "-n", 2, "-ppn", 2, "-genv", "OMP_NUM_THREADS=1", sys.executable,
            "finetune_clm.py", "--model_name_or_path", "mpt-7b", "--train_file", "./alpaca_data.json", "--bf16", "True",
            "--output_dir", "./mpt_peft_finetuned_model", *LLAMA_FLAGS, "--peft", "lora", "--trust_remote_code", "True",
            "--tokenizer_name", "gpt-neox-20b", *SMALL,
        ],
        work, CCL_WORKER_COUNT="1", MASTER_ADDR="127.0.0.1",
    )  # fmt: skip
    run_of_two(work / "mpt_peft_finetuned_model")


@pytest.mark.parametrize("backend", [(), ("--no_cuda", "--xpu_backend", "ccl")])
def test_torch_distributed_launch_for_t5(work: Path, backend: tuple[str, ...]) -> None:
    save_published_t5_checkpoint(work / "flan-t5-xl")
    said = launched(
        [
            sys.executable, "-m", "torch.distributed.launch", "--master_addr=127.0.0.1", f"--master_port={free_port()}",
            "--nproc_per_node=2", "--nnodes=1", "--node_rank=0", "finetune_seq2seq.py", "--model_name_or_path",
            "flan-t5-xl", "--bf16", "True", "--train_file", "alpaca_data.json", "--per_device_train_batch_size", 2,
            "--per_device_eval_batch_size", 2, "--gradient_accumulation_steps", 1, "--do_train", "--learning_rate",
            "1.0e-5", "--warmup_ratio", "0.03", "--weight_decay", "0.0", "--num_train_epochs", 2, "--logging_steps", 10,
            "--save_steps", 2000, "--save_total_limit", 2, "--overwrite_output_dir", "--output_dir",
            "./flan-t5-xl_peft_finetuned_model", "--peft", "lora", *backend, *SMALL,
        ],
        work,
    )  # fmt: skip
    run_of_two(work / "flan-t5-xl_peft_finetuned_model")
    assert said.count("--ddp_backend ccl cannot be used, gloo takes its place") == bool(backend)


def test_strict_backend_fails_instead(work: Path, llama_checkpoint: Path) -> None:
    found = subprocess.run(
        [
            sys.executable, "-m", "neuralchat.cli", "finetune", "--model_name_or_path", str(llama_checkpoint),
            "--train_file", "alpaca_data.json", "--output_dir", "run", "--ddp_backend", "ccl", "--strict_backend",
        ],
        cwd=work, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 4
    assert "error: --ddp_backend ccl cannot be used: the package oneccl_bindings_for_pytorch is not" in found.stderr


def test_torchrun_restarts_from_the_last_checkpoint(work: Path) -> None:
    """A rank killed with SIGKILL under --max-restarts: the same launch ends with the adapter of the undisturbed one."""
    save_checkpoint(work / "model")

    def command(output: str) -> list[str]:
        return [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--max-restarts", "2",
            "--master_port", str(free_port()), "-m", "neuralchat.cli", "finetune", "--model_name_or_path", "model",
            "--train_file", "alpaca_data.json", "--output_dir", output, "--num_train_epochs", "12",
            "--per_device_train_batch_size", "2", "--learning_rate", "0.01", "--logging_steps", "1", "--save_steps",
            "4", "--lora_dropout", "0.1", "--overwrite_output_dir", *SMALL,
        ]  # fmt: skip

    launched(command("whole"), work)
    with (work / "log").open("w") as log:
        torchrun = subprocess.Popen(command("run"), cwd=work, stdout=log, stderr=log)
        lines = work / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (lines.exists() and len(lines.read_text().splitlines()) > 6):
            assert time.monotonic() < deadline, (work / "log").read_text()
            time.sleep(0.01)
        ranks = [p for p in psutil.Process(torchrun.pid).children() if "neuralchat.cli" in p.cmdline()]
        assert len(ranks) == 2
        ranks[1].send_signal(signal.SIGKILL)
        assert torchrun.wait(timeout=240) == 0, (work / "log").read_text()
    said = (work / "log").read_text()
    assert "note: start 2 of this job: it goes on from its last checkpoint" in said
    assert "note: going on from run/checkpoint-" in said
    assert digest(work / "run") == digest(work / "whole")
    assert stable_metrics(work / "run") == stable_metrics(work / "whole")
