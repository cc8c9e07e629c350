"""models/loading/base_model.py: a name is a directory, a fetched model or a hub id; a mistyped path is none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuralchat.errors import ModelError
from neuralchat.models.loading.base_model import ModelSource, load_config, load_tokenizer, resolve


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models" / "llama").mkdir(parents=True)
    (tmp_path / "models" / "llama" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("models/lama", "; did you mean models/llama?"),
        ("modles/llama", "; did you mean models/llama?"),
        ("./modles/llama", "; did you mean models/llama?"),
        ("./nowhere/at/all", ""),
        ("models/mistral", ""),
        ("Models/Llama", "; did you mean models/llama?"),
    ],
)
def test_a_mistyped_path_is_refused_as_a_path(written: str, hint: str) -> None:
    refused = f"model directory {Path(written)} does not exist{hint}"
    for load in (load_config, load_tokenizer):
        with pytest.raises(ModelError) as found:
            load(ModelSource(name=written))
        assert str(found.value).splitlines()[0] == refused
    with pytest.raises(ModelError) as found:
        load_tokenizer(ModelSource(name="models/llama", tokenizer_name=written))
    assert str(found.value).splitlines()[0] == refused


@pytest.mark.parametrize("name", ["facebook/opt-125m", "gpt2", "meta-llama/Llama-3.1-8B"])
def test_other_names_are_those_of_a_hub(name: str) -> None:
    assert resolve(name) == name


def test_a_model_in_the_cache_of_the_hub_may_have_the_name_of_a_directory(place: Path) -> None:
    """Some keep some models of an owner beside them and others in the cache."""
    with pytest.raises(ModelError, match=r"get it first: hf download models/mistral"):
        resolve("models/mistral")
    for cache, given in (("hub", None), ("other", str(place / "other"))):
        snapshot = place / cache / "models--models--mistral" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        assert resolve("models/mistral", cache_dir=given) == "models/mistral"
        (snapshot / "config.json").unlink()


def test_a_file_is_no_model(place: Path) -> None:
    (place / "models" / "a.txt").write_text("")
    with pytest.raises(ModelError, match=r"models/a\.txt is a file, not a directory"):
        resolve("models/a.txt")
