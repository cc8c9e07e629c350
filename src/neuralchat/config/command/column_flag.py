"""--columns of verbs with a few flags."""

from __future__ import annotations

import argparse

from neuralchat.config.command.flag_parser import FlagParser


def add_columns(parser: FlagParser) -> None:
    parser.add_argument(
        "--columns",
        type=columns_of,
        default=(),
        metavar="FIELD=COLUMN,...",
        help="the columns that hold a record's fields, as finetune takes them",
    )


def columns_of(text: str) -> tuple[str, ...]:
    pairs = tuple(text.split(","))
    if bad := [pair for pair in pairs if not all(pair.partition("=")[::2])]:
        raise argparse.ArgumentTypeError(
            f"it takes FIELD=COLUMN pairs such as instruction=q,output=a, found '{bad[0]}'"
        )
    return pairs


def field_names(text: str) -> tuple[str, ...]:
    """
    >>> field_names("id, score")
    ('id', 'score')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())
