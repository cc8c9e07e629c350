"""The short form of the kill matrix; `make chaos` runs the long one."""

from __future__ import annotations

import pytest
from support.kill_matrix import main


def test_killed_anywhere_and_resumed_equals_undisturbed(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--points", "14", "--seed", "1"])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "14 of 14 resumed runs equal the undisturbed one" in said
