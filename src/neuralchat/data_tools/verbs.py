"""What `neuralchat data` can do: one row for each verb. What does the work is imported when the verb runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from neuralchat.config.command.flag_parser import FlagParser
from neuralchat.data_tools.checking.flags import add_check
from neuralchat.data_tools.generating.flags import add_generate_flags
from neuralchat.data_tools.moving.flags import add_convert, add_diff, add_mix, add_sample, add_split, add_stats
from neuralchat.data_tools.preview.flags import add_preview_flags


class DataVerb(NamedTuple):
    """`work`: the function that takes the parsed flags, as module:function."""

    help: str
    add_flags: Callable[[FlagParser], None]
    work: str


DATA_TOOLS = "neuralchat.data_tools"
DATA_VERBS = {
    # It takes the flags of finetune too, so the command reads its words by itself.
    "preview": DataVerb(
        "show the token rows of training; takes finetune's flags too, as --model_name_or_path, --from_run",
        add_preview_flags,
        "",
    ),
    "check": DataVerb(
        "say what is wrong with which rows: structure, duplicates, leakage, debris, encodings, secrets, lengths",
        add_check,
        f"{DATA_TOOLS}.checking.check:check_data",
    ),
    "split": DataVerb(
        "split records into training, validation and other files, with nothing alike on two sides",
        add_split,
        f"{DATA_TOOLS}.moving.split:split_data",
    ),
    "mix": DataVerb(
        "mix general and domain records by shares into one file, as --mix of finetune would",
        add_mix,
        f"{DATA_TOOLS}.moving.mix:mix_data",
    ),
    "convert": DataVerb(
        "write records as another kind or file; logs and rated answers become records",
        add_convert,
        f"{DATA_TOOLS}.moving.convert:convert_data",
    ),
    "sample": DataVerb(
        "draw some records, to look at or into a new file", add_sample, f"{DATA_TOOLS}.moving.sample:sample_data"
    ),
    "stats": DataVerb(
        "count records, turns, roles, fields, and lengths in characters and tokens",
        add_stats,
        f"{DATA_TOOLS}.moving.stats:stats_of_data",
    ),
    "diff": DataVerb(
        "say which records were added, removed and changed between two files",
        add_diff,
        f"{DATA_TOOLS}.moving.diff:diff_data",
    ),
    "generate": DataVerb(
        "make records by a teacher: tasks for a domain, as Self-Instruct does, or questions about documents",
        add_generate_flags,
        f"{DATA_TOOLS}.generating.generate:generate_data",
    ),
}
