"""The short form of the fault matrix; `make chaos` runs the long one."""

from __future__ import annotations

import pytest
from support.bad_days.fault_matrix import main


def test_a_long_run_goes_on_or_is_saved_and_ends_as_undisturbed(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--faults", "8", "--seed", "3"])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "8 of 8 faults were met" in said
