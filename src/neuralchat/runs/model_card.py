"""manifest -> the model card of a run, or of a merged model: README.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from neuralchat.console.terminal import visible
from neuralchat.secrets import without_remembered

# What Markdown, or the HTML in it, would take for more than text.
MARKUP = re.compile(r"[\\`*\[\]<>|#&]")


def model_card(manifest: dict[str, Any], *, with_neuralchat: str, without_neuralchat: str) -> str:
    """`with_neuralchat`, `without_neuralchat`: Python code that asks one question; the second may be empty."""
    base, adapter = manifest["base_model"]["name"], manifest["adapter"]
    method, merged = adapter["method"], adapter.get("merged")
    whole = method == "none"
    # The hub takes only names of its own there.
    is_local = Path(base).is_dir() or base.startswith(("/", ".", "~")) or base.count("/") > 1
    facts: dict[str, Any] = {} if is_local else {"base_model": plain(base)}
    facts["library_name"] = "transformers" if whole else "peft"
    facts["tags"] = ["full" if whole and not merged else plain(merged or method), "neuralchat"]
    written = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True).rstrip()
    # The way to it says whose machine it was, and helps nobody elsewhere.
    shown = in_text(Path(base).name if is_local else base)
    kind = f"{shown} with its {merged} adapter folded in" if merged else f"{shown}, all weights"
    kind += combined_with(manifest)
    what = f"{kind}, trained" if whole else f"A {in_text(method)} adapter for {shown}, trained"
    parts = [
        "---",
        written,
        "---",
        f"# {'Fine-tuned' if whole else 'Adapter for'} {shown}",
        "",
        f"{what} with NeuralChat{version(manifest)}{on_examples(manifest)}.",
        f"Prompt template: {in_text(manifest['template']['name'])}.",
        *table(manifest),
        "",
        "## Use",
        "",
        "`neuralchat chat` with this directory talks to it in the terminal. In Python:",
        "",
        f"```python\n{with_neuralchat}```",
    ]
    if without_neuralchat:
        parts += ["", "Without NeuralChat:", "", f"```python\n{without_neuralchat}```"]
    if not whole and is_local:
        parts += [
            "",
            f"The base model, {shown}, was a directory of the machine that trained. Where it lies elsewhere, name its "
            "place: `neuralchat chat THIS_DIRECTORY --base_model PATH`"
            + (", or `base` in the code above." if without_neuralchat else "."),
        ]
    parts += ["", "The prompt must be written as in training; `neuralchat.json` holds the template."]
    return "\n".join(parts) + "\n"


def combined_with(manifest: dict[str, Any]) -> str:
    """The other adapters in a model of several."""
    found = manifest.get("combined")
    if not isinstance(found, dict) or not isinstance(others := found.get("with"), list):
        return ""
    listed = [f"{in_text(str(o.get('name')))} (weight {o.get('weight')})" for o in others if isinstance(o, dict)]
    return f", together with {', '.join(listed)} ({in_text(str(found.get('how')))})"


def version(manifest: dict[str, Any]) -> str:
    found = manifest.get("neuralchat")
    return f" {in_text(found)}" if isinstance(found, str) else ""


def on_examples(manifest: dict[str, Any]) -> str:
    count = number_at(manifest, "data", "counts", "train", "examples")
    return f" on {count} examples" if count else ""


def number_at(manifest: dict[str, Any], *path: str) -> int | None:
    """A whole number deep in a manifest that others may have written; None where there is no such number."""
    found: Any = manifest
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def table(manifest: dict[str, Any]) -> list[str]:
    results, trained = manifest["results"], number_at(manifest, "adapter", "trained_parameters")
    before, after = results.get("held_out_loss_before"), results.get("held_out_loss_after")
    rows = []
    if after is not None:
        rows.append(("held-out loss", f"{after:.4f}" + (f" (before: {before:.4f})" if before is not None else "")))
    if results.get("mean_loss") is not None:
        rows.append(("training loss", f"{results['mean_loss']:.4f}"))
        rows += [("steps", str(results["steps"]))] if "steps" in results else []
    if trained is not None:
        rows.append(("trained parameters", f"{trained:,}"))
    return ["", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)] if rows else []


def plain(text: str) -> str:
    """A name as one line without secrets and control characters."""
    return " ".join(visible(without_remembered(text)).split())


def in_text(text: str) -> str:
    """A name within Markdown.

    >>> in_text("models/my_model"), in_text("a<script>\\n# b")
    ('models/my_model', 'a\\\\<script\\\\> \\\\# b')
    """
    return MARKUP.sub(r"\\\g<0>", plain(text))
