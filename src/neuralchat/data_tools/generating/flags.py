"""The flags of `neuralchat data generate`. Imports nothing heavy: every --help reads it."""

from __future__ import annotations

import argparse
from decimal import Decimal, InvalidOperation

from neuralchat.config.command.flag_parser import FlagParser
from neuralchat.data_tools.generating.languages import ANY, TOLD_LANGUAGES

DEFAULT_DOMAIN = "business and computing hardware"
DEFAULT_COUNT = 100


def add_generate_flags(generate: FlagParser) -> None:
    generate.add_path("--output", required=True, metavar="FILE.jsonl", help="the records; FILE.jsonl.journal beside it")
    generate.add_argument("--domain", default=DEFAULT_DOMAIN, metavar="TEXT", help="what the records are to be about")
    generate.add_argument(
        "--count", type=int, metavar="N", help=f"stop at so many records ({DEFAULT_COUNT}; with --documents all)"
    )
    generate.add_path("--seeds", metavar="FILE", help="seed tasks of your own; by default those of the package")
    generate.add_path("--documents", metavar="DIR", help="ask about these documents: text, Markdown, HTML, PDF")
    add_teacher_flags(generate)
    generate.add_argument("--turns", type=int, default=1, metavar="N", help="records in which the user speaks N times")
    generate.add_argument(
        "--per_passage", type=int, default=4, metavar="N", help="of --documents: questions asked for per passage"
    )
    generate.add_argument(
        "--wordings", type=int, default=1, metavar="N", help="of --documents: ask for each question in N wordings"
    )
    generate.add_argument(
        "--critic", type=int, metavar="1-5", help="let the teacher score each record, and drop those below this"
    )
    generate.add_argument("--language", default="en", choices=(*TOLD_LANGUAGES, ANY), help="of the records")
    generate.add_argument(
        "--blacklist", type=comma_words, default=(), metavar="WORD,...", help="no task may have one of these words"
    )
    generate.add_argument(
        "--patience",
        type=int,
        default=20,
        metavar="N",
        help="end after N lists in a row without a new task (N passages, 4 N answers: without a record)",
    )
    generate.add_argument(
        "--seed", type=int, default=0, metavar="N", help="which seed tasks are shown, and drawn words"
    )
    generate.add_path(
        "--report", metavar="FILE.json", help="write what was accepted and refused, and why, to this file"
    )


def add_teacher_flags(generate: FlagParser) -> None:
    generate.add_argument(
        "--base_url", metavar="URL", help="an OpenAI-compatible endpoint; its key is taken from NEURALCHAT_API_KEY"
    )
    generate.add_path("--key_file", metavar="FILE", help="its key, in a file that you alone can read")
    generate.add_argument("--model", metavar="NAME", help="which model of the endpoint")
    generate.add_path("--teacher", metavar="RUN", help="instead of an endpoint: a run or model on this machine")
    generate.add_argument("--temperature", type=float, default=0.7, metavar="T", help="of the teacher; 0 draws nothing")
    generate.add_argument("--top_p", type=float, default=1.0, metavar="P", help="of the teacher")
    generate.add_argument(
        "--max_new_tokens", type=int, default=1024, metavar="N", help="longest answer of the teacher, in tokens"
    )
    generate.add_argument("--parallel", type=int, default=4, metavar="1-16", help="requests at a time")
    generate.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="of one request")
    generate.add_argument(
        "--requests_per_minute", type=float, default=0.0, metavar="N", help="no more than this; 0 is without a limit"
    )
    generate.add_argument(
        "--budget", type=money, metavar="AMOUNT", help="never spend more; needs both prices, in the same currency"
    )
    generate.add_argument("--price_prompt", type=money, metavar="AMOUNT", help="what a million tokens of prompts cost")
    generate.add_argument("--price_answer", type=money, metavar="AMOUNT", help="what a million tokens of answers cost")
    generate.add_argument("--token_budget", type=int, metavar="N", help="never take more tokens, prompts and answers")


def money(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("nan")
    if not (amount.is_finite() and amount >= 0):
        raise argparse.ArgumentTypeError(f"it takes an amount such as 2.50, found '{text}'")
    return amount


def comma_words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
