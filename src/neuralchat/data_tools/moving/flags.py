"""The flags of the data verbs that move records."""

from __future__ import annotations

from neuralchat.config.command.column_flag import add_columns, field_names
from neuralchat.config.command.flag_parser import FlagParser
from neuralchat.data_tools.checking.flags import add_token_flags

FILES_HELP = "files of records, in every format that finetune reads"
OUTPUT_HELP = "a new file: .jsonl, .json, .csv, .tsv or .parquet, text also packed (.jsonl.gz, .csv.zst)"
DEFAULT_SEED = 42
# Kept here, so that help needs no import of what makes them; a test compares.
TARGET_NAMES = ("alpaca", "messages", "sharegpt", "prompt_completion", "question_answer", "text")


def add_split(split: FlagParser) -> None:
    split.add_path("files", nargs="+", metavar="FILE", help=FILES_HELP)
    split.add_path(
        "--into",
        nargs="+",
        required=True,
        metavar="FILE=SHARE",
        help="the new files and their shares, such as train.jsonl=0.9 valid.jsonl=0.1; they need not add up to 1",
    )
    split.add_argument("--stratify_by", metavar="FIELD", help="each value of this field is split in these shares")
    split.add_argument("--group_by", metavar="FIELD", help="rows with the same value here stay together (a document)")
    split.add_argument("--no_near", action="store_true", help="keep only the same questions together, not near copies")
    add_seed(split)
    split.add_path("--report", metavar="FILE.json", help="write sizes, groups and strata to this JSON file")
    add_reading(split)


def add_mix(mix: FlagParser) -> None:
    mix.add_path("mix", nargs="+", metavar="FILE=SHARE", help="files and their shares, as --mix of finetune takes them")
    mix.add_path("--output", required=True, metavar="FILE", help=OUTPUT_HELP)
    mix.add_argument("--mix_samples", type=int, metavar="N", help="so many records; by default as many as repeat none")
    mix.add_argument("--to", choices=TARGET_NAMES, help="make records of this kind, where the files hold several")
    add_seed(mix)
    add_reading(mix)


def add_convert(convert: FlagParser) -> None:
    convert.add_path(
        "files", nargs="+", metavar="FILE", help=f"{FILES_HELP}; logs of OpenAI's interface; rated answers"
    )
    convert.add_path("--output", required=True, metavar="FILE", help=OUTPUT_HELP)
    convert.add_argument(
        "--to",
        choices=(*TARGET_NAMES, "preference"),
        help="the kind of record to write, by default that of the files; preference: pairs of a chosen and a "
        "rejected answer from rated ones",
    )
    convert.add_argument("--drop", type=field_names, default=(), metavar="FIELD,...", help="fields that may be lost")
    convert.add_path("--unpaired", metavar="FILE", help="of preference: a new file for rejected answers without a pair")
    add_reading(convert)


def add_sample(sample: FlagParser) -> None:
    sample.add_path("files", nargs="+", metavar="FILE", help=FILES_HELP)
    sample.add_argument("-n", "--number", type=int, default=5, metavar="N", help="how many records")
    sample.add_path("--output", metavar="FILE", help=f"{OUTPUT_HELP}; without it the records are printed")
    sample.add_argument("--stratify_by", metavar="FIELD", help="of each value of this field as many as its share")
    add_seed(sample)
    add_reading(sample)


def add_stats(stats: FlagParser) -> None:
    stats.add_path("files", nargs="+", metavar="FILE", help=FILES_HELP)
    add_token_flags(stats, "count the tokens of its tokenizer too")
    stats.add_path("--report", metavar="FILE.json", help="write all figures to this JSON file")
    add_columns(stats)


def add_diff(diff: FlagParser) -> None:
    diff.add_path("old", metavar="OLD", help="a file of records")
    diff.add_path("new", metavar="NEW", help="another, or a later one; its format and kind may be others")
    diff.add_path("--report", metavar="FILE.json", help="write the differences, by row, to this JSON file")
    diff.add_argument("--exit_code", action="store_true", help="the exit status is 1 where the files differ")
    add_columns(diff)


def add_seed(parser: FlagParser) -> None:
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, metavar="N", help="the same seed draws the same records"
    )


def add_reading(parser: FlagParser) -> None:
    add_columns(parser)
    parser.add_argument(
        "--on_bad_record", choices=("fail", "skip"), default="fail", help="what to do about rows that are no records"
    )
