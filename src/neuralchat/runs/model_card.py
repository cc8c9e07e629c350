"""manifest -> the model card of a run."""

from __future__ import annotations

from typing import Any


def model_card(manifest: dict[str, Any], *, whole: bool) -> str:
    """The README.md of a run. `whole`: it holds a whole model, not an adapter."""
    results, base, method = manifest["results"], manifest["base_model"]["name"], manifest["adapter"]["method"]
    held_out = ""
    if results["held_out_loss_after"] is not None:
        before = results["held_out_loss_before"]
        held_out = f"| held-out loss | {results['held_out_loss_after']:.4f}"
        held_out += f" (before: {before:.4f}) |\n" if before is not None else " |\n"
    seq2seq = manifest["template"]["name"] == "alpaca_pairs"
    kind = "Seq2SeqLM" if seq2seq else "CausalLM"
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
