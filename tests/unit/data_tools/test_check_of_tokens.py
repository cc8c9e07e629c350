"""`neuralchat data check --model_name_or_path`: what training cuts, leaves out, refuses or cannot say, by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.small_models import save_model

from neuralchat.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model("llama", tmp_path_factory.mktemp("model")))
