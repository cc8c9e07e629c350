"""docs/python.md: every example of the page runs, one after the other, as a program would have them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.runs import ROWS

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_examples_of_the_page(write_records: Callable, llama_checkpoint: Path, tmp_path: Path) -> None:
    """A small model lies where the fetched one would."""
    models = Path(os.environ["NEURALCHAT_HOME"]) / "models"
    models.mkdir()
    (models / "smollm2-135m-instruct").symlink_to(llama_checkpoint)
    write_records(ROWS, "support.json")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 8
    (tmp_path / "page.py").write_text("\n".join(blocks), encoding="utf-8")
    command = [sys.executable, "-W", "error", "page.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "train_records row 1: field 'output' is missing" in result.stdout
    assert "chat           neuralchat chat runs/a" in result.stdout
