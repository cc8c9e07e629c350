"""Settings of the property tests; a place to write in, and beside it a file that is not to be touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from support.strangers.victims import VICTIM

# A busy machine is no reason to fail.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text(VICTIM)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"
