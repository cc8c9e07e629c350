"""manifest -> the model card of a run."""

from __future__ import annotations

import re
from typing import Any

import yaml

from neuralchat.console.terminal import visible
from neuralchat.secrets import without_remembered

# What Markdown, or the HTML in it, would take for more than text.
MARKUP = re.compile(r"[\\`*\[\]<>|#&]")


def model_card(manifest: dict[str, Any], *, whole: bool) -> str:
    """The README.md of a run. `whole`: it holds a whole model, not an adapter."""
    results, method = manifest["results"], manifest["adapter"]["method"]
    base = in_text(manifest["base_model"]["name"])
    held_out = ""
    if results["held_out_loss_after"] is not None:
        before = results["held_out_loss_before"]
        held_out = f"| held-out loss | {results['held_out_loss_after']:.4f}"
        held_out += f" (before: {before:.4f}) |\n" if before is not None else " |\n"
    seq2seq = manifest["template"]["name"] == "alpaca_pairs"
    kind = "Seq2SeqLM" if seq2seq else "CausalLM"
    loader, library = (f"AutoModelFor{kind}", "transformers") if whole else (f"AutoPeftModelFor{kind}", "peft")
    what = f"{base}, all weights" if whole else f"A {in_text(method)} adapter for {base},"
    facts = {
        "base_model": plain(manifest["base_model"]["name"]),
        "library_name": library,
        "tags": ["full" if whole else plain(method), "neuralchat"],
    }
    return f"""---
{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---
# {"Fine-tuned" if whole else "Adapter for"} {base}

{what} trained with NeuralChat {manifest["neuralchat"]} on {manifest["data"]["counts"]["train"]["examples"]} examples.
Prompt template: {in_text(manifest["template"]["name"])}.

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


def plain(text: str) -> str:
    """A name as one line without secrets and control characters."""
    return " ".join(visible(without_remembered(text)).split())


def in_text(text: str) -> str:
    """A name within Markdown.

    >>> in_text("models/my_model"), in_text("a<script>\\n# b")
    ('models/my_model', 'a\\\\<script\\\\> \\\\# b')
    """
    return MARKUP.sub(r"\\\g<0>", plain(text))
