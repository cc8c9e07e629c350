"""What is wrong with the arguments by themselves: sizes, choices, and settings that contradict each other."""

from __future__ import annotations

import datetime
import difflib
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralchat.config.implied import MEASURED, metric_name
from neuralchat.config.methods import METHODS, is_pattern
from neuralchat.runs.directory import is_deleted_by_overwriting
from neuralchat.secrets import MASK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neuralchat.config.config import FinetuneConfig


# A pattern with few repetitions, none of them of a group, cannot search for ever.
MAX_REPETITIONS = 3
MAX_PATTERN = 2000


# Paths that may lie where a run is overwritten: itself; what is read before anything is deleted; what is told by a line
# of its own; and caches, whose files have names that no run has.
NOT_LOST = {"output_dir", "from_run", "resume_from_checkpoint", "cache_dir", "dataset_cache_directory"}


def problems_of(config: FinetuneConfig) -> list[str]:
    """Everything that is wrong, as the user is to read it."""
    return [
        *rejected_problems(config),
        *text_problems(config),
        *range_problems(config),
        *choice_problems(config),
        *pair_problems(config),
        *target_problems(config.tuning.lora_target_modules),
        *template_problems(config),
        *data_problems(config),
        *process_problems(config),
        *overwritten_inputs(config),
    ]


def rejected_problems(config: FinetuneConfig) -> list[str]:
    return [
        f"--{argument.name} cannot be used: {argument.facts.rejected}"
        for argument in config.schema.arguments.values()
        if argument.facts.rejected
        and argument.name in config.given
        and config.value(argument) not in (argument.default, None, "", [])
    ]


def text_problems(config: FinetuneConfig) -> list[str]:
    """Names that no library can open, told before anything is trained; and secrets copied from a message."""
    found = []
    for argument in config.schema.arguments.values():
        value = config.value(argument)
        for text in value if isinstance(value, list) else [value]:
            if argument.facts.secret and text == MASK:
                found.append(f"--{argument.name} is '{MASK}', which stands for a secret in messages; give the secret")
            elif isinstance(text, str) and not text.isascii() and any("\ud800" <= c < "\ue000" for c in text):
                found.append(f"--{argument.name}: the name {text} is not UTF-8; rename it, or lead to it by a link")
    return found


def range_problems(config: FinetuneConfig) -> list[str]:
    found = []
    for argument in config.schema.arguments.values():
        value = config.value(argument)
        if value is None or value in argument.facts.words:
            continue
        if problem := argument.facts.range_problem(value):
            found.append(f"--{argument.name} {problem}")
    if not config.training.num_train_epochs > 0 and config.training.max_steps <= 0:
        found.append(f"--num_train_epochs must be above 0, found {config.training.num_train_epochs}")
    return found


def choice_problems(config: FinetuneConfig) -> list[str]:
    found = []
    for argument in config.schema.arguments.values():
        value, choices = config.value(argument), argument.choices
        if argument.facts.pairs:
            found += pair_name_problems(argument.name, value, choices)
        elif choices and value is not None and value not in choices and str(value) not in choices:
            found.append(f"--{argument.name} is '{value}'; allowed are {', '.join(choices)}")
    return found


def pair_name_problems(flag: str, pairs: Sequence[str], choices: Sequence[str]) -> list[str]:
    """Names of NAME=VALUE that are given twice, or are none of `choices` where there are any."""
    names = [pair.partition("=")[0] if choices else pair.rpartition("=")[0] for pair in pairs]
    twice = [f"--{flag}: {name} is given more than once" for name in dict.fromkeys(names) if names.count(name) > 1]
    unknown = []
    for name in dict.fromkeys(names):
        if choices and name not in choices:
            near = difflib.get_close_matches(name, choices, n=1)
            hint = f"did you mean {near[0]}" if near else f"allowed are {', '.join(choices)}"
            unknown.append(f"--{flag}: a record has no field '{name[:60]}'; {hint}")
    return twice + unknown


