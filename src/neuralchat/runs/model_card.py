"""manifest -> the model card of a run, or of a merged model: README.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from neuralchat.console.terminal import visible
from neuralchat.runs.differences import ADJUSTED_P, difference_text, probability, share_text
from neuralchat.runs.directory import MANIFEST
from neuralchat.runs.kept_evaluation import TRIAL_QUESTIONS, KeptFigure, figures_of_card, questions_by_set
from neuralchat.secrets import without_remembered

# What Markdown, or the HTML in it, would take for more than text.
MARKUP = re.compile(r"[\\`*\[\]<>|#&]")
FINGERPRINT = re.compile(r"[0-9a-f]{16,64}")
# In the place of the p that figures of such a version have not.
EARLIER = "earlier version"
# What the hub knows as the name of a licence; others are in the text only.
LICENCE_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]{0,40}")


def model_card(
    manifest: dict[str, Any],
    *,
    with_neuralchat: str = "",
    without_neuralchat: str = "",
    use: str = "",
    evaluation: Sequence[KeptFigure] = (),
    licence: str | None = None,
    hub_id: str | None = None,
    template_in: str = MANIFEST,
) -> str:
    """`with_neuralchat`, `without_neuralchat`: Python code that asks one question; the second may be empty. `use`: how
    a file for other programs is used, in the place of both. `licence`: of the base model, None where it does not say.
    `hub_id`: what the hub calls the base model, None where it does not know it. `template_in`: the file beside the card
    that holds the template; empty where none does.
    """
    base, adapter = manifest["base_model"]["name"], manifest["adapter"]
    method, merged = adapter["method"], adapter.get("merged")
    whole = method == "none"
    is_local = Path(base).is_dir() or base.startswith(("/", ".", "~")) or base.count("/") > 1
    # The hub takes only names of its own there.
    facts: dict[str, Any] = {} if hub_id is None else {"base_model": plain(hub_id)}
    if licence is not None and LICENCE_NAME.fullmatch(licence.lower()):
        facts["license"] = licence.lower()
    facts["library_name"] = ("gguf" if use else "transformers") if whole or use else "peft"
    facts["tags"] = ["full" if whole and not merged else plain(merged or method), "neuralchat"]
    written = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True).rstrip()
    # The way to it says whose machine it was, and helps nobody elsewhere.
    shown = in_text(Path(base).name if is_local else base)
    kind = f"{shown} with its {merged} adapter folded in" if merged else f"{shown}, all weights"
    adapters = combined_adapters(manifest)
    if adapters:
        kind = f"{shown} with {len(adapters)} {merged} adapters folded in as one ({how_combined(manifest)})"
    what = f"{kind}, trained" if whole else f"A {in_text(method)} adapter for {shown}, trained"
    parts = [
        "---",
        written,
        "---",
        f"# {'Fine-tuned' if whole else 'Adapter for'} {shown}",
        "",
        f"{what} with NeuralChat{version(manifest)}{on_examples(manifest)}.",
        f"Prompt template: {in_text(manifest['template']['name'])}.",
        *hub_name_lines(shown, hub_id),
        *adapter_lines(adapters),
        *table(manifest, licence),
        *evaluation_lines(evaluation),
        "",
        "## Use",
        "",
        *(
            [use]
            if use
            else [
                "`neuralchat chat` with this directory talks to it in the terminal. In Python:",
                "",
                f"```python\n{with_neuralchat}```",
            ]
        ),
    ]
    if use:
        return "\n".join(parts) + "\n"
    if without_neuralchat:
        parts += ["", "Without NeuralChat:", "", f"```python\n{without_neuralchat}```"]
    if not whole and is_local:
        parts += [
            "",
            f"The base model, {shown}, was a directory of the machine that trained. Where it lies elsewhere, name its "
            "place: `neuralchat chat THIS_DIRECTORY --base_model PATH`"
            + (", or `base` in the code above." if without_neuralchat else "."),
        ]
    holds = f"; `{template_in}` holds the template" if template_in else ""
    parts += ["", f"The prompt must be written as in training{holds}."]
    return "\n".join(parts) + "\n"


def hub_name_lines(shown: str, hub_id: str | None) -> list[str]:
    """What the hub's name of the base model leaves open: that there is none, or that the weights were not its own."""
    if hub_id is None:
        return ["", f"No name on the hub is known for {shown}, so the field `base_model` is left out."]
    if "/" in shown or hub_id.partition("/")[2] == shown:
        return []
    other = f"{shown} is {in_text(hub_id)} under another name"
    return ["", f"{other}; its weights may be rounded to fewer bits than there."]


