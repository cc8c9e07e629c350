"""The flags of `neuralchat data check`."""

from __future__ import annotations

from neuralchat.config.command.column_flag import add_columns
from neuralchat.config.command.flag_parser import FlagParser


def add_check(check: FlagParser) -> None:
    check.add_path("files", nargs="+", metavar="FILE", help="files of records, in every format that finetune reads")
    check.add_path(
        "--validation_file", nargs="+", default=(), metavar="FILE", help="records that must not be among those of FILE"
    )
    add_columns(check)
    check.add_argument(
        "--fail_on",
        choices=("error", "warning", "note", "never"),
        default="error",
        help="the exit status is 1 where something of this severity or a higher one was found",
    )
    check.add_path("--report", metavar="FILE.json", help="write all findings, by row, to this JSON file")
    check.add_path("--page", metavar="FILE.html", help="write a page: findings, lengths, rows")
    check.add_path(
        "--fix",
        metavar="FILE.jsonl",
        help="write the records without bad rows and copies, with what has one right answer mended, and a log of it",
    )
    check.add_argument("--no_near", action="store_true", help="do not look for near duplicates")
    check.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="how many look at the rows; as many as there are cores, if none is given. What is found is the same",
    )
    add_token_flags(check, "say too what its tokenizer makes of each row")


def add_token_flags(parser: FlagParser, help: str) -> None:
    """What token_checks reads. `help`: what is done with a model's tokenizer."""
    parser.add_path("--model_name_or_path", metavar="MODEL", help=help)
    parser.add_argument("--max_seq_length", type=int, default=512, metavar="N", help="of the training to come")
    parser.add_argument(
        "--template", choices=("own", "auto", "alpaca", "chat"), default="own", help="of the training to come"
    )
