"""`neuralchat data split`: nothing alike on two sides, sizes as asked, whatever the order of the records."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.data_checks.row_by_row import sketch_of

from neuralchat.cli import main
from neuralchat.data_tools.moving import groups
from neuralchat.data_tools.moving.row_writers import JsonLines
from neuralchat.data_tools.near_duplicates import THRESHOLD

WORDS = [f"{a}{b}" for a in ("lo", "ra", "mi", "ten", "sol") for b in ("ka", "du", "fen", "rip", "zo", "bel")]


def records(count: int = 150) -> list[dict[str, Any]]:
    """Every fifth has two near copies; every seventh question is asked again with another answer."""
    chance = random.Random(3)
    found = []
    for number in range(count):
        text = [chance.choice(WORDS) for _ in range(40)]
        row = {
            "instruction": f"What is {number}?",
            "output": " ".join(text),
            "topic": "abc"[number % 3],
            "doc": number // 4,
        }
        found.append(row)
        if number % 5 == 0:
            found += [{**row, "instruction": f"What is {number}, {word}?"} for word in ("then", "now")]
        if number % 7 == 0:
            found.append({**row, "output": " ".join(reversed(text))})
    return found


def written(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def split(directory: Path, files: Sequence[str], *more: str, parts: Sequence[str] = ("t=0.8", "v=0.2")) -> list[Any]:
    into = [str(directory / name.replace("=", ".jsonl=")) for name in parts]
    assert main(["data", "split", *files, "--into", *into, *more]) == 0
    return [rows_of(directory / f"{name.partition('=')[0]}.jsonl") for name in parts]


def text_of(row: dict[str, Any]) -> str:
    return f"{row['instruction']}\n{row['output']}"


def test_nothing_alike_is_on_two_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several chunks of sketches, and of comparisons.
    monkeypatch.setattr(groups, "SKETCHES_AT_ONCE", 16)
    monkeypatch.setattr(groups, "MEMBERS_AT_ONCE", 2)
    given = records()
    train, held_out = split(tmp_path, [written(tmp_path / "a.jsonl", given)])
    assert Counter(map(text_of, train + held_out)) == Counter(map(text_of, given))
    assert abs(len(held_out) - 0.2 * len(given)) <= 4
    assert not {row["instruction"] for row in train} & {row["instruction"] for row in held_out}
    sketches = [[sketch_of(text_of(row)) for row in part] for part in (train, held_out)]
    alike = [one.jaccard(other) for one, other in itertools.product(*sketches)]  # type: ignore[union-attr]
    assert max(alike) < THRESHOLD
    # There were such pairs, which a split by chance would have torn apart.
    inside = [one.jaccard(other) for one, other in itertools.combinations(sketches[0], 2)]  # type: ignore[union-attr]
    assert sum(share >= THRESHOLD for share in inside) > 20


def test_data_check_finds_no_leakage(tmp_path: Path) -> None:
    split(tmp_path, [written(tmp_path / "a.jsonl", records(60))])
    words = [
        str(tmp_path / "t.jsonl"),
        "--validation_file",
        str(tmp_path / "v.jsonl"),
        "--report",
        str(tmp_path / "r.json"),
    ]
    main(["data", "check", *words])
    found = {finding["check"] for finding in json.loads((tmp_path / "r.json").read_text())["findings"]}
    assert "near_duplicate" in found
    assert not found & {"leakage", "near_leakage"}


def test_the_order_of_files_and_rows_does_not_matter(tmp_path: Path) -> None:
    given = records(80)
    whole = split(tmp_path, [written(tmp_path / "a.jsonl", given)], "--stratify_by", "topic")
    mixed = random.Random(1).sample(given, len(given))
    (tmp_path / "again").mkdir()
    files = [written(tmp_path / "again" / "b.jsonl", mixed[:30]), written(tmp_path / "again" / "a.jsonl", mixed[30:])]
    again = split(tmp_path / "again", files, "--stratify_by", "topic")
    assert [Counter(map(text_of, part)) for part in again] == [Counter(map(text_of, part)) for part in whole]
    (tmp_path / "seed").mkdir()
    other = split(tmp_path / "seed", [str(tmp_path / "a.jsonl")], "--stratify_by", "topic", "--seed", "7")
    assert Counter(map(text_of, other[1])) != Counter(map(text_of, whole[1]))


def test_each_value_of_a_field_is_split_in_the_same_shares(tmp_path: Path) -> None:
    given = [
        {"instruction": f"Ask {n}.", "output": "So.", "topic": "rare" if n % 10 == 0 else "often"} for n in range(200)
    ]
    report = tmp_path / "report.json"
    words = ["--stratify_by", "topic", "--report", str(report)]
    parts = split(tmp_path, [written(tmp_path / "a.jsonl", given)], *words, parts=("t=8", "v=1", "w=1"))
    assert [Counter(row["topic"] for row in part) for part in parts] == [
        {"often": 144, "rare": 16},
        {"often": 18, "rare": 2},
        {"often": 18, "rare": 2},
    ]
    assert json.loads(report.read_text())["strata"] == {"often": [144, 18, 18], "rare": [16, 2, 2]}


def test_strata_of_a_few_rows_each_are_held_out_together(tmp_path: Path) -> None:
    given = [{"instruction": f"Ask {n}.", "output": "So.", "topic": f"topic {n // 3}"} for n in range(90)]
    _, held_out = split(
        tmp_path, [written(tmp_path / "a.jsonl", given)], "--stratify_by", "topic", parts=("t=9", "v=1")
    )
    assert len(held_out) == 9
    assert len({row["topic"] for row in held_out}) == 9


def test_rows_of_a_document_stay_together(tmp_path: Path) -> None:
    given = [{"instruction": f"Ask {n}.", "output": "So.", "doc": n // 4} for n in range(100)]
    train, held_out = split(tmp_path, [written(tmp_path / "a.jsonl", given)], "--group_by", "doc")
    assert (len(train), len(held_out)) == (80, 20)
    assert not {row["doc"] for row in train} & {row["doc"] for row in held_out}


def test_a_group_too_large_for_its_share_goes_where_most_is_lacking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [{"instruction": f"Ask {n}.", "output": "So.", "doc": min(n, 60)} for n in range(100)]
    train, held_out = split(tmp_path, [written(tmp_path / "a.jsonl", given)], "--group_by", "doc", parts=("t=1", "v=1"))
    assert sorted((len(train), len(held_out))) == [50, 50]
    given = [{"instruction": f"Ask {n}.", "output": "So.", "doc": min(n, 20)} for n in range(100)]
    (tmp_path / "more").mkdir()
    split(tmp_path / "more", [written(tmp_path / "b.jsonl", given)], "--group_by", "doc", parts=("t=1", "v=1"))
    assert "groups stay whole (the largest: 80 records)" in capsys.readouterr().err


def test_without_near_only_the_same_question_stays_together(tmp_path: Path) -> None:
    text = " ".join(WORDS)
    given = [{"instruction": f"Ask {n % 40}.", "output": f"{text} {n}"} for n in range(80)]
    train, held_out = split(tmp_path, [written(tmp_path / "a.jsonl", given)], "--no_near")
    assert (len(train), len(held_out)) == (64, 16)
    assert not {row["instruction"] for row in train} & {row["instruction"] for row in held_out}


def test_too_many_to_compare_are_one_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "LARGEST_COMPARED", 10)
    system = " ".join(WORDS * 2)
    given = [{"instruction": f"{system} {n}", "output": WORDS[n % 30]} for n in range(20)]
    given += [{"instruction": f"Ask {n}.", "output": "So."} for n in range(20)]
    train, held_out = split(tmp_path, [written(tmp_path / "a.jsonl", given)], parts=("t=1", "v=1"))
    sides = [sum(row["output"] != "So." for row in part) for part in (train, held_out)]
    assert sorted(sides) == [0, 20]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--into", "t.jsonl=1"], "alone is no split"),
        (["--into", "t.jsonl=1", "v.jsonl=0"], "--into v.jsonl=0: the share must be a number above 0"),
        (["--into", "t.jsonl=0.999", "v.jsonl=0.001"], "these parts would get no record"),
        (["--into", "t.jsonl=1", "a.jsonl=1"], "a.jsonl is the file a.jsonl itself, which is read; name another file"),
        (["--into", "t.jsonl=1", "t.jsonl=1"], "t.jsonl is named twice"),
        (["--into", "t.jsonl=1", "v.txt=1"], "it can be written as .jsonl"),
        (["--into", "t.jsonl=1", "gone/v.jsonl=1"], "the directory gone does not exist"),
        (["--into", "t.jsonl=1", "v.jsonl=1", "--group_by", "nothing"], "--group_by nothing: no row has this field"),
    ],
)
def test_what_cannot_be_split_is_told_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.jsonl", records(20))
    assert main(["data", "split", "a.jsonl", *words]) == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_bad_rows_are_told_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "a.jsonl", [*records(20), {"instruction": "No answer."}])
    into = [f"{tmp_path}/t.jsonl=1", f"{tmp_path}/v.jsonl=1"]
    assert main(["data", "split", file, "--into", *into]) == 2
    assert "field 'output' is missing" in capsys.readouterr().err
    assert main(["data", "split", file, "--into", *into, "--on_bad_record", "skip"]) == 0
    assert sum(len(rows_of(tmp_path / name)) for name in ("t.jsonl", "v.jsonl")) == len(records(20))


def test_ctrl_c_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "a.jsonl", records(20))
    write = JsonLines.write

    def interrupted(self: JsonLines, row: Any) -> None:
        write(self, row)
        if row["instruction"] == "What is 12?":
            raise KeyboardInterrupt

    monkeypatch.setattr(JsonLines, "write", interrupted)
    assert main(["data", "split", file, "--into", f"{tmp_path}/t.jsonl=1", f"{tmp_path}/v.jsonl=1"]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