def combined_adapters(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """What is said of each adapter in a model of several, the run's own first; empty for any other."""
    found = manifest.get("combined")
    if not isinstance(found, dict) or not isinstance(others := found.get("with"), list):
        return []
    # Earlier versions named the others only.
    own = found.get("run", {"name": "the run itself", "weight": found.get("weight")})
    return [facts for facts in (own, *others) if isinstance(facts, dict)]


def how_combined(manifest: dict[str, Any]) -> str:
    combined = manifest["combined"]
    density = f", density {combined['density']}" if isinstance(combined.get("density"), float) else ""
    return f"{in_text(str(combined.get('how')))}{density}"


def adapter_lines(adapters: Sequence[dict[str, Any]]) -> list[str]:
    """Each adapter of several, with what it was trained on."""
    if not adapters:
        return []
    rows = []
    for facts in adapters:
        count, fingerprint = number_at(facts, "examples"), facts.get("train_fingerprint")
        told = [f"{count:,} examples"] if count else []
        if isinstance(fingerprint, str) and FINGERPRINT.fullmatch(fingerprint):
            told.append(f"fingerprint {fingerprint}")
        weight = in_text(str(facts.get("weight")))
        rows.append(f"| {in_text(str(facts.get('name')))} | {weight} | {', '.join(told) or 'not known'} |")
    return ["", "| adapter | weight | trained on |", "|---|---|---|", *rows]


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


def table(manifest: dict[str, Any], licence: str | None) -> list[str]:
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
    for part, what in (("train", "training data"), ("validation", "held-out data")):
        if (found := fingerprint_at(manifest, part)) is not None:
            count = number_at(manifest, "data", "counts", part, "examples")
            rows.append((what, f"{f'{count:,} examples, ' if count else ''}fingerprint {found}"))
    rows.append(
        ("licence of the base model", in_text(licence) if licence else "not in its files; look where it is from")
    )
    return ["", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)] if rows else []


def fingerprint_at(manifest: dict[str, Any], part: str) -> str | None:
    data = manifest.get("data")
    found = data.get(f"{part}_fingerprint") if isinstance(data, dict) else None
    return found if isinstance(found, str) and FINGERPRINT.fullmatch(found) else None


def evaluation_lines(figures: Sequence[KeptFigure]) -> list[str]:
    """What `neuralchat eval` found, as a table."""
    if not figures:
        return []
    shown = figures_of_card(figures)
    trials = ""
    if len(shown) < len(figures):
        trials = f" Sets of fewer than {TRIAL_QUESTIONS} questions are left out."
        if max(questions_by_set(shown).values()) < TRIAL_QUESTIONS:
            trials = f" All sets have fewer than {TRIAL_QUESTIONS} questions; the largest is shown."
    earlier = ""
    if any(map(is_of_earlier_version, shown)):
        earlier = (
            f" Rows of an {EARLIER} have words for all measures too, and an interval for each measure alone; words and "
            "interval of such a row may differ."
        )
    sizes = questions_by_set(shown)
    lines = [
        "",
        "## Evaluation",
        "",
        "By `neuralchat eval` of the trained model, its base model asked the same. Shares with intervals of 95 %. "
        f"Adjusted p: {ADJUSTED_P}, raised because all measures of the same questions are looked at together (Holm). "
        "A difference is claimed where it is below 0.05, just where the interval of the difference is without zero; "
        "everywhere else none can be seen." + earlier + trials,
        "",
        "| asked | measure | base model | this one | difference | adjusted p | |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure in shown:
        asked, measure = f"{in_text(figure.file) or in_text(figure.part)}, {sizes[figure.source]}", figure.measure
        if figure.max_new_tokens is not None:
            asked += f" (answers of at most {figure.max_new_tokens} tokens)"
        if figure.questions < sizes[figure.source]:
            measure += f" ({figure.questions} of them)"
        before = "" if figure.before is None else value_in_text(figure, figure.before, figure.before_interval)
        after = value_in_text(figure, figure.after, figure.after_interval)
        p = EARLIER if is_of_earlier_version(figure) else ""
        if figure.adjusted_p is not None:
            p = in_text(probability(figure.adjusted_p))
        cells = (asked, in_text(measure), before, after, difference_in_text(figure), p, in_text(figure.says))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def is_of_earlier_version(figure: KeptFigure) -> bool:
    """Whether it was kept by one whose words were for all measures, and its intervals for each alone."""
    return figure.difference is not None and figure.adjusted_p is None


def value_in_text(figure: KeptFigure, number: float, interval: Sequence[float] | None) -> str:
    return share_text(number, interval) if figure.share else f"{number:.3f}"


def difference_in_text(figure: KeptFigure) -> str:
    """
    >>> difference_in_text(KeptFigure(part="held out", file="", measure="right", questions=9, share=True, after=1.0,
    ...                               difference=0.5, interval=(0.25, 0.75), confidence=0.96))
    '+50.0 points (+25.0 to +75.0, 96 %)'
    """
    if figure.difference is None:
        return ""
    level = figure.confidence or 0.95
    return difference_text(
        figure.difference, figure.interval, level, share=figure.share, digits=1 if figure.share else 3
    )


def plain(text: str) -> str:
    """A name as one line without secrets and control characters."""
    return " ".join(visible(without_remembered(text)).split())


def in_text(text: str) -> str:
    """A name within Markdown.

    >>> in_text("models/my_model"), in_text("a<script>\\n# b")
    ('models/my_model', 'a\\\\<script\\\\> \\\\# b')
    """
    return MARKUP.sub(r"\\\g<0>", plain(text))
