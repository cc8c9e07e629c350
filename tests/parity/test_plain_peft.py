"""Training losses through the command line equal plain transformers + PEFT, step by step."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.plain_peft import our_losses, plain_losses

ROOT = Path(__file__).parent.parent.parent
DEMO_RECORDS = ROOT / "examples" / "demo" / "train.json"
DEMO_MODEL = Path(os.environ.get("NEURALCHAT_HOME") or Path.home() / ".cache" / "neuralchat").joinpath(
    "models", "smollm2-135m-instruct"
)


def compare(model: Path, tmp_path: Path, *, rows: int, learning_rate: float) -> None:
    settings = {"batch": 8, "learning_rate": learning_rate}
    # Few different ones, met again, so that the loss falls.
    records = (json.loads(DEMO_RECORDS.read_text())[:8] * rows)[:rows]
    (tmp_path / "records.json").write_text(json.dumps(records))
    ours = our_losses(model, tmp_path / "records.json", tmp_path / "run", rows=rows, **settings)
    plain = plain_losses(model, records, **settings)
    assert len(ours) == -(-rows // 8)
    # The losses of later steps hold the updates of the earlier ones.
    assert ours == pytest.approx(plain, rel=1e-3)
    assert plain[-1] < plain[0]


def test_small_model(llama_checkpoint: Path, tmp_path: Path) -> None:
    compare(llama_checkpoint, tmp_path, rows=60, learning_rate=1e-2)


def test_the_demo_model(tmp_path: Path) -> None:
    if not DEMO_MODEL.is_dir():
        pytest.fail("the demo model is missing: run 'neuralchat fetch' (make test does)")
    compare(DEMO_MODEL, tmp_path, rows=24, learning_rate=1e-3)
