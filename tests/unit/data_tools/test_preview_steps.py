"""`data preview --step`: what the training loop is given, for each method, template and kind of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.runs import ROWS
from support.small_models import save_checkpoint

import neuralchat
from neuralchat.checkpointing.process_state import process_state_kept
from neuralchat.cli import main
from neuralchat.config.config import FinetuneConfig
from neuralchat.config.methods import METHODS
from neuralchat.data.packing import PackedBatch
from neuralchat.data.seq2seq_packing import PackedSeq2Seq
from neuralchat.data.step_shares import StepShare
from neuralchat.data.tokenization import Example
from neuralchat.data_tools.preview.rows import rows_of_share
from neuralchat.data_tools.preview.steps import steps_of_run
from neuralchat.preparation.run_data import make_run_data
from neuralchat.preparation.session import make_session
from neuralchat.training.assemble import make_training
from neuralchat.training.step import GradientSum

CHAT = [
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question},
                  {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "And again?"},
                  {"role": "assistant", "content": answer}]}
    for question, answer in (("Name a town.", "Rome."), ("Name a colour.", "Blue."), ("Name a bird.", "A crow, maybe."))
]  # fmt: skip
PLAIN = [{"text": "The sky is blue and the grass is green. " * 3}, {"text": "Cats sleep, dogs bark."}]
# Two that are the same, and one that is the beginning of another: they share more than their group.
ALIKE = [*ROWS, ROWS[0], {"instruction": "Name an animal.", "output": "A cat, for example, or a dog."}]
# family, records, arguments.
CELLS: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    **{f"method {name}": ("llama", ALIKE, {"peft": name, "ptun_hidden_size": 16}) for name in METHODS},
    "general prompts": ("llama", ALIKE, {"keep_general": True, "general_share": 0.5, "num_train_epochs": 2}),
    "alpaca": ("llama", ALIKE, {"template": "alpaca"}),
    "conversations": ("llama", CHAT, {"supervise": "last"}),
    "inputs too": ("llama", [*CHAT, *CHAT[:1]], {"train_on_inputs": True}),
    "plain text": ("llama", PLAIN, {"max_seq_length": 20}),
    "cut prompts": ("llama", ROWS, {"max_seq_length": 60, "template": "alpaca"}),
    "rows": ("llama", ALIKE, {"dataset_concatenation": True, "max_seq_length": 128, "micro_batch_tokens": 64}),
    "padded by length": ("llama", ALIKE, {"no_packing": True, "train_sampling_strategy": "group_by_length"}),
    "in order": ("llama", ALIKE, {"train_sampling_strategy": "sequential", "dataloader_drop_last": True}),
    "tokens added": ("llama", ROWS, {"special_tokens": ["<fact>"]}),
    "MPT": ("mpt", ALIKE, {"peft": "prompt"}),
    "T5": ("flan_t5", ALIKE, {"dataset_concatenation": True}),
    "T5, prompt": ("flan_t5", ALIKE, {"peft": "prompt"}),
    "T5, padded": ("t5", ALIKE, {"no_packing": True}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("models")
    return {family: save_checkpoint(directory / family, family) for family, _, _ in CELLS.values()}


def configured(directory: Path, model: Path, rows: list[dict[str, Any]], **more: Any) -> FinetuneConfig:
    (directory / "records.json").write_text(json.dumps(rows))
    values = {"model_name_or_path": model, "train_file": directory / "records.json", "output_dir": directory / "run"}
    small = {"compile_kernels": False, "num_virtual_tokens": 3, "adapter_layers": 2, "keep_general": False}
    return FinetuneConfig.from_values({**values, **small, "do_train": True, **more})


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_is_what_the_loop_is_given(cell: str, models: dict[str, Path], tmp_path: Path) -> None:
    family, rows, more = CELLS[cell]
    arguments = configured(tmp_path, models[family], rows, **more)
    with process_state_kept():
        loop = make_training(make_session(arguments, None)).loop
        steps = steps_of_run(make_run_data(arguments), None)
    assert steps.last_step == loop.max_steps
    for step in range(loop.max_steps):
        given, shown = loop.loader.shares[step], steps.shares[0][step]
        assert flat(shown) == flat(given)
        tokens = [token for row in rows_of_share(shown) for token in row.tokens]
        assert sum(token.learned for token in tokens) == given.supervised_tokens
        assert [token.token_id for token in tokens] == all_ids(given)
        examples = [loop.loader.shares.store[i] for unit in loop.loader.shares.units(step) for i in unit]
        assert_learned(given, shown, examples)


def flat(share: StepShare) -> list[Any]:
    """All numbers of a share, in order."""
    fields = PackedBatch.__slots__, PackedSeq2Seq.__slots__
    found: list[Any] = []
    for batch in share.packed:
        for name in fields[isinstance(batch, PackedSeq2Seq)]:
            value = getattr(batch, name)
            found.append((name, value.tolist() if isinstance(value, np.ndarray) else value))
    for examples in (*share.padded, *share.padded_general):
        found += [(e.source, e.input_ids.tolist(), e.supervised.tolist()) for e in examples]
    return found


def all_ids(share: StepShare) -> list[int]:
    """The ids of all rows; of encoder-decoder models each source with its target."""
    found: list[int] = []
    for batch in share.packed:
        if isinstance(batch, PackedBatch):
            found += batch.input_ids.tolist()
            continue
        for (start, end), (first, last) in zip(batch.source_ranges, batch.target_ranges, strict=True):
            found += [*batch.source_ids[start:end].tolist(), *batch.target_ids[first:last].tolist()]
    return found + [
        int(i) for examples in (*share.padded, *share.padded_general) for e in examples for i in e.input_ids
    ]


def assert_learned(given: StepShare, shown: StepShare, examples: list[Example]) -> None:
    """Each token of the rows is learned as often as the examples that it belongs to say."""
    for batch, row in zip(given.packed, rows_of_share(shown), strict=False):
        if not isinstance(batch, PackedBatch):
            continue
        expected = np.zeros(len(batch.input_ids), dtype=int)
        for segment, source in zip(batch.segments, batch.segment_sources, strict=True):
            places = [*range(segment.prefix_start, segment.prefix_end), *range(segment.start, segment.end)]
            places = [place for place in places if batch.input_ids[place] >= 0]
            ids = batch.input_ids[places].tolist()
            same = [e for e in examples if e.source == source and e.input_ids.tolist() == ids]
            if source and source in batch.sources:
                assert same, (source, ids)
                expected[places] += same[0].supervised
        assert [token.learned for token in row.tokens] == expected.tolist()


@pytest.fixture(scope="module")
def trained(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[StepShare]]:
    """A finished run, and what each of its steps was given."""
    directory, given = tmp_path_factory.mktemp("trained"), []
    step = GradientSum.step

    def recorded(self: GradientSum, share: StepShare, *args: Any) -> Any:
        given.append(share)
        return step(self, share, *args)

    (directory / "records.json").write_text(json.dumps(ALIKE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GradientSum, "step", recorded)
        neuralchat.finetune(
            model=models["llama"], train_file=directory / "records.json", output_dir=directory / "run", logging_steps=2,
            per_device_train_batch_size=3, num_train_epochs=2, report_samples=0, general_samples=0, save_strategy="no",
            compile_kernels=False,
        )  # fmt: skip
    return directory, given


def words_of_run(run: Path) -> list[str]:
    return ["data", "preview", "--from_run", str(run)]


def test_a_step_of_a_run_is_what_it_was_given_and_logged(
    trained: tuple[Path, list[StepShare]], capsys: pytest.CaptureFixture[str]
) -> None:
    directory, given = trained
    assert len(given) == 8
    for step in (1, 4, 5):
        share = given[step - 1]
        assert main([*words_of_run(directory / "run"), "--step", str(step), "--ids"]) == 0
        said = capsys.readouterr().out
        lines = [line.split() for line in said.splitlines()]
        # position, id, token, weight where there is one.
        table = [line for line in lines if len(line) >= 2 and all(map(is_number, line[:2]))]
        assert [int(line[1]) for line in table] == all_ids(share)
        positions = [int(p) for batch in share.packed for p in batch.position_ids]
        assert [int(line[0]) for line in table] == positions
        weights = [float(line[-1]) for line in table if line[-1].startswith("0.")]
        assert sum(weights) == pytest.approx(1, rel=1e-2)
        first = step - 1 if step % 2 == 0 else step
        assert f"(loss: mean over the steps {first} to {first + 1})" in said
        assert "the log counts the same tokens" in said


def is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def test_a_run_whose_log_counts_otherwise_is_told(
    trained: tuple[Path, list[StepShare]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("neuralchat.json", "metrics.jsonl"):
        text = (trained[0] / "run" / name).read_text()
        (run / name).write_text(text.replace('"tokens": ', '"tokens": 1') if name.endswith("l") else text)
    assert main([*words_of_run(run), "--step", "1"]) == 0
    assert "no: the log counts 1" in capsys.readouterr().out


def test_records_that_changed_since_are_refused(
    trained: tuple[Path, list[StepShare]], capsys: pytest.CaptureFixture[str]
) -> None:
    directory, _ = trained
    file = directory / "records.json"
    before = file.read_text()
    file.write_text(before.replace("Paris", "Lyons"))
    try:
        assert main([*words_of_run(directory / "run"), "--step", "1"]) == 2
    finally:
        file.write_text(before)
    assert "its result would be another" in capsys.readouterr().err


def test_a_step_of_two_processes_shows_both(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(tmp_path, models["llama"], ALIKE)
    words = ["data", "preview", str(tmp_path / "records.json"), "--model_name_or_path", str(models["llama"])]
    assert main([*words, "--step", "1", "--num_processes", "2"]) == 0
    said = capsys.readouterr().out
    assert "rank 0, micro-batch 1 of 1" in said
    assert "rank 1, micro-batch 1 of 1" in said


def test_a_step_that_there_is_not_is_refused(
    trained: tuple[Path, list[StepShare]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words_of_run(trained[0] / "run"), "--step", "2", "9"]) == 2
    assert "--step 9: the run has 8 steps" in capsys.readouterr().err
