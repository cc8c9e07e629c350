"""What surely will not work, told before the first step with the flag to change. Nothing is stopped."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import TrainingArguments

from neuralchat.config.config import FinetuneConfig
from neuralchat.config.training_flags import DEFAULT_EPOCHS
from neuralchat.data.batch_plan import BatchPlan

# A learning rate so many times that of the method does not train but destroys; one so many times below it stands still.
FAR_OFF_RATE = 100
# Fewer optimizer steps than this leave hardly anything behind.
FEW_STEPS = 20


def cautions(
    arguments: FinetuneConfig,
    args: TrainingArguments,
    plan: BatchPlan,
    max_steps: int,
    *,
    cpus: int,
    usual_rate: float,
) -> Iterator[str]:
    """What can be said before the first step.

    `cpus`: how many this process may use. `usual_rate`: the learning rate of the method for a model of this size.
    """
    yield from original_defaults(arguments, usual_rate)
    yield from rate_cautions(arguments, usual_rate)
    if args.dataloader_num_workers > cpus:
        yield (
            f"--dataloader_num_workers {args.dataloader_num_workers} is more than the {cpus} CPU(s) of this process, "
            "which then wait for each other; batches are cheap to make, so 0 suits almost always"
        )
    batch, units = plan.units_per_step, len(plan.units)
    if batch > units:
        yield (
            f"a batch of {batch} is larger than all the data ({units}), so that each epoch is one step; a smaller "
            "--per_device_train_batch_size (or --gradient_accumulation_steps) makes more steps of the same data"
        )
    if "num_train_epochs" not in arguments.given and args.max_steps <= 0 and args.num_train_epochs > DEFAULT_EPOCHS:
        yield f"few records, gone through {args.num_train_epochs:g} times; --num_train_epochs sets another number"
    if max_steps < FEW_STEPS:
        yield (
            f"only {max_steps} optimizer step(s), in which a model hardly learns anything new; more --num_train_epochs "
            f"or a smaller batch than {batch} give more"
        )
    if (warmup := args.get_warmup_steps(max_steps)) >= max_steps:
        yield (
            f"the learning rate warms up for {warmup} steps, the run has {max_steps}, so that it never reaches "
            f"{args.learning_rate:g}; fewer --warmup_steps"
        )
    if args.eval_strategy == "steps" and args.eval_steps and args.eval_steps > max_steps:
        yield f"--eval_steps {args.eval_steps:g} is more than the {max_steps} steps of the run: no evaluation within it"


def original_defaults(arguments: FinetuneConfig, usual_rate: float) -> Iterator[str]:
    """One line where the defaults of the original's scripts hold and nobody has said otherwise."""
    better = {
        "lora_all_linear": "--lora_all_linear",
        "lora_rank": "--lora_rank 16 --lora_alpha 32",
        "keep_general": "--keep_general True",
        "learning_rate": f"--learning_rate {usual_rate:g}",
        "lr_scheduler_type": "--lr_scheduler_type cosine --warmup_steps 0.03",
    }
    left = [flags for name, flags in better.items() if name not in arguments.given]
    if arguments.schema.original and arguments.tuning.method.name == "lora" and len(left) > 1:
        yield (
            "where nothing is given, the defaults are those of the original NeuralChat; measured to learn and to keep "
            f"more are {' '.join(left)} (what `neuralchat finetune` takes by itself)"
        )


def rate_cautions(arguments: FinetuneConfig, usual_rate: float) -> Iterator[str]:
    rate, method = arguments.training.learning_rate, arguments.tuning.method
    usual = f"{usual_rate:g} suits {method.name} (--learning_rate)"
    if rate > FAR_OFF_RATE * usual_rate:
        yield f"a learning rate of {rate:g} is so high that training will probably destroy the model; {usual}"
    elif rate < usual_rate / FAR_OFF_RATE:
        yield f"a learning rate of {rate:g} is so low that hardly anything will be learned; {usual}"
