"""Settings of the fuzz tests. The short form is the same each time; the long form looks further each time.

NEURALCHAT_FUZZ_FILES=10000 and NEURALCHAT_FUZZ_CHECKPOINTS=1000 set how many cases are tried.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.checkpoints import METHODS, save_run
from support.small_models import save_checkpoint

settings.register_profile(
    "fuzz", deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("fuzz")


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("saved")
    base = save_checkpoint(root / "base")
    for method in METHODS:
        save_run(root / method, base, method)
    return root


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(saved / name, tmp_path / name))