def pair_problems(config: FinetuneConfig) -> list[str]:
    data, tuning, training = config.data, config.tuning, config.training
    method = METHODS.get(tuning.peft)
    with_tokens = " or ".join(row.name for row in METHODS.values() if row.trains_added_tokens)
    together = (
        (data.train_file and data.dataset_name, "--train_file and --dataset_name: give one source of records"),
        (
            data.mix and (data.train_file or data.dataset_name),
            "--mix names the files to train on itself: give it alone, without --train_file and --dataset_name",
        ),
        (data.mix and data.max_train_samples, "--mix and --max_train_samples: give --mix_samples instead"),
        (data.mix_samples and not data.mix, "--mix_samples needs --mix"),
        (
            data.validation_file and data.validation_split_percentage,
            "--validation_file and --validation_split_percentage: give one",
        ),
        (
            tuning.lora_all_linear and tuning.lora_target_modules and "lora_all_linear" in config.given,
            "--lora_all_linear and --lora_target_modules: give one",
        ),
        (
            tuning.bits is not None and method and method.trains_base,
            f"--bits {tuning.bits}: --peft {tuning.peft} trains all weights, and what is trained is kept in fp32; take "
            "another method, such as --peft lora",
        ),
        (
            tuning.bits is not None and tuning.lora_dora,
            f"--bits {tuning.bits} and --lora_dora: PEFT computes DoRA from the base weights in each step, and they "
            "are kept in few bits; give one of the two",
        ),
        (
            tuning.bits is not None and tuning.lora_init == "pissa",
            f"--bits {tuning.bits} and --lora_init pissa: PiSSA changes the base weights, and they are kept in few "
            "bits; take another start",
        ),
        (
            data.dataset_concatenation and tuning.no_packing,
            "--dataset_concatenation and --no_packing contradict each other",
        ),
        (
            tuning.overwrite_output_dir and "resume_from_checkpoint" in config.given,
            "--overwrite_output_dir would delete what --resume_from_checkpoint needs",
        ),
        (
            training.train_sampling_strategy == "batch_rebalance",
            "--train_sampling_strategy batch_rebalance: work is balanced over ranks already; use random",
        ),
        (
            data.special_tokens and not (method and method.trains_added_tokens),
            f"--special_tokens: --peft {tuning.peft} cannot train their embeddings; use {with_tokens}",
        ),
        (
            training.metric_for_best_model is not None and metric_name(training.metric_for_best_model) not in MEASURED,
            f"--metric_for_best_model is '{training.metric_for_best_model}'; measured are {', '.join(MEASURED)}",
        ),
        (
            training.greater_is_better and metric_name(training.metric_for_best_model) in MEASURED,
            f"--greater_is_better True would keep the worst checkpoint: of {' and '.join(MEASURED)} less is better; "
            "leave it out",
        ),
        (
            training.save_total_limit is not None and training.save_total_limit < 1,
            f"--save_total_limit is {training.save_total_limit}; the newest checkpoint is always kept, so it must be "
            "at least 1. Leave it out to keep all, or save none with --save_strategy no",
        ),
        (
            training.load_best_model_at_end and training.save_only_model,
            "--save_only_model keeps no checkpoint that --load_best_model_at_end could take the best from",
        ),
        (
            training.load_best_model_at_end
            and training.eval_strategy != "no"
            and training.save_strategy not in (training.eval_strategy, "best"),
            "the best state is chosen from checkpoints (--load_best_model_at_end, --early_stopping_patience), so "
            f"--save_strategy must be that of --eval_strategy, {training.eval_strategy}; leave it out",
        ),
        (
            tuning.early_stopping_patience is not None and training.eval_strategy == "no",
            "--early_stopping_patience needs evaluations: --eval_strategy epoch, or steps with --eval_steps",
        ),
        (
            tuning.early_stopping_threshold is not None and tuning.early_stopping_patience is None,
            "--early_stopping_threshold needs --early_stopping_patience",
        ),
        (data.dataset_config_name and not data.dataset_name, "--dataset_config_name needs --dataset_name"),
    )
    return [message for wrong, message in together if wrong]


def is_safe_pattern(value: Any) -> bool:
    """A regular expression that ends soon on any name.

    >>> is_safe_pattern(r".*layers.(0|1).self_attn.(q|v)_proj"), is_safe_pattern("(a+)+b")
    (True, False)
    """
    if not isinstance(value, str) or len(value) > MAX_PATTERN or re.search(r"\)\s*[*+{]", value):
        return False
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError):
        return False
    return len(re.findall(r"[*+{]", value)) <= MAX_REPETITIONS


