"""The short form of the kill matrix; `make chaos` runs the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MATRIX = Path(__file__).parents[1] / "support" / "kill_matrix.py"


def test_killed_anywhere_and_resumed_equals_undisturbed() -> None:
    found = subprocess.run(
        [sys.executable, str(MATRIX), "--points", "14", "--seed", "1"], capture_output=True, text=True, timeout=570,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert "14 of 14 resumed runs equal the undisturbed one" in found.stdout
