"""The short form of the fault matrix; `make chaos` runs the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MATRIX = Path(__file__).parents[1] / "support" / "bad_days" / "fault_matrix.py"


def test_a_long_run_goes_on_or_is_saved_and_ends_as_undisturbed() -> None:
    found = subprocess.run(
        [sys.executable, str(MATRIX), "--faults", "8", "--seed", "3"],
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "8 of 8 faults were met" in found.stdout
