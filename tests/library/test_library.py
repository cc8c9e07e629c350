"""The library as a program uses it: the example of its page in a fresh process, and two models in one process."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from support.runs import ROWS, adapter
from support.small_models import save_checkpoint
from transformers import TrainerCallback
from transformers.utils import logging

import neuralchat
from neuralchat.console.terminal import visible
from neuralchat.training.stopping import InterruptedTrainingError

PUBLIC = {
    "Chatbot", "FinetuneConfig", "NeuralChatError", "Run", "__version__", "build_chatbot", "finetune", "finetune_model",
    "plan",
}  # fmt: skip
FEW_STEPS: dict[str, Any] = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "report_samples": 1}
FEW_FLAGS = [word for name, value in FEW_STEPS.items() for word in (f"--{name}", value)]


def in_fresh_process(code: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Every warning is an error there, those of imports too."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=300)


def digest(run: Path) -> str:
    return hashlib.sha256((run / "adapter_model.safetensors").read_bytes()).hexdigest()


# In a fresh process


def test_importing_the_package_imports_the_standard_library_only(tmp_path: Path) -> None:
    code = (
        "import sys; before = set(sys.modules); import neuralchat\n"
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))\n"
        "print(sorted(neuralchat.__all__), set(neuralchat.__all__) <= set(dir(neuralchat)))\n"
        "print('torch' in sys.modules, neuralchat.Run, 'torch' in sys.modules)"
    )
    lines = in_fresh_process(code, cwd=tmp_path).stdout.splitlines()
    assert lines[:2] == ["['neuralchat']", f"{sorted(PUBLIC)} True"]
    assert lines[2] == "False <class 'neuralchat.library.run.Run'> False"


EXAMPLE = """
import sys
import neuralchat

model, base = sys.argv[1:]
run = neuralchat.finetune(model=model, train_file="support.json", output_dir="runs/a", num_train_epochs=3)
bot = neuralchat.Chatbot.load("runs/a")
first = bot.chat("How do I reset my badge?", max_new_tokens=8)
pieces = []
for piece in bot.stream("And on Sundays?", max_new_tokens=8):
    pieces.append(piece)
assert [turn.content for turn in bot.history] == ["How do I reset my badge?", first, "And on Sundays?", "".join(pieces)]
bot.reset()
assert bot.history == []
assert bot.chat("How do I reset my badge?", max_new_tokens=8) == first
for other in (run.checkpoints[-1], base):
    assert neuralchat.Chatbot.load(other).chat("How do I reset my badge?", max_new_tokens=2) is not None
assert run.chatbot().predict("How do I reset my badge?", max_new_tokens=8) == first
assert run.results.steps == 6
"""


def test_the_example(write_records: Callable, llama_checkpoint: Path, tmp_path: Path) -> None:
    write_records(ROWS, "support.json")
    result = in_fresh_process(EXAMPLE, llama_checkpoint, llama_checkpoint, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "runs" / "a" / "report.html").is_file()


ERROR = (
    "import neuralchat; neuralchat.finetune(model='nowhere/at/all', train_file='none.json', output_dir='o', peft='x')"
)


def test_an_error_is_raised_and_nothing_else(tmp_path: Path) -> None:
    result = in_fresh_process(ERROR, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.rstrip().endswith(
        "ArgumentsError: these arguments cannot be used:\n  - --peft is 'x'; allowed are lora, ptun, prefix, prompt, "
        "llama_adapter, ia3, none"
    )
    assert list(tmp_path.iterdir()) == []


# Twice in one process


def settings_of_the_process() -> list[Any]:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return [
        torch.get_num_threads(), cores, os.environ.get("OMP_NUM_THREADS"), os.environ.get("RANK"),
        torch.random.get_rng_state().sum().item(), logging.get_verbosity(), logging.is_progress_bar_enabled(),
        warnings.filters[:], signal.getsignal(signal.SIGINT),
    ]  # fmt: skip


def test_two_models_in_one_process_are_those_of_two_commands(
    run_cli: Callable, write_records: Callable, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither run disturbs the other, nor the process; each is the command's to the bit."""
    file = write_records(ROWS)
    bases = {family: save_checkpoint(tmp_path / family, family) for family in ("llama", "flan_t5")}
    for family, base in bases.items():
        run_cli(
            "finetune", "--model_name_or_path", base, "--train_file", file, "--output_dir", f"command_{family}",
            *FEW_FLAGS, check=True,
        )  # fmt: skip
    before = settings_of_the_process()
    capfd.readouterr()
    runs = {
        f"{family}_{time}": neuralchat.finetune(base, file, output_dir=tmp_path / f"{family}_{time}", **FEW_STEPS)
        for time in ("first", "second")
        for family, base in bases.items()
    }
    bots = {name: run.chatbot() for name, run in runs.items()}
    answers = {name: bot.chat("Name a fruit.", max_new_tokens=6) for name, bot in bots.items()}
    assert capfd.readouterr() == ("", "")
    assert settings_of_the_process() == before
    for name, run in runs.items():
        family = name.rpartition("_")[0]
        command = tmp_path / f"command_{family}"
        assert digest(run.path) == digest(command)
        said = run_cli("chat", command, "-p", "Name a fruit.", "--max_new_tokens", 6, check=True).stdout
        wanted = visible(answers[name]).rstrip("\n")
        assert said.removesuffix(" [cut at --max_new_tokens]\n").rstrip("\n") in (wanted, f"{wanted}(empty answer)")
    assert digest(runs["llama_first"].path) != digest(runs["flan_t5_first"].path)


