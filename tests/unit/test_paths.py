"""paths.py: the path that was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuralchat.paths import nearest_path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models" / "llama-2-7b").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("models/lama-2-7b", "models/llama-2-7b"),
        ("./modles/llama-2-7b", "models/llama-2-7b"),
        ("Models/LLama-2-7b", "models/llama-2-7b"),
        ("modles", "models"),
        ("models/llama-2-7b", "models/llama-2-7b"),
        ("models/gpt-neox", None),
        ("elsewhere/llama-2-7b", None),
        ("runs/\0", None),
        ("runs/" + "a" * 300, None),
    ],
)
def test_relative(written: str, meant: str | None, place: Path) -> None:
    assert nearest_path(written) == (None if meant is None else Path(meant))


def test_absolute(place: Path) -> None:
    assert nearest_path(place / "model" / "llama-2-7b") == place / "models" / "llama-2-7b"
    assert nearest_path(place / "runs" / "llama-2-7b") is None


def test_below_a_file(place: Path) -> None:
    (place / "file").write_text("")
    assert nearest_path("file/models") is None
