"""Saves and restores all that a run needs to go on as if it had not been disturbed.

What has state of its own (optimizer, schedule, loop, counters) gives it by `state_dict` and takes it back by
`load_state_dict`; the checkpointer knows nothing else of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerState

from neuralchat.checkpointing.rng import rng_state, set_rng_state
from neuralchat.checkpointing.state_file import read_state, write_state
from neuralchat.checkpointing.store import (
    IDENTITY,
    STATE,
    TRAINER_STATE,
    check_unchanged,
    damage,
    keep_newest,
    read_sums,
    what_is_left,
    write_checkpoint,
    write_files,
)
from neuralchat.checkpointing.validate import check_like, check_shapes, fits, restore_trainer_state
from neuralchat.checkpointing.versions import upgraded
from neuralchat.distributed.collectives import all_gather_object, rank, run_on_rank_zero
from neuralchat.errors import RunDirectoryError
from neuralchat.files import copy_file, write_new_file
from neuralchat.runs.directory import METRICS, checkpoints


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Checkpointer:
    """`identity`: what decides the result of this run, stored with each checkpoint (fingerprint.py), and under "run"
    what is needed to load the model again. `initial_adapter`: the directory of PiSSA's adapter as it began.
    """

    def __init__(
        self,
        output: Path,
        model: Any,
        tokenizer: Any,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        *,
        identity: Mapping[str, Any],
        save_total_limit: int | None = None,
        save_only_model: bool = False,
        initial_adapter: str | None = None,
    ) -> None:
        self.output = output
        self.model = model
        self.tokenizer = tokenizer
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.identity = identity
        self.save_total_limit = save_total_limit
        self.save_only_model = save_only_model
        self.initial_adapter = initial_adapter

    # Saving

    def has(self, step: int) -> bool:
        """Whether there is a checkpoint of this step, as rank 0 sees it."""
        return run_on_rank_zero(lambda: self.directory(step) in checkpoints(self.output))

    def directory(self, step: int) -> Path:
        return self.output / f"checkpoint-{step}"

    def save(self, trainer_state: TrainerState, rng: dict[str, Any], parts: Mapping[str, Stateful]) -> Path:
        """Write checkpoint-STEP, everything or nothing, on rank 0; every rank's random state goes with it."""
        rng_of_ranks = all_gather_object(rng)
        if trainer_state.best_global_step:
            trainer_state.best_model_checkpoint = str(self.directory(trainer_state.best_global_step))
        states = {name: part.state_dict() for name, part in parts.items()}

        def write(directory: Path) -> None:
            # A checkpoint keeps what training goes on with; the result fits the unchanged base model.
            self.write_weights(directory)
            if not self.save_only_model:
                write_state(directory / STATE, self.state(rng_of_ranks, states))
            trainer_state.save_to_json(str(directory / TRAINER_STATE))
            write_new_file(directory / IDENTITY, json.dumps(self.identity, indent=1, sort_keys=True) + "\n")
            if (self.output / METRICS).exists():
                copy_file(self.output / METRICS, directory / METRICS)

        def save() -> Path:
            path = write_checkpoint(self.output, trainer_state.global_step, write)
            best = trainer_state.best_model_checkpoint
            keep_newest(self.output, self.save_total_limit, best=Path(best) if best else None)
            return path

        return run_on_rank_zero(save)

    def state(self, rng_of_ranks: list[dict[str, Any]], states: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "trained": self.trained_weights() if isinstance(self.model, PeftModel) else {},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": rng_of_ranks,
            **states,
        }

    def save_result(self) -> None:
        """The trained weights, configuration and tokenizer into the run directory, whole or not at all."""
        write_files(self.output, lambda directory: self.write_weights(directory, self.initial_adapter))

    def write_weights(self, directory: Path, initial_adapter: str | None = None) -> None:
        """Adapter (or model) and tokenizer. With `initial_adapter`, PiSSA's result as a plain adapter."""
        options: dict[str, Any] = {}
        if isinstance(self.model, PeftModel):
            # Rows of added tokens are saved by themselves; the whole embedding is not needed.
            options["save_embedding_layers"] = False
            if initial_adapter:
                options["path_initial_model_for_weight_conversion"] = initial_adapter
        self.model.save_pretrained(str(directory), **options)
        self.tokenizer.save_pretrained(str(directory))

    # Restoring

    def restore(
        self, checkpoint: Path, sums: bytes, trainer_state: TrainerState, parts: Mapping[str, Stateful]
    ) -> dict[str, Any]:
        """Put everything back as it was at `checkpoint`; returns the random state of this rank.

        `sums`: its SHA256SUMS when it was chosen. Raises RunDirectoryError, naming the checkpoint, for what no run can
        have written, and where it is not that one any more.
        """
        restore_trainer_state(trainer_state, checkpoint, self.output)
        with fits(checkpoint):
            state = upgraded(read_state(checkpoint / STATE), trainer_state)
            self.take_weights(checkpoint, state["trained"])
            check_like(state["optimizer"]["param_groups"], self.optimizer.state_dict()["param_groups"], "param_groups")
            check_like(state["scheduler"], self.scheduler.state_dict(), "scheduler")
            self.optimizer.load_state_dict(state["optimizer"])
            check_shapes(self.optimizer)
            self.scheduler.load_state_dict(state["scheduler"])
            for name, part in parts.items():
                check_like(state[name], part.state_dict(), name)
                part.load_state_dict(state[name])
            # A rank that is new begins with the random state that its own seed gave it.
            if rank() < len(state["rng"]):
                set_rng_state(state["rng"][rank()])
        check_unchanged(checkpoint, sums)
        return rng_state()

    def load_best(self, checkpoint: str) -> None:
        """The trained weights of a checkpoint of this run, and nothing else of it; it may be days old.

        Raises RunDirectoryError where it is not what was saved.
        """
        if wrong := damage(Path(checkpoint)):
            raise RunDirectoryError(
                f"the best checkpoint, {checkpoint}, is not whole any more: {wrong}. {what_is_left(self.output)}"
            )
        sums = read_sums(Path(checkpoint))
        with fits(Path(checkpoint)):
            path = Path(checkpoint) / STATE
            if not path.is_file() and isinstance(self.model, PeftModel):
                raise RunDirectoryError(f"{checkpoint} has no {STATE}; --save_only_model keeps no weights by name")
            self.take_weights(Path(checkpoint), read_state(path)["trained"] if path.is_file() else {})
        check_unchanged(Path(checkpoint), sums)

    def take_weights(self, checkpoint: Path, stored: Mapping[str, Tensor]) -> None:
        """Trained weights by their names in the model: what PEFT saves of P-tuning is not all that is trained."""
        trained = self.trained_weights()
        if not isinstance(self.model, PeftModel):
            stored = whole_weights(checkpoint, trained.keys())
        if stored.keys() != trained.keys():
            raise ValueError(f"other weights are trained: {sorted(stored.keys() ^ trained.keys())[:3]}")
        with torch.no_grad():
            for name, weight in trained.items():
                if stored[name].shape != weight.shape or not stored[name].is_floating_point():
                    raise ValueError(f"{name} has shape {tuple(stored[name].shape)}, not {tuple(weight.shape)}")
                weight.copy_(stored[name])

    def trained_weights(self) -> dict[str, Tensor]:
        """And LoRA's first matrices where they stay as they were set: what is trained means nothing without them."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad or ".lora_A." in name}


def whole_weights(checkpoint: Path, names: Set[str]) -> dict[str, Tensor]:
    """Those of the weights of a whole model, in one file or in several, that are called for."""
    stored: dict[str, Tensor] = {}
    for file in sorted(checkpoint.glob("model*.safetensors")):
        stored |= {name: tensor for name, tensor in load_file(file).items() if name in names}
    return stored