def test_records_of_any_form_give_one_adapter(write_records: Callable, llama_checkpoint: Path, tmp_path: Path) -> None:
    forms = {"file": write_records(ROWS), "list": ROWS, "dataset": datasets.Dataset.from_list(ROWS)}
    runs = {
        name: neuralchat.finetune(llama_checkpoint, rows, output_dir=tmp_path / name, **FEW_STEPS)
        for name, rows in forms.items()
    }
    assert len({digest(run.path) for run in runs.values()}) == 1
    assert runs["file"].manifest["data"]["given_in_python"] == []
    assert runs["list"].manifest["data"]["given_in_python"] == ["train_records"]
    again = neuralchat.finetune(from_run=tmp_path / "list", train_records=ROWS, output_dir=tmp_path / "again")
    assert digest(again.path) == digest(tmp_path / "list")
    with pytest.raises(neuralchat.NeuralChatError, match="train_records were given in Python; give them again"):
        neuralchat.finetune(from_run=tmp_path / "list", output_dir=tmp_path / "other")
    with pytest.raises(neuralchat.NeuralChatError, match=r"data: was .* is now"):
        neuralchat.finetune(from_run=tmp_path / "list", train_records=ROWS[1:], output_dir=tmp_path / "other")


def test_verbose_shows_what_the_command_shows(
    write_records: Callable, llama_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_records(ROWS)
    run = neuralchat.finetune(llama_checkpoint, file, output_dir=tmp_path / "run", verbose=True, **FEW_STEPS)
    shown = capfd.readouterr()
    assert shown.out == visible(f"{run.summary()}\n")
    assert "step 4/4" in shown.err
    assert "packing is exact" in shown.err
    neuralchat.finetune(llama_checkpoint, file, output_dir=tmp_path / "quiet", **FEW_STEPS)
    assert capfd.readouterr() == ("", "")


# Interrupted


class AtStep(TrainerCallback):
    """Does something once, at the end of a step."""

    def __init__(self, step: int, action: Callable[[], Any]) -> None:
        self.step = step
        self.action = action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.action()


def test_ctrl_c_saves_and_the_same_call_goes_on(
    llama_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    undisturbed = neuralchat.finetune(llama_checkpoint, ROWS, output_dir=tmp_path / "undisturbed", **FEW_STEPS)
    handler = signal.getsignal(signal.SIGINT)
    stop = AtStep(2, lambda: signal.raise_signal(signal.SIGINT))
    call: dict[str, Any] = {"output_dir": tmp_path / "run", **FEW_STEPS}
    with pytest.raises(InterruptedTrainingError) as caught:
        neuralchat.finetune(llama_checkpoint, ROWS, callbacks=[stop], **call)
    assert str(caught.value) == (
        f"stopped by SIGINT after step 2 of 4; all is saved in {tmp_path / 'run' / 'checkpoint-2'}. Go on with:\n"
        "  neuralchat.finetune(..., resume_from_checkpoint='auto')"
    )
    assert signal.getsignal(signal.SIGINT) == handler
    half = neuralchat.Chatbot.load(tmp_path / "run" / "checkpoint-2")
    assert half.predict("Name a fruit.", max_new_tokens=3)
    with pytest.raises(neuralchat.NeuralChatError, match=r"this is not the run that .*checkpoint-2 belongs to"):
        neuralchat.finetune(llama_checkpoint, ROWS[::-1], resume_from_checkpoint="auto", **call)
    resumed = neuralchat.finetune(llama_checkpoint, ROWS, resume_from_checkpoint="auto", **call)
    assert digest(resumed.path) == digest(undisturbed.path)
    assert capfd.readouterr() == ("", "")


def test_a_failed_call_leaves_the_directory_free(llama_checkpoint: Path, tmp_path: Path) -> None:
    """The lock of a command ends with its process; a program goes on, and keeps the traceback."""

    def fail() -> None:
        raise ZeroDivisionError

    call: dict[str, Any] = {"output_dir": tmp_path / "run", **FEW_STEPS}
    with pytest.raises(ZeroDivisionError) as first:
        neuralchat.finetune(llama_checkpoint, ROWS, callbacks=[AtStep(1, fail)], **call)
    # The directory is locked before the model is loaded, which is wrong here.
    with pytest.raises(neuralchat.NeuralChatError, match="nowhere does not exist") as second:
        neuralchat.finetune("./nowhere", ROWS, overwrite_output_dir=True, **call)
    assert neuralchat.finetune(llama_checkpoint, ROWS, overwrite_output_dir=True, **call).results.steps == 4
    assert (first.type, second.type) != (None, None)


def test_another_thread_than_the_main_one(llama_checkpoint: Path, tmp_path: Path) -> None:
    """There are no signal handlers there; a notebook's server may call from one."""
    found: list[neuralchat.Run] = []
    thread = threading.Thread(
        target=lambda: found.append(
            neuralchat.finetune(llama_checkpoint, ROWS, output_dir=tmp_path / "run", **FEW_STEPS)
        )
    )
    thread.start()
    thread.join()
    assert found[0].results.steps == 4


# The command line on the same interface


def test_chat_eval_and_merge_take_checkpoints_and_base_models(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    run = neuralchat.finetune(llama_checkpoint, ROWS, output_dir=tmp_path / "run", learning_rate=0.05, **FEW_STEPS)
    checkpoint = run.checkpoints[-1]
    question = ("-p", "Name a fruit.", "--max_new_tokens", 4)
    of_run = run_cli("chat", run.path, *question, check=True).stdout
    of_checkpoint = run_cli("chat", checkpoint, *question, check=True)
    # Nothing about it had to be guessed.
    assert (of_checkpoint.stdout, of_checkpoint.stderr) == (of_run, "")
    assert run_cli("chat", llama_checkpoint, *question, check=True).stdout != of_run
    questions = write_records([{"instruction": "Name a fruit.", "output": "b", "facts": ["zzz"]}], "questions.json")
    compared = "questions: 0 of 1 right before, 0 after (0 kept, 0 lost, 0 gained)\n"
    for model, beside in ((checkpoint, compared), (llama_checkpoint, "")):
        scored = run_cli("eval", model, "--questions", questions, "--max_new_tokens", 4, check=True)
        # Four tokens are no whole answer.
        assert scored.stdout.endswith(
            beside + "0 of 1 answers state the right fact (0%, 0 to 79 with 95 % confidence)\n"
            "of the others, cut off before their end: 1; a larger --max_new_tokens lets answers end\n"
        )
    run_cli("merge", checkpoint, "--output", "merged", check=True)
    assert run_cli("chat", "merged", *question, check=True).stdout == of_run
    shown = run_cli("show", "merged")
    assert (shown.returncode, shown.stderr) == (
        2,
        "error: merged was merged from a checkpoint, whose run had no results yet\n",
    )
    refused = run_cli("merge", llama_checkpoint, "--output", "other")
    assert refused.stderr == f"error: {llama_checkpoint} is a base model: there is no adapter to merge\n"
    assert refused.returncode == 2
    assert run_cli("show", run.path, check=True).stdout == visible(f"{run}\n")


def test_a_checkpoint_of_pissa_is_the_run_it_became(llama_checkpoint: Path, tmp_path: Path) -> None:
    """The checkpoint holds what stands beside changed base weights, the run a plain adapter of the unchanged ones."""
    run = neuralchat.finetune(
        llama_checkpoint, ROWS, output_dir=tmp_path / "run", lora_init="pissa", learning_rate=0.01, **FEW_STEPS
    )
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        of_run, of_checkpoint = (
            neuralchat.Chatbot.load(path).model(input_ids=ids).logits for path in (run.path, run.checkpoints[-1])
        )
    torch.testing.assert_close(of_run, of_checkpoint, rtol=1e-3, atol=1e-3)
    name, weight = min(adapter(run.path).items())
    assert not torch.equal(weight, adapter(run.checkpoints[-1])[name])


def test_a_checkpoint_of_all_weights(llama_checkpoint: Path, tmp_path: Path) -> None:
    run = neuralchat.finetune(llama_checkpoint, ROWS, output_dir=tmp_path / "run", peft="none", **FEW_STEPS)
    assert json.loads((run.checkpoints[-1] / "checkpoint.json").read_text())["run"]["adapter"]["method"] == "none"
    answers = [
        neuralchat.Chatbot.load(path).predict("Name a fruit.", max_new_tokens=6)
        for path in (run.path, run.checkpoints[-1])
    ]
    assert answers[0] == answers[1]
