"""models/loading/hub_id.py: only what the hub takes as a base model's name is written as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuralchat.models.loading import hub_id
from neuralchat.models.loading.fetch import PACKAGED_MODELS
from neuralchat.models.loading.hub_id import hub_id_of


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("org/model-7b.v2", "org/model-7b.v2"),
        ("SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("gpt2", "openai-community/gpt2"),
        ("mine", None),
        ("/models/mine", None),
        ("../mine", None),
        ("a/b/c", None),
        ("~/mine", None),
        ("models/mine.gguf", None),
        ("org/model\nlicense: evil", None),
        ("", None),
    ],
)
def test_names(name: str, found: str | None) -> None:
    assert hub_id_of(name) == found


def test_a_directory_here_is_no_name_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert hub_id_of("org/model") is None
    assert hub_id_of(str(tmp_path), "org/other") == "org/other"


def test_a_fetched_model_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_id, "fetched_path", lambda name: tmp_path / name)
    for name, packaged in PACKAGED_MODELS.items():
        assert hub_id_of(str(tmp_path / name)) == packaged.hub_id
