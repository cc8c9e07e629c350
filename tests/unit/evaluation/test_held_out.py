"""evaluation/held_out.py and the checkpoints of a run, by a small run that is trained once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.runs import ROWS, copied
from support.small_models import save_checkpoint

import neuralchat
from neuralchat import cli
from neuralchat.errors import ArgumentsError, DataError, NeuralChatError
from neuralchat.runs.kept_evaluation import kept_evaluation


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run of four steps, two checkpoints, and two of eight records held out."""
    directory = tmp_path_factory.mktemp("desk")
    save_checkpoint(directory / "model")
    records = directory / "records.json"
    records.write_text(json.dumps([{**row, "page": place // 2} for place, row in enumerate(ROWS)]))
    neuralchat.finetune(
        directory / "model", records, output_dir=directory / "run", validation_split_percentage=25, max_steps=4,
        save_steps=2, save_strategy="steps", learning_rate=0.05, report_samples=0, per_device_train_batch_size=2,
    )  # fmt: skip
    return directory


def evaluated(run: Path, output: Path, *flags: str, second: Path | None = None) -> list[dict[str, Any]]:
    runs = [str(path) for path in (run, second) if path is not None]
    options = cli.make_parser().parse_args(["eval", *runs, "--max_new_tokens", "2", "--output", str(output), *flags])
    assert options.work(options) == 0
    return json.loads(output.read_text())["parts"]


def test_the_loss_is_that_of_the_run_itself(desk: Path, tmp_path: Path) -> None:
    (part,) = evaluated(desk / "run", tmp_path / "a.json")
    results = json.loads((desk / "run" / "neuralchat.json").read_text())["results"]
    base, tuned = (system["scores"]["loss"] for system in part["systems"])
    assert part["name"] == "held out"
    assert base == pytest.approx(results["held_out_loss_before"], rel=1e-5)
    assert tuned == pytest.approx(results["held_out_loss_after"], rel=1e-5)
    assert base != pytest.approx(tuned, rel=1e-3)
    assert {item["question"] for item in part["items"]} <= {
        f"{row['instruction']}\n{row.get('input') or ''}".strip() for row in ROWS
    }


# Each way of being another model than a LLaMA with LoRA: virtual tokens before, within and behind, factors, gates.
@pytest.mark.parametrize(
    ("family", "method", "more"),
    [
        ("flan_t5", "ptun", {"ptun_hidden_size": 16}),
        ("t5", "prefix", {}),
        ("mpt", "prompt", {}),
        ("mpt", "ia3", {}),
        ("llama", "llama_adapter", {"adapter_layers": 1}),
    ],
)
def test_the_loss_is_that_of_the_run_for_every_method(
    family: str, method: str, more: dict[str, Any], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "model", family)
    (tmp_path / "records.json").write_text(json.dumps(ROWS))
    neuralchat.finetune(
        tmp_path / "model", tmp_path / "records.json", output_dir=tmp_path / "run", validation_split_percentage=25,
        max_steps=2, save_strategy="no", learning_rate=0.5, report_samples=0, peft=method, **more,
    )  # fmt: skip
    (part,) = evaluated(tmp_path / "run", tmp_path / "a.json", "--max_questions", "1000")
    results = json.loads((tmp_path / "run" / "neuralchat.json").read_text())["results"]
    before, after = (system["scores"]["loss"] for system in part["systems"])
    assert after == pytest.approx(results["held_out_loss_after"], rel=1e-4)
    # Virtual tokens change something before they have learned anything.
    if method in ("ia3", "llama_adapter"):
        assert before == pytest.approx(results["held_out_loss_before"], rel=1e-4)
    assert abs(before - after) > 1e-3 * before


def test_figures_are_kept_for_the_model_card(desk: Path, tmp_path: Path) -> None:
    (part,) = evaluated(desk / "run", tmp_path / "a.json")
    loss = next(row for row in part["compared"] if row["measure"] == "loss")
    kept = {figure.measure: figure for figure in kept_evaluation(desk / "run")}
    assert (kept["loss on answers"].before, kept["loss on answers"].after) == (loss["before"], loss["after"])
    assert kept["loss on answers"].part == "held out"
    for words in (["--merge", str(tmp_path / "out")], ["--adapter", str(tmp_path / "adapter")]):
        options = cli.make_parser().parse_args(["export", str(desk / "run"), *words])
        assert options.work(options) == 0
        card = (Path(words[1]) / "README.md").read_text()
        row = f"loss on answers | {loss['before']:.3f} | {loss['after']:.3f}"
        assert f"| held out, 2 (answers of at most 2 tokens) | {row} |" in card
    # Of checkpoints nothing is kept.
    before = (desk / "run" / "evaluation.json").read_bytes()
    evaluated(desk / "run", tmp_path / "b.json", "--checkpoints")
    assert (desk / "run" / "evaluation.json").read_bytes() == before


def test_checkpoints_without_the_base_model_say_what_before_is(desk: Path, tmp_path: Path, said: list[str]) -> None:
    (part,) = evaluated(desk / "run", tmp_path / "a.json", "--checkpoints", "--tuned_only")
    assert [row["first"].rpartition("/")[2] for row in part["compared"]][:1] == ["checkpoint-2"]
    told = "--tuned_only: of the 2 checkpoints each is compared with the one before it, and none with the base model"
    assert any(text.startswith(told) for text in said)


def test_checkpoints_are_asked_along_training(desk: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    (part,) = evaluated(desk / "run", tmp_path / "a.json", "--checkpoints", "--report", str(page))
    assert [(system["name"].rpartition("/")[2], system["step"]) for system in part["systems"]] == [
        ("base", None), ("checkpoint-2", 2), ("checkpoint-4", 4),
    ]  # fmt: skip
    pairs = {(row["first"].rpartition("/")[2], row["second"].rpartition("/")[2]) for row in part["compared"]}
    assert pairs == {("base", "checkpoint-2"), ("base", "checkpoint-4"), ("checkpoint-2", "checkpoint-4")}
    assert "Along training, by step" in page.read_text()
    # The last checkpoint is the run.
    run = evaluated(desk / "run", tmp_path / "b.json")[0]["systems"][1]
    assert part["systems"][2]["scores"]["loss"] == pytest.approx(run["scores"]["loss"], rel=1e-5)


def test_fields_of_the_file_group_held_out_records(desk: Path, tmp_path: Path) -> None:
    (part,) = evaluated(desk / "run", tmp_path / "a.json", "--cluster_by", "page")
    assert all(item["cluster"] in "0123" for item in part["items"])


def test_records_that_changed_are_refused(desk: Path, tmp_path: Path) -> None:
    records = desk / "records.json"
    before = records.read_text()
    rows = json.loads(before)
    try:
        records.write_text(json.dumps([{**row, "output": row["output"] + " Indeed it is."} for row in rows]))
        with pytest.raises(DataError, match=r"the held-out records of .*run are not what they were"):
            evaluated(desk / "run", tmp_path / "a.json")
    finally:
        records.write_text(before)


def test_what_held_nothing_out_says_what_to_do(desk: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model is no finished run, .*; name questions: --questions FILE, or"):
        evaluated(desk / "model", tmp_path / "a.json")
    run = copied(desk / "run", tmp_path / "run")
    manifest = json.loads((run / "neuralchat.json").read_text())
    del manifest["data"]["counts"]["validation"]
    (run / "neuralchat.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="run held no records out; name questions"):
        evaluated(run, tmp_path / "a.json")
    with pytest.raises(ArgumentsError, match=r"--checkpoints: .*model holds none; they are saved with --save_strategy"):
        evaluated(desk / "model", tmp_path / "a.json", "--checkpoints")
    with pytest.raises(ArgumentsError, match="--checkpoints follows one run along its training, found 2 runs"):
        evaluated(desk / "run", tmp_path / "a.json", "--checkpoints", second=desk / "model")


def test_what_is_not_there_is_told_before_anything_is_asked(desk: Path, tmp_path: Path) -> None:
    asked = tmp_path / "a.json"
    (tmp_path / "empty").mkdir()
    with pytest.raises(NeuralChatError, match="nosuch does not exist"):
        evaluated(desk / "run", asked, second=tmp_path / "nosuch")
    with pytest.raises(ArgumentsError, match=r"(?s)these cannot be evaluated:.*empty.*nosuch does not exist"):
        evaluated(tmp_path / "empty", asked, second=tmp_path / "nosuch")
    assert not asked.exists()
