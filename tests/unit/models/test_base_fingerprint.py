"""Which base model a run was trained on."""

from __future__ import annotations

from pathlib import Path

from support.small_models import save_checkpoint, small_config

from neuralchat.models.loading.base_fingerprint import base_fingerprint, commit_of
from neuralchat.models.loading.base_model import ModelSource

COMMIT = "0123456789abcdef" * 2 + "01234567"


def lay_out_hub_cache(directory: Path, commit: str) -> None:
    """As a hub's cache lies on disk."""
    repository = directory / "models--me--bot"
    small_config("llama", 9).save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


def test_a_hub_model_is_known_by_its_commit(tmp_path: Path) -> None:
    """A branch moves on: two commits of one revision are two models."""
    source = ModelSource(name="me/bot", cache_dir=str(tmp_path))
    assert base_fingerprint(source) == "me/bot@main"
    lay_out_hub_cache(tmp_path, COMMIT)
    assert commit_of(source) == COMMIT
    assert base_fingerprint(source) == f"me/bot@{COMMIT}"
    lay_out_hub_cache(tmp_path, COMMIT[::-1])
    assert base_fingerprint(source) == f"me/bot@{COMMIT[::-1]}"


def test_a_directory_is_known_by_its_files(tmp_path: Path) -> None:
    first, second = (save_checkpoint(tmp_path / name) for name in ("first", "second"))
    assert commit_of(ModelSource(name=str(first))) is None
    found = base_fingerprint(ModelSource(name=str(first)))
    assert found == base_fingerprint(ModelSource(name=str(second)))
    (second / "config.json").write_text((second / "config.json").read_text() + "\n")
    assert found != base_fingerprint(ModelSource(name=str(second)))
