"""docs/templates.md: what the chat templates of today's models are like, seen by the code that trains with them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
PAGE = ROOT / "docs" / "templates.md"

HEAD = """# Chat templates

`--template chat` (the default where the tokenizer has a chat template) writes records as that template does, so a model
learns the format that its maker chose. Chat, evaluation and the report ask in the same format.

- **What is learned** is what the template writes after its generation prompt, up to the special token that ends the
  turn. `<think>` blocks that the template writes, also empty ones, belong to the answer.
- **Where an answer is written otherwise once more is said** (its reasoning is left out, say), each answer of a
  conversation becomes an example of its own, as chat will see it. How many is told.
- **Reasoning** (`reasoning_content`, or `<think>` in the text) is learned where the template writes it. Where it leaves
  it out, that is counted and told.
- **Tools** are for templates that know them; others refuse the record by name.
- **Where the generation prompt is not what stands before an answer in training**, chat sends what training wrote.
- **Text of a user never becomes a control token**, however it is spelled.
- `--chat_template FILE` takes another template, `--chat_template_kwargs enable_thinking=false` gives it variables; the
  run keeps both. A variable that the template does not name is told. A template that prints today's date prints the day
  of the run's start ever after (`--template_date`).

The table is made by `scripts/generate_template_table.py` from templates in the manner of published ones
(`tests/support/templates/styles.py`); `tests/unit/data/templates/test_chat_styles.py` holds each against the rendering
of transformers.

| in the manner of | system | reasoning | tools | two answers | the model begins with | an answer stops at |
|---|---|---|---|---|---|---|
"""


def main() -> int:
    text = HEAD + "".join(rows())
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE.relative_to(ROOT)} is not up to date; run scripts/generate_template_table.py", file=sys.stderr)
    return 1


def rows() -> list[str]:
    from support.templates.styles import STYLES

    return [row_of(name, style) for name, style in STYLES.items()]


def row_of(name: str, style: Any) -> str:
    from support.templates.styles import tokenizer_of

    from neuralchat.data.records import Turn
    from neuralchat.data.templates.chat import ChatTemplate

    template = ChatTemplate(tokenizer_of(style), date="2026-11-25")
    question, answer = Turn("user", "Q"), Turn("assistant", "A")
    examples = len(template.renderings((question, answer, question, answer)))
    thought = template.renderings((question, Turn("assistant", "A", reasoning="T")))[0]
    opening = "".join(piece.text for piece in template.frame[0])
    cells = (
        name,
        "yes" if "system" in style.knows else "refused",
        "left out, told" if thought.lost_reasoning else "learned",
        "yes" if "tools" in style.knows else "refused",
        "one example" if examples == 1 else f"{examples} examples",
        code(opening) if opening else "the answer",
        " ".join(code(token) for token in template.end_tokens),
    )
    return f"| {' | '.join(cells)} |\n"


def code(text: str) -> str:
    shown = text.replace("\n", "↵").replace("|", "\\|")
    return f"`{shown}`"


if __name__ == "__main__":
    sys.exit(main())
