"""--push_to_hub: the run directory uploaded to a model hub, at its end and as --hub_strategy says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import HubStrategy

from neuralchat.console import note
from neuralchat.errors import NeuralChatError
from neuralchat.runs.directory import LOCK

NOT_UPLOADED = ("checkpoint-*", ".checkpoint-*", LOCK)


class HubError(NeuralChatError):
    """A model hub that cannot be reached, or does not take the upload."""


class HubUpload(TrainerCallback):
    """Makes the repository before anything is trained, so that a wrong name or token is told at once.

    A checkpoint that cannot be uploaded is noted and training goes on; the result that cannot be is an error.
    """

    def __init__(self, output: Path, args: TrainingArguments) -> None:
        self.output = output
        self.args = args
        self.api = HfApi(token=args.hub_token)
        self.repository = ""

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if state.is_world_process_zero:
            name = self.args.hub_model_id or self.output.absolute().name
            with told(f"the repository '{name}' cannot be used"):
                made = self.api.create_repo(name, private=self.args.hub_private_repo, exist_ok=True)
                self.repository = made.repo_id

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        strategy = self.args.hub_strategy
        if not state.is_world_process_zero or strategy == HubStrategy.END:
            return
        name = f"checkpoint-{state.global_step}"
        places = {str(HubStrategy.CHECKPOINT): "last-checkpoint", str(HubStrategy.ALL_CHECKPOINTS): name}
        target = places.get(str(strategy))
        try:
            self.upload(self.output / name, f"step {state.global_step}", target)
        except HubError as error:
            note(str(error))

    def upload_result(self) -> None:
        self.upload(self.output, "end of training")

    def upload(self, folder: Path, message: str, target: str | None = None) -> None:
        with told(f"{folder} could not be uploaded to '{self.repository}'; it is whole on this disk"):
            self.api.upload_folder(
                repo_id=self.repository,
                folder_path=folder,
                path_in_repo=target,
                commit_message=message,
                revision=self.args.hub_revision,
                ignore_patterns=list(NOT_UPLOADED),
            )


@contextmanager
def told(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the library raises, its answer is what helps
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HubError(f"--push_to_hub: {what}: {reason}") from error
