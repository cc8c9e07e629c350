"""The part of the trainer that saves and resumes: everything a run needs to go on as if it had not been disturbed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import Trainer

from neuralchat.checkpointing.rng import generator_state, set_generator_state
from neuralchat.checkpointing.state_file import read_state, write_state
from neuralchat.checkpointing.store import IDENTITY, STATE, TRAINER_STATE, keep_newest, write_checkpoint, write_files
from neuralchat.checkpointing.validate import (
    check_like,
    check_shapes,
    check_trainer_state,
    fits,
    restore_trainer_state,
)
from neuralchat.distributed.collectives import agreed, gathered, rank
from neuralchat.runs.directory import METRICS, checkpoints
from neuralchat.training.trouble import StepAbandonedError

EVALUATION, EPOCH_END = "evaluation", "epoch end"
# What can be taken up only after the Trainer has cleared its sums.
OPEN_STATE = ("loss_sum", "total_loss", "last_logged_step", "last_logs", "pending")


class SavingTrainer(Trainer):
    """State of the last finished step, however far the next one had come when it was left.

    `identity`: what decides the result of this run, stored with each checkpoint.
    """

    model: Any
    optimizer: Any
    lr_scheduler: Any
    _tr_loss: Tensor
    _total_loss_scalar: float
    _globalstep_last_logged: int

    def __init__(self, *, identity: dict[str, Any], initial_adapter: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.identity = identity
        self.initial_adapter = initial_adapter
        # Inside an optimizer step: what is saved is the state before it, so the generators and the sum of losses of
        # that moment are kept.
        self.in_step = False
        self.generators = generator_state()
        self.loss_before_step = torch.zeros(())
        self.tokens_seen = self.supervised_tokens_seen = 0
        self.skipped_steps = 0
        self.seconds_before = 0.0
        # What is still to be done at this step when a run goes on from its checkpoint: EVALUATION, EPOCH_END.
        self.pending: list[str] = []
        self.last_logs: dict[str, Any] = {}
        self.restored: dict[str, Any] = {}
        # The step this part of the run began at; None where it began at the first.
        self.resumed_step: int | None = None

    @property
    def output(self) -> Path:
        return Path(str(self.args.output_dir))

    def seconds(self) -> float:
        """Seconds of training so far, over all parts of the run."""
        raise NotImplementedError

    # Saving

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ARG002
        """Everything or nothing, on rank 0; every rank's generators go with it."""
        generators = gathered(self.generators)
        step = self.state.global_step
        best = self.state.best_global_step
        if best:
            self.state.best_model_checkpoint = str(self.output / f"checkpoint-{best}")

        def write(directory: Path) -> None:
            # A checkpoint keeps what training goes on with; the result fits the unchanged base model.
            self.write_weights(directory)
            if not self.args.save_only_model:
                write_state(directory / STATE, self.state_to_save(generators))
            self.state.save_to_json(str(directory / TRAINER_STATE))
            (directory / IDENTITY).write_text(json.dumps(self.identity, indent=1, sort_keys=True) + "\n")
            if (self.output / METRICS).exists():
                shutil.copyfile(self.output / METRICS, directory / METRICS)

        def save() -> str:
            path = write_checkpoint(self.output, step, write)
            keep_newest(self.output, self.args.save_total_limit, best=self.best_checkpoint())
            return str(path)

        path = agreed(save)
        if self.args.push_to_hub:
            self._push_from_checkpoint(path)

    def save_now(self) -> None:
        """A checkpoint of the last finished step, unless it has one."""
        if not agreed(self.has_checkpoint):
            self._save_checkpoint(self.model, None)

    def save_result(self) -> None:
        """The trained weights, configuration and tokenizer into the run directory, whole or not at all."""
        write_files(self.output, lambda directory: self.write_weights(directory, self.initial_adapter))

    def best_checkpoint(self) -> Path | None:
        return Path(self.state.best_model_checkpoint) if self.state.best_model_checkpoint else None

    def state_to_save(self, generators: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "trained": self.trained_weights() if isinstance(self.model, PeftModel) else {},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.lr_scheduler.state_dict(),
            "generators": generators,
            "loss_sum": self.loss_before_step if self.in_step else self._tr_loss,
            "total_loss": self._total_loss_scalar,
            "last_logged_step": self._globalstep_last_logged,
            "tokens": self.tokens_seen,
            "supervised_tokens": self.supervised_tokens_seen,
            "skipped_steps": self.skipped_steps,
            "seconds": self.seconds(),
            "pending": self.pending,
            "last_logs": self.last_logs,
        }

    def has_checkpoint(self) -> bool:
        """Whether the last finished step is saved already."""
        return self.state.global_step in [int(c.name.rpartition("-")[2]) for c in checkpoints(self.output)]

    def write_weights(self, directory: Path, initial_adapter: str | None = None) -> None:
        """Adapter (or model) and tokenizer; no pickled training arguments. `initial_adapter`: PiSSA's beginning."""
        options: dict[str, Any] = {}
        if isinstance(self.model, PeftModel):
            # Rows of added tokens are saved by themselves; the whole embedding is not needed.
            options["save_embedding_layers"] = False
            if initial_adapter:
                options["path_initial_model_for_weight_conversion"] = initial_adapter
        self.model.save_pretrained(str(directory), **options)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(str(directory))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        self.write_weights(Path(output_dir or str(self.args.output_dir)))

    # Resuming

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, ignore_keys_for_eval: Any = None) -> Any:
        if resume_from_checkpoint is not None:
            check_trainer_state(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, resume_from_checkpoint: Any,
        trial: Any,
    ) -> tuple[int, int]:  # fmt: skip
        """(epochs done, accumulation steps done in the next one). Of the file only what is checked is taken."""
        super()._init_training_state(max_steps, num_update_steps_per_epoch, num_train_epochs, None, trial)
        if resume_from_checkpoint is None:
            return 0, 0
        self.resumed_step = restore_trainer_state(self.state, Path(resume_from_checkpoint), self.output)
        epochs, steps = divmod(self.resumed_step, num_update_steps_per_epoch)
        return epochs, steps * self.args.gradient_accumulation_steps

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Trained weights by their names in the model: what PEFT saves of P-tuning is not all that is trained."""
        checkpoint = Path(resume_from_checkpoint)
        if not isinstance(self.model, PeftModel):
            with fits(checkpoint):
                super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        with fits(checkpoint), torch.no_grad():
            stored, trained = read_state(checkpoint / STATE)["trained"], self.trained_weights()
            if stored.keys() != trained.keys():
                raise ValueError(f"other weights are trained: {sorted(stored.keys() ^ trained.keys())[:3]}")
            for name, weight in trained.items():
                if stored[name].shape != weight.shape or not stored[name].is_floating_point():
                    raise ValueError(f"{name} has shape {tuple(stored[name].shape)}, not {tuple(weight.shape)}")
                weight.copy_(stored[name])

    def _load_best_model(self) -> None:
        best = self.best_checkpoint()
        if best is not None and (best / STATE).is_file():
            self._load_from_checkpoint(str(best))
        else:
            super()._load_best_model()

    def trained_weights(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        with fits(Path(checkpoint)):
            state = read_state(Path(checkpoint) / STATE)
            check_like(state["optimizer"]["param_groups"], self.optimizer.state_dict()["param_groups"], "param_groups")
            check_like(state["scheduler"], self.lr_scheduler.state_dict(), "scheduler")
            self.optimizer.load_state_dict(state["optimizer"])
            check_shapes(self.optimizer)
            self.lr_scheduler.load_state_dict(state["scheduler"])
            self.restored = {name: state[name] for name in OPEN_STATE}
            self.tokens_seen, self.supervised_tokens_seen = int(state["tokens"]), int(state["supervised_tokens"])
            self.skipped_steps, self.seconds_before = int(state["skipped_steps"]), float(state["seconds"])
            generators = state["generators"]
            # A rank that is new keeps the generators that its own seed gave it.
            if rank() < len(generators):
                self.generators = generators[rank()]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with fits(Path(checkpoint)):
                set_generator_state(self.generators)

    def settle(self) -> None:
        """After the Trainer has cleared its sums, before the first step: take up what the checkpoint had open."""
        # Training that goes on in the same process left a step unfinished.
        self.in_step = False
        if not self.restored:
            return
        state, self.restored = self.restored, {}
        with fits(self.output / f"checkpoint-{self.state.global_step}"):
            self._tr_loss += state["loss_sum"].to(self._tr_loss)
            self._total_loss_scalar = float(state["total_loss"])
            self._globalstep_last_logged = min(int(state["last_logged_step"]), self.state.global_step)
            self.last_logs, pending = dict(state["last_logs"]), list(state["pending"])
        if EPOCH_END in pending:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
        self.control.should_evaluate |= EVALUATION in pending
        if pending:
            self._maybe_log_save_evaluate(
                self._tr_loss, self.last_logs.get("grad_norm"), self.model, None, self.state.epoch or 0.0, None,
                None, learning_rate=self.last_logs.get("learning_rate"),
            )  # fmt: skip
        self.control.should_evaluate = self.control.should_save = self.control.should_log = False

    def _maybe_log_save_evaluate(
        self, tr_loss: Tensor, grad_norm: Any, model: Any, trial: Any, epoch: float, ignore_keys_for_eval: Any,
        start_time: Any, learning_rate: float | None = None,
    ) -> None:  # fmt: skip
        """Called after each step, and once more after each epoch."""
        if self.in_step:
            self.finish_step(grad_norm, learning_rate)
        try:
            super()._maybe_log_save_evaluate(
                tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate=learning_rate
            )
        except StepAbandonedError:
            self.pending.append(EVALUATION)
            raise
        self.pending = []

    def finish_step(self, grad_norm: Any, learning_rate: float | None) -> None:
        """From here on the state is that of the step just done."""
        self.in_step = False
        self.generators = generator_state()
        self.last_logs = {
            "grad_norm": float(grad_norm) if grad_norm is not None else None,
            "learning_rate": learning_rate,
        }
        if self.ends_epoch():
            # A checkpoint written now knows nothing of what the end of the epoch will log and measure.
            self.pending = [EPOCH_END]

    def ends_epoch(self) -> bool:
        raise NotImplementedError