def target_problems(targets: Sequence[str]) -> list[str]:
    """Regular expressions in --lora_target_modules that PEFT would take for names, or cannot read."""
    patterns = [target for target in targets if is_pattern(target)]
    if patterns and len(targets) > 1:
        return [
            f"--lora_target_modules: '{patterns[0][:60]}' is a regular expression, of which one may be given, alone; "
            "put the names into it, such as '.*\\.(q_proj|v_proj)'"
        ]
    try:
        for pattern in patterns:
            re.compile(pattern)
    except re.error as error:
        return [
            f"--lora_target_modules: '{patterns[0][:60]}' is no regular expression ({error}); name layers, such as "
            "q_proj v_proj, or match their whole paths, as '.*\\.(q_proj|v_proj)' does"
        ]
    # A run that is repeated may be a stranger's; and such an adapter would not be loaded again.
    return [
        f"--lora_target_modules: '{pattern[:60]}' may search for ever; a regular expression may have "
        f"{MAX_REPETITIONS} repetitions (*, +, {{}}), none of a group, and {MAX_PATTERN} characters"
        for pattern in patterns
        if not is_safe_pattern(pattern)
    ]


def template_problems(config: FinetuneConfig) -> list[str]:
    data, problems = config.data, []
    try:
        variables = data.template_variables
    except ValueError as error:
        variables = {}
        problems.append(f"--chat_template_kwargs: {error}")
    for name, value in (("chat_template", data.chat_template), ("chat_template_kwargs", variables)):
        if value and data.template == "alpaca":
            problems.append(f"--{name}: --template alpaca does not use a chat template; give one of the two")
    if data.template_date is not None:
        try:
            datetime.date.fromisoformat(data.template_date)
        except ValueError:
            problems.append(f"--template_date must be YYYY-MM-DD, found {data.template_date}")
    return problems


def data_problems(config: FinetuneConfig) -> list[str]:
    data, training = config.data, config.training
    problems = share_problems(data.mix)
    if training.do_train and not (data.train_file or data.mix or data.dataset_name):
        problems.append("no records to train on: give --train_file, --mix or --dataset_name")
    if not training.do_train and not training.do_eval:
        problems.append("nothing to do: add --do_train (or --do_eval)")
    if data.validation_file or data.validation_split_percentage:
        return problems
    where = "give --validation_file or --validation_split_percentage"
    if config.tuning.predict_with_generate:
        problems.append(f"--predict_with_generate needs records: {where}")
    if training.do_eval or training.eval_strategy != "no":
        problems.append(f"evaluation needs records: {where}")
    return problems


def share_problems(mix: Sequence[str]) -> list[str]:
    """Shares of a mixture that are no numbers above 0."""
    problems = []
    for pair in mix:
        name, _, text = pair.rpartition("=")
        try:
            usable = 0 < float(text) < math.inf
        except ValueError:
            usable = False
        if not usable:
            problems.append(f"--mix {name}={text[:40]}: the share must be a number above 0, such as {name}=0.3")
    return problems


def overwritten_inputs(config: FinetuneConfig) -> list[str]:
    """What is read, and --overwrite_output_dir would delete before."""
    output = config.training.output_dir
    if not config.tuning.overwrite_output_dir or not output:
        return []
    found = []
    for argument in config.schema.arguments.values():
        if not argument.facts.path or argument.name in NOT_LOST:
            continue
        value = config.value(argument)
        for text in value if isinstance(value, list) else [value]:
            name = text.rpartition("=")[0] if argument.facts.pairs and isinstance(text, str) else text
            if isinstance(name, str) and name and is_deleted_by_overwriting(Path(output), Path(name)):
                found.append(
                    f"--overwrite_output_dir would delete --{argument.name} {name}, which is read; name another "
                    "--output_dir"
                )
    return found


def process_problems(config: FinetuneConfig) -> list[str]:
    count = config.distributed.num_processes
    if count in ("", "auto") or (count.isascii() and count.isdigit() and int(count) >= 1):
        return []
    return [f"--num_processes is '{count}'; allowed are auto and a number from 1"]
