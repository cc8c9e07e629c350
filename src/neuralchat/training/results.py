"""What a run found -> neuralchat.json, README.md, report.html and the summary on the terminal."""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from neuralchat import __version__
from neuralchat.console import clock
from neuralchat.errors import RunDirectoryError
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.compat.transformers import commit_of
from neuralchat.models.loading.base_model import resolve
from neuralchat.runs.directory import MANIFEST, REPORT, read_manifest, read_metrics, write_atomically
from neuralchat.runs.report import render_report
from neuralchat.training.sample_answers import Sample

if TYPE_CHECKING:
    from neuralchat.training.session import Session


@dataclass
class Results:
    """Numbers of a run. Losses are means over supervised tokens; memory is the process's peak in MiB."""

    trained_parameters: int
    total_parameters: int
    packed: bool
    steps: int = 0
    tokens: int = 0
    tokens_this_time: int = 0
    # Steps left out by --on_nonfinite skip.
    skipped_steps: int = 0
    mean_loss: float | None = None
    held_out_loss_before: float | None = None
    held_out_loss_after: float | None = None
    training_seconds: float = 0.0
    seconds: float = 0.0
    peak_memory_mb: int = 0
    # F-measures of the answers to the held-out questions, with --predict_with_generate.
    rouge: dict[str, float] | None = None
    samples: list[Sample] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_this_time / self.training_seconds if self.training_seconds else 0.0


def peak_memory_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak >> (20 if sys.platform == "darwin" else 10)


def finish(output: Path, session: Session, results: Results) -> None:
    """Write what a finished run holds and tell the user."""
    if not session.training.should_save:
        return
    manifest = make_manifest(session, results)
    if session.training.do_train:
        write_atomically(output / "README.md", model_card(manifest))
        write_atomically(output / REPORT, render_report(manifest, read_metrics(output)))
        # Last: a directory with a manifest is a finished run.
        write_atomically(output / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    print(summary(output, manifest))


def make_manifest(session: Session, results: Results) -> dict[str, Any]:
    arguments, data = session.arguments, session.data
    return {
        "neuralchat": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "base_model": {
            "name": arguments.model.model_name_or_path,
            "path": absolute(resolve(session.source.name)),
            "config_name": session.source.config_name,
            "revision": session.source.revision,
            "cache_dir": session.source.cache_dir,
            "trust_remote_code": session.source.trust_remote_code,
            "architecture": type(base_model_of(session.model)).__name__,
            "commit": commit_of(session.model.config),
        },
        "template": {
            "name": data.template.name,
            "sha256": data.template.fingerprint(),
            "end_tokens": list(data.template.end_tokens),
            "definition": data.template.definition(),
        },
        "adapter": {
            "method": arguments.tuning.peft,
            "trained_parameters": results.trained_parameters,
            "total_parameters": results.total_parameters,
        },
        "precision": {**session.precision.as_dict(), "adapter": "float32"},
        "data": {
            "train_fingerprint": data.train.fingerprint if data.train is not None else None,
            "validation_fingerprint": data.validation.fingerprint if data.validation is not None else None,
            "counts": data.counts,
        },
        "identity": session.identity,
        "arguments": arguments.as_dict(),
        "working_directory": str(Path.cwd()),
        "results": {**asdict(results), "tokens_per_s": round(results.tokens_per_s, 1)},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "peft", "accelerate", "tokenizers")},
        },
        "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
    }


def absolute(name: str) -> str:
    """A directory's whole path; a hub id as it is."""
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def held_out_line(results: dict[str, Any]) -> str | None:
    before, after = results["held_out_loss_before"], results["held_out_loss_after"]
    if before is not None and after is not None:
        change = (after - before) / before if before else 0.0
        return f"held-out loss  {before:.4f} before, {after:.4f} after ({change:+.0%})"
    known = after if before is None else before
    return None if known is None else f"held-out loss  {known:.4f}"


def summary(output: Path, manifest: dict[str, Any]) -> str:
    """What a user wants to know at the end, and what to type next."""
    results = manifest["results"]
    lines: list[str | None] = []
    for sample in results["samples"]:
        lines += [
            f"\nQ  {one_line(sample['question'])}",
            f"   before  {one_line(sample['before'])}",
            f"   after   {one_line(sample['after'])}",
        ]
    lines += ["", held_out_line(results)]
    if results.get("rouge"):
        scores = ", ".join(f"{name} {value:.3f}" for name, value in results["rouge"].items())
        lines.append(f"held-out answers  {scores}")
    if results["steps"]:
        lines += [
            f"training loss  {results['mean_loss']:.4f} (mean over {results['steps']} steps)",
            f"time           {clock(results['seconds'])}, of which training {clock(results['training_seconds'])}",
            f"speed          {results['tokens_per_s']:.0f} tokens/s",
            f"peak memory    {results['peak_memory_mb']} MiB",
            f"run            {output}",
            f"report         {output / REPORT}",
            f"chat           neuralchat chat {output}",
        ]
    return "\n".join(line for line in lines if line is not None)


def show(run: Path) -> int:
    """`neuralchat show`: the summary of a finished run, again. Raises RunDirectoryError if it was edited."""
    manifest = read_manifest(run)
    try:
        print(summary(run, manifest))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunDirectoryError(f"{run / MANIFEST} is damaged: its results cannot be shown ({error!r})") from error
    return 0


def one_line(text: str, width: int = 160) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 3] + "..."


def model_card(manifest: dict[str, Any]) -> str:
    results, base, method = manifest["results"], manifest["base_model"]["name"], manifest["adapter"]["method"]
    held_out = ""
    if results["held_out_loss_after"] is not None:
        before = results["held_out_loss_before"]
        held_out = f"| held-out loss | {results['held_out_loss_after']:.4f}"
        held_out += f" (before: {before:.4f}) |\n" if before is not None else " |\n"
    pairs = manifest["template"]["name"] == "alpaca_pairs"
    kind = "Seq2SeqLM" if pairs else "CausalLM"
    whole = method == "none"
    loader, library = (f"AutoModelFor{kind}", "transformers") if whole else (f"AutoPeftModelFor{kind}", "peft")
    what = f"{base}, all weights" if whole else f"A {method} adapter for {base},"
    return f"""---
base_model: {base}
library_name: {library}
tags: [{"full" if whole else method}, neuralchat]
---
# {"Fine-tuned" if whole else "Adapter for"} {base}

{what} trained with NeuralChat {manifest["neuralchat"]} on {manifest["data"]["counts"]["train"]["examples"]} examples.
Prompt template: {manifest["template"]["name"]}.

| | |
|---|---|
{held_out}| training loss | {results["mean_loss"]:.4f} |
| steps | {results["steps"]} |
| trained parameters | {manifest["adapter"]["trained_parameters"]:,} |

Talk to it with `neuralchat chat` and this directory, or load it in Python:

```python
from {library} import {loader}

model = {loader}.from_pretrained("this directory")
```

The prompt must be written as in training; `neuralchat.json` holds the template.
"""
