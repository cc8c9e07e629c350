"""Fine-tuning from the first word of the command to the finished run directory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import set_seed

from neuralchat.errors import ArgumentsError, MissingExtraError, ModelError, tell
from neuralchat.models import compiled, segment_attention
from neuralchat.models.adapters import AdapterSettings, add_adapter
from neuralchat.models.allocator import keep_freed_pages
from neuralchat.models.frozen_linear import freeze_linears
from neuralchat.models.fused_layers import fuse_layers
from neuralchat.models.fused_lora import fuse_lora
from neuralchat.models.loading import (
    ModelSource,
    check_vocabulary,
    load_causal_model,
    load_config,
    load_tokenizer,
    parameter_counts,
)
from neuralchat.models.precision import Precision, choose_precision
from neuralchat.models.virtual_tokens import virtual_tokens_of
from neuralchat.run_directory import METRICS, check_output_directory, prepare_output_directory
from neuralchat.training.batch_plan import BatchPlan
from neuralchat.training.command_line import FinetuneArguments, make_parser, parse
from neuralchat.training.interruption import SaveOnSignal
from neuralchat.training.packing_proof import proof_examples, prove_packing
from neuralchat.training.prepared_data import PreparedData, prepare
from neuralchat.training.progress import Progress
from neuralchat.training.results import Results, finish, peak_memory_mb
from neuralchat.training.resume import asks_to_resume, checkpoint_to_resume, trim_metrics
from neuralchat.training.samples import Sample, ask, question_of, sample_records
from neuralchat.training.step_loader import StepParts
from neuralchat.training.trainer import FineTuningTrainer

Say = Callable[[str], None]


def finetune_command(words: Sequence[str], *, prog: str, implied: Sequence[str]) -> int:
    """The whole command; returns the exit status. Raises NeuralChatError for what the user can mend."""
    if any(word in ("-h", "--help") for word in words):
        make_parser(prog).print_help()
        return 0
    arguments = parse(words, prog=prog, implied=implied, say=tell)
    finetune(arguments, say=tell)
    return 0


@dataclass
class Session:
    """What the stages of one run share."""

    arguments: FinetuneArguments
    training: transformers.TrainingArguments
    source: ModelSource
    tokenizer: Any
    data: PreparedData
    model: Any
    precision: Precision
    packed: bool
    resume: Path | None


def finetune(arguments: FinetuneArguments, *, say: Say) -> Results:
    """Check, load, train, save. Nothing is written to output_dir before everything has been checked."""
    start = time.perf_counter()
    output = Path(arguments.training_values["output_dir"])
    wanted = arguments.training_values["resume_from_checkpoint"]
    check_output_directory(output, overwrite=arguments.tuning.overwrite_output_dir, resume=asks_to_resume(wanted))
    resume = checkpoint_to_resume(wanted, output, say)
    check_extras(arguments)
    if not arguments.model.use_fast_tokenizer:
        say("--use_fast_tokenizer false: transformers 5 has one kind of tokenizer, which reads both")
    session = make_session(arguments, resume, say)
    prepare_output_directory(output, overwrite=arguments.tuning.overwrite_output_dir)
    results = train(session, say)
    results.seconds = time.perf_counter() - start
    results.peak_memory_mb = peak_memory_mb()
    finish(output, session, results)
    return results


def check_extras(arguments: FinetuneArguments) -> None:
    from importlib.util import find_spec

    trackers = arguments.training_values["report_to"]
    names = [trackers] if isinstance(trackers, str) else (trackers or [])
    if "tensorboard" in names and find_spec("tensorboard") is None:
        raise MissingExtraError("tensorboard", "tensorboard", "--report_to tensorboard")


def make_session(arguments: FinetuneArguments, resume: Path | None, say: Say) -> Session:
    """Everything that can fail cheaply first: configuration, tokenizer, records; weights last."""
    if arguments.training_values["log_level"] != "passive":
        transformers.logging.set_verbosity(transformers.logging.log_levels[arguments.training_values["log_level"]])
    source = source_of(arguments)
    config = load_config(source, say)
    if config.is_encoder_decoder:
        raise ModelError(
            f"model '{source.name}' is an encoder-decoder model ({config.model_type}), which is not supported yet; "
            "use a causal model such as LLaMA"
        )
    tokenizer = load_tokenizer(source, say)
    data = prepare(arguments.data, tokenizer, cache_dir=source.cache_dir, say=say)
    training = arguments.training()
    set_seed(training.seed)
    precision, notice = choose_precision(bf16=arguments.bf16, trains_base=False)
    if notice:
        say(notice)
    print(f"loading {source.name}", file=sys.stderr, flush=True)
    model = load_causal_model(source, config, precision, say)
    check_vocabulary(model, tokenizer)
    model = add_adapter(model, adapter_settings(arguments))
    packed = prepare_packing(model, arguments, data, tokenizer, precision, say)
    return Session(arguments, training, source, tokenizer, data, model, precision, packed, resume)


def source_of(arguments: FinetuneArguments) -> ModelSource:
    model = arguments.model
    token = {"True": True, "true": True, "False": None, "false": None}.get(
        model.use_auth_token or "False", model.use_auth_token
    )
    return ModelSource(
        name=model.model_name_or_path,
        tokenizer_name=model.tokenizer_name,
        config_name=model.config_name,
        revision=model.model_revision,
        cache_dir=model.cache_dir,
        token=token,
        trust_remote_code=model.trust_remote_code,
    )


def adapter_settings(arguments: FinetuneArguments) -> AdapterSettings:
    tuning = arguments.tuning
    return AdapterSettings(
        method=tuning.peft,
        lora_rank=tuning.lora_rank,
        lora_alpha=tuning.lora_alpha,
        lora_dropout=tuning.lora_dropout,
        lora_target_modules=tuple(tuning.lora_target_modules),
        lora_all_linear=tuning.lora_all_linear,
        adapter_layers=tuning.adapter_layers,
        adapter_len=tuning.adapter_len,
        num_virtual_tokens=tuning.num_virtual_tokens,
        ptun_hidden_size=tuning.ptun_hidden_size,
    )


def prepare_packing(
    model: Any, arguments: FinetuneArguments, data: PreparedData, tokenizer: Any, precision: Precision, say: Say
) -> bool:
    """Put the fast paths in and prove packing; returns whether training runs packed."""
    tuning = arguments.tuning
    if not tuning.compile_kernels:
        compiled.disable()
    freeze_linears(model)
    fuse_layers(model)
    fuse_lora(model)
    keep_freed_pages()
    if tuning.no_packing:
        return False
    if not model.get_base_model()._supports_attention_backend:
        family = type(model.get_base_model()).__name__
        say(f"{family} cannot take segment attention: it trains with padded batches")
        return False
    segment_attention.register()
    model.get_base_model().set_attn_implementation(segment_attention.IMPLEMENTATION)
    if tuning.verify_packing:
        examples = proof_examples(data.trained_on)
        worst = prove_packing(model, examples, pad_id=tokenizer.pad_token_id, dtype=precision.compute)
        print(f"packing is exact: largest difference {worst:.0e}", file=sys.stderr, flush=True)
    return True


def plan_order(session: Session) -> str:
    order = str(session.training.train_sampling_strategy)
    # Packed batches hold no padding that sorting could save.
    return "random" if order == "group_by_length" and session.packed else order


def batch_plan(session: Session) -> BatchPlan:
    arguments, training = session.arguments, session.training
    rows = session.packed and arguments.data.dataset_concatenation
    seed = training.seed if training.data_seed is None else training.data_seed
    store = session.data.trained_on
    return BatchPlan(
        fingerprint=store.fingerprint,
        lengths=tuple(store.lengths.tolist()),
        seed=seed,
        units_per_step=training.per_device_train_batch_size
        * training.gradient_accumulation_steps
        * training.world_size,
        row_tokens=arguments.data.max_seq_length if rows else None,
        drop_last=training.dataloader_drop_last,
        order=plan_order(session),
    )


def make_trainer(session: Session) -> FineTuningTrainer:
    training, tuning = session.training, session.arguments.tuning
    plan = batch_plan(session)
    if plan.steps == 0:
        raise ArgumentsError(
            f"--dataloader_drop_last leaves no step: {len(plan.units)} unit(s) of data are fewer than a batch of "
            f"{plan.units_per_step}"
        )
    parts = StepParts(
        session.data.trained_on, plan, accumulation_steps=training.gradient_accumulation_steps,
        rank=training.process_index, world=training.world_size, micro_batch_tokens=tuning.micro_batch_tokens,
        packed=session.packed, virtual=virtual_tokens_of(session.model),
    )  # fmt: skip
    progress = Progress(Path(str(training.output_dir)) / METRICS)
    trainer = FineTuningTrainer(
        parts=parts, pad_id=session.tokenizer.pad_token_id, model=session.model, args=training,
        eval_dataset=session.data.validation, processing_class=session.tokenizer, callbacks=[progress],
    )  # fmt: skip
    progress.trainer = trainer
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def train(session: Session, say: Say) -> Results:
    tuning, training = session.arguments.tuning, session.training
    trainer = make_trainer(session)
    if session.packed and training.train_sampling_strategy == "group_by_length":
        say("--train_sampling_strategy group_by_length saves nothing where there is no padding; the order is random")
    trained, total = parameter_counts(session.model)
    results = Results(trained_parameters=trained, total_parameters=total, packed=session.packed)
    describe(session, trainer, results)
    records = sample_records(session.data, tuning.report_samples) if training.do_train else []
    before = ask(session.model, session.tokenizer, session.data, records, tuning.sample_tokens)
    if session.data.validation is not None and (session.resume is None or not training.do_train):
        results.held_out_loss_before = trainer.evaluate()["eval_loss"]
    if not training.do_train:
        return results
    if session.resume is not None:
        trim_metrics(Path(str(training.output_dir)) / METRICS, session.resume)
    start = time.perf_counter()
    signals = SaveOnSignal()
    trainer.add_callback(signals)
    try:
        outcome = trainer.train(resume_from_checkpoint=str(session.resume) if session.resume else None)
    finally:
        signals.restore()
    signals.check(Path(str(training.output_dir)), trainer.state)
    results.training_seconds = time.perf_counter() - start
    results.steps = trainer.state.global_step
    results.mean_loss = outcome.training_loss
    results.tokens = trainer.tokens_seen
    # A resumed run counts tokens on from before; the time of this part goes with this part's tokens.
    results.tokens_this_time = trainer.tokens_seen - trainer.tokens_before
    if session.data.validation is not None:
        results.held_out_loss_after = trainer.evaluate()["eval_loss"]
    after = ask(session.model, session.tokenizer, session.data, records, tuning.sample_tokens)
    results.samples = [
        Sample(question_of(record), record.turns[-1].content, old, new)
        for record, old, new in zip(records, before, after, strict=True)
    ]
    trainer.save_model()
    return results


def describe(session: Session, trainer: FineTuningTrainer, results: Results) -> None:
    """What will happen, before it does."""
    plan, training = trainer.parts.plan, session.training
    label = "train" if session.data.train is not None else "validation"
    counts = session.data.counts[label]
    units = "rows" if plan.row_tokens else "examples"
    precision = session.precision.as_dict()
    print(
        f"{counts['examples']} examples, {counts['tokens']} tokens, "
        f"template {session.data.template.name}\n"
        f"{session.arguments.tuning.peft}: {results.trained_parameters:,} of {results.total_parameters:,} parameters "
        f"trained; weights {precision['storage']}, arithmetic {precision['compute']}\n"
        f"{plan.steps} steps an epoch of {plan.units_per_step} {units}, "
        f"{'packed' if session.packed else 'padded'}, {torch.get_num_threads()} threads, "
        f"{'compiled' if compiled.library('elementwise', BF16=0) else 'torch'} kernels; "
        f"output in {training.output_dir}",
        file=sys.stderr,
        flush=True,
    )
