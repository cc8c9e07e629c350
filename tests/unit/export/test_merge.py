"""export/merge.py: what is refused before a model is loaded."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from neuralchat.errors import RunDirectoryError
from neuralchat.export.merge import merge

RUN = Path(__file__).parents[2] / "fixtures" / "run_of_0_1" / "run"


def refused(output: Path, reason: str) -> None:
    options = argparse.Namespace(run=str(RUN), output=str(output), trust_remote_code=False, base_model=None)
    with pytest.raises(RunDirectoryError, match=f"--output {output} {reason}$"):
        merge(options)


def test_output_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, to whom everything is permitted.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    refused(tmp_path / "deep" / "whole", f"cannot be written: no permission to write to {tmp_path}")


def test_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "whole", f"cannot be written: {tmp_path / 'file'} is a file")


def test_output_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused(tmp_path, "is not empty; name a directory that is new")
