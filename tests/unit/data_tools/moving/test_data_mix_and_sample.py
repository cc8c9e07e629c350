"""`neuralchat data mix` is what finetune's --mix trains on; `neuralchat data sample` draws by a seed."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from neuralchat.cli import main
from neuralchat.config.arguments import DataArguments
from neuralchat.data.prepared_data import prepare

DOMAIN = [{"instruction": f"d{i}", "output": "domain " * (i + 1)} for i in range(4)]
GENERAL = [{"instruction": f"g{i}", "output": "general " * (i + 1)} for i in range(12)]


def written(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("shares", "samples"), [((0.6, 0.4), None), ((1, 1), 30), ((3, 1), 11)])
def test_a_mixed_file_is_what_finetune_would_mix(
    tmp_path: Path,
    tokenizer: Any,
    capsys: pytest.CaptureFixture[str],
    shares: tuple[float, float],
    samples: int | None,
) -> None:
    files = [written(tmp_path / "g.jsonl", GENERAL), written(tmp_path / "d.jsonl", DOMAIN)]
    mix = [f"{file}={share}" for file, share in zip(files, shares, strict=True)]
    output = tmp_path / "out.jsonl"
    words = ["data", "mix", *mix, "--output", str(output), "--seed", "5"]
    assert main([*words, *(["--mix_samples", str(samples)] if samples else [])]) == 0
    trained = prepare(DataArguments(mix=mix, mix_samples=samples, dataset_seed=5), tokenizer).train
    places = [Path(trained[index].source.split(" row ")[0]).name[0] + trained[index].source.split(" row ")[1]
              for index in range(len(trained))]  # fmt: skip
    rows = {**{f"g{i + 1}": row for i, row in enumerate(GENERAL)}, **{f"d{i + 1}": row for i, row in enumerate(DOMAIN)}}
    assert rows_of(output) == [rows[place] for place in places]
    assert f"{files[0]} " in capsys.readouterr().out


def test_kinds_are_mixed_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    files = [written(tmp_path / "g.jsonl", [chat] * 4), written(tmp_path / "d.jsonl", DOMAIN)]
    words = ["data", "mix", *(f"{file}=1" for file in files), "--output", str(tmp_path / "out.jsonl")]
    assert main(words) == 2
    assert "records of several kinds" in capsys.readouterr().err
    assert main([*words, "--to", "messages"]) == 0
    asked = [row["messages"][0]["content"] for row in rows_of(tmp_path / "out.jsonl")]
    assert Counter(asked) == {"Hi": 4, "d0": 1, "d1": 1, "d2": 1, "d3": 1}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["g.jsonl=x"], "g.jsonl=x: the share must be a number above 0"),
        (["g.jsonl"], "the share must be a number above 0"),
        (["g.jsonl=1", "g.jsonl=2"], "g.jsonl is named twice"),
        (["g.jsonl=1000", "d.jsonl=1"], "the mixture is too small for an example of each file"),
        (["g.jsonl=1", "gone.jsonl=1"], "gone.jsonl does not exist"),
        (["g.jsonl=1", "--mix_samples", "0"], "--mix_samples 0"),
    ],
)
def test_what_cannot_be_mixed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "g.jsonl", GENERAL)
    written(tmp_path / "d.jsonl", DOMAIN)
    assert main(["data", "mix", *words, "--output", "out.jsonl"]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture
def sampled(tmp_path: Path) -> Callable[..., list[str]]:
    def run(rows: Sequence[Any], *words: str) -> list[str]:
        place = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        file = written(place / "a.jsonl", rows)
        assert main(["data", "sample", file, "--output", str(place / "out.jsonl"), *words]) == 0
        return [row["instruction"] for row in rows_of(place / "out.jsonl")]

    return run


def test_a_sample_hangs_on_records_and_seed_alone(sampled: Callable[..., list[str]]) -> None:
    drawn = sampled(GENERAL, "-n", "6")
    assert len(set(drawn)) == 6
    mixed = random.Random(1).sample(GENERAL, len(GENERAL))
    assert set(sampled(mixed, "-n", "6")) == set(drawn)
    assert set(sampled(GENERAL, "-n", "3")) < set(drawn)
    assert len({tuple(sampled(GENERAL, "-n", "6", "--seed", str(seed))) for seed in range(4)}) > 1
    # No more than there are; copies are drawn one by one.
    assert sampled(GENERAL, "-n", "99") == [row["instruction"] for row in GENERAL]
    assert len(sampled(GENERAL[:1] * 9, "-n", "4")) == 4


def test_a_sample_by_a_field_has_its_shares(sampled: Callable[..., list[str]]) -> None:
    rows = [
        {"instruction": f"{'r' if n % 5 == 0 else 'o'}{n}", "output": "So.", "topic": n % 5 == 0} for n in range(50)
    ]
    drawn = sampled(rows, "-n", "10", "--stratify_by", "topic")
    assert Counter(name[0] for name in drawn) == {"r": 2, "o": 8}


def test_without_an_output_records_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(
        tmp_path / "a.jsonl", [{"instruction": "Add.", "input": "1, 2", "output": "3\n4", "system": "Count."}]
    )
    assert main(["data", "sample", file]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown[1:] == [["system", "Count."], ["user", "Add."], ["input", "1,", "2"], ["assistant", "3"], ["4"], []]
    assert main(["data", "sample", file, "-n", "0"]) == 2
    assert main(["data", "sample", file, "--stratify_by", "topic"]) == 2
    assert "--stratify_by topic: no row has this field" in capsys.readouterr().err
