"""How fast candidates are compared by ROUGE-L with all tasks accepted so far, beside the package rouge-score.

python benchmarks/generating.py [--accepted 20000] [--candidates 1000] [--checked 3]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

from rouge_score.rouge_scorer import RougeScorer

from neuralchat.data_tools.generating.made_records import RATHER_ALIKE
from neuralchat.data_tools.generating.rouge_index import RougeIndex, rouge_words
from neuralchat.data_tools.generating.seed_tasks import package_seeds, read_seed_tasks

DATA = Path(__file__).parents[1] / "examples/data/train.json"


def sentences(count: int, seed: int) -> list[str]:
    """Word by word as in the seed tasks and records (a chain of pairs of words), so that common words are as common."""
    rng = random.Random(seed)
    texts = [task.instruction for task in read_seed_tasks(package_seeds())]
    texts += [row["instruction"] for row in json.loads(DATA.read_text())]
    after: dict[str, list[str]] = {}
    for text in texts:
        for one, other in itertools.pairwise(["", *rouge_words(text), ""]):
            after.setdefault(one, []).append(other)
    found = []
    while len(found) < count:
        words: list[str] = []
        while (word := rng.choice(after[words[-1] if words else ""])) and len(words) < 40:
            words.append(word)
        if len(words) >= 4:
            found.append(" ".join(words))
    return found


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accepted", type=int, default=20_000)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--checked", type=int, default=3, help="candidates also compared by rouge-score with all")
    options = parser.parse_args(words)
    known = sentences(options.accepted, 1)
    candidates = sentences(options.candidates, 2)
    index = RougeIndex(RATHER_ALIKE)
    started = time.perf_counter()
    for text in known:
        index.add(text)
    added_s = time.perf_counter() - started
    started = time.perf_counter()
    nearest = [index.nearest(text) for text in candidates]
    ours_s = time.perf_counter() - started
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    started = time.perf_counter()
    same = 0
    for text, found in zip(candidates[: options.checked], nearest, strict=False):
        scores = [scorer.score(other, text)["rougeL"].fmeasure for other in known]
        best = max(scores)
        expected = (best, scores.index(best)) if best >= RATHER_ALIKE else (0.0, None)
        same += tuple(found) == expected
    theirs_s = time.perf_counter() - started
    result = {
        "accepted": options.accepted,
        "mean words": round(sum(map(len, index.words)) / len(index), 1),
        "added per second": round(options.accepted / added_s),
        "candidates per second": round(options.candidates / ours_s),
        "of them too alike": sum(found.score >= 0.7 for found in nearest) / options.candidates,
        "rouge-score, candidates per second": round(options.checked / theirs_s, 3) if options.checked else None,
        "same as rouge-score": f"{same} of {options.checked}",
    }
    print(json.dumps(result, indent=1))
    return int(same != options.checked)


if __name__ == "__main__":
    raise SystemExit(main())
