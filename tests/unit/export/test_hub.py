"""--push_to_hub with a hub that only writes down what it is asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainingArguments

from neuralchat.export.hub import HubError, HubUpload


class Hub:
    """In the place of huggingface_hub's HfApi."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.asked: list[tuple[str, Any, Any]] = []

    def create_repo(self, name: str, *, private: bool | None, exist_ok: bool) -> Any:
        if self.fails == "create":
            raise ConnectionError("no route to the hub\nmore")
        self.asked.append(("create", name, private))
        assert exist_ok
        return SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self, *, repo_id: str, folder_path: Path, path_in_repo: str | None, **options: Any) -> None:
        if self.fails == "upload":
            raise ConnectionError("cut off")
        assert "checkpoint-*" in options["ignore_patterns"]
        self.asked.append(("upload", (repo_id, folder_path.name), path_in_repo))


def upload_of(directory: Path, hub: Hub, **options: Any) -> HubUpload:
    args = TrainingArguments(output_dir=str(directory), push_to_hub=True, report_to="none", use_cpu=True, **options)
    upload = HubUpload(directory, args)
    upload.api = hub  # type: ignore[assignment]
    return upload


STATE = SimpleNamespace(is_world_process_zero=True, global_step=7)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("end", []), ("every_save", [("checkpoint-7", None)]), ("checkpoint", [("checkpoint-7", "last-checkpoint")]),
        ("all_checkpoints", [("checkpoint-7", "checkpoint-7")]),
    ],
)  # fmt: skip
def test_strategies(tmp_path: Path, strategy: str, expected: list[tuple[str, str | None]]) -> None:
    hub = Hub()
    upload = upload_of(tmp_path / "bot", hub, hub_strategy=strategy, hub_private_repo=True)
    upload.on_init_end(None, STATE, None)
    upload.on_save(None, STATE, None)
    upload.upload_result()
    assert hub.asked == [
        ("create", "bot", True),
        *(("upload", ("me/bot", folder), target) for folder, target in expected),
        ("upload", ("me/bot", "bot"), None),
    ]


def test_a_hub_that_cannot_be_reached_is_told_before_training(tmp_path: Path) -> None:
    upload = upload_of(tmp_path, Hub("create"), hub_model_id="team/bot")
    with pytest.raises(HubError, match=r"the repository 'team/bot' cannot be used: no route to the hub$"):
        upload.on_init_end(None, STATE, None)


def test_a_failed_checkpoint_is_noted_and_a_failed_result_is_an_error(tmp_path: Path, said: list[str]) -> None:
    upload = upload_of(tmp_path, Hub("upload"))
    upload.on_init_end(None, STATE, None)
    upload.on_save(None, STATE, None)
    assert "checkpoint-7 could not be uploaded" in said[0]
    assert "cut off" in said[0]
    with pytest.raises(HubError, match="it is whole on this disk: cut off"):
        upload.upload_result()
