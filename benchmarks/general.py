"""What a run has kept of its base model's general knowledge: the measured prompts, asked of both in the same format.

    python benchmarks/general.py runs/demo
    python benchmarks/general.py runs/demo --base smollm2-135m-instruct --json benchmarks/results/general.json

Greedy answers. Kept are those that the base model answers right and the run too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from neuralchat.data.general_prompts import GeneralPrompt, measured_prompts
from neuralchat.evaluation.facts import states_facts
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling import Sampling


def answers_of(bot: Chatbot, prompts: list[GeneralPrompt], tokens: int) -> list[str]:
    found = bot.answers([prompt.turns for prompt in prompts], Sampling(max_new_tokens=tokens))
    return [answer.text for answer in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--base", default="smollm2-135m-instruct", help="the run's base model")
    parser.add_argument("--max_new_tokens", type=int, default=48)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    prompts = [prompt for prompt in measured_prompts() if prompt.facts]
    tuned = Chatbot.load(options.run)
    base = Chatbot.load(options.base, template=tuned.template.name)
    rows = []
    for prompt, before, after in zip(
        prompts,
        answers_of(base, prompts, options.max_new_tokens),
        answers_of(tuned, prompts, options.max_new_tokens),
        strict=True,
    ):
        right = [states_facts(answer, prompt.facts) for answer in (before, after)]
        rows.append(
            {"prompt": prompt.instruction, "kind": prompt.kind, "before": before, "after": after, "right": right}
        )
    for row in rows:
        if row["right"] == [True, False]:
            print(f"lost  {row['prompt']}\n      {' '.join(str(row['after']).split())[:100]}")
    known = sum(row["right"][0] for row in rows)
    kept = sum(row["right"] == [True, True] for row in rows)
    gained = sum(row["right"] == [False, True] for row in rows)
    print(f"the base model answers {known} of {len(rows)} right; {kept} of them are kept, {gained} others gained")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
